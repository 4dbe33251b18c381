// Errors: every failure of a call is a VskiError, with a code that a program can test.

/** @type {Record<number, string>} */
const CODES = {
  400: 'invalid', 401: 'unauthenticated', 403: 'forbidden', 404: 'not_found', 405: 'method_not_allowed',
  408: 'timeout', 409: 'conflict', 412: 'changed', 413: 'too_large', 421: 'misdirected', 425: 'too_early',
  429: 'too_many', 503: 'unavailable',
};

/** @typedef {{code: string, message: string}} FieldError */

/**
 * A call that failed. `code` is `network`, `timeout` or `aborted` if there was no answer; for an answer it is the code
 * that the server sent, or the word for its status: `invalid`, `unauthenticated`, `forbidden`, `not_found`, `conflict`,
 * `changed` (If-Match), `too_large`, `too_many`, `unavailable`, `internal`.
 */
export class VskiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string, fields?: Record<string, FieldError>, requestId?: string,
   *   retryAfter?: number, body?: any, cause?: unknown}} [details]
   */
  constructor(message, details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'VskiError';
    /** The status of the answer; 0 if there was none. */
    this.status = details.status ?? 0;
    /** @type {string} */
    this.code = details.code ?? CODES[this.status] ?? (this.status >= 500 ? 'internal' : 'failed');
    /** The invalid fields by name. */
    this.fields = details.fields ?? {};
    /** The id under which the server's log knows the request. */
    this.requestId = details.requestId ?? '';
    /** Seconds after which the server wants to be asked again. @type {number | undefined} */
    this.retryAfter = details.retryAfter;
    /** The body of the answer. @type {any} */
    this.body = details.body;
  }
}

/**
 * The invalid fields of an error; those of a batch as `requests.3.title`, with the reason of the request as `requests.3`.
 * @param {any} data
 * @returns {Record<string, FieldError>}
 */
function fieldsOf(data) {
  if (!data || typeof data !== 'object') return {};
  const { requests, ...fields } = data;
  if (!requests || typeof requests !== 'object' || 'code' in requests) return data;
  for (const [number, { code, message, response }] of Object.entries(/** @type {Record<string, any>} */ (requests))) {
    fields[`requests.${number}`] = { code, message: response?.message ?? message };
    for (const [name, field] of Object.entries(fieldsOf(response?.data))) fields[`requests.${number}.${name}`] = field;
  }
  return fields;
}

/**
 * The error of an answer that is not 2xx.
 * @param {Response} response
 * @param {any} body
 */
export function errorOf(response, body) {
  const { status, headers } = response;
  const seconds = Number(headers.get('Retry-After') ?? NaN);
  return new VskiError(body?.message || `The server answered ${status}.`, {
    status,
    code: typeof body?.code === 'string' ? body.code : undefined,
    fields: fieldsOf(body?.data),
    requestId: headers.get('X-Request-Id') ?? '',
    retryAfter: seconds >= 0 ? seconds : undefined,
    body,
  });
}
