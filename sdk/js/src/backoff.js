// Waiting: pauses that grow and vary, and one signal for "aborted by the caller or out of time".

import { VskiError } from './errors.js';

/**
 * A random pause before the next attempt, at most twice as long as after the failure before.
 * @param {number} failures 0 after the first failure
 * @param {number} firstMs
 * @param {number} mostMs
 */
export function backoffMs(failures, firstMs, mostMs) {
  const most = Math.min(mostMs, firstMs * 2 ** failures);
  return most / 2 + Math.random() * most / 2;
}

/**
 * Waits; rejects with the reason of the signal when it fires.
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    signal?.addEventListener('abort', stop, { once: true });
  });
}

/** The time that a call may take, and the caller's signal, as one signal. `end` must be called. */
export class Limit {
  #controller = new AbortController();
  #stop = () => this.#controller.abort(
    new VskiError('The call was aborted.', { code: 'aborted', cause: this.outer?.reason }));
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {AbortSignal | undefined} outer @param {number} ms 0 for no limit */
  constructor(outer, ms) {
    this.outer = outer;
    if (outer?.aborted) this.#stop();
    outer?.addEventListener('abort', this.#stop, { once: true });
    if (ms > 0 && ms < 2 ** 31) {
      const late = new VskiError(`The call took longer than ${ms} ms.`, { code: 'timeout' });
      this.#timer = setTimeout(() => this.#controller.abort(late), ms);
    }
  }

  get signal() {
    return this.#controller.signal;
  }

  /** Ends the time limit; the caller's signal still counts. */
  endTime() {
    clearTimeout(this.#timer);
  }

  end() {
    this.endTime();
    this.outer?.removeEventListener('abort', this.#stop);
  }
}
