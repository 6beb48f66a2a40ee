// Locks: a lease on a name, renewed while the body runs.
//
// An identifier stands for one acquisition. It is asked for without waiting on the shared connection first, and then waits
// on a connection that waits only. Whatever ends the wait, a RELEASE follows, which also withdraws a request in the queue.

import { randomUUID } from 'node:crypto';
import { orAborted, Renewal } from './background.js';
import { CorralError, isServerError, LockLost } from './errors.js';
import type { Hub } from './hub.js';
import { milliseconds, now, pause, type Duration } from './time.js';
import { checkName, type Reply, type Word } from './wire.js';

/** How long one request waits. The next one takes the same place in the queue. */
const WAIT_MS = 20_000;

export interface LockOptions {
  /** How long the lease lasts without renewal, for example after a crash. */
  ttl?: Duration;
  /** How long to wait for the lock. Without it, a lock that another client holds is an error at once. */
  wait?: Duration;
  /** Ends the wait, and aborts the signal of the body. */
  signal?: AbortSignal;
  /** For readers: any number of holders at a time. */
  shared?: boolean;
  /** This many holders at a time. */
  limit?: number;
}

/** A lock that is held. */
export interface Lease {
  readonly name: string;
  /** The fencing token: later holders have larger ones. Undefined if the lock is shared or limited. */
  readonly fence: number | undefined;
  /** Aborted when the lease is lost, or by the signal of the options. */
  readonly signal: AbortSignal;
  /** Whether the lease has ended. It is true at the latest when the lease expires. */
  readonly lost: boolean;
  /** Throws LockLost if the lease has ended. */
  check(): void;
}

export type FencedLease = Lease & { readonly fence: number };

/** Runs `body` while holding the lock. Throws LockLost if the lease ended before the body did. */
export async function withLock<T>(
  hub: Hub, name: string, options: LockOptions, body: (lease: FencedLease) => T | Promise<T>,
): Promise<T> {
  const { limit, shared = false, signal } = options;
  checkName(name, 'lock');
  if (shared && limit !== undefined) throw new RangeError('a lock is either shared or limited');
  if (limit !== undefined && (!Number.isInteger(limit) || limit < 1)) throw new RangeError('limit is a number of holders, at least 1');
  const mode: Word[] = shared ? ['SHARED'] : limit === undefined ? ['FENCE'] : ['LIMIT', limit];
  const waitMs = options.wait === undefined ? 0 : milliseconds(options.wait, 'wait', 0);
  signal?.throwIfAborted();
  const holding = new Holding(hub, name, milliseconds(options.ttl ?? 30, 'ttl', 100), mode);
  await holding.acquire(waitMs, signal);
  const leave = (): void => holding.abort(signal?.reason);
  signal?.addEventListener('abort', leave, { once: true });
  try {
    const result = await body(holding as FencedLease);
    holding.check();
    return result;
  } finally {
    signal?.removeEventListener('abort', leave);
    await holding.end();
  }
}

/** One acquisition, from its first request to its release. */
class Holding implements Lease {
  fence: number | undefined;
  readonly #hub: Hub;
  readonly #ttlMs: number;
  readonly #identifier = randomUUID();
  readonly #ask: Word[];
  readonly #fenced: boolean;
  readonly #controller = new AbortController();
  #renewal: Renewal | undefined;
  #ends = 0;
  #gone = false;

  constructor(hub: Hub, readonly name: string, ttlMs: number, mode: Word[]) {
    this.#hub = hub;
    this.#ttlMs = ttlMs;
    this.#ask = ['LOCK.ACQUIRE', name, this.#identifier, ttlMs, ...mode];
    this.#fenced = mode[0] === 'FENCE';
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get lost(): boolean {
    return this.#gone || now() >= this.#ends;
  }

  check(): void {
    if (this.lost) throw new LockLost(`the lease of the lock '${this.name}' has ended`);
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason);
  }

  async acquire(waitMs: number, signal: AbortSignal | undefined): Promise<void> {
    let granted: number;
    try {
      granted = await orAborted(this.#request(waitMs, signal), signal);
    } catch (error) {
      this.#withdraw();
      throw error;
    }
    if (granted === 0) throw new CorralError('LOCK_NOT_ACQUIRED', `another client holds the lock '${this.name}'`);
    this.fence = this.#fenced ? granted : undefined;
    this.#renewal = new Renewal(this.#hub.background, () => this.#renew(), this.#ttlMs / 3);
  }

  async #request(waitMs: number, signal: AbortSignal | undefined): Promise<number> {
    const began = now();
    const end = began + waitMs;
    let granted = Number(await this.#hub.call(this.#ask));
    this.#ends = began + this.#ttlMs;
    while (granted === 0 && !signal?.aborted) {
      const left = Math.round(end - now());
      if (left <= 0) return 0;
      const block = Math.min(left, WAIT_MS);
      try {
        granted = Number(await this.#hub.call([...this.#ask, 'BLOCK', block], { timeoutMs: block + 5000, waiting: true }));
      } catch (error) {
        const passing = isServerError(error) && (error.code === 'SERVER_UNREACHABLE' || error.reply === 'UNBLOCKED');
        if (!passing || now() >= end) throw error;
        // The server may have restarted, or another one is the master now.
        await pause(100);
        continue;
      }
      if (granted !== 0 && !(await this.#confirm())) granted = 0;
    }
    return granted;
  }

  /** The lease began when it was granted, and the reply may have been read later. */
  async #confirm(): Promise<boolean> {
    const began = now();
    if ((await this.#hub.call(this.#extend())) !== 1) return false;
    this.#ends = began + this.#ttlMs;
    return true;
  }

  #extend(): Word[] {
    return ['LOCK.EXTEND', this.name, this.#identifier, this.#ttlMs];
  }

  #release(): Promise<Reply> {
    return this.#hub.call(['LOCK.RELEASE', this.name, this.#identifier]);
  }

  /**
   * A request whose reply was not read may have been granted, or may still wait. The server may read it after the first
   * RELEASE, which comes by another connection, but not after its reply.
   */
  #withdraw(): void {
    void this.#hub.background.spawn(async () => {
      await this.#release();
      await this.#release();
    }, `withdrawing the request for the lock '${this.name}'`);
  }

  async #renew(): Promise<number | undefined> {
    const began = now();
    let held: Reply = null;
    try {
      held = await this.#hub.call(this.#extend(), { timeoutMs: Math.max(this.#ends - began, 50) });
    } catch (error) {
      this.#hub.reports.warn(`the lease of the lock '${this.name}' was not renewed: ${String(error)}`);
    }
    if (held === 1) {
      this.#ends = began + this.#ttlMs;
      return this.#ttlMs / 3;
    }
    const remaining = this.#ends - now();
    if (held === null && remaining > 0) return Math.min(this.#ttlMs / 10, remaining);
    this.#gone = true;
    const lost = new LockLost(`the lease of the lock '${this.name}' has ended`);
    this.#hub.reports.error('a lock was lost while its holder was at work', lost);
    this.#controller.abort(lost);
    return undefined;
  }

  async end(): Promise<void> {
    this.#renewal?.stop();
    // If this fails, the lease expires by itself.
    await this.#release().catch((error: unknown) => this.#hub.reports.warn(`the lock '${this.name}' was not released: ${String(error)}`));
  }
}
