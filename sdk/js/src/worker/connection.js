// The socket of a worker: it says hello, keeps the leases, reconnects and sends again what was not answered.

import { platformWebSocket } from '#websocket';
import { pause } from '../backoff.js';
import { VskiError } from '../errors.js';
import { Run } from './run.js';

/** @import { Transport } from '../transport.js' */
/** @import { WorkflowDefinition } from './definition.js' */

/** Close codes after which reconnecting does not help. */
const REFUSED = [4401, 4403, 4406, 4409];
const RECONNECT_FIRST_MS = 500;
const RECONNECT_MOST_MS = 30_000;
const WELCOME_MS = 30_000;
/** The longest report that the server accepts at all. */
const REPORT_MOST = 4 << 20;

export class WorkerConnection {
  /** The runs held, by id and epoch. @type {Map<string, Run>} */
  runs = new Map();
  /** How far the clock of the server is ahead of ours, in milliseconds. */
  ahead = 0;
  /** @type {Map<number, {run: Run, text: string, onDelay: () => void, answer: (frame: any) => void}>} */
  #unanswered = new Map();
  /** @type {any} */
  #socket;
  #session = '';
  #token = '';
  #maxFrame = 1 << 20;
  #lastRef = 0;
  #failures = 0;
  #heard = 0;
  #awayMs = -1;
  #isStopped = false;
  #instance = globalThis.crypto.randomUUID();

  /**
   * @param {Transport} transport
   * @param {{name: string, credit: number, execute: (run: Run) => Promise<any>, onReady: () => void}} options
   * @param {Map<string, WorkflowDefinition>} workflows
   */
  constructor(transport, options, workflows) {
    this.transport = transport;
    this.options = options;
    this.workflows = workflows;
  }

  /** Connects again and again until it is stopped, or the server refuses this worker. @returns {Promise<void>} */
  async serve() {
    while (!this.#isStopped) {
      this.#token = await this.transport.session.token();
      const { code, reason } = await this.#connection();
      if (this.#isStopped) return;
      if (REFUSED.includes(code)) {
        for (const run of this.runs.values()) run.lose();
        throw new VskiError(`The server refuses this worker: ${reason || code}.`, { code: code === 4403 ? 'forbidden' : 'unauthenticated' });
      }
      const most = Math.min(RECONNECT_MOST_MS, RECONNECT_FIRST_MS * 2 ** this.#failures++);
      await pause(this.#awayMs >= 0 ? this.#awayMs : Math.random() * most);
    }
  }

  /** One connection, until it ends. @returns {Promise<{code: number, reason: string}>} */
  #connection() {
    const WebSocket = this.transport.options.WebSocket ?? platformWebSocket();
    const url = `${this.transport.replicas.master.replace(/^http/, 'ws')}/api/workflow/ws`;
    const socket = new WebSocket(url, ['vski.workflow.v1']);
    this.#awayMs = -1;
    return new Promise((resolve) => {
      /** @type {any} */
      let timer;
      const close = (/** @type {any} */ { code = 1006, reason = '' }) => {
        clearInterval(timer);
        if (this.#socket === socket) this.#socket = undefined;
        socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
        resolve({ code, reason });
        socket.close();
      };
      timer = setTimeout(() => close({}), WELCOME_MS);
      socket.onopen = () => socket.send(JSON.stringify(this.#hello()));
      // The WebSocket of Node 22 reports only the error if a connection fails.
      socket.onclose = socket.onerror = close;
      socket.onmessage = (/** @type {{data: string}} */ { data }) => {
        const frame = JSON.parse(data);
        this.#heard = Date.now();
        if (frame.t !== 'welcome') return this.#take(frame);
        clearTimeout(timer);
        this.#welcome(frame, socket);
        timer = setInterval(() => {
          if (Date.now() - this.#heard > frame.lease_ms) return close({});
          // An unknown frame is answered by an error, which shows that the connection lives.
          this.say(this.runs.size > 0 ? { t: 'hb', jobs: this.#held() } : { t: 'alive' });
        }, frame.hb_ms);
      };
    });
  }

  #hello() {
    const workflows = [...this.workflows.values()].map(({ name, version }) => ({ name, version }));
    const jobs = [...this.runs.values()].map((run) => run.lease);
    return {
      t: 'hello', proto: [1], worker: this.options.name, instance: this.#instance, workflows, credit: this.options.credit,
      token: this.#token, sdk: 'vski', lang: 'javascript',
      ...(this.#session && { resume: { session: this.#session, jobs } }),
    };
  }

  /** @param {any} frame @param {any} socket */
  #welcome(frame, socket) {
    for (const { job, epoch } of frame.lost ?? []) this.#drop(this.runs.get(`${job} ${epoch}`));
    this.#socket = socket;
    this.#session = frame.session;
    this.#maxFrame = frame.max_frame;
    this.#failures = 0;
    this.ahead = frame.now - Date.now();
    for (const ref of [...this.#unanswered.keys()]) void this.#transmit(ref);
    this.options.onReady();
  }

  #held() {
    return [...this.runs.values()].map(({ lease }) => [lease.job, lease.epoch]);
  }

  /** Sends a frame that may be lost. @param {any} frame */
  say(frame) {
    this.#socket?.send(JSON.stringify(frame));
  }

  /**
   * Reports something; resolves with the answer, over as many connections as that takes. `onDelay` is called if reports
   * may overtake this one.
   * @param {Run} run
   * @param {any} frame
   * @param {() => void} onDelay
   * @returns {Promise<any>}
   */
  ask(run, frame, onDelay) {
    const ref = ++this.#lastRef;
    const text = JSON.stringify({ ...frame, ...run.lease, ref });
    return new Promise((answer) => {
      this.#unanswered.set(ref, { run, text, onDelay, answer });
      void this.#transmit(ref);
    });
  }

  /** @param {number} ref */
  async #transmit(ref) {
    const report = this.#unanswered.get(ref);
    if (!report || !this.#socket) return; // it is sent with the next welcome
    const bytes = new TextEncoder().encode(report.text).length;
    if (bytes <= this.#maxFrame) return this.#socket.send(report.text);
    report.onDelay();
    /** @type {any} */
    let answer = { t: 'no', code: 'too_large', message: `${bytes} bytes are too many` };
    if (bytes <= REPORT_MOST) {
      const body = { frames: [JSON.parse(report.text)] };
      answer = await this.transport.json('POST', '/api/workflow/report', { body, safe: true })
        .then(({ answers }) => answers[0], (error) => ({ t: 'no', code: 'unavailable', message: error.message }));
    }
    this.#take({ ...answer, ref });
  }

  /** @param {any} frame */
  #take(frame) {
    const { t, job, epoch } = frame;
    const held = this.runs.get(`${job} ${epoch}`);
    switch (t) {
      case 'job': return this.#begin(frame);
      case 'ok': case 'no': case 'wake': case 'error': return this.#answer(frame.ref, frame);
      case 'acks': return frame.refs.forEach((/** @type {number} */ ref) => this.#answer(ref, { t: 'ok' }));
      case 'revoke': return this.#drop(held);
      case 'cancel': return held?.cancel(frame.reason, frame.grace_ms);
      case 'probe': return this.say({ t: 'hb', n: frame.n, jobs: this.#held() });
      case 'going_away': this.#awayMs = frame.after_ms + Math.random() * frame.jitter_ms; return;
      case 'auth_expiring': void this.#renew();
    }
  }

  async #renew() {
    const { session } = this.transport;
    await session.renewNow().catch(() => {});
    this.#token = session.data?.token ?? '';
    this.say({ t: 'auth', ref: ++this.#lastRef, token: this.#token });
  }

  /** @param {number} ref @param {any} frame */
  #answer(ref, frame) {
    const report = this.#unanswered.get(ref);
    if (!report) return;
    if (frame.code === 'unavailable') {
      report.onDelay();
      setTimeout(() => void this.#transmit(ref), frame.retry_ms ?? 1000);
      return;
    }
    this.#unanswered.delete(ref);
    report.answer(frame);
  }

  /** @param {any} frame */
  #begin(frame) {
    const { job, epoch } = frame;
    for (const run of this.runs.values()) if (run.lease.job === job) this.#drop(run);
    const run = new Run(this, frame);
    this.runs.set(`${job} ${epoch}`, run);
    this.say({ t: 'ack', job, epoch });
    void this.#finish(run);
  }

  /** Executes a run, and reports its end. @param {Run} run */
  async #finish(run) {
    // A page of the journal that cannot be read: another hand-out tries again.
    const end = await this.options.execute(run).catch(() => ({ t: 'nack', delay_ms: 1000, reason: 'journal' }));
    const answer = end && (await this.ask(run, end, () => {}));
    if (end?.t === 'done' && ['too_large', 'invalid'].includes(answer.code)) {
      await this.ask(run, { t: 'fail', err: { kind: answer.code, message: answer.message ?? answer.msg } }, () => {});
    }
    this.#drop(run);
  }

  /** @param {Run | undefined} run */
  #drop(run) {
    if (!run) return;
    this.runs.delete(`${run.lease.job} ${run.lease.epoch}`);
    for (const [ref, report] of this.#unanswered) {
      if (report.run !== run) continue;
      this.#unanswered.delete(ref);
      report.answer({ t: 'no', code: 'lost_lease' });
    }
    run.lose();
  }

  /** A page about a run. @param {string} path @returns {Promise<any>} */
  get(path) {
    return this.transport.json('GET', `/api/workflow${path}`);
  }

  /** Takes no more runs, lets those that are held finish for a while, and leaves. @param {number} graceMs */
  async stop(graceMs) {
    this.say({ t: 'drain' });
    for (const end = Date.now() + graceMs; this.runs.size > 0 && Date.now() < end;) await pause(20);
    this.say({ t: 'bye' });
    this.#isStopped = true;
    for (const run of [...this.runs.values()]) this.#drop(run);
    const socket = this.#socket;
    await pause(50); // the bye is on its way
    socket?.close();
  }
}
