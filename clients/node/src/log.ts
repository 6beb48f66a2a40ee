// Logs the problems that reach no caller, for example in background work. By default they go to the console.

import { inspect } from 'node:util';

/** Such as `console`, pino or winston. */
export interface Logger {
  warn(message: string): void;
  error(message: string): void;
}

export class Reports {
  readonly #log: Logger;
  readonly #onError: ((error: Error) => void) | undefined;

  constructor(log: Logger = console, onError?: (error: Error) => void) {
    this.#log = log;
    this.#onError = onError;
  }

  warn(message: string): void {
    this.#log.warn(`corral: ${message}`);
  }

  /** An error that no caller gets. */
  error(message: string, error?: unknown): void {
    this.#log.error(`corral: ${message}${error === undefined ? '' : `: ${inspect(error)}`}`);
    try {
      this.#onError?.(error instanceof Error ? error : new Error(message, { cause: error }));
    } catch (thrown) {
      this.#log.error(`corral: onError threw ${String(thrown)}`);
    }
  }
}
