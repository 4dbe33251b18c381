// Changes of several collections in one transaction: all of them or none.

import { takeFiles } from './body.js';
import { path } from './transport.js';

/** @import { CallOptions, Transport } from './transport.js' */
/** @import { AnyRecord, RecordChanges, RecordInput } from './types.js' */

export class Batch {
  /** @type {{method: string, url: string, body?: any}[]} */
  #requests = [];
  #form = new FormData();

  /** @param {Transport} transport @param {string} database */
  constructor(transport, database) {
    this.transport = transport;
    this.database = database;
  }

  /**
   * @template {object} [T=AnyRecord]
   * @param {string} name
   * @returns {BatchCollection<T>}
   */
  collection(name) {
    return new BatchCollection((method, suffix, body) => {
      const prefix = `requests.${this.#requests.length}.`;
      const rest = body && takeFiles(body, this.#form, prefix);
      this.#requests.push({ method, url: path`/api/collections/${name}/records` + suffix, body: rest });
    });
  }

  /**
   * Sends all requests. The answers are in their order; if one fails, nothing is changed, and the `fields` of the error
   * name it as `requests.3`.
   * @param {CallOptions} [options]
   * @returns {Promise<{status: number, body: any}[]>}
   */
  async send(options) {
    const list = { requests: this.#requests };
    /** @type {any} */
    let body = list;
    if (!this.#form.keys().next().done) {
      body = this.#form;
      body.set('@jsonPayload', JSON.stringify(list));
    }
    return this.transport.json('POST', '/api/batch', { database: this.database, body }, options);
  }
}

/** @template {object} [T=AnyRecord] */
export class BatchCollection {
  /** @param {(method: string, suffix: string, body?: any) => void} add */
  constructor(add) {
    this.add = add;
  }

  /** @param {RecordInput<T>} data */
  create(data) {
    this.add('POST', '', data);
  }

  /** @param {string} id @param {RecordChanges<T>} changes */
  update(id, changes) {
    this.add('PATCH', path`/${id}`, changes);
  }

  /** @param {RecordInput<T>} data */
  upsert(data) {
    this.add('PUT', '', data);
  }

  /** @param {string} id */
  delete(id) {
    this.add('DELETE', path`/${id}`);
  }
}
