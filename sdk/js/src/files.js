// Files of records: addresses, and downloads with credentials in the header. Files are uploaded with their record.

import { VskiError } from './errors.js';
import { path } from './transport.js';

/** @import { CallOptions, Transport } from './transport.js' */

/** @typedef {{received: number, total: number}} DownloadProgress bytes; `total` is 0 if it is not known */
/** @typedef {{id: string, collectionId?: string, collectionName?: string}} FileOwner a record with a file */

/** @param {FileOwner} record @param {string} name */
function filePath(record, name) {
  const collection = record.collectionName ?? record.collectionId;
  if (!collection) throw new VskiError('The record lacks its collectionName: include it in fields.', { code: 'invalid' });
  return path`/api/files/${collection}/${record.id}/${name}`;
}

export class Files {
  /** @param {Transport} transport @param {string} database */
  constructor(transport, database) {
    this.transport = transport;
    this.database = database;
  }

  /**
   * The address of a file, for `<img src>` and links. A field that is `protected` needs a `token` of `files.token()`, which
   * is valid for three minutes and for files alone; the token of the session never belongs in an address.
   * @param {FileOwner} record
   * @param {string} name the value of the field
   * @param {{token?: string, download?: boolean}} [options] `download`: browsers save the file
   */
  url(record, name, { token, download } = {}) {
    const query = new URLSearchParams();
    if (token) query.set('token', token);
    if (download) query.set('download', '1');
    const text = query.toString();
    const { transport } = this;
    return transport.replicas.master + transport.address(filePath(record, name), this.database) + (text && `?${text}`);
  }

  /** A token for addresses of protected files. @param {CallOptions} [options] @returns {Promise<string>} */
  async token(options) {
    const request = { database: this.database, safe: true };
    return (await this.transport.json('POST', '/api/files/token', request, options)).token;
  }

  /**
   * The answer with a file, whose body has not been read yet. `range` is a pair of the first byte and the last one.
   * @param {FileOwner} record
   * @param {string} name
   * @param {CallOptions & {range?: [number, number?]}} [options]
   * @returns {Promise<Response>}
   */
  async open(record, name, options = {}) {
    const { range } = options;
    const headers = { ...options.headers, ...(range && { Range: `bytes=${range[0]}-${range[1] ?? ''}` }) };
    const request = { database: this.database, read: true, stream: true };
    return (await this.transport.send('GET', filePath(record, name), request, { ...options, headers })).response;
  }

  /**
   * Downloads a file. After a broken connection it continues where it stopped, a few times.
   * @param {FileOwner} record
   * @param {string} name
   * @param {CallOptions & {onProgress?: (progress: DownloadProgress) => void}} [options]
   * @returns {Promise<Blob>}
   */
  async download(record, name, options = {}) {
    /** @type {BlobPart[]} */
    const parts = [];
    let received = 0;
    let total = 0;
    let type = '';
    for (let failures = 0; ; failures++) {
      const response = await this.open(record, name, received ? { ...options, range: [received] } : options);
      if (received && response.status !== 206) parts.length = received = 0;
      if (!received) total = Number(response.headers.get('Content-Length') ?? 0);
      type = response.headers.get('Content-Type') ?? '';
      try {
        for await (const chunk of chunks(response)) {
          parts.push(chunk);
          received += chunk.byteLength;
          options.onProgress?.({ received, total: Math.max(total, received) });
        }
        return new Blob(parts, { type });
      } catch (error) {
        if (options.signal?.aborted) throw new VskiError('The call was aborted.', { code: 'aborted', cause: error });
        if (failures >= (options.retries ?? 3)) {
          throw new VskiError(`The download of ${name} was cut off.`, { code: 'network', cause: error });
        }
      }
    }
  }
}

/** @param {Response} response @returns {AsyncGenerator<Uint8Array<ArrayBuffer>>} */
async function* chunks(response) {
  const reader = response.body?.getReader();
  for (let next; reader && !(next = await reader.read()).done;) yield next.value;
}
