// Cached values: at most one load of a key at a time, in this process and among all of them.
//
// A call asks CACHE.FETCH once. What it says decides: use the value, load it and store it, or wait for the client that
// loads. When the server is away, the call goes on without it; see breaker.ts.

import { Flights, orAborted, Renewal } from './background.js';
import { Breaker, LastValues, localLoad } from './breaker.js';
import { CorralError, isServerError } from './errors.js';
import type { CallOptions, Hub } from './hub.js';
import type { Serializer } from './json.js';
import { milliseconds, now, type Duration } from './time.js';
import { reason, text, type Command, type Reply, type Word } from './wire.js';

/** How long a request waits at a time for a client that loads. */
const WAIT_MS = 2000;
/** A server that has not answered so long after the end of a wait does not answer. */
const LATE_MS = 1000;
const OUTAGE = new Set(
  ['OOM', 'READONLY', 'NOREPLICAS', 'MISCONF', 'LOADING', 'CLUSTERDOWN', 'MASTERDOWN', 'TRYAGAIN', 'MOVED', 'ASK'],
);

/** What a loader gets: the signal is aborted when nobody wants the value anymore. */
export interface LoadContext {
  readonly signal: AbortSignal;
}

export interface CacheOptions<T = unknown> {
  /** How long a value is fresh. */
  ttl: Duration;
  /** How long after that the old value is used while another one is loaded, or if the load fails. */
  stale?: Duration;
  /** The `ttl` of null, which stands for absence; undefined is stored as null. */
  nullTtl?: Duration;
  /** After this time without renewal, another client may load. */
  lease?: Duration;
  /** How long to wait for another client that loads. */
  wait?: Duration;
  /** How long others get an error after a load failed. */
  backoff?: Duration;
  /** Whether the caller that finds an old value gets it at once, which is the default, or waits for a new one. */
  refresh?: 'background' | 'wait';
  /** Whether to go on without the server if it is away, which is the default. */
  failOpen?: boolean;
  /** Percent by which `ttl` is shortened at random, 0 to 100. */
  jitter?: number;
  serializer?: Serializer;
  /** Checks or converts a decoded value, as `schema.parse` does. A stored value for which it throws is loaded again. */
  parse?: (value: unknown) => T;
}

/** How one kind of value is cached. All times in milliseconds. */
export class Rules {
  readonly ttl: number;
  readonly stale: number;
  readonly nullTtl: number;
  readonly lease: number;
  readonly wait: number;
  readonly backoff: number;
  readonly background: boolean;
  readonly failOpen: boolean;
  readonly jitter: number;
  readonly serializer: Serializer;
  readonly parse: ((value: unknown) => unknown) | undefined;

  constructor(options: CacheOptions, serializer: Serializer) {
    const { refresh = 'background', jitter = 0 } = options;
    this.ttl = milliseconds(options.ttl, 'ttl');
    this.stale = milliseconds(options.stale ?? 0, 'stale', 0);
    this.nullTtl = options.nullTtl === undefined ? this.ttl : milliseconds(options.nullTtl, 'nullTtl');
    this.lease = milliseconds(options.lease ?? 10, 'lease', 100);
    this.wait = milliseconds(options.wait ?? 30, 'wait', 0);
    this.backoff = milliseconds(options.backoff ?? 1, 'backoff', 0);
    if (refresh !== 'background' && refresh !== 'wait') throw new RangeError(`refresh is 'background' or 'wait', not '${String(refresh)}'`);
    if (!Number.isInteger(jitter) || jitter < 0 || jitter > 100) throw new RangeError('jitter is a percentage, 0 to 100');
    this.background = refresh === 'background';
    this.failOpen = options.failOpen ?? true;
    this.jitter = jitter;
    this.serializer = options.serializer ?? serializer;
    this.parse = options.parse;
  }

  decode(data: Buffer): unknown {
    const value = this.serializer.decode(data);
    return this.parse === undefined ? value : this.parse(value);
  }
}

/** The outcome of a flight: the stored form, and its value for the first caller that takes it. */
class Loaded {
  readonly #data: Buffer;
  readonly #rules: Rules;
  #first: { value: unknown } | undefined;

  constructor(data: Buffer, value: unknown, rules: Rules) {
    this.#data = data;
    this.#rules = rules;
    this.#first = { value };
  }

  take(): unknown {
    const first = this.#first;
    this.#first = undefined;
    return first === undefined ? this.#rules.decode(this.#data) : first.value;
  }
}

export type Load = (context: LoadContext) => unknown;

/** Values by their keys. */
export class Cache {
  readonly #hub: () => Hub;
  readonly #budgetMs: number;
  readonly #serializer: Serializer;
  #flights = new Flights<Loaded>();
  #breaker = new Breaker();
  #last = new LastValues();

  constructor(hub: () => Hub, serializer: Serializer, budgetMs: number) {
    this.#hub = hub;
    this.#serializer = serializer;
    this.#budgetMs = budgetMs;
  }

  /** The cached value of `key`, or what `load` returns, which is cached. */
  async getOrLoad<T>(
    key: string,
    load: (context: LoadContext) => T | Promise<T>,
    options: CacheOptions<T> & { signal?: AbortSignal },
  ): Promise<Stored<T>> {
    const rules = new Rules(options, this.#serializer);
    return (await this.obtain(key, load, rules, options.signal)) as Stored<T>;
  }

  /** The cached value, fresh or stale; undefined if there is none. */
  async get(key: string): Promise<unknown> {
    const data = await this.#hub().call(['CACHE.GET', checkKey(key)]);
    return data === null ? undefined : this.#serializer.decode(data as Buffer);
  }

  /** Stores a value, and ends the lease of a client that loads it. */
  async set(key: string, value: unknown, options: { ttl: Duration; stale?: Duration }): Promise<void> {
    const lives = milliseconds(options.ttl, 'ttl') + milliseconds(options.stale ?? 0, 'stale', 0);
    await this.#hub().call(['CACHE.SET', checkKey(key), this.#serializer.encode(value ?? null), lives]);
    this.#last.drop(key);
  }

  /** Removes a value, or with `stale` marks it as stale. A load that began before stores nothing. */
  async invalidate(key: string, options: { stale?: Duration } = {}): Promise<boolean> {
    this.#last.drop(checkKey(key));
    const words = options.stale === undefined ? [] : ['STALE', milliseconds(options.stale, 'stale')];
    return (await this.#hub().call(['CACHE.INVALIDATE', key, ...words])) === 1;
  }

  /** @internal Forgets what this process remembers: its last values, and that the server was away. */
  forget(): void {
    this.#flights = new Flights();
    this.#breaker = new Breaker();
    this.#last = new LastValues();
  }

  /** @internal `fresh`: an old value is not accepted, and a load that began before is not joined. */
  async obtain(key: string, load: Load, rules: Rules, signal?: AbortSignal, fresh = false): Promise<unknown> {
    const flight = `${fresh ? 'refresh' : 'load'} ${checkKey(key)}`;
    const work = (abort: AbortSignal): Promise<Loaded> =>
      new Call(this.#hub(), this.#breaker, this.#last, key, load, rules, abort, this.#budgetMs, fresh).run();
    return (await this.#flights.run(flight, work, signal)).take();
  }
}

/** What a caller gets: undefined is stored as null. */
export type Stored<T> = undefined extends T ? Exclude<T, undefined> | null : T;

function checkKey(key: string): string {
  if (typeof key !== 'string' || key === '') throw new TypeError('a key must be a text that is not empty');
  return key;
}

/** The server cannot help now. */
class Outage extends Error {
  constructor(readonly error: CorralError) {
    super(error.message);
  }

  static of(error: unknown): unknown {
    const out = isServerError(error) && (error.code === 'SERVER_UNREACHABLE' || OUTAGE.has(error.reply ?? ''));
    return out ? new Outage(error) : error;
  }
}

/** One flight: what all callers of a key share. */
class Call {
  constructor(
    private readonly hub: Hub,
    private readonly breaker: Breaker,
    private readonly last: LastValues,
    private readonly key: string,
    private readonly load: Load,
    private readonly rules: Rules,
    private readonly signal: AbortSignal,
    private budgetMs: number,
    private readonly fresh: boolean,
  ) {}

  /** Sends a command within what is left of the time for the server, or within the time that it may wait. */
  async #ask(command: Command, waitMs = 0): Promise<Reply> {
    const options: CallOptions =
      waitMs > 0 ? { timeoutMs: waitMs + Math.max(this.budgetMs, LATE_MS), waiting: true } : { timeoutMs: Math.max(this.budgetMs, 1) };
    const began = now();
    try {
      return await this.hub.call(command, options);
    } catch (error) {
      throw Outage.of(error);
    } finally {
      if (waitMs === 0) this.budgetMs -= now() - began;
    }
  }

  async run(): Promise<Loaded> {
    if (this.rules.failOpen && this.breaker.isOpen(now())) return this.#withoutServer('the server was away a moment ago');
    try {
      return await this.#withServer();
    } catch (error) {
      if (!(error instanceof Outage)) throw error;
      if (!this.rules.failOpen) throw error.error;
      this.breaker.trip(now());
      this.hub.reports.warn(`the cache goes on without the server: ${error.message}`);
      return this.#withoutServer(error.message);
    }
  }

  async #withServer(): Promise<Loaded> {
    const { rules, fresh } = this;
    // Loading the client library is no time of the server.
    await this.hub.driver();
    const end = now() + rules.wait;
    const ask: Word[] = ['CACHE.FETCH', this.key, rules.lease];
    if (rules.stale > 0) ask.push('STALE', rules.stale);
    let waitMs = fresh ? Math.min(rules.wait, WAIT_MS) : 0;
    for (;;) {
      const command = waitMs > 0 ? [...ask, 'BLOCK', waitMs, ...(fresh ? ['FRESH'] : [])] : ask;
      let reply: Reply;
      try {
        reply = await this.#ask(command, waitMs);
      } catch (error) {
        if (error instanceof CorralError && error.reply === 'UNBLOCKED') continue;
        throw error;
      }
      const [status, found, token] = reply as readonly Reply[];
      const data = found as Buffer | null;
      const state = text(status);
      if (state === 'LOAD') return this.#loadIt(Number(token), data === null ? undefined : this.#decoded(data));
      this.signal.throwIfAborted();
      const left = Math.round(end - now());
      if (state === 'STALE' && fresh && left > 0) {
        waitMs = Math.min(left, WAIT_MS);
      } else if (state === 'HIT' || state === 'STALE') {
        const loaded = data === null ? undefined : this.#decoded(data);
        if (loaded !== undefined) return loaded;
        // It is treated as missing: the next request loads it.
        await this.#ask(['CACHE.INVALIDATE', this.key]);
      } else if (state === 'FAIL') {
        throw new CorralError('LOAD_FAILED', `the last load of '${this.key}' failed: ${text(data ?? '')}`);
      } else {
        if (left <= 0) throw new CorralError('LOAD_FAILED', `another client still loads '${this.key}'`);
        waitMs = Math.min(left, WAIT_MS);
      }
    }
  }

  /** `seen`: the server has given the value out now. */
  #decoded(data: Buffer, seen = true): Loaded | undefined {
    let value: unknown;
    try {
      value = this.rules.decode(data);
    } catch (error) {
      this.hub.reports.warn(`the cached value of '${this.key}' does not decode and is loaded anew: ${String(error)}`);
      return undefined;
    }
    if (seen) this.last.put(this.key, data, now());
    return new Loaded(data, value, this.rules);
  }

  async #loadIt(token: number, old: Loaded | undefined): Promise<Loaded> {
    if (old === undefined) return this.#loadAndStore(token, this.signal);
    if (this.rules.background && !this.fresh) {
      void this.hub.background.spawn(() => this.#loadAndStore(token, undefined), `refreshing '${this.key}'`);
      return old;
    }
    try {
      return await this.#loadAndStore(token, this.signal);
    } catch (error) {
      if (this.signal.aborted || this.fresh) throw error;
      this.hub.reports.warn(`refreshing '${this.key}' failed, the stale value is used: ${reason(error)}`);
      return old;
    }
  }

  /** Without a signal, the load runs to its end. */
  async #loadAndStore(token: number, signal: AbortSignal | undefined): Promise<Loaded> {
    const { rules, key } = this;
    const renewal = new Renewal(this.hub.background, () => this.#extend(token), rules.lease / 3);
    let loaded: { data: Buffer; value: unknown };
    let absent: boolean;
    try {
      const value = await this.#run(signal);
      absent = value === null;
      loaded = this.#stored(value);
    } catch (error) {
      renewal.stop();
      if (signal?.aborted) {
        // Another client loads at once.
        void this.hub.background.spawn(() => this.#fail(token), `giving up the load of '${key}'`);
      } else await this.#fail(token, error);
      throw error;
    }
    renewal.stop();
    const command: Word[] = ['CACHE.SET', key, loaded.data, (absent ? rules.nullTtl : rules.ttl) + rules.stale, 'TOKEN', token];
    if (rules.jitter > 0) command.push('JITTER', rules.jitter);
    this.last.put(key, loaded.data, now());
    try {
      await this.#ask(command);
    } catch (error) {
      const cause = error instanceof Outage ? error.error : error;
      if (!rules.failOpen) throw cause;
      if (error instanceof Outage) this.breaker.trip(now());
      this.hub.reports.warn(`the value of '${key}' was loaded and not stored: ${String(cause)}`);
    }
    return new Loaded(loaded.data, loaded.value, rules);
  }

  async #run(signal: AbortSignal = new AbortController().signal): Promise<unknown> {
    signal.throwIfAborted();
    return (await orAborted((async () => this.load({ signal }))(), signal)) ?? null;
  }

  /** The stored form, and its value, which the first caller gets as all others do. */
  #stored(value: unknown): { data: Buffer; value: unknown } {
    const bytes = this.rules.serializer.encode(value);
    const data = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes);
    return { data, value: this.rules.decode(data) };
  }

  async #extend(token: number): Promise<number> {
    try {
      await this.hub.call(['CACHE.EXTEND', this.key, token, this.rules.lease]);
    } catch (error) {
      this.hub.reports.warn(`the lease of '${this.key}' was not renewed: ${String(error)}`);
    }
    return this.rules.lease / 3;
  }

  async #fail(token: number, error?: unknown): Promise<void> {
    const command: Word[] = ['CACHE.FAIL', this.key, token];
    if (error !== undefined && this.rules.backoff > 0) command.push('BACKOFF', this.rules.backoff, 'REASON', reason(error));
    try {
      await this.hub.call(command, { timeoutMs: Math.max(this.budgetMs, 50) });
    } catch (failed) {
      this.hub.reports.warn(`the failed load of '${this.key}' was not reported: ${String(failed)}`);
    }
  }

  async #withoutServer(why: string): Promise<Loaded> {
    this.signal.throwIfAborted();
    const data = this.last.get(this.key, now());
    const seen = data && this.#decoded(data, false);
    if (seen !== undefined) return seen;
    const done = await localLoad(async () => this.#stored(await this.#run(this.signal)));
    if (done === undefined) {
      throw new CorralError('LOAD_REJECTED', `'${this.key}' was not loaded: this process already loads without the server (${why})`);
    }
    this.last.put(this.key, done.value.data, now());
    return new Loaded(done.value.data, done.value.value, this.rules);
  }
}
