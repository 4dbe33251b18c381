// Facts about the server that several screens need: its role, its databases, the collections of the chosen database.

import { call, callServer, database } from './session.js';
import { signal } from './view.js';

/** `master` or `replica`; on a replica also the address of its master. @type {{value: {role: string, master?: string} | null}} */
export const node = signal(null);

/** @type {{value: {name: string}[]}} */
export const databases = signal([]);

/** The collections of the chosen database. @type {{value: any[]}} */
export const collections = signal([]);

export async function loadServer() {
  const status = await callServer('GET', '/api/replica/status');
  node.value = { role: status.role, master: status.replica?.master };
  databases.value = await callServer('GET', '/api/databases');
  if (!databases.value.some(({ name }) => name === database.value)) database.value = 'default';
  await loadCollections();
}

/** Reads the definitions again, after a change of one or of the database. */
export async function loadCollections() {
  const { items } = await call('GET', '/api/collections', { query: { perPage: 1000 } });
  collections.value = items;
}

/** True on a replica, where data of the master cannot be changed. */
export const isReadOnly = () => node.value?.role === 'replica';
