// API keys, and tokens for services.

import { path } from './transport.js';

/** @import { CallOptions, Transport } from './transport.js' */

/** @typedef {'read' | 'write' | 'databases' | 'collections' | 'service'} KeyScope */
/** @typedef {{name: string, scopes: KeyScope[], databases?: string[], collections?: string[], expires?: string}} KeyInput */
/** @typedef {KeyInput & {id: string, created: string, lastUsed: string | null}} Key */

export class Keys {
  /** @param {Transport} transport */
  constructor(transport) {
    this.transport = transport;
  }

  /** @param {CallOptions} [options] @returns {Promise<Key[]>} */
  async list(options) {
    return (await this.transport.json('GET', '/api/keys', {}, options)).items;
  }

  /** The key itself is shown only here. @param {KeyInput} data @param {CallOptions} [options] @returns {Promise<Key & {key: string}>} */
  create(data, options) {
    return this.transport.json('POST', '/api/keys', { body: data }, options);
  }

  /** @param {string} id @param {CallOptions} [options] @returns {Promise<void>} */
  async delete(id, options) {
    await this.transport.json('DELETE', path`/api/keys/${id}`, {}, options);
  }

  /**
   * A token with the rights of the scope `service`, for a process that should not hold a key.
   * @param {{name?: string, seconds?: number, workflows?: string[]}} [data]
   * @param {CallOptions} [options]
   * @returns {Promise<{token: string, expires: string}>}
   */
  serviceToken(data = {}, options) {
    return this.transport.json('POST', '/api/auth/service-token', { body: data, safe: true }, options);
  }
}
