// Realtime: one WebSocket for all subscriptions of a database. It reconnects by itself and resumes after the last event.

import { platformWebSocket } from '#websocket';
import { backoffMs } from './backoff.js';
import { VskiError } from './errors.js';
import { joined } from './transport.js';

/** @import { Transport } from './transport.js' */
/** @import { RealtimeEvent } from './types.js' */

/**
 * @typedef {object} SubscribeOptions
 * @property {string} [filter]
 * @property {string} [id] only this record
 * @property {string | readonly string[]} [fields]
 * @property {string | readonly string[]} [expand]
 * @property {string} [group] of all subscriptions of a group, one gets each event
 * @property {(error: VskiError) => void} [onError] the subscription has ended, or was refused
 * @property {() => void} [onResync] events may be missing: read the records again
 */

/** @typedef {(() => void) & {ready: Promise<void>}} Unsubscribe */

/** @typedef {RealtimeEvent & {id: string}} NumberedEvent an event with its position in the order of changes */

const RECONNECT_FIRST_MS = 500;
const RECONNECT_MOST_MS = 30_000;
/** After this silence the server is asked for a sign of life; after the next one the connection is given up. */
const SILENCE_MS = 30_000;
const CONNECT_MS = 15_000;
/** Without a subscription the connection is closed after this time. */
const IDLE_MS = 5000;

class Subscription {
  /** The last event that is known; the server continues after it. */
  after = '';
  isActive = false;
  failures = 0;
  /** @type {(value?: any) => void} */
  resolve = () => {};
  /** @type {(error: VskiError) => void} */
  reject = () => {};
  /** @type {Promise<void>} */
  ready;

  /**
   * @param {string} name
   * @param {object} request
   * @param {(event: NumberedEvent) => void} callback
   * @param {SubscribeOptions} options
   */
  constructor(name, request, callback, options) {
    this.name = name;
    this.request = request;
    this.callback = callback;
    this.options = options;
    this.ready = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.ready.catch(() => {}); // reported by onError, too
  }
}

export class Realtime {
  /** @type {Map<string, Subscription>} */
  #subscriptions = new Map();
  /** @type {Map<number, (frame: any) => void>} */
  #answers = new Map();
  /** @type {any} */
  #socket;
  #isOpen = false;
  #failures = 0;
  #last = 0;
  #heard = 0;
  /** @type {any} */ #retryTimer;
  /** @type {any} */ #aliveTimer;
  /** @type {any} */ #idleTimer;
  /** @type {(() => void) | undefined} */
  #unwatch;

  /** @param {Transport} transport @param {string} database */
  constructor(transport, database) {
    this.transport = transport;
    this.database = database;
  }

  /**
   * @param {string} collection
   * @param {(event: NumberedEvent) => void} callback
   * @param {SubscribeOptions} options
   * @returns {Unsubscribe}
   */
  subscribe(collection, callback, options) {
    const { filter, id, group, fields, expand } = options;
    const request = { collection, filter, id, group, fields: joined(fields), expand: joined(expand) };
    const subscription = new Subscription(`s${++this.#last}`, request, callback, options);
    this.#subscriptions.set(subscription.name, subscription);
    clearTimeout(this.#idleTimer);
    if (this.#isOpen) this.#begin(subscription);
    else if (!this.#socket && !this.#retryTimer) this.#connect();
    const stop = () => this.#remove(subscription);
    return Object.assign(stop, { ready: subscription.ready });
  }

  /** @param {Subscription} subscription */
  #remove(subscription) {
    if (!this.#subscriptions.delete(subscription.name)) return;
    if (this.#isOpen) this.#send({ t: 'unsubscribe', sub: subscription.name });
    subscription.reject(new VskiError('The subscription was ended.', { code: 'aborted' }));
    this.#closeIfIdle();
  }

  #closeIfIdle() {
    if (this.#subscriptions.size > 0) return;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    clearTimeout(this.#idleTimer);
    this.#idleTimer = setTimeout(() => this.close(), this.#socket ? IDLE_MS : 0);
    this.#idleTimer.unref?.();
  }

  /** Ends all subscriptions and the connection. */
  close() {
    clearTimeout(this.#idleTimer);
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    for (const subscription of [...this.#subscriptions.values()]) {
      this.#end(subscription, new VskiError('The connection was closed.', { code: 'aborted' }), true);
    }
    this.#disconnect();
    this.#unwatch?.();
    this.#unwatch = undefined;
  }

  #connect() {
    const { transport } = this;
    const WebSocket = transport.options.WebSocket ?? platformWebSocket();
    if (!WebSocket) {
      const error = new VskiError('This platform has no WebSocket: give the client one.', { code: 'failed' });
      for (const subscription of [...this.#subscriptions.values()]) this.#end(subscription, error, false);
      return;
    }
    this.#unwatch ??= transport.session.onChange(() => this.#isOpen && this.#authenticate(transport.session.data?.token));
    const url = transport.replicas.master.replace(/^http/, 'ws') + transport.address('/api/realtime', this.database);
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#heard = Date.now();
    // The WebSocket of Node 22 reports only the error if a connection fails.
    socket.onclose = socket.onerror = () => this.#lost(socket);
    socket.onmessage = (/** @type {{data: string}} */ { data }) => {
      if (this.#socket === socket) this.#take(JSON.parse(data), socket);
    };
    clearInterval(this.#aliveTimer);
    this.#aliveTimer = setInterval(() => this.#checkAlive(socket), SILENCE_MS / 2);
    setTimeout(() => this.#socket === socket && !this.#isOpen && this.#lost(socket), CONNECT_MS).unref?.();
  }

  /** @param {any} socket */
  #checkAlive(socket) {
    const silence = Date.now() - this.#heard;
    if (silence > 2 * SILENCE_MS) this.#lost(socket);
    else if (silence > SILENCE_MS && this.#isOpen) this.#send({ t: 'ping' });
  }

  #disconnect() {
    const socket = this.#socket;
    this.#socket = undefined;
    this.#isOpen = false;
    this.#answers.clear();
    clearInterval(this.#aliveTimer);
    if (!socket) return;
    socket.onclose = socket.onerror = socket.onmessage = socket.onopen = null;
    try {
      socket.close();
    } catch {
      // it was never open
    }
  }

  /** @param {any} socket */
  #lost(socket) {
    if (this.#socket !== socket) return;
    this.#disconnect();
    for (const subscription of this.#subscriptions.values()) subscription.isActive = false;
    if (this.#subscriptions.size === 0) return;
    const waitMs = this.#failures === 0 ? Math.random() * RECONNECT_FIRST_MS
      : backoffMs(this.#failures, RECONNECT_FIRST_MS, RECONNECT_MOST_MS);
    this.#failures++;
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined;
      this.#connect();
    }, waitMs);
  }

  /** @param {any} frame @param {(answer: any) => void} [onAnswer] */
  #send(frame, onAnswer) {
    const ref = ++this.#last;
    if (onAnswer) this.#answers.set(ref, onAnswer);
    this.#socket.send(JSON.stringify({ ...frame, ref }));
  }

  /** @param {string | undefined} token */
  #authenticate(token) {
    this.#send(token ? { t: 'auth', token } : { t: 'auth' });
  }

  /** @param {any} frame @param {any} socket */
  #take(frame, socket) {
    this.#heard = Date.now();
    const subscription = this.#subscriptions.get(frame.sub);
    switch (frame.t) {
      case 'welcome': return void this.#open(socket);
      case 'ok': case 'no': {
        const onAnswer = this.#answers.get(frame.ref);
        this.#answers.delete(frame.ref);
        return onAnswer?.(frame);
      }
      case 'event':
        if (!subscription) return;
        subscription.after = frame.id;
        return subscription.callback({ id: frame.id, action: frame.action, record: frame.record });
      case 'resync':
        if (!subscription) return;
        subscription.after = frame.last;
        return subscription.options.onResync?.();
      case 'ended':
        if (subscription) this.#refused(subscription, frame);
    }
  }

  /** @param {any} socket */
  async #open(socket) {
    const token = await this.transport.session.token().catch(() => '');
    if (this.#socket !== socket) return;
    this.#isOpen = true;
    this.#failures = 0;
    if (token) this.#authenticate(token);
    for (const subscription of this.#subscriptions.values()) this.#begin(subscription);
  }

  /** @param {Subscription} subscription */
  #begin(subscription) {
    const { name: sub, after, request } = subscription;
    this.#send({ t: 'subscribe', sub, ...request, ...(after && { after }) }, (answer) => {
      if (this.#subscriptions.get(sub) !== subscription) return;
      if (answer.t === 'no') return this.#refused(subscription, answer);
      subscription.after ||= answer.last;
      subscription.isActive = true;
      subscription.failures = 0;
      subscription.resolve();
    });
  }

  /**
   * The server does not serve a subscription (any more): it is asked again if that can help.
   * @param {Subscription} subscription
   * @param {{status: number, message: string}} answer
   */
  async #refused(subscription, { status, message }) {
    subscription.isActive = false;
    const socket = this.#socket;
    const { session } = this.transport;
    const isBusy = status === 429 || status === 503;
    const isExpired = status === 401 && subscription.failures === 0 && await session.recovers(session.data?.token ?? '');
    if (!isBusy && !isExpired) return this.#end(subscription, new VskiError(message, { status }), false);
    const waitMs = isBusy ? backoffMs(subscription.failures, RECONNECT_FIRST_MS, RECONNECT_MOST_MS) : 0;
    subscription.failures++;
    setTimeout(() => {
      const isMine = this.#subscriptions.get(subscription.name) === subscription;
      if (isMine && this.#socket === socket && this.#isOpen) this.#begin(subscription);
    }, waitMs);
  }

  /** @param {Subscription} subscription @param {VskiError} error @param {boolean} isQuiet */
  #end(subscription, error, isQuiet) {
    this.#subscriptions.delete(subscription.name);
    subscription.reject(error);
    if (!isQuiet) {
      if (subscription.options.onError) subscription.options.onError(error);
      else console.error(`vski: a subscription ended: ${error.message}`);
    }
    this.#closeIfIdle();
  }
}
