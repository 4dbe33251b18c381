// The administrators of the server.

import { path } from './transport.js';

/** @import { CallOptions, Transport } from './transport.js' */

/** @typedef {{id: string, email: string, created: string, updated: string}} Admin */

export class Admins {
  /** @param {Transport} transport */
  constructor(transport) {
    this.transport = transport;
  }

  /** @param {any} answer @returns {Promise<{token: string, admin: Admin}>} */
  async #enter({ token, admin }) {
    await this.transport.session.set({ token, user: admin, kind: 'admin', obtained: Date.now() });
    return { token, admin };
  }

  /**
   * Creates the first admin and signs in. `token` is the setup token of the server's log; on the same machine none is needed.
   * @param {{email: string, password: string, token?: string}} data
   * @param {CallOptions} [options]
   */
  async init(data, options) {
    return this.#enter(await this.transport.json('POST', '/api/admins/init', { body: data, anonymous: true }, options));
  }

  /** Signs in as an administrator. @param {string} email @param {string} password @param {CallOptions} [options] */
  async login(email, password, options) {
    const request = { body: { email, password }, anonymous: true };
    return this.#enter(await this.transport.json('POST', '/api/admins/login', request, options));
  }

  /** @param {CallOptions} [options] @returns {Promise<Admin[]>} */
  async list(options) {
    return (await this.transport.json('GET', '/api/admins', {}, options)).items;
  }

  /** @param {{email: string, password: string}} data @param {CallOptions} [options] @returns {Promise<Admin>} */
  create(data, options) {
    return this.transport.json('POST', '/api/admins', { body: data }, options);
  }

  /** @param {string} id @param {{email?: string, password?: string}} changes @param {CallOptions} [options] @returns {Promise<Admin>} */
  update(id, changes, options) {
    return this.transport.json('PATCH', path`/api/admins/${id}`, { body: changes }, options);
  }

  /** @param {string} id @param {CallOptions} [options] @returns {Promise<void>} */
  async delete(id, options) {
    await this.transport.json('DELETE', path`/api/admins/${id}`, {}, options);
  }
}
