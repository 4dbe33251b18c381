// Errors that a workflow throws or sees.

/** Thrown by a step or a workflow: it fails at once, without another attempt. */
export class FatalError extends Error {
  /** @override */ name = 'FatalError';
  kind = 'fatal';
}

/** Thrown by a step: it is tried again after this time. */
export class RetryAfterError extends Error {
  /** @override */ name = 'RetryAfterError';

  /** @param {string} message @param {number} afterMs */
  constructor(message, afterMs) {
    super(message);
    this.afterMs = afterMs;
  }
}

/** Thrown into a workflow: a step, a child or a hook has failed. `kind` and `message` are what was recorded. */
export class StepError extends Error {
  /** @override */ name = 'StepError';

  /** @param {string} key @param {any} err */
  constructor(key, err) {
    super(err?.message ?? `${key} failed`);
    this.key = key;
    this.kind = err?.kind ?? 'Error';
    this.recorded = err;
  }
}

/** Thrown into a workflow whose run was cancelled. Nothing is recorded any more; there is a moment to clean up. */
export class CancelledError extends Error {
  /** @override */ name = 'CancelledError';
  kind = 'cancelled';
}

/** The form in which an error is recorded. @param {any} error */
export function recordOf(error) {
  return {
    kind: String(error?.kind ?? error?.name ?? 'Error'),
    message: String(error?.message ?? error),
    stack: typeof error?.stack === 'string' ? error.stack : undefined,
    retry_after_ms: typeof error?.afterMs === 'number' ? Math.ceil(error.afterMs) : undefined,
  };
}
