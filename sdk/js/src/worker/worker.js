// A worker: serves workflows of this program.

import { VskiError } from '../errors.js';
import { WorkerConnection } from './connection.js';
import { Context } from './context.js';
import { current, registry } from './current.js';

/** @import { VskiClient } from '../client.js' */
/** @import { WorkflowDefinition } from './definition.js' */
/** @import { Run } from './run.js' */

/**
 * @typedef {object} WorkerOptions
 * @property {string} [name] stays the same across restarts of the program; runs return to the worker that had them
 * @property {number} [credit] runs at a time (20)
 * @property {number} [graceMs] time that runs have when the worker stops (10,000)
 * @property {boolean} [signals] stop at SIGTERM and SIGINT (true)
 */

export class WorkflowWorker {
  /** @type {WorkerConnection | undefined} */
  #connection;
  #client;
  #options;
  /** Resolves when the worker has stopped; rejects if the server refuses it. @type {Promise<void>} */
  closed = Promise.resolve();

  /** @param {VskiClient<any>} client signed in with a token that may serve workflows @param {WorkerOptions} [options] */
  constructor(client, options = {}) {
    this.#client = client;
    this.#options = options;
  }

  /** Serves one workflow; resolves once the worker is connected. @param {string | WorkflowDefinition<any, any>} workflow */
  async start(workflow) {
    const definition = typeof workflow === 'string' ? registry.get(workflow) : workflow;
    if (!definition) throw new VskiError(`There is no workflow ${workflow}: register it first.`, { code: 'invalid' });
    await this.#serve([definition]);
  }

  /** Serves all workflows that are registered; resolves once the worker is connected. */
  async startAll() {
    await this.#serve([...registry.values()]);
  }

  /** @param {WorkflowDefinition[]} definitions */
  #serve(definitions) {
    if (this.#connection) throw new VskiError('The worker has been started.', { code: 'invalid' });
    const { name = 'worker', credit = 20, signals = true } = this.#options;
    const workflows = new Map(definitions.map((it) => [it.name, it]));
    return new Promise((resolve, reject) => {
      const execute = (/** @type {Run} */ run) => this.#execute(run, workflows.get(run.job.workflow));
      const onReady = () => resolve(undefined);
      this.#connection = new WorkerConnection(this.#client.transport, { name, credit, execute, onReady }, workflows);
      this.closed = this.#connection.serve();
      this.closed.catch(reject);
      if (signals) this.#watchSignals();
    });
  }

  /** @param {Run} run @param {WorkflowDefinition | undefined} definition */
  async #execute(run, definition) {
    if (!definition) return { t: 'nack', reason: 'no_code' };
    const { job } = run;
    let input = job.input;
    if (job.input_more) {
      try {
        input = await this.#client.workflow.input(job.job);
      } catch {
        return { t: 'nack', delay_ms: 1000, reason: 'input' };
      }
    }
    const context = new Context(run);
    return run.drive(() => current.run(context, async () => definition.code(context, input)));
  }

  /** The first signal stops the worker in order, then takes its usual effect. */
  #watchSignals() {
    const { process } = globalThis;
    for (const signal of /** @type {const} */ (['SIGTERM', 'SIGINT'])) {
      const stop = () => void this.stop().finally(() => process.kill(process.pid, signal));
      process.once(signal, stop);
      this.closed.catch(() => {}).finally(() => process.off(signal, stop));
    }
  }

  /** Takes no more runs, lets those at hand finish, and leaves; what is unfinished goes to other workers. */
  async stop() {
    await this.#connection?.stop(this.#options.graceMs ?? 10_000);
    await this.closed.catch(() => {});
  }
}
