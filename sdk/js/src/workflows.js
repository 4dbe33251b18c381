// Runs of workflows: starting them, waiting for them, looking at them, steering them. Workers are in `vski/worker`.

import { Limit, pause } from './backoff.js';
import { path } from './transport.js';

/** @import { CallOptions, Transport } from './transport.js' */

/** @typedef {'pending' | 'running' | 'completed' | 'failed' | 'cancelled'} RunStatus */

/**
 * @typedef {object} StartOptions
 * @property {string} [idempotencyKey] the same key again answers the first run; such a start is repeated after a broken
 *   connection
 * @property {Date | string | number} [runAt]
 * @property {string} [concurrencyKey]
 * @property {number} [priority]
 * @property {string} [version]
 * @property {Record<string, any>} [attributes]
 * @property {Date | string | number} [expiresAt]
 * @property {string} [collection] with `record`: the record that the run is about
 * @property {string} [record]
 */

/** @typedef {{runId: string, status: RunStatus, isNew: boolean}} Started */

/**
 * @typedef {object} Run
 * @property {string} runId
 * @property {string} workflow
 * @property {RunStatus} status
 * @property {any} [state]
 * @property {any} [input]
 * @property {any} [output]
 * @property {any} [error]
 * @property {string} [reason]
 * @property {Record<string, any>} [attributes]
 * @property {string} [version]
 * @property {string} createdAt
 */

/**
 * @typedef {object} RunQuery
 * @property {string} [workflow]
 * @property {RunStatus} [status]
 * @property {string} [parent]
 * @property {Date | string} [since]
 * @property {Record<string, string | number | boolean>} [attributes] runs that have all of them
 * @property {number} [limit] at most 500
 * @property {string} [cursor]
 */

/** @typedef {{ids: string[]} | {workflow?: string, status?: RunStatus, parent?: string, since?: string}} RunSelection */
/** @typedef {{items: ({runId: string, status: RunStatus, error?: undefined} | {runId: string, error: any})[]}} BulkResult */

const ENDED = ['completed', 'failed', 'cancelled'];
const POLL_FIRST_MS = 200;
const POLL_MOST_MS = 2000;

/** @param {any} value */
const text = (value) => (value instanceof Date ? value.toISOString() : value);

export class Workflows {
  /** @param {Transport} transport @param {string} database */
  constructor(transport, database) {
    this.transport = transport;
    this.database = database;
    /** The same for several runs, at most 1,000 at a time. */
    this.bulk = {
      /** @param {RunSelection} runs @param {CallOptions} [options] @returns {Promise<BulkResult>} */
      cancel: (runs, options) => this.#call('POST', '/bulk/cancel', { body: runs }, options),
      /** @param {RunSelection & {version?: string}} runs @param {CallOptions} [options] @returns {Promise<BulkResult>} */
      retry: (runs, options) => this.#call('POST', '/bulk/retry', { body: runs }, options),
      /** @param {RunSelection & {fromStep?: string, version?: string}} runs @param {CallOptions} [options] @returns {Promise<BulkResult>} */
      fork: (runs, options) => this.#call('POST', '/bulk/fork', { body: runs }, options),
    };
  }

  /** @param {string} method @param {string} suffix @param {object} [request] @param {CallOptions} [options] */
  #call(method, suffix, request, options) {
    return this.transport.json(method, '/api/workflow' + suffix, request, options);
  }

  /**
   * Starts a run. The input is any JSON value, by custom a list of arguments.
   * @param {string} workflow
   * @param {any} [input]
   * @param {StartOptions & CallOptions} [options]
   * @returns {Promise<Started>}
   */
  trigger(workflow, input = [], options = {}) {
    const { signal, timeout, retries, headers, ...start } = options;
    const body = { workflow, input, ...start, runAt: text(start.runAt), expiresAt: text(start.expiresAt) };
    const request = { database: this.database, body, safe: start.idempotencyKey !== undefined };
    return this.#call('POST', '/runs', request, { signal, timeout, retries, headers });
  }

  /**
   * Waits until a run has ended, and answers it; a run that fails or is cancelled is an answer too.
   * @param {string} runId
   * @param {CallOptions} [options] without `timeout` it waits for as long as it takes
   * @returns {Promise<Run>}
   */
  async wait(runId, options = {}) {
    const limit = new Limit(options.signal, options.timeout ?? 0);
    try {
      for (let waitMs = POLL_FIRST_MS; ; waitMs = Math.min(POLL_MOST_MS, waitMs * 1.5)) {
        const run = await this.get(runId, { ...options, signal: limit.signal, timeout: undefined });
        if (ENDED.includes(run.status)) return run;
        await pause(waitMs, limit.signal);
      }
    } catch (error) {
      throw limit.signal.aborted ? limit.signal.reason : error;
    } finally {
      limit.end();
    }
  }

  /** @param {string} runId @param {CallOptions} [options] @returns {Promise<Run>} */
  get(runId, options) {
    return this.#call('GET', path`/runs/${runId}`, {}, options);
  }

  /** Runs, newest first. @param {RunQuery} [query] @param {CallOptions} [options] @returns {Promise<{items: Run[], next: string | null}>} */
  list(query = {}, options) {
    const { attributes, since, ...rest } = query;
    const attribute = Object.entries(attributes ?? {}).map(([name, value]) => `${name}=${value}`);
    return this.#call('GET', '/runs', { query: { ...rest, since: text(since), attribute } }, options);
  }

  /** All runs that match, newest first. @param {RunQuery} [query] @param {CallOptions} [options] @returns {AsyncGenerator<Run, void, undefined>} */
  async *iterate(query = {}, options) {
    for (let cursor = query.cursor; ;) {
      const { items, next } = await this.list({ ...query, cursor }, options);
      yield* items;
      if (!next) return;
      cursor = next;
    }
  }

  /** @param {string} runId @param {CallOptions} [options] @returns {Promise<any>} */
  input(runId, options) {
    return this.#call('GET', path`/runs/${runId}/input`, {}, options);
  }

  /** @param {string} runId @param {{cursor?: string}} [query] @param {CallOptions} [options] @returns {Promise<{items: any[], next: string | null}>} */
  steps(runId, query, options) {
    return this.#call('GET', path`/runs/${runId}/steps`, { query }, options);
  }

  /** The history of a run. @param {string} runId @param {{after?: string}} [query] @param {CallOptions} [options] @returns {Promise<{items: any[], next: string | null}>} */
  events(runId, query, options) {
    return this.#call('GET', path`/runs/${runId}/events`, { query }, options);
  }

  /** @param {string} runId @param {{after?: number}} [query] @param {CallOptions} [options] @returns {Promise<{journal: any[], seq: number, more: boolean}>} */
  journal(runId, query, options) {
    return this.#call('GET', path`/runs/${runId}/journal`, { query }, options);
  }

  /** @param {string} runId @param {string} name @param {{from?: number}} [query] @param {CallOptions} [options] @returns {Promise<{items: {index: number, data: string}[], end: boolean, next: number | null}>} */
  stream(runId, name, query, options) {
    return this.#call('GET', path`/runs/${runId}/streams/${name}`, { query }, options);
  }

  /** Cancels a run and its children. @param {string} runId @param {string} [reason] @param {CallOptions} [options] @returns {Promise<any>} */
  cancel(runId, reason, options) {
    return this.#call('POST', path`/runs/${runId}/cancel`, { body: { reason }, safe: true }, options);
  }

  /** Continues a failed or paused run where it stopped. @param {string} runId @param {{version?: string}} [changes] @param {CallOptions} [options] @returns {Promise<any>} */
  retry(runId, changes = {}, options) {
    return this.#call('POST', path`/runs/${runId}/retry`, { body: changes }, options);
  }

  /** A new run with the input and the first results of an old one. @param {string} runId @param {{fromStep?: string, version?: string}} [changes] @param {CallOptions} [options] @returns {Promise<{runId: string, status: RunStatus, forkedFrom: string}>} */
  fork(runId, changes = {}, options) {
    return this.#call('POST', path`/runs/${runId}/fork`, { body: changes }, options);
  }

  /** Writes one event, for engines with a runtime of their own. @param {string} runId @param {{type: string, correlationId?: string, data?: any}} event @param {CallOptions} [options] @returns {Promise<{runId: string, eventId?: string}>} */
  writeEvent(runId, event, options) {
    return this.#call('POST', path`/runs/${runId}/events`, { body: event }, options);
  }

  /** Delivers a payload to a hook; its token is the only credential. @param {string} token @param {any} payload @param {CallOptions} [options] @returns {Promise<{runId: string}>} */
  deliver(token, payload, options) {
    return this.#call('POST', path`/hooks/${token}`, { body: payload, anonymous: true }, options);
  }

  /** The connected workers. @param {CallOptions} [options] @returns {Promise<any[]>} */
  async workers(options) {
    return (await this.#call('GET', '/workers', {}, options)).items;
  }

  /** Unfinished runs, by workflow and version. @param {CallOptions} [options] @returns {Promise<{items: any[], deadLetters: number}>} */
  queue(options) {
    return this.#call('GET', '/queue', {}, options);
  }
}
