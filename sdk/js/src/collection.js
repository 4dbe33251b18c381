// The records of one collection.

import { recordBody } from './body.js';
import { VskiError } from './errors.js';
import { LiveList } from './live.js';
import { joined, path } from './transport.js';

/** @import { CallOptions, Transport } from './transport.js' */
/** @import { Realtime, SubscribeOptions } from './realtime.js' */
/** @import { LiveOptions, LiveView } from './live.js' */
/** @import { AnyRecord, FieldName, ListOptions, Page, QueryOptions, RealtimeEvent, RecordChanges, RecordData, RecordInput, RecordOptions, Selected, UpdateOptions, WriteOptions } from './types.js' */

/** The tags of records, as the server answered them. @type {WeakMap<object, string>} */
const TAGS = new WeakMap();
/** The names that the server has passed over. @type {WeakMap<object, string[]>} */
const IGNORED = new WeakMap();
const PAGE_MOST = 1000;

/** @param {any} options */
const recordQuery = ({ expand, fields }) => ({ expand: joined(expand), fields: joined(fields) });

/** @param {any} options */
const listQuery = (options) => ({ ...recordQuery(options), filter: options.filter, sort: joined(options.sort) });

/** @param {CallOptions & {ifMatch?: string | object}} options @returns {CallOptions} */
function withTag(options) {
  const { ifMatch } = options;
  if (ifMatch === undefined) return options;
  const tag = typeof ifMatch === 'string' ? ifMatch : TAGS.get(ifMatch);
  if (tag === undefined) {
    throw new VskiError('ifMatch needs a record that getOne, create or update has answered.', { code: 'invalid' });
  }
  return { ...options, headers: { ...options.headers, 'If-Match': tag } };
}

/**
 * The names that the server has passed over when it created or changed this record: no fields, or fields that the caller
 * cannot write.
 * @param {object} record as `create` or `update` has answered it
 * @returns {string[]}
 */
export function ignoredFields(record) {
  return IGNORED.get(record) ?? [];
}

/** @template {object} [T=AnyRecord] */
export class Collection {
  /**
   * @param {Transport} transport
   * @param {Realtime} realtime
   * @param {string} database
   * @param {string} name
   */
  constructor(transport, realtime, database, name) {
    this.transport = transport;
    this.realtime = realtime;
    this.database = database;
    this.name = name;
    this.path = path`/api/collections/${name}/records`;
  }

  /**
   * @param {string} method
   * @param {string} suffix
   * @param {any} options
   * @param {any} [body]
   */
  async #one(method, suffix, options, body) {
    const request = {
      database: this.database, query: recordQuery(options), read: method === 'GET' && !options.fresh, body,
      onProgress: options.onProgress,
    };
    const { data, headers } = await this.transport.send(method, this.path + suffix, request, options);
    const tag = headers.get('ETag');
    if (tag && data) TAGS.set(data, tag);
    const ignored = headers.get('X-Ignored-Fields');
    if (ignored && data) IGNORED.set(data, ignored.split(',').map((name) => name.trim()));
    return data;
  }

  /**
   * A record by its id.
   * @template {FieldName<T>} [F=never]
   * @param {string} id
   * @param {RecordOptions<T, F>} [options]
   * @returns {Promise<Selected<T, F>>}
   */
  async getOne(id, options = {}) {
    return this.#one('GET', path`/${id}`, options);
  }

  /**
   * One page of records.
   * @template {FieldName<T>} [F=never]
   * @param {ListOptions<T, F>} [options]
   * @returns {Promise<Page<Selected<T, F>>>}
   */
  async getList(options = {}) {
    const { page, perPage, skipTotal } = options;
    const query = { ...listQuery(options), page, perPage, skipTotal };
    return this.transport.json('GET', this.path, { database: this.database, query, read: !options.fresh }, options);
  }

  /**
   * The first record that a filter matches.
   * @template {FieldName<T>} [F=never]
   * @param {string} filter
   * @param {QueryOptions<T, F>} [options]
   * @returns {Promise<Selected<T, F>>}
   */
  async getFirst(filter, options = {}) {
    const { items } = await this.getList({ ...options, filter, perPage: 1, skipTotal: true });
    if (items.length === 0) throw new VskiError('No record matches the filter.', { status: 404 });
    return items[0];
  }

  /**
   * All records, one after another, read in pages. Without `sort` they come in the order of their ids, and each record that
   * exists all the time comes exactly once, whatever changes meanwhile.
   * @template {FieldName<T>} [F=never]
   * @param {QueryOptions<T, F> & {perPage?: number}} [options]
   * @returns {AsyncGenerator<Selected<T, F>, void, undefined>}
   */
  async *iterate(options = {}) {
    const { fields, filter, sort, perPage = PAGE_MOST } = /** @type {any} */ (options);
    const isKeyed = !sort || sort.length === 0;
    const needsId = isKeyed && fields?.length && !fields.includes('id') && !fields.includes('*');
    const shared = { ...options, perPage, skipTotal: true, fields: needsId ? [...fields, 'id'] : fields };
    for (let page = 1, last = ''; ; page++) {
      const after = last && (filter ? `(${filter}) && id > '${last}'` : `id > '${last}'`);
      const range = isKeyed ? { sort: 'id', filter: after || filter } : { page };
      const { items } = await this.getList(/** @type {any} */ ({ ...shared, ...range }));
      yield* /** @type {any} */ (items);
      if (items.length < Math.min(perPage, PAGE_MOST)) return;
      last = /** @type {any} */ (items.at(-1)).id;
    }
  }

  /**
   * All records as a list, read as by `iterate`.
   * @template {FieldName<T>} [F=never]
   * @param {QueryOptions<T, F> & {perPage?: number}} [options]
   * @returns {Promise<Selected<T, F>[]>}
   */
  async getFullList(options = {}) {
    /** @type {any[]} */
    const items = [];
    for await (const item of this.iterate(options)) items.push(item);
    return items;
  }

  /**
   * Creates a record. A Blob or File as the value of a file field is uploaded.
   * @template {FieldName<T>} [F=never]
   * @param {RecordInput<T> | FormData} data
   * @param {WriteOptions<T, F>} [options]
   * @returns {Promise<Selected<T, F>>}
   */
  async create(data, options = {}) {
    return this.#one('POST', '', options, recordBody(data));
  }

  /**
   * Changes fields of a record. With `ifMatch` only if nothing else has changed it.
   * @template {FieldName<T>} [F=never]
   * @param {string} id
   * @param {RecordChanges<T> | FormData} changes
   * @param {UpdateOptions<T, F>} [options]
   * @returns {Promise<Selected<T, F>>}
   */
  async update(id, changes, options = {}) {
    return this.#one('PATCH', path`/${id}`, withTag(options), recordBody(changes));
  }

  /**
   * Deletes a record.
   * @param {string} id
   * @param {CallOptions & {ifMatch?: string | object}} [options]
   * @returns {Promise<void>}
   */
  async delete(id, options = {}) {
    await this.#one('DELETE', path`/${id}`, withTag(options));
  }

  /**
   * Updates the record with the `id` of the data, or creates it.
   * @param {RecordInput<T>} data
   * @param {CallOptions} [options]
   * @returns {Promise<RecordData<T>>}
   */
  async upsert(data, options) {
    return (await this.bulkUpsert([data], options).catch(unwrap))[0];
  }

  /**
   * Creates records, all or none.
   * @param {RecordInput<T>[]} items at most 1,000
   * @param {CallOptions} [options]
   * @returns {Promise<RecordData<T>[]>}
   */
  async bulkCreate(items, options) {
    return this.#batch('POST', items, options);
  }

  /**
   * Updates or creates records by their ids, all or none.
   * @param {RecordInput<T>[]} items at most 1,000
   * @param {CallOptions} [options]
   * @returns {Promise<RecordData<T>[]>}
   */
  async bulkUpsert(items, options) {
    return this.#batch('PUT', items, options);
  }

  /**
   * @param {string} method
   * @param {any[]} items
   * @param {CallOptions} [options]
   */
  async #batch(method, items, options) {
    const requests = items.map((body) => ({ method, url: this.path, body }));
    const answers = await this.transport.json('POST', '/api/batch', { database: this.database, body: { requests } }, options);
    return answers.map((/** @type {any} */ answer) => answer.body);
  }

  /**
   * Makes the same change to several records, to all or none.
   * @param {string[]} ids at most 1,000
   * @param {RecordChanges<T>} data
   * @param {CallOptions} [options]
   * @returns {Promise<RecordData<T>[]>}
   */
  async bulkUpdate(ids, data, options) {
    const request = { database: this.database, body: { ids, data } };
    return (await this.transport.json('PATCH', this.path, request, options)).items;
  }

  /**
   * Deletes several records, all or none.
   * @param {string[]} ids at most 1,000
   * @param {CallOptions} [options]
   * @returns {Promise<void>}
   */
  async bulkDelete(ids, options) {
    await this.transport.json('DELETE', this.path, { database: this.database, body: { ids } }, options);
  }

  /**
   * Calls back for each change of a record that the caller can see. After a broken connection the changes in between are
   * delivered first. The answer is a function that ends the subscription; its `ready` resolves once the subscription is
   * active.
   * @param {(event: RealtimeEvent<T>) => void} callback
   * @param {SubscribeOptions} [options]
   */
  subscribe(callback, options = {}) {
    return this.realtime.subscribe(this.name, /** @type {any} */ (callback), options);
  }

  /**
   * A list that stays current: the callback gets the records now and after each change, and not until they have arrived
   * for the first time.
   * @param {LiveOptions<T>} options
   * @param {(items: RecordData<T>[]) => void} onChange
   * @returns {LiveView<T>}
   */
  live(options, onChange) {
    return new LiveList(/** @type {any} */ (this), options, onChange);
  }
}

/** The error of a batch of one request, with its fields as for a single record. @param {any} error @returns {never} */
function unwrap(error) {
  if (!(error instanceof VskiError)) throw error;
  const own = error.fields['requests.0'];
  const fields = Object.entries(error.fields).filter(([name]) => name.startsWith('requests.0.'));
  throw new VskiError(own?.message ?? error.message, {
    ...error, cause: error.cause, fields: Object.fromEntries(fields.map(([name, it]) => [name.slice(11), it])),
  });
}
