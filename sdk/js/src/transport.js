// Requests: addresses, credentials, time limits, repeats, errors. Everything that the client sends passes here, except
// the frames of the sockets.

import { Limit, backoffMs, pause } from './backoff.js';
import { VskiError, errorOf } from './errors.js';
import { Replicas } from './replicas.js';
import { Session } from './session.js';
import { MemoryStore } from './stores.js';
import { upload } from './upload.js';

/** @import { UploadProgress } from './upload.js' */
/** @import { AuthStore, SessionData } from './stores.js' */

/**
 * Options of every call.
 * @typedef {object} CallOptions
 * @property {AbortSignal} [signal] ends the call
 * @property {number} [timeout] milliseconds, repeats included; 0 for no limit
 * @property {number} [retries] how often the call may be repeated
 * @property {Record<string, string>} [headers]
 */

/**
 * @typedef {object} ClientOptions
 * @property {string} [token] an API key, a service token or a token of your own
 * @property {AuthStore} [store] where sessions are kept (in memory)
 * @property {boolean} [autoRefresh] renew the tokens of sessions before they expire (true)
 * @property {string[]} [replicas] the URLs of replicas; reads go to the nearest one
 * @property {number} [timeout] milliseconds that a call may take (30,000; files: no limit)
 * @property {number} [retries] how often a call is repeated (3)
 * @property {Record<string, string>} [headers] sent with every request
 * @property {typeof fetch} [fetch]
 * @property {any} [WebSocket] the class to use in place of the platform's
 */

/**
 * @typedef {object} Request
 * @property {string} [database]
 * @property {Record<string, any>} [query]
 * @property {any} [body] a value for JSON, or a form
 * @property {boolean} [read] a replica can answer it
 * @property {boolean} [safe] can be repeated although its answer was lost; GET always can
 * @property {boolean} [anonymous] sends no credentials
 * @property {boolean} [stream] resolves with the answer itself when its head has arrived
 * @property {(progress: UploadProgress) => void} [onProgress]
 * @property {string} [token] in place of that of the session
 * @property {boolean} [follow] leaves redirects to the platform
 */

/** @typedef {{data: any, headers: Headers, response: Response}} Answer */

const RETRY_FIRST_MS = 300;
const RETRY_MOST_MS = 5000;
/** A longer wait that the server asks for is an error at once. */
const WAIT_MOST_MS = 10_000;

/** The path of a URL from its parts, each encoded. @param {TemplateStringsArray} parts @param {string[]} names */
export function path(parts, ...names) {
  return parts.reduce((text, part, index) => text + segment(names[index - 1]) + part);
}

/** @param {string} name */
function segment(name) {
  if (typeof name !== 'string' || name === '' || name === '.' || name === '..') {
    throw new TypeError(`Not a name or id: ${JSON.stringify(name)}.`);
  }
  return encodeURIComponent(name);
}

/** A list of names as the server reads it. @param {string | readonly string[] | undefined} names */
export function joined(names) {
  return typeof names === 'string' ? names : names?.join(',');
}

/** @param {Record<string, any> | undefined} query */
function queryText(query) {
  const out = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value === undefined || value === null || value === '' || value === false) continue;
    if (name === 'attribute') for (const item of value) out.append(name, item);
    else out.set(name, value === true ? '1' : Array.isArray(value) ? value.join(',') : String(value));
  }
  const text = out.toString();
  return text && `?${text}`;
}

export class Transport {
  /** @param {string} url @param {ClientOptions} options */
  constructor(url, options) {
    const clean = (/** @type {string} */ it) => new URL(it, globalThis.location?.href).href.replace(/\/+$/, '');
    this.options = options;
    this.fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.replicas = new Replicas(clean(url), (options.replicas ?? []).map(clean), this.fetch);
    this.session = new Session(
      options.store ?? new MemoryStore(), (data) => this.#renew(data), options.autoRefresh ?? true);
    if (options.token) void this.session.set({ token: options.token, user: null, kind: 'token', obtained: Date.now() });
  }

  /** @param {SessionData} session */
  async #renew({ token, kind, collection, database }) {
    const renewal = kind === 'admin' ? '/api/admins/refresh'
      : collection ? path`/api/collections/${collection}/auth-refresh` : '/api/auth/refresh';
    const { data } = await this.send('POST', renewal, { database, token, safe: true });
    return { token: data.token, user: data.user ?? data.record ?? data.admin };
  }

  /** @param {string} [database] @param {string} path */
  address(path, database) {
    return (database && database !== 'default' ? `/db/${encodeURIComponent(database)}` : '') + path;
  }

  /**
   * Sends a request and resolves with the value of its answer.
   * @param {string} method
   * @param {string} path
   * @param {Request} [request]
   * @param {CallOptions} [options]
   * @returns {Promise<any>}
   */
  async json(method, path, request, options) {
    return (await this.send(method, path, request, options)).data;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {Request} [request]
   * @param {CallOptions} [options]
   * @returns {Promise<Answer>}
   */
  async send(method, path, request = {}, options = {}) {
    const hasFiles = request.body instanceof FormData || request.stream;
    const ms = options.timeout ?? (hasFiles ? 0 : this.options.timeout ?? 30_000);
    const limit = new Limit(options.signal, ms);
    try {
      const answer = await this.#attempts(method, path, request, options, limit.signal);
      if (request.stream) limit.endTime();
      else limit.end();
      return answer;
    } catch (error) {
      limit.end();
      throw error;
    }
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {Request} request
   * @param {CallOptions} options
   * @param {AbortSignal} signal
   * @returns {Promise<Answer>}
   */
  async #attempts(method, path, request, options, signal) {
    const retries = options.retries ?? this.options.retries ?? 3;
    let isRenewed = false;
    for (let failures = 0; ; failures++) {
      const token = request.anonymous ? '' : request.token ?? (await this.session.token());
      try {
        return await this.#routed(method, path, request, options, token, signal);
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        if (!(error instanceof VskiError)) throw error;
        if (error.status === 401 && token && !request.token && !isRenewed && await this.session.recovers(token)) {
          isRenewed = true;
          continue;
        }
        const waitMs = retryMs(error, method, request, failures);
        if (failures >= retries || waitMs === undefined) throw error;
        await pause(waitMs, signal);
      }
    }
  }

  /**
   * One attempt, at the nearest server, and at the master if that one cannot answer.
   * @param {string} method
   * @param {string} path
   * @param {Request} request
   * @param {CallOptions} options
   * @param {string} token
   * @param {AbortSignal} signal
   * @returns {Promise<Answer>}
   */
  async #routed(method, path, request, options, token, signal) {
    const { replicas } = this;
    const server = replicas.choose(request.read === true);
    try {
      return await this.#once(server, method, path, request, options, token, signal);
    } catch (error) {
      if (!(error instanceof VskiError) || signal.aborted) throw error;
      const isFailure = error.code === 'network' || error.status === 503;
      const isRedirect = error.code === 'redirected';
      if (replicas.isReplica(server) && (isFailure || isRedirect)) {
        if (isFailure) replicas.fail(server);
        return this.#once(replicas.master, method, path, request, options, token, signal);
      }
      // Replicas behind the address of the client: the platform follows, without the credentials if the origin changes.
      if (isRedirect) return this.#once(server, method, path, { ...request, follow: true }, options, token, signal);
      if (error.code === 'read_only' && error.body?.master) {
        // The URL that the client was given is that of a replica, which names its master.
        const master = error.body.master.replace(/\/+$/, '');
        if (master === replicas.master) throw error;
        if (!replicas.urls.includes(replicas.master)) replicas.urls.push(replicas.master);
        replicas.master = master;
        return this.#once(master, method, path, request, options, token, signal);
      }
      throw error;
    }
  }

  /**
   * @param {string} server
   * @param {string} method
   * @param {string} path
   * @param {Request} request
   * @param {CallOptions} options
   * @param {string} token
   * @param {AbortSignal} signal
   * @returns {Promise<Answer>}
   */
  async #once(server, method, path, request, options, token, signal) {
    const database = request.database ?? 'default';
    const url = server + this.address(path, database) + queryText(request.query);
    const headers = new Headers({ ...this.options.headers, ...options.headers });
    if (token) headers.set('Authorization', `Bearer ${token}`);
    const versions = method === 'GET' && request.read ? this.replicas.versions(database) : '';
    if (versions) headers.set('X-Vski-Version', versions);
    /** @type {any} */
    let body;
    if (request.body instanceof FormData) body = request.body;
    else if (request.body !== undefined) {
      body = JSON.stringify(request.body);
      headers.set('Content-Type', 'application/json');
    }
    const redirect = versions && !request.stream && !request.follow ? 'manual' : 'follow';
    let response;
    try {
      response = request.onProgress
        ? await upload(url, { method, headers, body: body ?? '', signal }, request.onProgress, this.fetch)
        : await this.fetch(url, { method, headers, body, signal, redirect });
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw new VskiError(`${server} cannot be reached.`, { code: 'network', cause: error });
    }
    return this.#answer(server, response, request, signal);
  }

  /**
   * @param {string} server
   * @param {Response} response
   * @param {Request} request
   * @param {AbortSignal} signal
   * @returns {Promise<Answer>}
   */
  async #answer(server, response, request, signal) {
    this.replicas.note(response.headers);
    if (response.type === 'opaqueredirect' || response.status === 307) {
      // A replica does not have the version yet. Browsers and fetch drop credentials on the way to another origin.
      await response.body?.cancel();
      throw new VskiError('The replica does not have the latest write yet.', { status: 307, code: 'redirected' });
    }
    if (request.stream && (response.ok || response.status === 304)) {
      return { data: undefined, headers: response.headers, response };
    }
    let text;
    try {
      text = await response.text();
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw new VskiError(`The answer of ${server} was cut off.`, { code: 'network', cause: error });
    }
    const data = parse(text);
    if (!response.ok) {
      const isLost = request.stream && response.redirected && this.replicas.isReplica(server);
      if (isLost) throw new VskiError('The redirect lost the credentials.', { status: 307, code: 'redirected' });
      throw errorOf(response, data);
    }
    if (text && data === undefined) {
      throw new VskiError(`${server} did not answer with JSON: is it a vski server?`, { status: response.status, code: 'invalid_answer' });
    }
    return { data, headers: response.headers, response };
  }
}

/** @param {string} text */
function parse(text) {
  try {
    return text ? JSON.parse(text) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The pause before a repeat; none if the call must not be repeated. The server has changed nothing when it answers 429 or
 * 503 itself; after a broken connection this is known only for safe requests.
 * @param {VskiError} error
 * @param {string} method
 * @param {Request} request
 * @param {number} failures
 */
function retryMs(error, method, request, failures) {
  const isSafe = method === 'GET' || request.safe === true;
  const isRefused = error.status === 429 || error.status === 503;
  const isGateway = error.status === 502 || error.status === 504;
  const canRepeat = isSafe ? isRefused || isGateway || error.code === 'network' : isRefused && error.requestId !== '';
  if (!canRepeat || request.onProgress) return undefined;
  const asked = (error.retryAfter ?? 0) * 1000;
  return asked > WAIT_MOST_MS ? undefined : Math.max(asked, backoffMs(failures, RETRY_FIRST_MS, RETRY_MOST_MS));
}
