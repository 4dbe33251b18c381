// A WebSocket client (RFC 6455) for Node 20, which has none of its own; as much of the browser's interface as the
// realtime socket and workers use: text messages. Newer versions of Node use their own.

import { createHash, randomBytes } from 'node:crypto';
import { request as plainRequest } from 'node:http';
import { request as tlsRequest } from 'node:https';

const MESSAGE_MOST = 64 << 20;
const CLOSE_MS = 2000;

/** @returns {any} */
export const platformWebSocket = () => globalThis.WebSocket ?? NodeWebSocket;

/** A frame to send: a client masks its payload. @param {number} opcode @param {Buffer} payload */
function frame(opcode, payload) {
  const { length } = payload;
  const mask = randomBytes(4);
  const head = Buffer.alloc(length < 126 ? 2 : length < 65536 ? 4 : 10);
  head[0] = 0x80 | opcode;
  head[1] = 0x80 | (length < 126 ? length : length < 65536 ? 126 : 127);
  if (head.length === 4) head.writeUInt16BE(length, 2);
  if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2);
  const masked = Buffer.alloc(length);
  for (let at = 0; at < length; at++) masked[at] = payload[at] ^ mask[at & 3];
  return Buffer.concat([head, mask, masked]);
}

export class NodeWebSocket {
  /** @type {((event: any) => void) | null} */ onopen = null;
  /** @type {((event: {data: string}) => void) | null} */ onmessage = null;
  /** @type {((event: any) => void) | null} */ onerror = null;
  /** @type {((event: {code: number, reason: string}) => void) | null} */ onclose = null;
  /** @type {import('node:stream').Duplex | undefined} */
  #stream;
  /** @type {import('node:http').ClientRequest} */
  #request;
  /** @type {Buffer} */
  #input = Buffer.alloc(0);
  /** @type {Buffer[]} */
  #fragments = [];
  #isClosed = false;

  /** @param {string} url @param {string[]} [protocols] */
  constructor(url, protocols = []) {
    const target = new URL(url.replace(/^ws/, 'http'));
    const key = randomBytes(16).toString('base64');
    const headers = {
      Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': key,
      ...(protocols.length && { 'Sec-WebSocket-Protocol': protocols.join(', ') }),
    };
    const expected = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
    this.#request = (target.protocol === 'https:' ? tlsRequest : plainRequest)(target, { headers, agent: false });
    this.#request.on('upgrade', (response, stream, first) => {
      if (this.#isClosed || response.headers['sec-websocket-accept'] !== expected) return this.#fail(stream);
      this.#stream = stream;
      /** @type {any} */ (stream).setNoDelay?.(true);
      stream.on('data', (/** @type {Buffer} */ chunk) => this.#read(chunk));
      stream.on('close', () => this.#end(1006, ''));
      stream.on('error', () => this.#end(1006, ''));
      this.onopen?.({});
      if (first.length) this.#read(first);
    });
    this.#request.on('response', (response) => this.#fail(response));
    this.#request.on('error', () => this.#fail());
    this.#request.end();
  }

  /** @param {{destroy(): any}} [stream] */
  #fail(stream) {
    stream?.destroy();
    this.#request.destroy();
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.onerror?.({});
    this.onclose?.({ code: 1006, reason: '' });
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#stream?.end();
    this.onclose?.({ code, reason });
  }

  /** @param {Buffer} chunk */
  #read(chunk) {
    this.#input = this.#input.length ? Buffer.concat([this.#input, chunk]) : chunk;
    while (this.#input.length >= 2 && !this.#isClosed) {
      const short = this.#input[1] & 127;
      const start = short < 126 ? 2 : short === 126 ? 4 : 10;
      if (this.#input.length < start) return;
      const length = short < 126 ? short : short === 126 ? this.#input.readUInt16BE(2) : Number(this.#input.readBigUInt64BE(2));
      if (length > MESSAGE_MOST) return this.#fail(this.#stream);
      if (this.#input.length < start + length) return;
      const payload = this.#input.subarray(start, start + length);
      const first = this.#input[0];
      this.#input = this.#input.subarray(start + length);
      this.#take(first & 15, (first & 128) !== 0, payload);
    }
  }

  /** @param {number} opcode @param {boolean} isLast @param {Buffer} payload */
  #take(opcode, isLast, payload) {
    if (opcode === 9) this.#stream?.write(frame(10, payload));
    if (opcode === 8) {
      this.#stream?.write(frame(8, payload.subarray(0, 2)));
      this.#end(payload.length >= 2 ? payload.readUInt16BE(0) : 1005, payload.subarray(2).toString());
    }
    if (opcode > 2) return;
    this.#fragments.push(payload);
    if (this.#fragments.reduce((sum, it) => sum + it.length, 0) > MESSAGE_MOST) return this.#fail(this.#stream);
    if (!isLast) return;
    const data = Buffer.concat(this.#fragments).toString();
    this.#fragments = [];
    this.onmessage?.({ data });
  }

  /** @param {string} text */
  send(text) {
    if (this.#stream && !this.#isClosed) this.#stream.write(frame(1, Buffer.from(text)));
  }

  /** @param {number} [code] */
  close(code = 1000) {
    if (!this.#stream) return this.#fail();
    const status = Buffer.alloc(2);
    status.writeUInt16BE(code);
    this.#stream.write(frame(8, status));
    const stream = this.#stream;
    setTimeout(() => stream.destroy(), CLOSE_MS).unref();
  }
}
