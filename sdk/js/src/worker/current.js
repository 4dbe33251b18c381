// The run whose code is being executed, and the workflows that are registered.

import { AsyncLocalStorage } from 'node:async_hooks';

/** @import { Context } from './context.js' */
/** @import { WorkflowDefinition } from './definition.js' */

/** @type {AsyncLocalStorage<Context>} */
export const current = new AsyncLocalStorage();

/** @type {Map<string, WorkflowDefinition>} */
export const registry = new Map();
