// Signing in as an account of an auth collection, and what accounts do for themselves.

import { path } from './transport.js';

/** @import { CallOptions, Transport } from './transport.js' */
/** @import { SessionData } from './stores.js' */
/** @import { AnyRecord, RecordChanges, RecordData, RecordInput } from './types.js' */

/**
 * @template {object} T
 * @typedef {{token: string, user: RecordData<T>}} SignedIn
 */

/** @template {object} [U=AnyRecord] */
export class Auth {
  /**
   * @param {Transport} transport
   * @param {string} database
   * @param {string} [name] the auth collection; the server's default if absent
   */
  constructor(transport, database, name) {
    this.transport = transport;
    this.database = database;
    this.name = name;
  }

  /**
   * The same for the accounts of another auth collection: `client.auth.collection('members').login(...)`.
   * @template {object} [T=AnyRecord]
   * @param {string} name
   * @returns {Auth<T>}
   */
  collection(name) {
    return new Auth(this.transport, this.database, name);
  }

  /** The session of the client; null after signing out. */
  get session() {
    return this.transport.session.data;
  }

  /** The signed-in account or admin. @returns {RecordData<U> | null} */
  get user() {
    return this.session?.user ?? null;
  }

  get token() {
    return this.session?.token ?? '';
  }

  get isSignedIn() {
    return this.session !== null;
  }

  /**
   * Calls back when the session changes: after signing in and out, a renewal, or a change in another tab.
   * @param {(session: SessionData | null) => void} listener
   * @returns {() => void} ends it
   */
  onChange(listener) {
    return this.transport.session.onChange(listener);
  }

  /**
   * @param {string} action
   * @param {any} body
   * @param {CallOptions} [options]
   * @param {object} [request]
   */
  #post(action, body, options, request) {
    const url = this.name === undefined ? `/api/auth/${action}` : path`/api/collections/${this.name}/` + action;
    return this.transport.json('POST', url, { database: this.database, body, ...request }, options);
  }

  /** @param {any} answer @returns {Promise<SignedIn<U>>} */
  async #enter(answer) {
    const { token } = answer;
    const user = answer.user ?? answer.record;
    const { name: collection, database } = this;
    await this.transport.session.set({ token, user, kind: 'account', collection, database, obtained: Date.now() });
    return { token, user };
  }

  /**
   * Signs in with an address, or another identity field, and a password.
   * @param {string} identity
   * @param {string} password
   * @param {CallOptions} [options]
   * @returns {Promise<SignedIn<U>>}
   */
  async login(identity, password, options) {
    const action = this.name === undefined ? 'login' : 'auth-with-password';
    const answer = await this.#post(action, { identity, password }, options, { anonymous: true }).catch((error) => {
      // For an auth collection by name the server answers 400, as PocketBase does.
      if (error.status === 400 && this.name !== undefined && Object.keys(error.fields).length === 0) error.code = 'unauthenticated';
      throw error;
    });
    return this.#enter(answer);
  }

  /** Ends the session here. The token itself stays valid until it expires. */
  async logout() {
    await this.transport.session.set(null);
  }

  /**
   * Creates an account. It is not signed in.
   * @param {RecordInput<U> & {email?: string, password: string, passwordConfirm?: string}} data
   * @param {CallOptions} [options]
   * @returns {Promise<RecordData<U>>}
   */
  register(data, options) {
    if (this.name === undefined) return this.#post('register', data, options);
    const url = path`/api/collections/${this.name}/records`;
    return this.transport.json('POST', url, { database: this.database, body: data }, options);
  }

  /** Gets a new token now; sessions do this by themselves before they expire. @returns {Promise<SignedIn<U>>} */
  async refresh() {
    await this.transport.session.renewNow();
    return { token: this.token, user: /** @type {RecordData<U>} */ (this.user) };
  }

  /** The account that is signed in, as it is now. @param {CallOptions} [options] @returns {Promise<RecordData<U>>} */
  me(options) {
    return this.transport.json('GET', '/api/auth/me', { database: this.database, read: true }, options);
  }

  /** How accounts of the collection can sign in. @param {CallOptions} [options] @returns {Promise<any>} */
  methods(options) {
    const url = path`/api/collections/${this.name ?? '_users'}/auth-methods`;
    return this.transport.json('GET', url, { database: this.database, read: true, anonymous: true }, options);
  }

  /**
   * Sets another password for the signed-in account, which ends its other sessions.
   * @param {{oldPassword: string, password: string, passwordConfirm?: string}} passwords
   * @param {CallOptions} [options]
   * @returns {Promise<SignedIn<U>>}
   */
  async changePassword(passwords, options) {
    const request = { database: this.database, body: passwords };
    const { token, user } = await this.transport.json('POST', '/api/auth/password', request, options);
    const { session } = this.transport;
    if (session.data) await session.set({ ...session.data, token, user, obtained: Date.now() });
    return { token, user };
  }

  /**
   * A token for an account of the collection, for admins. The session stays: give the token to another client.
   * @param {string} id
   * @param {{duration?: number}} [body] seconds; as long as possible without
   * @param {CallOptions} [options]
   * @returns {Promise<{token: string, record: RecordData<U>}>}
   */
  impersonate(id, body = {}, options) {
    const url = path`/api/collections/${this.name ?? '_users'}/impersonate/${id}`;
    return this.transport.json('POST', url, { database: this.database, body }, options);
  }

  /**
   * Changes the account that is signed in, as far as the rules admit it.
   * @param {RecordChanges<U>} changes
   * @param {CallOptions} [options]
   * @returns {Promise<RecordData<U>>}
   */
  async update(changes, options) {
    const user = /** @type {any} */ (this.user);
    const url = path`/api/collections/${user?.collectionId}/records/${user?.id}`;
    const changed = await this.transport.json('PATCH', url, { database: this.database, body: changes }, options);
    const { session } = this.transport;
    if (session.data?.user?.id === user.id) await session.set({ .../** @type {SessionData} */ (session.data), user: changed });
    return changed;
  }

  /** @param {string} email @param {CallOptions} [options] @returns {Promise<void>} */
  async requestVerification(email, options) {
    await this.#post('request-verification', { email }, options, { anonymous: true });
  }

  /** @param {string} token of the link in the mail @param {CallOptions} [options] @returns {Promise<void>} */
  async confirmVerification(token, options) {
    await this.#post('confirm-verification', { token }, options, { anonymous: true });
  }

  /** @param {string} email @param {CallOptions} [options] @returns {Promise<void>} */
  async requestPasswordReset(email, options) {
    await this.#post('request-password-reset', { email }, options, { anonymous: true });
  }

  /**
   * @param {string} token of the link in the mail
   * @param {string} password
   * @param {string} [passwordConfirm]
   * @param {CallOptions} [options]
   * @returns {Promise<void>}
   */
  async confirmPasswordReset(token, password, passwordConfirm = password, options) {
    await this.#post('confirm-password-reset', { token, password, passwordConfirm }, options, { anonymous: true });
  }

  /** @param {string} newEmail @param {CallOptions} [options] @returns {Promise<void>} */
  async requestEmailChange(newEmail, options) {
    await this.#post('request-email-change', { newEmail }, options);
  }

  /**
   * @param {string} token of the link in the mail
   * @param {string} password the current one
   * @param {CallOptions} [options]
   * @returns {Promise<void>}
   */
  async confirmEmailChange(token, password, options) {
    await this.#post('confirm-email-change', { token, password }, options, { anonymous: true });
  }
}
