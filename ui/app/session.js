// The client of this server and the session of the admin. The token is kept for the tab, or, if the admin asks for it, for
// the browser; it is in no address.

import { VskiClient } from '/sdk.js';
import { signal } from './view.js';

const KEY = 'vski-dashboard';

/** @import { SessionData } from '../../sdk/js/src/stores.js' */

/** A store that forgets with the tab unless `keep` was chosen at sign-in. */
class TabStore {
  isKept = localStorage.getItem(KEY) !== null;

  /** @returns {SessionData | null} */
  load() {
    try {
      return JSON.parse(sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? 'null');
    } catch {
      return null;
    }
  }

  /** @param {SessionData | null} session */
  save(session) {
    if (!session) {
      sessionStorage.removeItem(KEY);
      localStorage.removeItem(KEY);
      return;
    }
    (this.isKept ? localStorage : sessionStorage).setItem(KEY, JSON.stringify(session));
  }
}

const store = new TabStore();

export const client = new VskiClient(location.origin, { store });

/** The signed-in admin, or null. */
export const admin = signal(client.transport.session.data?.user ?? null);

client.transport.session.onChange((/** @type {SessionData | null} */ session) => {
  admin.value = session?.user ?? null;
});

/** The database that the screens are about. */
export const database = signal(sessionStorage.getItem(`${KEY}-database`) ?? 'default');

/** @param {string} name */
export function choose(name) {
  sessionStorage.setItem(`${KEY}-database`, name);
  database.value = name;
}

/** @param {string} email @param {string} password @param {boolean} keep for the browser, not for the tab alone */
export async function signIn(email, password, keep) {
  store.isKept = keep;
  await client.admins.login(email, password);
}

/** @param {{email: string, password: string, token?: string}} data */
export async function makeFirstAdmin(data) {
  store.isKept = false;
  await client.admins.init(data);
}

export async function signOut() {
  await client.transport.session.set(null);
}

/**
 * A call of the API, about the chosen database.
 * @param {string} method
 * @param {string} path
 * @param {{query?: Record<string, any>, body?: any, signal?: AbortSignal, headers?: Record<string, string>, onProgress?: any}} [options]
 * @returns {Promise<any>}
 */
export function call(method, path, { query, body, onProgress, ...options } = {}) {
  return client.transport.json(method, path, { database: database.value, query, body, onProgress }, options);
}

/**
 * A call that is about the server, not about one database.
 * @param {string} method
 * @param {string} path
 * @param {{query?: Record<string, any>, body?: any, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export function callServer(method, path, { query, body, ...options } = {}) {
  return client.transport.json(method, path, { query, body }, options);
}
