// A worker runs the tasks of queues: `run` owns the process, `start` and `stop` run it beside other things.

import type { Corral } from '../corral.js';
import { hasCode } from '../errors.js';
import type { Hub } from '../hub.js';
import type { Queue } from '../queue.js';
import { atMost, milliseconds, type Duration } from '../time.js';
import { Engine, type Health } from './engine.js';
import type { Middleware } from './run.js';

/** Tasks that are asked for at a time, at most. */
const BATCH = 16;
const LONGEST_PAUSE_MS = 5000;
const SIGNALS = ['SIGTERM', 'SIGINT'] as const;
const NOTHING: Health = {
  ok: false, stopping: false, running: 0, free: 0, unacknowledged: 0, askedMsAgo: 0, started: 0, succeeded: 0, failed: 0, lost: 0,
  unknown: 0, acked: 0, returned: 0, notOurs: 0,
};

export interface WorkerOptions {
  /** How many tasks run at a time. */
  concurrency?: number;
  /** Whether the tasks of a worker whose connection closes are free at once, which is the default. */
  tied?: boolean;
  /** How many tasks are asked for at a time, at most. */
  batch?: number;
  /** How long handlers may go on after a stop, before their signals are aborted. */
  shutdownTimeout?: Duration;
}

/** The queues are served in their order. */
export class Worker {
  readonly #corral: Corral;
  readonly #queues: readonly Queue[];
  readonly #options: Required<Omit<WorkerOptions, 'shutdownTimeout'>> & { shutdownMs: number };
  readonly #middleware: Middleware[] = [];
  #engine: Engine | undefined;
  #hub: Hub | undefined;
  #stopping: Promise<void> | undefined;
  #stopped: (() => void)[] = [];

  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- A queue of any payloads.
  constructor(corral: Corral, queues: Queue<any> | readonly Queue<any>[], options: WorkerOptions = {}) {
    const { concurrency = 8, tied = true, shutdownTimeout = 25 } = options;
    const batch = options.batch ?? Math.max(1, Math.min(BATCH, Math.floor(concurrency / 4)));
    this.#corral = corral;
    this.#queues = (Array.isArray(queues) ? queues : [queues]) as readonly Queue[];
    if (this.#queues.length === 0) throw new TypeError('a worker needs a queue');
    for (const queue of this.#queues) {
      if (corral.queues.get(queue.name) !== queue) throw new TypeError('a worker is made from queues of its Corral: corral.queue(name)');
    }
    if (new Set(this.#queues).size < this.#queues.length) throw new RangeError('a worker is made from different queues');
    if (!Number.isInteger(concurrency) || concurrency < 1 || !Number.isInteger(batch) || batch < 1) {
      throw new RangeError('concurrency and batch are at least 1');
    }
    this.#options = { concurrency, tied, batch, shutdownMs: milliseconds(shutdownTimeout, 'shutdownTimeout', 0) };
  }

  /** Adds a function that is called around each handler, the first one outermost. */
  use(middleware: Middleware): this {
    if (this.#engine !== undefined) throw new Error('the worker runs already');
    this.#middleware.push(middleware);
    return this;
  }

  /** What the worker does now. */
  health(): Health {
    return this.#engine?.health() ?? { ...NOTHING };
  }

  /**
   * Runs until SIGTERM or SIGINT, or until `stop`, and resolves when everything is closed. Waits for the server before it
   * starts, if necessary. A second signal does not wait for the handlers.
   */
  async run(): Promise<void> {
    let signaled = false;
    const note = (): void => {
      if (signaled && this.#engine !== undefined) this.#engine.hurry = true;
      signaled = true;
      this.#wake();
    };
    for (const signal of SIGNALS) process.on(signal, note);
    try {
      let ended = false;
      const stopped = new Promise<void>((resolve) => this.#stopped.push(resolve)).then(() => (ended = true));
      for (let failures = 0; !ended && !(await this.#startIfReachable()); failures++) {
        await atMost(stopped, Math.min(100 * 2 ** failures, LONGEST_PAUSE_MS));
      }
      await stopped;
    } finally {
      await this.stop();
      for (const signal of SIGNALS) process.off(signal, note);
    }
  }

  async #startIfReachable(): Promise<boolean> {
    try {
      await this.start();
      return true;
    } catch (error) {
      if (!hasCode(error, 'SERVER_UNREACHABLE')) throw error;
      this.#corral.hub.reports.error('the worker cannot start and tries again', error);
      return false;
    }
  }

  #wake(): void {
    const stopped = this.#stopped;
    this.#stopped = [];
    for (const resolve of stopped) resolve();
  }

  /** Touches no signals. */
  async start(): Promise<void> {
    if (this.#engine !== undefined || this.#stopping !== undefined) throw new Error('the worker runs already');
    const hub = this.#corral.hub.sibling();
    const engine = new Engine(hub, this.#queues, { ...this.#options, middleware: this.#middleware });
    this.#hub = hub;
    this.#engine = engine;
    try {
      await engine.start();
    } catch (error) {
      await this.#closeOnce();
      throw error;
    }
  }

  /** Resolves when everything is closed; afterwards the worker may be started again. */
  async stop(): Promise<void> {
    await this.#closeOnce().finally(() => this.#wake());
  }

  #closeOnce(): Promise<void> {
    this.#stopping ??= this.#close().finally(() => (this.#stopping = undefined));
    return this.#stopping;
  }

  async #close(): Promise<void> {
    const [engine, hub] = [this.#engine, this.#hub];
    try {
      await engine?.stop();
    } finally {
      await hub?.close(200);
      this.#engine = this.#hub = undefined;
    }
  }
}
