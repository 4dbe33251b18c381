// The operations of a workflow: `ctx`.

import { createHash } from 'node:crypto';
import { pause } from '../backoff.js';
import { recordOf } from './errors.js';
import { plain } from './run.js';

/** @import { Run } from './run.js' */

/**
 * @typedef {object} StepOptions
 * @property {number} [retries] how often it is tried again (3)
 * @property {number} [timeout] milliseconds for one attempt
 */

/** @typedef {{signal: AbortSignal, attempt: number, idempotencyKey: string}} StepInfo */

export class Context {
  #run;
  #draws = 0;

  /** @param {Run} run */
  constructor(run) {
    this.#run = run;
    const { job, workflow, version, attributes, deadline } = run.job;
    this.runId = /** @type {string} */ (job);
    this.workflow = /** @type {string} */ (workflow);
    this.version = /** @type {string} */ (version);
    this.attributes = /** @type {Record<string, any>} */ (attributes ?? {});
    this.deadline = /** @type {number | undefined} */ (deadline);
    /** Fires when the run is cancelled or taken away. */
    this.signal = run.abort.signal;
  }

  /**
   * Does something outside of the workflow, and records its result. It is tried again if it throws.
   * @template R
   * @param {string} name
   * @param {(info: StepInfo) => R | Promise<R>} code
   * @param {StepOptions} [options]
   * @returns {Promise<Awaited<R>>}
   */
  step(name, code, { retries = 3, timeout } = {}) {
    const key = this.#run.keyOf(name);
    const attempt = (/** @type {number} */ number) => this.#attempt(key, code, number, timeout);
    return this.#run.begin('step', key, { retries, attempt, condition: { retry: key } });
  }

  /** @param {string} key @param {(info: StepInfo) => any} code @param {number} attempt @param {number} [timeout] */
  async #attempt(key, code, attempt, timeout) {
    const controller = new AbortController();
    const stop = () => controller.abort(this.signal.reason);
    this.signal.addEventListener('abort', stop, { once: true });
    try {
      const work = Promise.resolve(code({ signal: controller.signal, attempt, idempotencyKey: `${this.runId}/${key}` }));
      if (timeout === undefined) return { ok: plain(await work) };
      const late = Object.assign(new Error(`The step took longer than ${timeout} ms.`), { kind: 'timeout' });
      const limit = pause(timeout, controller.signal).then(() => Promise.reject(late));
      return { ok: plain(await Promise.race([work, limit])) };
    } catch (error) {
      return { err: recordOf(error) };
    } finally {
      controller.abort();
      this.signal.removeEventListener('abort', stop);
    }
  }

  /** Waits, also over restarts of everything. @param {number} ms @returns {Promise<void>} */
  async sleep(ms) {
    const key = this.#run.keyOf('sleep');
    await this.#run.begin('sleep', key, { condition: { sleep: key, ms: Math.ceil(ms) } });
  }

  /** @param {Date | number} time @returns {Promise<void>} */
  async sleepUntil(time) {
    const key = this.#run.keyOf('sleep');
    await this.#run.begin('sleep', key, { condition: { sleep: key, until: Number(time) } });
  }

  /** The time, which stays the same when the code runs again. @returns {Promise<Date>} */
  async now() {
    return new Date(await this.step('now', () => Date.now()));
  }

  /** 16 bytes that are the same when the code runs again, and differ for each call and run. */
  #draw() {
    return createHash('sha256').update(`${this.runId} ${this.#draws++}`).digest().subarray(0, 16);
  }

  /** A number from 0 to 1, the same when the code runs again. */
  random() {
    return this.#draw().readUIntBE(0, 6) / 2 ** 48;
  }

  /** A UUID, the same when the code runs again. */
  uuid() {
    const bytes = this.#draw();
    bytes[6] = (bytes[6] & 15) | 64;
    bytes[8] = (bytes[8] & 63) | 128;
    return bytes.toString('hex').replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, '$1-$2-$3-$4-$5');
  }

  /**
   * A place to which others deliver payloads: `client.workflow.deliver(hook.token, payload)`.
   * @param {{name?: string, token?: string, metadata?: any}} [options]
   */
  async hook({ name = 'hook', token, metadata } = {}) {
    const key = this.#run.keyOf(name);
    const call = { op: 'hook_create', token, metadata };
    const created = await this.#run.begin('hook', key, { call });
    return new Hook(this, this.#run, key, created.token);
  }

  /**
   * Starts a run within this one and waits for its output. It is cancelled together with this run.
   * @param {string} workflow
   * @param {any} [input]
   * @param {{version?: string, attributes?: Record<string, any>, priority?: number, concurrencyKey?: string}} [options]
   * @returns {Promise<any>}
   */
  child(workflow, input = null, options = {}) {
    const key = this.#run.keyOf(workflow);
    const call = { op: 'trigger', workflow, input, ...options };
    return this.#run.begin('child', key, { call, condition: { child: key } });
  }

  /** Starts a run of its own. @param {string} workflow @param {any} [input] @param {any} [options] as of `client.workflow.trigger` @returns {Promise<{runId: string}>} */
  async trigger(workflow, input = [], options = {}) {
    const runId = await this.#call('trigger', { workflow, input, ...options, detached: true }, ({ run }) => run);
    return { runId };
  }

  /** Sets attributes of the run; null deletes one. @param {Record<string, any>} attributes @returns {Promise<void>} */
  async setAttributes(attributes) {
    await this.#call('set_attr', { attributes });
  }

  /** Delivers a payload to a hook. @param {string} token @param {any} payload @returns {Promise<void>} */
  async emit(token, payload) {
    await this.#call('emit', { token, payload });
  }

  /**
   * A call whose answer is recorded as a step: some calls leave such an entry themselves, which must be equal, others leave
   * none. It is made once, since the server knows its key.
   * @param {string} op
   * @param {any} fields
   * @param {(answer: any) => any} [valueOf]
   * @returns {Promise<any>}
   */
  #call(op, fields, valueOf = () => null) {
    const key = this.#run.keyOf(op);
    const attempt = () => this.#run.call({ op, key, ...fields }, valueOf);
    return this.#run.begin('step', key, { retries: 0, attempt, condition: { retry: key } });
  }

  /** Accepts no more payloads for a hook. @param {string} key @returns {Promise<void>} */
  async disposeHook(key) {
    const own = this.#run.keyOf('dispose');
    const attempt = () => this.#run.call({ op: 'hook_dispose', key }, () => null);
    await this.#run.begin('step', own, { retries: 0, attempt, condition: { retry: own } });
  }

  /** A line for the log of the server; it may be lost. @param {string} msg @param {'debug' | 'info' | 'warn' | 'error'} [level] */
  log(msg, level = 'info') {
    this.#run.connection.say({ t: 'log', ...this.#run.lease, level, msg });
  }
}

export class Hook {
  #context;
  #run;

  /** @param {Context} context @param {Run} run @param {string} key @param {string} token */
  constructor(context, run, key, token) {
    this.#context = context;
    this.#run = run;
    this.key = key;
    this.token = token;
  }

  /** The next payload. @returns {Promise<any>} */
  payload() {
    return this.#run.begin('payload', this.key, { condition: { hook: this.key } });
  }

  /** Accepts no more payloads. @returns {Promise<void>} */
  dispose() {
    return this.#context.disposeHook(this.key);
  }

  /** The payloads, one after another, without an end. @returns {AsyncGenerator<any, never, undefined>} */
  async *[Symbol.asyncIterator]() {
    for (;;) yield await this.payload();
  }
}
