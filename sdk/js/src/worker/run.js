// One run under one epoch: its code, its journal, and the operations that the code awaits.
//
// The code runs from its beginning each time. What is in the journal is delivered to it in the order of the journal, one
// entry at a time, and each time the code goes on until it awaits something; so it takes the same course again, also if it
// does several things at a time. Only when the journal is used up, steps are executed. Their results are delivered in the
// order in which they are recorded: that of the reports, or, if anything else can be recorded meanwhile, that of the
// journal, which is read again.

import { pause } from '../backoff.js';
import { VskiError } from '../errors.js';
import { CancelledError, StepError, recordOf } from './errors.js';

/** @import { WorkerConnection } from './connection.js' */

/** @typedef {'step' | 'sleep' | 'hook' | 'payload' | 'child'} OperationKind */

/**
 * Something that the code awaits.
 * @typedef {object} Operation
 * @property {OperationKind} kind
 * @property {string} key
 * @property {any} request
 * @property {'claimed' | 'busy' | 'waiting' | 'done'} state
 * @property {(value: any) => void} resolve
 * @property {(error: any) => void} reject
 */

/** The kinds of entries that name an operation of the code. @type {Record<string, OperationKind>} */
const KINDS = { step: 'step', retry: 'step', begun: 'step', sleep: 'sleep', wake: 'sleep', hook: 'hook', child: 'child' };
/** A step that is to be tried again sooner than that keeps its run here. */
const HOLD_MS = 2000;

const turn = () => new Promise((resolve) => setTimeout(resolve, 0));
/** A value as a replay will see it. @param {any} value */
export const plain = (value) => JSON.parse(JSON.stringify(value ?? null));

export class Run {
  abort = new AbortController();
  /** @type {Map<string, Operation>} */
  operations = new Map();
  /** @type {any[]} */
  #entries = [];
  /** @type {Record<string, number>} */
  #counts = {};
  /** @type {Map<string, {failures: number, due: number}>} */
  #retries = new Map();
  /** @type {Map<string, any[]>} */
  #payloads = new Map();
  /** @type {Set<string>} */
  #openHooks = new Set();
  /** Reports in the order in which they were sent, and what to do once all before them are answered. @type {{isAnswered: boolean, deliver: () => void}[]} */
  #reports = [];
  #isOrdered = false;
  #readsJournal = false;
  #busy = 0;
  #news = () => {};
  #seen = 0;
  /** @type {CancelledError | undefined} */
  #cancelled;
  /** The frame that ends the run here, or null if it is over. @type {(frame: any) => void} */
  stop = () => {};

  /** @param {WorkerConnection} connection @param {any} job */
  constructor(connection, job) {
    this.connection = connection;
    this.job = job;
    this.lease = { job: job.job, epoch: job.epoch };
    this.stopped = new Promise((resolve) => (this.stop = resolve));
  }

  /** The n-th key of this name. @param {string} name */
  keyOf(name) {
    this.#counts[name] = (this.#counts[name] ?? -1) + 1;
    return `${name}#${this.#counts[name]}`;
  }

  /**
   * The code begins something; resolves when the result is delivered.
   * @param {OperationKind} kind
   * @param {string} key
   * @param {any} request
   * @returns {Promise<any>}
   */
  begin(kind, key, request) {
    if (this.#cancelled) return Promise.reject(this.#cancelled);
    return new Promise((resolve, reject) => {
      const queue = this.#payloads.get(key);
      if (kind === 'payload' && queue?.length) return resolve(queue.shift());
      const name = kind === 'payload' ? `${key} payload` : key;
      this.operations.set(name, { kind, key, request, state: 'claimed', resolve, reject });
      this.#news();
    });
  }

  /** The frame that ends the run here; null if it has ended otherwise. @param {() => Promise<any>} code */
  async drive(code) {
    try {
      await this.#read(this.job.journal, this.job.seq, this.job.more);
    } catch {
      return { t: 'nack', delay_ms: 1000, reason: 'journal' };
    }
    /** @type {any} */
    let end;
    code().then((output) => (end = { t: 'done', output: plain(output) }), (error) => (end = { t: 'fail', err: recordOf(error) }))
      .catch((error) => (end = { t: 'fail', err: recordOf(error) })).finally(() => this.#news());
    /** @type {any} */
    let stopped;
    void this.stopped.then((frame) => {
      stopped = { frame };
      this.#news();
    });
    for (;;) {
      await turn();
      if (stopped) return stopped.frame;
      if (this.#entries.length > 0) this.#deliver(this.#entries.shift());
      else if (end) return this.#cancelled ? { t: 'fail', err: recordOf(this.#cancelled) } : end;
      else await this.#live();
    }
  }

  /** The journal is used up: executes what the code has begun, or waits for news, or parks. */
  async #live() {
    const news = new Promise((resolve) => (this.#news = () => resolve(undefined)));
    if (this.#readsJournal) return this.#readAgain();
    for (const operation of this.operations.values()) if (this.#isReady(operation)) void this.#execute(operation);
    const waiting = [...this.operations.values()].filter((it) => it.state === 'waiting');
    if (this.#busy > 0 || waiting.length === 0 || this.#cancelled) await news;
    else await this.#park(waiting.map((it) => it.request.condition));
  }

  /** @param {Operation} operation */
  #isReady({ kind, key, state }) {
    return state === 'claimed' || (kind === 'step' && state === 'waiting' && this.#dueIn(key) <= 0);
  }

  /** @param {string} key */
  #dueIn(key) {
    return (this.#retries.get(key)?.due ?? 0) - Date.now();
  }

  /** @param {Operation} operation */
  async #execute(operation) {
    const { kind, key, request } = operation;
    if (kind === 'sleep' || kind === 'payload') {
      operation.state = 'waiting';
      return;
    }
    operation.state = 'busy';
    this.#busy++;
    try {
      if (kind === 'step') await this.#executeStep(operation);
      else {
        const answer = await this.#report({ t: 'call', key, ...request.call });
        if (!answer) return;
        if (kind === 'child') operation.state = 'waiting';
        else this.#openHook(key, { token: answer.token });
      }
    } finally {
      this.#busy--;
      this.#news();
    }
  }

  /** @param {Operation} operation */
  async #executeStep(operation) {
    const { key, request } = operation;
    const waitMs = this.#dueIn(key);
    if (waitMs > HOLD_MS) {
      operation.state = 'waiting';
      return;
    }
    if (waitMs > 0) await pause(waitMs, this.abort.signal).catch(() => {});
    const { failures = 0 } = this.#retries.get(key) ?? {};
    const frame = { t: 'step', key, attempt: failures + 1, retries: request.retries, ...(await request.attempt(failures + 1)) };
    const answer = await this.#report(frame);
    if (!answer) return;
    if (answer.retry_ms === undefined) this.#settle(key, frame);
    else {
      this.#retries.set(key, { failures: failures + 1, due: Date.now() + answer.retry_ms });
      operation.state = 'claimed';
    }
  }

  /**
   * Sends a report. Resolves with its answer once the answers of all reports before it are dealt with; with nothing if
   * the journal has to say what happened, or the run is over.
   * @param {any} frame
   * @returns {Promise<any>}
   */
  async #report(frame) {
    /** @type {(value?: any) => void} */
    let deliver = () => {};
    const delivered = new Promise((resolve) => (deliver = resolve));
    const report = { isAnswered: false, deliver };
    this.#reports.push(report);
    const answer = await this.connection.ask(this, frame, () => (this.#isOrdered = true));
    if (answer.t === 'no' || answer.t === 'error') {
      await this.#refused(frame, answer);
      return undefined;
    }
    report.isAnswered = true;
    while (this.#reports[0]?.isAnswered) this.#reports.shift()?.deliver();
    await delivered;
    const isForeign = this.#openHooks.size > 0 || [...this.operations.values()].some((it) => it.kind === 'child');
    if (answer.retry_ms !== undefined || frame.op || !(this.#isOrdered || isForeign)) return answer;
    this.#readsJournal = true;
    this.#news();
    return undefined;
  }

  /**
   * Makes a call that is recorded as a step; its answer or its error.
   * @param {any} fields
   * @param {(answer: any) => any} valueOf
   */
  async call(fields, valueOf) {
    const frame = { t: 'call', ...fields };
    const answer = await this.connection.ask(this, frame, () => {});
    if (answer.t === 'ok') return { ok: plain(valueOf(answer)) };
    if (['cancelled', 'lost_lease'].includes(answer.code)) await this.#refused(frame, answer);
    return { err: { kind: answer.code, message: answer.message ?? answer.msg } };
  }

  /** @param {any} frame @param {any} answer */
  async #refused(frame, answer) {
    const { code, message, msg } = answer;
    if (code === 'cancelled' || code === 'lost_lease') return void (this.#cancelled || this.stop(null));
    if (code === 'conflict' && frame.op === 'hook_create') return this.#settle(frame.key, { err: { kind: 'conflict', message } });
    if (code === 'conflict') return this.stop({ t: 'nack', delay_ms: 1000, reason: 'conflict' });
    if (frame.op) return this.#settle(frame.key, { err: { kind: code, message: message ?? msg } });
    this.stop({ t: 'fail', err: { kind: code, message: `${frame.key}: ${message ?? msg}` } });
  }

  /** @param {any[]} conditions */
  async #park(conditions) {
    const answer = await this.connection.ask(this, { t: 'park', seen: this.#seen, on: conditions }, () => {});
    if (answer.t === 'wake') await this.#read(answer.results, answer.seq, answer.more);
    else if (answer.t === 'ok') this.stop(null);
    else await this.#refused({ key: 'park' }, answer);
  }

  async #readAgain() {
    this.#readsJournal = false;
    const page = await this.connection.get(`/runs/${this.job.job}/journal?after=${this.#seen}`).catch(() => undefined);
    if (page) await this.#read(page.journal, page.seq, page.more);
    else this.stop({ t: 'nack', delay_ms: 1000, reason: 'journal' });
  }

  /** @param {any[]} entries @param {number} seq @param {boolean} [more] */
  async #read(entries, seq, more) {
    this.#entries.push(...entries);
    this.#seen = seq;
    if (!more) return;
    const page = await this.connection.get(`/runs/${this.job.job}/journal?after=${seq}`);
    await this.#read(page.journal, page.seq, page.more);
  }

  /** @param {any} entry of the journal */
  #deliver(entry) {
    const { kind, key } = entry;
    const expected = KINDS[kind];
    const operation = this.operations.get(key);
    if (expected && !this.#fits(operation, kind, expected)) return this.#diverged(kind, key, operation);
    if (kind === 'step' || kind === 'wake') this.#settle(key, entry);
    else if (kind === 'retry') this.#retries.set(key, { failures: entry.attempt, due: entry.at - this.connection.ahead });
    else if (kind === 'hook') this.#openHook(key, entry);
    else if (kind === 'disposed') this.#openHooks.delete(key);
    else if (kind === 'child' && operation?.state === 'claimed') operation.state = 'waiting';
    else if (kind === 'payload') this.#take(key, entry.ok);
  }

  /** The code has begun what the entry is about. @param {Operation | undefined} operation @param {string} kind @param {OperationKind} expected */
  #fits(operation, kind, expected) {
    return operation !== undefined && (operation.kind === expected || (kind === 'step' && operation.kind === 'child'));
  }

  /** @param {string} kind @param {string} key @param {Operation | undefined} operation */
  #diverged(kind, key, operation) {
    const open = [...this.operations.values()].filter((it) => it.state !== 'done').map((it) => `${it.kind} ${it.key}`);
    const code = operation ? `a ${operation.kind} of that name` : open.join(', ') || 'nothing';
    const message = `The code differs from the journal. Journal: ${kind} ${key}. Code: ${code}.`;
    this.stop({ t: 'fail', err: { kind: 'nondeterminism', message } });
  }

  /** @param {string} key @param {any} entry */
  #settle(key, entry) {
    const operation = this.operations.get(key);
    if (!operation || operation.state === 'done') return;
    operation.state = 'done';
    if ('err' in entry && entry.err) operation.reject(new StepError(key, entry.err));
    else operation.resolve(entry.ok);
    this.#news();
  }

  /** @param {string} key @param {any} entry */
  #openHook(key, entry) {
    if (!entry.err) this.#openHooks.add(key);
    this.#settle(key, entry.err ? entry : { ok: { token: entry.token } });
  }

  /** @param {string} key @param {any} payload */
  #take(key, payload) {
    const operation = this.operations.get(`${key} payload`);
    if (operation && operation.state !== 'done') {
      operation.state = 'done';
      return operation.resolve(payload);
    }
    this.#payloads.set(key, [...(this.#payloads.get(key) ?? []), payload]);
  }

  /** The run was cancelled: the code sees it as an error, and has some time. @param {string} reason @param {number} graceMs */
  cancel(reason, graceMs) {
    this.#cancelled = new CancelledError(reason || 'The run was cancelled.');
    this.abort.abort(this.#cancelled);
    for (const operation of this.operations.values()) if (operation.state !== 'done') operation.reject(this.#cancelled);
    setTimeout(() => this.stop({ t: 'fail', err: recordOf(this.#cancelled) }), graceMs).unref?.();
    this.#news();
  }

  /** The run is not ours any more. */
  lose() {
    this.abort.abort(new VskiError('The run was taken away.', { code: 'lost' }));
    this.stop(null);
  }
}
