// The face of the package: what `import ... from "vski"` gives.

export { VskiClient } from './client.js';
export { ignoredFields } from './collection.js';
export { VskiError } from './errors.js';
export { filter, likeText } from './filter.js';
export { LocalStore, MemoryStore } from './stores.js';

/** @typedef {import('./stores.js').AuthStore} AuthStore */
/** @typedef {import('./stores.js').SessionData} SessionData */
/** @typedef {import('./transport.js').CallOptions} CallOptions */
/** @typedef {import('./transport.js').ClientOptions} ClientOptions */
/** @typedef {import('./types.js').AnyRecord} AnyRecord */
/** @template {object} T @typedef {import('./types.js').RecordData<T>} RecordData */
/** @template {object} T @typedef {import('./types.js').RecordInput<T>} RecordInput */
/** @template {object} T @typedef {import('./types.js').RecordChanges<T>} RecordChanges */
/** @template {object} [T=AnyRecord] @typedef {import('./types.js').RealtimeEvent<T>} RealtimeEvent */
/** @template R @typedef {import('./types.js').Page<R>} Page */
/** @template {object} T @typedef {import('./live.js').LiveView<T>} LiveView */
/** @typedef {import('./workflows.js').Run} Run */
