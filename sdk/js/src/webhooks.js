// Webhooks of a database, and the log of calls.

import { path } from './transport.js';

/** @import { CallOptions, Transport } from './transport.js' */
/** @import { Page } from './types.js' */

/** @typedef {'create' | 'update' | 'delete' | '*'} WebhookAction */

/**
 * @typedef {object} WebhookInput
 * @property {string} name
 * @property {boolean} [active]
 * @property {string | null} [collection]
 * @property {WebhookAction | WebhookAction[]} [actions]
 * @property {string} [url]
 * @property {'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'GET'} [method]
 * @property {Record<string, string>} [headers]
 * @property {string} [body]
 * @property {string} [contentType]
 * @property {number} [retryLimit]
 * @property {boolean} [jwtEnabled]
 * @property {string} [secret]
 * @property {string} [workflow]
 * @property {any} [input]
 */

/** @typedef {WebhookInput & {id: string, created: string, updated: string}} Webhook */
/** @typedef {{page?: number, perPage?: number, collection?: string, status?: 'pending' | 'success' | 'failed', source?: 'trigger' | 'webhook' | 'cron', name?: string}} LogQuery */

export class Webhooks {
  /** @param {Transport} transport @param {string} database */
  constructor(transport, database) {
    this.transport = transport;
    this.database = database;
  }

  /** @param {string} method @param {string} suffix @param {object} [request] @param {CallOptions} [options] */
  #call(method, suffix, request, options) {
    return this.transport.json(method, '/api/webhooks' + suffix, { database: this.database, ...request }, options);
  }

  /** @param {CallOptions} [options] @returns {Promise<Webhook[]>} */
  async list(options) {
    return (await this.#call('GET', '', {}, options)).items;
  }

  /** @param {string} id @param {CallOptions} [options] @returns {Promise<Webhook>} */
  get(id, options) {
    return this.#call('GET', path`/${id}`, {}, options);
  }

  /** @param {WebhookInput} webhook @param {CallOptions} [options] @returns {Promise<Webhook>} */
  create(webhook, options) {
    return this.#call('POST', '', { body: webhook }, options);
  }

  /** @param {string} id @param {{[K in keyof WebhookInput]?: WebhookInput[K] | null}} changes @param {CallOptions} [options] @returns {Promise<Webhook>} */
  update(id, changes, options) {
    return this.#call('PATCH', path`/${id}`, { body: changes }, options);
  }

  /** @param {string} id @param {CallOptions} [options] @returns {Promise<void>} */
  async delete(id, options) {
    await this.#call('DELETE', path`/${id}`, {}, options);
  }

  /** Queues a call by hand. @param {string} id @param {any} payload @param {CallOptions} [options] @returns {Promise<{id: number}>} */
  call(id, payload, options) {
    return this.#call('POST', path`/${id}/call`, { body: payload }, options);
  }

  /** The secret with which receivers check calls. @param {CallOptions} [options] @returns {Promise<string>} */
  async secret(options) {
    return (await this.transport.json('GET', '/api/webhooks/secret', {}, options)).secret;
  }

  /** @param {LogQuery} [query] @param {CallOptions} [options] @returns {Promise<Page<any>>} */
  logs(query, options) {
    return this.#call('GET', '/logs', { query }, options);
  }

  /** One call of the log, with its payload. @param {number} id @param {CallOptions} [options] @returns {Promise<any>} */
  log(id, options) {
    return this.#call('GET', path`/logs/${String(id)}`, {}, options);
  }

  /** Makes failed calls due again: these, or all. @param {number[] | 'failed'} which @param {CallOptions} [options] @returns {Promise<{count: number}>} */
  retry(which, options) {
    return this.#call('POST', '/logs/retry', { body: which === 'failed' ? { failed: true } : { ids: which } }, options);
  }
}
