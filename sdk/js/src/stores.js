// Where a session is kept between visits. A store of your own has the same two methods; they may be async.

/**
 * A session: the token and the account or admin that it stands for.
 * @typedef {object} SessionData
 * @property {string} token
 * @property {any} user the account or admin; null for a token of your own
 * @property {'account' | 'admin' | 'token'} kind
 * @property {string} [collection] the auth collection, unless it is the server's default
 * @property {string} [database]
 * @property {number} obtained when it was received, in milliseconds since 1970
 */

/**
 * @typedef {object} AuthStore
 * @property {() => SessionData | null | Promise<SessionData | null>} load
 * @property {(session: SessionData | null) => void | Promise<void>} save
 * @property {(onChange: (session: SessionData | null) => void) => void} [watch] reports changes made elsewhere
 */

/** Keeps the session for as long as the program runs. @implements {AuthStore} */
export class MemoryStore {
  /** @type {SessionData | null} */
  #session = null;

  load() {
    return this.#session;
  }

  /** @param {SessionData | null} session */
  save(session) {
    this.#session = session;
  }
}

/** Keeps the session in the browser's localStorage, shared by all tabs of the origin. @implements {AuthStore} */
export class LocalStore {
  /** @param {string} [key] */
  constructor(key = 'vski') {
    this.key = key;
  }

  /** @returns {SessionData | null} */
  load() {
    try {
      return JSON.parse(localStorage.getItem(this.key) ?? 'null');
    } catch {
      return null; // another program's value, or no access to the storage
    }
  }

  /** @param {SessionData | null} session */
  save(session) {
    if (session) localStorage.setItem(this.key, JSON.stringify(session));
    else localStorage.removeItem(this.key);
  }

  /** @param {(session: SessionData | null) => void} onChange */
  watch(onChange) {
    globalThis.addEventListener?.('storage', (event) => {
      if (event.key === this.key || event.key === null) onChange(this.load());
    });
  }
}
