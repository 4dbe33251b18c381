// Definitions: workflows and steps by name.

import { current, registry } from './current.js';
import { FatalError } from './errors.js';

/** @import { Context, StepOptions } from './context.js' */

/**
 * @template [I=any]
 * @template [O=any]
 * @typedef {{name: string, version: string, code: (ctx: Context, input: I) => Promise<O>}} WorkflowDefinition
 */

/**
 * Begins the definition of a workflow: `workflow('order').run(async (ctx, input) => ...)`. A run keeps the version with
 * which it has begun.
 * @param {string} name
 * @param {{version?: string}} [options]
 */
export function workflow(name, { version = '1' } = {}) {
  return {
    /**
     * @template I, O
     * @param {(ctx: Context, input: I) => Promise<O>} code
     * @returns {WorkflowDefinition<I, O>}
     */
    run: (code) => ({ name, version, code }),
  };
}

/** Makes a definition known to `startAll` and `start(name)`. @param {WorkflowDefinition<any, any>} definition */
export function registerWorkflow(definition) {
  registry.set(definition.name, definition);
  return definition;
}

/**
 * A step: a function whose result is recorded when a workflow calls it, so that it is not called again.
 * @template {any[]} A
 * @template R
 * @param {string} name
 * @param {(...args: A) => R | Promise<R>} code
 * @param {StepOptions} [options]
 * @returns {(...args: A) => Promise<Awaited<R>>}
 */
export function step(name, code, options) {
  return async (...args) => {
    const context = current.getStore();
    if (!context) throw new FatalError(`The step ${name} was called outside of a workflow.`);
    return /** @type {Promise<any>} */ (context.step(name, () => code(...args), options));
  };
}
