// Uploads that report their progress: XMLHttpRequest in browsers, a counted stream elsewhere.

/** @typedef {{sent: number, total: number}} UploadProgress bytes; `total` is 0 if it is not known */

/**
 * @param {string} url
 * @param {{method: string, headers: Headers, body: FormData | string, signal: AbortSignal}} request
 * @param {(progress: UploadProgress) => void} onProgress
 * @param {typeof fetch} fetcher
 * @returns {Promise<Response>}
 */
export function upload(url, request, onProgress, fetcher) {
  if (typeof XMLHttpRequest === 'undefined') return uploadByStream(url, request, onProgress, fetcher);
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const abort = () => xhr.abort();
    xhr.open(request.method, url);
    request.headers.forEach((value, name) => xhr.setRequestHeader(name, value));
    xhr.responseType = 'arraybuffer';
    xhr.upload.onprogress = (event) => onProgress({ sent: event.loaded, total: event.total });
    xhr.onload = () => {
      const lines = xhr.getAllResponseHeaders().trim().split(/\r?\n/).filter(Boolean);
      const headers = lines.map((line) => /** @type {[string, string]} */ (line.split(/: ?(.*)/s).slice(0, 2)));
      const isEmpty = [204, 205, 304].includes(xhr.status);
      resolve(new Response(isEmpty ? null : xhr.response, { status: xhr.status, headers }));
    };
    xhr.onerror = () => reject(new TypeError('The connection failed.'));
    xhr.onabort = () => reject(request.signal.reason);
    xhr.onloadend = () => request.signal.removeEventListener('abort', abort);
    request.signal.addEventListener('abort', abort);
    xhr.send(request.body);
  });
}

/**
 * @param {string} url
 * @param {{method: string, headers: Headers, body: FormData | string, signal: AbortSignal}} request
 * @param {(progress: UploadProgress) => void} onProgress
 * @param {typeof fetch} fetcher
 */
async function uploadByStream(url, { body, headers, method, signal }, onProgress, fetcher) {
  const encoded = new Response(body);
  headers.set('Content-Type', /** @type {string} */ (encoded.headers.get('Content-Type')));
  let sent = 0;
  const total = sizeOf(body);
  /** @type {TransformStream<Uint8Array, Uint8Array>} */
  const counter = new TransformStream({
    transform(chunk, output) {
      sent += chunk.byteLength;
      onProgress({ sent: Math.min(sent, total), total });
      output.enqueue(chunk);
    },
  });
  const stream = /** @type {ReadableStream<any>} */ (encoded.body).pipeThrough(counter);
  return fetcher(url, /** @type {any} */ ({ method, headers, body: stream, signal, duplex: 'half' }));
}

/** The bytes of the values of a form. @param {FormData | string} body */
function sizeOf(body) {
  if (typeof body === 'string') return new TextEncoder().encode(body).length;
  let bytes = 0;
  for (const value of body.values()) bytes += typeof value === 'string' ? value.length : value.size;
  return bytes;
}
