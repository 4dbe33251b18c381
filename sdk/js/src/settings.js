// Databases, and the definitions of their collections.

import { path } from './transport.js';

/** @import { CallOptions, Transport } from './transport.js' */

export class Databases {
  /** @param {Transport} transport */
  constructor(transport) {
    this.transport = transport;
  }

  /** @param {CallOptions} [options] @returns {Promise<{name: string}[]>} */
  list(options) {
    return this.transport.json('GET', '/api/databases', {}, options);
  }

  /** @param {string} name @param {CallOptions} [options] @returns {Promise<{name: string}>} */
  create(name, options) {
    return this.transport.json('POST', '/api/databases', { body: { name } }, options);
  }

  /** @param {string} name @param {CallOptions} [options] @returns {Promise<void>} */
  async delete(name, options) {
    await this.transport.json('DELETE', path`/api/databases/${name}`, {}, options);
  }

  /**
   * Removes for good what was deleted from a database.
   * @param {string} name
   * @param {CallOptions} [options]
   * @returns {Promise<{collections: number, fields: number, files: number}>}
   */
  purge(name, options) {
    return this.transport.json('POST', path`/api/databases/${name}/purge`, {}, options);
  }
}

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {'text' | 'email' | 'url' | 'editor' | 'number' | 'bool' | 'date' | 'datetime' | 'select' | 'json' | 'file'
 *   | 'relation' | (string & {})} type
 * @property {string} [id]
 * @property {boolean} [required]
 * @property {boolean} [unique]
 * @property {boolean} [hidden]
 * @property {any} [options]
 * @property {readonly string[]} [values] of a select
 * @property {string} [collectionId] of a relation: id or name
 * @property {boolean} [cascadeDelete]
 * @property {number} [maxSelect]
 * @property {number} [maxSize]
 * @property {readonly string[]} [mimeTypes]
 * @property {boolean} [protected]
 * @property {number | string} [min]
 * @property {number | string} [max]
 * @property {string} [pattern]
 * @property {boolean} [onlyInt]
 * @property {readonly string[]} [onlyDomains]
 * @property {readonly string[]} [exceptDomains]
 */

/**
 * @typedef {object} Definition
 * @property {string} [id]
 * @property {string} name
 * @property {'base' | 'auth' | 'view' | (string & {})} [type]
 * @property {readonly Field[]} [fields]
 * @property {readonly (string | {fields: string[], unique?: boolean, name?: string})[]} [indexes]
 * @property {string | null} [listRule]
 * @property {string | null} [viewRule]
 * @property {string | null} [createRule]
 * @property {string | null} [updateRule]
 * @property {string | null} [deleteRule]
 * @property {string | null} [executeRule]
 * @property {string | null} [manageRule]
 * @property {string} [viewQuery] of a view: its SELECT
 * @property {readonly string[]} [executeWorkflows]
 * @property {Record<string, readonly string[]>} [fieldRules]
 * @property {Record<string, readonly string[]>} [fieldEditRules]
 * @property {any} [options]
 */

/** @typedef {Definition & {id: string, fields: Field[], created: string, updated: string}} CollectionDefinition */

export class Definitions {
  /** @param {Transport} transport @param {string} database */
  constructor(transport, database) {
    this.transport = transport;
    this.database = database;
  }

  /** @param {string} method @param {string} suffix @param {any} [body] @param {CallOptions} [options] */
  #call(method, suffix, body, options) {
    return this.transport.json(method, '/api/collections' + suffix, { database: this.database, body }, options);
  }

  /** @param {CallOptions} [options] @returns {Promise<CollectionDefinition[]>} */
  async list(options) {
    return (await this.#call('GET', '', undefined, options)).items;
  }

  /** @param {string} name or id @param {CallOptions} [options] @returns {Promise<CollectionDefinition>} */
  get(name, options) {
    return this.#call('GET', path`/${name}`, undefined, options);
  }

  /** @param {Definition} definition @param {CallOptions} [options] @returns {Promise<CollectionDefinition>} */
  create(definition, options) {
    return this.#call('POST', '', definition, options);
  }

  /** @param {string} name @param {Partial<Definition>} changes @param {CallOptions} [options] @returns {Promise<CollectionDefinition>} */
  update(name, changes, options) {
    return this.#call('PATCH', path`/${name}`, changes, options);
  }

  /** @param {string} name @param {CallOptions} [options] @returns {Promise<void>} */
  async delete(name, options) {
    await this.#call('DELETE', path`/${name}`, undefined, options);
  }
}
