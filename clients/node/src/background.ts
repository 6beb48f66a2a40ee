// Work that nobody waits for, renewals of leases, and single-flight.

import { AsyncLocalStorage } from 'node:async_hooks';
import type { Reports } from './log.js';
import { atMost } from './time.js';

/** `close` waits for the work. */
export class Background {
  readonly #reports: Reports;
  readonly #work = new Set<Promise<void>>();

  constructor(reports: Reports) {
    this.#reports = reports;
  }

  spawn(work: () => Promise<unknown>, what: string): Promise<void> {
    const promise = (async () => {
      try {
        await work();
      } catch (error) {
        this.#reports.error(`${what} failed`, error);
      }
    })();
    this.#work.add(promise);
    void promise.then(() => this.#work.delete(promise));
    return promise;
  }

  async close(timeoutMs: number): Promise<void> {
    if (this.#work.size === 0) return;
    await atMost(Promise.all(this.#work), timeoutMs);
  }
}

/** Calls `renew` again and again, each time after the milliseconds that it returned before, until that is undefined. */
export class Renewal {
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(background: Background, renew: () => Promise<number | undefined>, firstMs: number) {
    const schedule = (delay: number): void => {
      this.#timer = setTimeout(() => {
        void background.spawn(async () => {
          const next = await renew();
          if (next !== undefined && !this.#stopped) schedule(next);
        }, 'renewing a lease');
      }, delay);
      // The work under the lease keeps the process running, not its renewal.
      this.#timer.unref();
    };
    schedule(firstMs);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }
}

interface Flight<T> {
  readonly result: Promise<T>;
  readonly controller: AbortController;
  callers: number;
  raised: boolean;
}

const loading = new AsyncLocalStorage<ReadonlySet<string>>();

/**
 * Single-flight: callers of one key share one run, which none of them cancels alone. The last caller to leave aborts it.
 * Each caller gets an error of its own.
 */
export class Flights<T> {
  readonly #flights = new Map<string, Flight<T>>();

  async run(key: string, work: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    const mine = loading.getStore() ?? new Set<string>();
    if (mine.has(key)) throw new Error(`the loader of '${key.replace(/^\w+ /, '')}' asks for its own key`);
    const flight = this.#flights.get(key) ?? this.#start(key, work, mine);
    flight.callers++;
    try {
      return await orAborted(flight.result, signal);
    } catch (error) {
      if (signal?.aborted && error === signal.reason) throw error;
      if (flight.raised) throw own(error);
      flight.raised = true;
      throw error;
    } finally {
      flight.callers--;
      if (flight.callers === 0 && this.#flights.get(key) === flight) {
        this.#flights.delete(key);
        flight.controller.abort(new DOMException('every caller has left', 'AbortError'));
      }
    }
  }

  #start(key: string, work: (signal: AbortSignal) => Promise<T>, mine: ReadonlySet<string>): Flight<T> {
    const controller = new AbortController();
    const result = loading.run(new Set([...mine, key]), () => work(controller.signal));
    const flight: Flight<T> = { result, controller, callers: 0, raised: false };
    this.#flights.set(key, flight);
    const landed = (): void => {
      if (this.#flights.get(key) === flight) this.#flights.delete(key);
    };
    result.then(landed, landed);
    return flight;
  }
}

/** The result, or the reason of the signal, whichever comes first. Leaves no listener. */
export async function orAborted<T>(result: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return result;
  signal.throwIfAborted();
  let leave: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    leave = () => reject(signal.reason as Error);
    signal.addEventListener('abort', leave, { once: true });
  });
  try {
    return await Promise.race([result, aborted]);
  } finally {
    if (leave !== undefined) signal.removeEventListener('abort', leave);
    result.catch(() => undefined);
  }
}

/** A copy of an error, for one of several callers. */
function own(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  return Object.create(Object.getPrototypeOf(error) as object, Object.getOwnPropertyDescriptors(error));
}
