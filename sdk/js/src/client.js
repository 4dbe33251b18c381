// The client of a server.

import { Admins } from './admins.js';
import { Cron } from './cron.js';
import { Database } from './database.js';
import { Keys } from './keys.js';
import { Databases } from './settings.js';
import { Transport } from './transport.js';

/** @import { CallOptions, ClientOptions } from './transport.js' */
/** @import { AnyRecord } from './types.js' */

/**
 * A client of a vski server. It has one session, also for the databases of `db`.
 * @template {object} [S=Record<string, AnyRecord>] the records of each collection, by its name
 * @extends {Database<S>}
 */
export class VskiClient extends Database {
  /** @type {Map<string, Database<any>>} */
  #databases = new Map();

  /**
   * @param {string} [url] of the server, or of the master if there are replicas; a page of the server itself needs none
   * @param {ClientOptions} [options]
   */
  constructor(url = globalThis.location?.origin, options = {}) {
    super(new Transport(url, options), 'default');
    const { transport } = this;
    this.settings = { ...this.settings, databases: new Databases(transport) };
    this.admins = new Admins(transport);
    this.keys = new Keys(transport);
    this.cron = new Cron(transport);
  }

  /**
   * Another database of the server.
   * @template {object} [D=Record<string, AnyRecord>]
   * @param {string} name
   * @returns {Database<D>}
   */
  db(name) {
    let database = this.#databases.get(name);
    if (!database) this.#databases.set(name, (database = new Database(this.transport, name)));
    return database;
  }

  /**
   * Uses an API key or a token of your own from now on; without one, signs out.
   * @param {string} [token]
   */
  setToken(token) {
    const session = token ? { token, user: null, kind: /** @type {const} */ ('token'), obtained: Date.now() } : null;
    void this.transport.session.set(session);
  }

  /** The id of the replica that answered last; empty if it was a master. */
  get replicaId() {
    return this.transport.replicas.id;
  }

  /** The server that reads go to: the nearest replica that is not far behind, or the master. @returns {Promise<string>} */
  nearest() {
    return this.transport.replicas.nearest();
  }

  /** The state of the server. @param {CallOptions} [options] @returns {Promise<{status: number, message: string, data: any}>} */
  health(options) {
    return this.transport.json('GET', '/api/health', {}, options);
  }

  /** Requests and runs by the minute. @param {{from?: string, to?: string, by?: 'minute' | 'hour' | 'day' | 'total', of?: 'requests' | 'workflows'}} [query] @param {CallOptions} [options] @returns {Promise<any>} */
  stats(query, options) {
    return this.transport.json('GET', '/api/stats', { query }, options);
  }

  /** The progress of replicas. @param {CallOptions} [options] @returns {Promise<any>} */
  replicaStatus(options) {
    return this.transport.json('GET', '/api/replica/status', {}, options);
  }

  /** Ends the subscriptions of all databases. */
  close() {
    this.realtime.close();
    for (const database of this.#databases.values()) database.realtime.close();
  }
}
