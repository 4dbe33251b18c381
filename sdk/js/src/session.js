// The session of a client: one token at a time, renewed before it expires, one renewal at a time.

import { VskiError } from './errors.js';

/** @import { AuthStore, SessionData } from './stores.js' */

/** A renewal that failed is not repeated sooner. */
const RETRY_MS = 60_000;

/** The time at which a token expires, in milliseconds since 1970; none for keys. @param {string} token */
function expiryOf(token) {
  try {
    const text = atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/'));
    const { exp } = JSON.parse(text);
    return typeof exp === 'number' ? exp * 1000 : undefined;
  } catch {
    return undefined;
  }
}

export class Session {
  /** @type {SessionData | null} */
  #data = null;
  /** @type {Promise<void> | undefined} */
  #loading;
  /** @type {Promise<void> | undefined} */
  #renewing;
  #failed = 0;
  /** @type {Set<(session: SessionData | null) => void>} */
  #listeners = new Set();

  /**
   * @param {AuthStore} store
   * @param {(session: SessionData) => Promise<{token: string, user: any}>} renew
   * @param {boolean} isAutomatic
   */
  constructor(store, renew, isAutomatic) {
    this.store = store;
    this.renew = renew;
    this.isAutomatic = isAutomatic;
    const loaded = store.load();
    if (loaded instanceof Promise) {
      this.#loading = loaded.then((data) => {
        this.#loading = undefined;
        if (!this.#data && data) this.#tell(data);
      });
    } else this.#data = loaded;
    store.watch?.((data) => this.#tell(data));
  }

  get data() {
    return this.#data;
  }

  /** @param {SessionData | null} data */
  #tell(data) {
    this.#data = data;
    for (const listener of [...this.#listeners]) listener(data);
  }

  /** Replaces the session and stores it. @param {SessionData | null} data */
  async set(data) {
    this.#failed = 0;
    this.#tell(data);
    await this.store.save(data);
  }

  /** @param {(session: SessionData | null) => void} listener @returns {() => void} ends it */
  onChange(listener) {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** The token for the next request, renewed if it expires soon. @returns {Promise<string>} */
  async token() {
    if (this.#loading) await this.#loading;
    const data = this.#data;
    if (!data) return '';
    const expiry = data.kind === 'token' || !this.isAutomatic ? undefined : expiryOf(data.token);
    const isDue = expiry !== undefined && expiry - Date.now() < (expiry - data.obtained) / 4;
    if (isDue && Date.now() - this.#failed > RETRY_MS) {
      await this.renewNow().catch((error) => {
        if (error.status === 401 || Date.now() > /** @type {number} */ (expiry)) throw error;
      });
    }
    return this.#data?.token ?? '';
  }

  /** Gets a new token. A token that the server refuses ends the session. @returns {Promise<void>} */
  renewNow() {
    this.#renewing ??= this.#renewOnce().finally(() => (this.#renewing = undefined));
    return this.#renewing;
  }

  async #renewOnce() {
    const data = this.#data;
    if (!data || data.kind === 'token') throw new VskiError('There is no session to renew.', { code: 'unauthenticated' });
    try {
      const { token, user } = await this.renew(data);
      if (this.#data === data) await this.set({ ...data, token, user, obtained: Date.now() });
    } catch (error) {
      this.#failed = Date.now();
      if (error instanceof VskiError && error.status === 401 && this.#data === data) await this.set(null);
      throw error;
    }
  }

  /**
   * Tells whether a request that was refused with 401 can be repeated: the server is asked for a new token. If it
   * refuses that too, the session has ended.
   * @param {string} token the token of the refused request
   */
  async recovers(token) {
    const data = this.#data;
    if (!data || data.kind === 'token' || !this.isAutomatic) return false;
    if (data.token !== token) return true;
    await this.renewNow().catch(() => {});
    return this.#data !== null && this.#data.token !== token;
  }
}
