// Live lists: records under a filter and a sort, kept current by the events of a subscription.
//
// The list subscribes first and reads afterwards, so it misses nothing. Events are applied in place if their effect is
// certain; otherwise the list is read again. An event says that a record matches the filter after a change; that one does
// not match any more is noticed by a second subscription without the filter: a change that has an event there and none
// under the filter. The server delivers the two in no fixed order, so the positions of the changes are compared.

import { backoffMs } from './backoff.js';
import { VskiError } from './errors.js';
import { comparison } from './order.js';

/** @import { Collection } from './collection.js' */
/** @import { NumberedEvent } from './realtime.js' */
/** @import { RecordData, SortKey } from './types.js' */

/**
 * @template {object} T
 * @typedef {object} LiveOptions
 * @property {string} [filter]
 * @property {SortKey<T> | readonly SortKey<T>[]} [sort]
 * @property {string | readonly string[]} [expand]
 * @property {number} [limit] of records, at most 1,000 (1,000)
 * @property {(error: VskiError) => void} [onError] the list cannot be read; if the reason lasts, it has ended
 */

/**
 * @template {object} T
 * @typedef {{items: RecordData<T>[], ready: Promise<void>, reload(): Promise<void>, stop(): void}} LiveView
 */

const LIMIT_MOST = 1000;
/** Usually both subscriptions have reported a change within this time; if not, a record disappears for a moment. */
const SETTLE_MS = 150;
/** Records whose latest changes are remembered. */
const REMEMBERED_MOST = 10_000;
const REREAD_FIRST_MS = 500;
const REREAD_MOST_MS = 30_000;

/** The position of a change, which grows with each. @param {NumberedEvent} event */
const positionOf = (event) => Number(event.id.split('.').at(-1));

/** Remembers a position, and forgets the oldest ones. @param {Map<string, number>} known @param {string} id @param {number} position */
function remember(known, id, position) {
  known.delete(id);
  known.set(id, position);
  if (known.size > REMEMBERED_MOST) known.delete(/** @type {string} */ (known.keys().next().value));
}

/** @template {object} T */
export class LiveList {
  /** The records as they are known now. @type {RecordData<T>[]} */
  items = [];
  #isLoaded = false;
  #isStopped = false;
  #isFull = false;
  #isSaid = false;
  #failures = 0;
  /** Events that came while the list was read. @type {NumberedEvent[]} */
  #waiting = [];
  /** The last change after which a record matched, and its last change of all. @type {Map<string, number>} */
  #matched = new Map();
  /** @type {Map<string, number>} */
  #changed = new Map();
  /** Records that have changed and may not match any more. @type {Set<string>} */
  #doubtful = new Set();
  /** @type {any} */ #doubtTimer;
  /** @type {any} */ #retryTimer;
  /** @type {Promise<void> | undefined} */
  #reading;
  #readAgain = false;
  /** @type {(() => void)[]} */
  #stops;

  /**
   * @param {Collection<any>} collection
   * @param {LiveOptions<T>} options
   * @param {(items: RecordData<T>[]) => void} onChange
   */
  constructor(collection, options, onChange) {
    const sort = options.sort ?? [];
    this.collection = collection;
    this.options = options;
    this.onChange = onChange;
    this.limit = Math.min(options.limit ?? LIMIT_MOST, LIMIT_MOST);
    this.sort = typeof sort === 'string' ? sort.split(',').map((it) => it.trim()) : [...sort];
    this.compare = comparison(this.sort);
    this.#stops = [];
    /** Resolves once the records have arrived for the first time. */
    this.ready = this.#start();
    this.ready.catch(() => {}); // reported by onError, too
  }

  async #start() {
    const { collection, options } = this;
    const { filter, expand } = options;
    const shared = {
      onResync: () => this.#restart(),
      onError: (/** @type {VskiError} */ error) => this.#fail(error),
    };
    const main = collection.subscribe((event) => this.#take(/** @type {NumberedEvent} */ (event)), { ...shared, filter, expand });
    this.#stops.push(main);
    const starts = [main.ready];
    if (filter) {
      const all = collection.subscribe((event) => this.#watch(/** @type {NumberedEvent} */ (event)), { ...shared, fields: 'id' });
      this.#stops.push(all);
      starts.push(all.ready);
    }
    await Promise.all(starts);
    await this.reload();
  }

  /** The server does not have all changes any more, or has begun to count from the start. */
  #restart() {
    for (const known of [this.#matched, this.#changed, this.#doubtful]) known.clear();
    this.#waiting = [];
    void this.reload();
  }

  /** Reads the records again. */
  reload() {
    if (this.#isStopped) return Promise.resolve();
    if (this.#reading) this.#readAgain = true;
    else this.#reading = this.#read().finally(() => (this.#reading = undefined));
    return this.#reading;
  }

  async #read() {
    const { filter, expand } = this.options;
    clearTimeout(this.#retryTimer);
    do {
      this.#readAgain = false;
      this.#isLoaded = false;
      try {
        const query = { filter, expand, sort: this.sort, perPage: this.limit, skipTotal: true, fresh: true };
        const { items } = await this.collection.getList(/** @type {any} */ (query));
        if (this.#isStopped) return;
        this.items = /** @type {any} */ (items);
        this.#isFull = items.length === this.limit;
        this.#failures = 0;
      } catch (error) {
        return this.#unreadable(error);
      }
    } while (this.#readAgain);
    this.#isLoaded = true;
    for (const event of this.#waiting.splice(0)) this.#apply(event);
    this.#tell();
  }

  /** @param {unknown} error */
  #unreadable(error) {
    if (this.#isStopped) return;
    if (!(error instanceof VskiError)) throw error;
    const isLasting = error.status >= 400 && error.status < 500 && error.status !== 429;
    if (isLasting) this.#fail(error);
    else {
      this.options.onError?.(error);
      this.#retryTimer = setTimeout(() => void this.reload(), backoffMs(this.#failures++, REREAD_FIRST_MS, REREAD_MOST_MS));
    }
    if (isLasting) throw error;
  }

  /** @param {VskiError} error */
  #fail(error) {
    if (this.#isStopped) return;
    this.stop();
    if (this.options.onError) this.options.onError(error);
    else console.error(`vski: the live list of ${this.collection.name} ended: ${error.message}`);
  }

  /** Ends the list; `items` stay as they are. */
  stop() {
    this.#isStopped = true;
    clearTimeout(this.#doubtTimer);
    clearTimeout(this.#retryTimer);
    for (const stop of this.#stops) stop();
  }

  /** An event of a record that matches. @param {NumberedEvent} event */
  #take(event) {
    if (this.#isStopped) return;
    if (this.options.filter) remember(this.#matched, event.record.id, positionOf(event));
    if (!this.#isLoaded) this.#waiting.push(event);
    else if (this.#apply(event)) this.#tell();
  }

  /** An event of any record. @param {NumberedEvent} event */
  #watch(event) {
    if (this.#isStopped) return;
    remember(this.#changed, event.record.id, positionOf(event));
    this.#doubtful.add(event.record.id);
    this.#doubtTimer ??= setTimeout(() => this.#settle(), SETTLE_MS);
  }

  /** Removes the records whose last change has no event under the filter. */
  #settle() {
    this.#doubtTimer = undefined;
    if (!this.#isLoaded) {
      this.#doubtTimer = setTimeout(() => this.#settle(), SETTLE_MS);
      return;
    }
    const doubtful = new Set(this.#doubtful);
    this.#doubtful.clear();
    const rest = this.items.filter(({ id }) => !doubtful.has(id) || !this.#isOutdated(id, this.#matched.get(id)));
    if (rest.length === this.items.length) return;
    this.items = rest;
    if (this.#isFull) void this.reload();
    this.#tell();
  }

  /** A later change of the record is known than this one. @param {string} id @param {number} [position] */
  #isOutdated(id, position = 0) {
    return position < (this.#changed.get(id) ?? 0);
  }

  /** @param {NumberedEvent} event @returns {boolean} the list has changed */
  #apply(event) {
    const { action, record } = event;
    if (action !== 'delete' && this.#isOutdated(record.id, positionOf(event))) return false;
    const items = [...this.items];
    const at = items.findIndex((item) => item.id === record.id);
    if (action === 'delete') {
      if (at < 0) return false;
      items.splice(at, 1);
      if (this.#isFull) void this.reload();
    } else {
      const item = /** @type {RecordData<T>} */ (record);
      if (at >= 0) items[at] = item;
      else if (this.sort[0] === '-@rowid') items.unshift(item);
      else items.push(item);
      if (this.compare) items.sort(this.compare);
      // The place of a record that matches only now, or of one in an order that only the server knows, is not known here.
      const isUnplaced = !this.compare && (this.sort.some((key) => key.includes('.')) || (at < 0 && action === 'update'));
      // Behind the last record of a full list there may be others that come first.
      const isLast = this.#isFull && at >= 0 && items.at(-1) === item;
      if (isUnplaced || isLast) void this.reload();
      if (items.length > this.limit) {
        this.#isFull = true;
        items.length = this.limit;
      }
    }
    this.items = items;
    return true;
  }

  /** Calls back once for all changes of a moment. */
  #tell() {
    if (this.#isSaid) return;
    this.#isSaid = true;
    setTimeout(() => {
      this.#isSaid = false;
      if (!this.#isStopped && this.#isLoaded) this.onChange(this.items);
    }, 0);
  }
}
