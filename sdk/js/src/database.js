// One database of a server: its records, accounts, files, definitions and webhooks.

import { Auth } from './auth.js';
import { Batch } from './batch.js';
import { Collection } from './collection.js';
import { Files } from './files.js';
import { Realtime } from './realtime.js';
import { Definitions } from './settings.js';
import { Webhooks } from './webhooks.js';
import { Workflows } from './workflows.js';

/** @import { Transport } from './transport.js' */
/** @import { AnyRecord } from './types.js' */

/** @template {object} [S=Record<string, AnyRecord>] the records of each collection, by its name */
export class Database {
  /** @param {Transport} transport @param {string} name */
  constructor(transport, name) {
    this.transport = transport;
    this.name = name;
    /** @type {Auth<S extends {_users: infer U extends object} ? U : AnyRecord>} */
    this.auth = new Auth(transport, name);
    this.files = new Files(transport, name);
    this.webhooks = new Webhooks(transport, name);
    this.workflow = new Workflows(transport, name);
    this.realtime = new Realtime(transport, name);
    this.settings = { collections: new Definitions(transport, name) };
  }

  /**
   * The records of a collection, with the types of `S`.
   * @template {keyof S & string} N
   * @overload
   * @param {N} name
   * @returns {Collection<S[N] & object>}
   */
  /**
   * The records of a collection, with a type of your own: `collection<Post>('posts')`.
   * @template {object} [T=never]
   * @overload
   * @param {string & ([T] extends [never] ? never : unknown)} name
   * @returns {Collection<T>}
   */
  /** @param {string} name @returns {any} */
  collection(name) {
    return new Collection(this.transport, this.realtime, this.name, name);
  }

  /** Changes of several collections in one transaction. */
  batch() {
    return new Batch(this.transport, this.name);
  }
}
