// The face of `vski/worker`.

export { step, workflow, registerWorkflow } from './definition.js';
export { CancelledError, FatalError, RetryAfterError, StepError } from './errors.js';
export { WorkflowWorker } from './worker.js';

/** @typedef {import('./context.js').Context} Context */
/** @typedef {import('./context.js').Hook} Hook */
/** @typedef {import('./context.js').StepOptions} StepOptions */
/** @typedef {import('./worker.js').WorkerOptions} WorkerOptions */
/** @template [I=any] @template [O=any] @typedef {import('./definition.js').WorkflowDefinition<I, O>} WorkflowDefinition */
