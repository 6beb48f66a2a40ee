// The entrance: a Corral has the cache, the locks and the queues of one server.

import { Cache } from './cache.js';
import { cached, type Cached, type CachedOptions, type TemplateOptions, type Values } from './cached.js';
import type { Driver } from './drivers/driver.js';
import { checkUrl, fromClient, fromUrl } from './drivers/resolve.js';
import { Hub } from './hub.js';
import { jsonSerializer, type Serializer } from './json.js';
import { withLock, type FencedLease, type Lease, type LockOptions } from './lock.js';
import { Reports, type Logger } from './log.js';
import { Queue, type Payloads } from './queue.js';
import { milliseconds, type Duration } from './time.js';
import type { Reply, Word } from './wire.js';

export interface CorralOptions {
  /** Such as `redis://localhost:6379`. It is reached by the first of redis, ioredis and iovalkey that is installed. */
  url?: string;
  /**
   * A client of redis (also a pool, cluster or sentinel), ioredis (also a cluster) or iovalkey. Its options are used for
   * connections of this package, and it is not modified. A pool and a sentinel must be connected.
   */
  client?: object;
  /** How long a command may take. The default is that of the client, or 5 s. */
  timeout?: Duration;
  /** How much longer than its load a cached value may take because of the server. */
  redisTimeout?: Duration;
  serializer?: Serializer;
  /** Added to each published task, for example the `traceparent` of the current trace. */
  headers?: () => Readonly<Record<string, string>>;
  /** Gets warnings and errors; the default is the console. */
  log?: Logger;
  /** Gets errors that no caller gets, for example of a refresh in the background. */
  onError?: (error: Error) => void;
}

export class Corral {
  readonly cache: Cache;
  readonly #options: CorralOptions;
  readonly #reports: Reports;
  readonly #queues = new Map<string, Queue>();
  #hub: Hub;

  /** @internal */
  constructor(options: CorralOptions) {
    this.#options = options;
    this.#reports = new Reports(options.log, options.onError);
    this.#hub = new Hub(() => this.#driver(), this.#reports);
    this.cache = new Cache(() => this.#hub, this.#serializer, milliseconds(options.redisTimeout ?? 0.25, 'redisTimeout'));
  }

  get #serializer(): Serializer {
    return this.#options.serializer ?? jsonSerializer;
  }

  async #driver(): Promise<Driver> {
    const { client, url = '', timeout } = this.#options;
    const driver = client === undefined ? await fromUrl(url) : await fromClient(client);
    return timeout === undefined ? driver : { ...driver, timeoutMs: milliseconds(timeout, 'timeout') };
  }

  /** A function whose results are cached. */
  cached<A extends unknown[], T>(options: CachedOptions<A, T>): Cached<A, T>;
  cached<P, T>(options: TemplateOptions<P, T>): Cached<Values<P>, T>;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- What both overloads have in common.
  cached(options: any): any {
    return cached(this.cache, options as CachedOptions<never[], unknown>, this.#serializer);
  }

  /**
   * Runs `body` while holding a lock, and returns its result. If the lease is lost nevertheless, the signal of the body is
   * aborted, and the call throws LockLost.
   */
  lock<T>(name: string, options: LockOptions & ({ shared: true } | { limit: number }), body: (lease: Lease) => T | Promise<T>): Promise<T>;
  lock<T>(name: string, options: LockOptions, body: (lease: FencedLease) => T | Promise<T>): Promise<T>;
  lock<T>(name: string, options: LockOptions, body: (lease: FencedLease) => T | Promise<T>): Promise<T> {
    return withLock(this.#hub, name, options, body);
  }

  /** The queue of this name; the same object each time. The type argument has the payload of each task. */
  queue<T extends { [K in keyof T]: object } = Payloads>(name: string): Queue<T> {
    let queue = this.#queues.get(name);
    if (queue === undefined) {
      queue = new Queue(name, { hub: () => this.#hub, headers: () => this.#options.headers?.() ?? {} }, this.#serializer);
      this.#queues.set(name, queue);
    }
    return queue as unknown as Queue<T>;
  }

  /** The reply of a command of Corral or of the server, whose first argument is the key. Texts are Buffers. */
  async call(...words: Word[]): Promise<Reply> {
    return this.#hub.call(words);
  }

  /** Waits for work in the background, and closes the connections. */
  async close(): Promise<void> {
    await this.#hub.close();
  }

  /** @internal */
  get hub(): Hub {
    return this.#hub;
  }

  /** @internal */
  get queues(): ReadonlyMap<string, Queue> {
    return this.#queues;
  }

  /** @internal From now on another server. Returns what brings the one before back. */
  exchange(resolve: () => Promise<Driver>): () => void {
    const before = this.#hub;
    this.#hub = new Hub(resolve, this.#reports);
    this.cache.forget();
    return () => {
      this.#hub = before;
      this.cache.forget();
    };
  }
}

/** Made from a URL, or from a client. Nothing is connected before the first command. */
export function createCorral(options: CorralOptions): Corral {
  if ((options.url === undefined) === (options.client === undefined)) throw new TypeError('either a url or a client is expected');
  if (options.url !== undefined) checkUrl(options.url);
  if (options.timeout !== undefined) milliseconds(options.timeout, 'timeout');
  return new Corral(options);
}
