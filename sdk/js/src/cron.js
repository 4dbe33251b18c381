// Jobs that the server runs on a schedule.

import { path } from './transport.js';

/** @import { CallOptions, Transport } from './transport.js' */
/** @import { Page } from './types.js' */

/**
 * @typedef {object} JobInput
 * @property {string} name
 * @property {string} schedule
 * @property {'sql' | 'http' | 'workflow'} type
 * @property {string} [timeZone]
 * @property {boolean} [active]
 * @property {string} [sql]
 * @property {string} [database]
 * @property {number} [timeout]
 * @property {string} [url]
 * @property {string} [method]
 * @property {Record<string, string>} [headers]
 * @property {string} [body]
 * @property {string} [contentType]
 * @property {number} [retryLimit]
 * @property {boolean} [jwtEnabled]
 * @property {string} [secret]
 * @property {string} [workflow]
 * @property {any} [input]
 */

/** @typedef {JobInput & {id: string, created: string, updated: string, next: string | null, last: any, isRunning: boolean}} Job */
/** @typedef {{id: string, due: string | null, started: string, ended: string | null, status: 'running' | 'success' | 'failed' | 'skipped', message: string}} JobRun */

export class Cron {
  /** @param {Transport} transport */
  constructor(transport) {
    this.transport = transport;
  }

  /** @param {CallOptions} [options] @returns {Promise<Job[]>} */
  async list(options) {
    return (await this.transport.json('GET', '/api/cron', {}, options)).items;
  }

  /** @param {string} id or name @param {CallOptions} [options] @returns {Promise<Job>} */
  get(id, options) {
    return this.transport.json('GET', path`/api/cron/${id}`, {}, options);
  }

  /** @param {JobInput} job @param {CallOptions} [options] @returns {Promise<Job>} */
  create(job, options) {
    return this.transport.json('POST', '/api/cron', { body: job }, options);
  }

  /** @param {string} id @param {Partial<JobInput>} changes @param {CallOptions} [options] @returns {Promise<Job>} */
  update(id, changes, options) {
    return this.transport.json('PATCH', path`/api/cron/${id}`, { body: changes }, options);
  }

  /** @param {string} id @param {CallOptions} [options] @returns {Promise<void>} */
  async delete(id, options) {
    await this.transport.json('DELETE', path`/api/cron/${id}`, {}, options);
  }

  /** Runs a job now. @param {string} id @param {CallOptions} [options] @returns {Promise<{id: string, job: string, status: string}>} */
  run(id, options) {
    return this.transport.json('POST', path`/api/cron/${id}/run`, {}, options);
  }

  /** Its runs, newest first. @param {string} id @param {{page?: number, perPage?: number}} [query] @param {CallOptions} [options] @returns {Promise<Page<JobRun>>} */
  runs(id, query, options) {
    return this.transport.json('GET', path`/api/cron/${id}/runs`, { query }, options);
  }
}
