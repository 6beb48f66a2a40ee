// ioredis and iovalkey: single clients, also by Sentinel, and clusters.

import type { Command, Reply } from '../wire.js';
import {
  DEFAULT_TIMEOUT_MS, prefixOf, translator, words, type Address, type Connection, type Driver, type Loose,
} from './driver.js';

type Class = new (options: Loose) => Loose;

const TO_SENTINEL = ['family', 'keepAlive', 'noDelay', 'connectionName'];
const KEPT = [...TO_SENTINEL, 'host', 'port', 'path', 'username', 'password', 'db', 'tls'];

class IoredisConnection implements Connection {
  readonly #client: Loose;

  constructor(client: Loose) {
    this.#client = client;
    // What fails is told to the caller of the command.
    client['on']('error', () => undefined);
  }

  async connect(): Promise<void> {
    await this.#client['connect']();
    this.#client['stream']?.unref();
  }

  async send(command: Command): Promise<Reply> {
    try {
      return await this.#client['callBuffer'](...words(command));
    } catch (error) {
      if (error instanceof Error && error.name === 'ReplyError') return error;
      throw error;
    }
  }

  get usable(): boolean {
    return this.#client['status'] === 'ready';
  }

  close(): void {
    this.#client['disconnect']();
    this.#client['stream']?.destroy();
  }
}

function driver(library: Class, options: Loose, more: Partial<Driver> = {}): Driver {
  return {
    name: String(options['path'] ?? `${String(options['host'] ?? 'localhost')}:${String(options['port'] ?? 6379)}`),
    keyPrefix: prefixOf(options['keyPrefix']),
    timeoutMs: Number(options['commandTimeout'] ?? options['socketTimeout'] ?? DEFAULT_TIMEOUT_MS) || DEFAULT_TIMEOUT_MS,
    seeds: [],
    sentinels: [],
    translate: (address) => address,
    ...more,
    connection(address, connectTimeout, toSentinel = false) {
      const kept: Loose = {};
      for (const name of toSentinel ? TO_SENTINEL : KEPT) {
        if (options[name] !== undefined && options[name] !== null) kept[name] = options[name];
      }
      if (toSentinel) {
        const { sentinelUsername: username, sentinelPassword: password, enableTLSForSentinelMode: secure, sentinelTLS } = options;
        Object.assign(kept, username && { username }, password && { password }, sentinelTLS ? { tls: sentinelTLS } : secure && { tls: {} });
      }
      if (address !== undefined) {
        delete kept['path'];
        Object.assign(kept, address);
      }
      return new IoredisConnection(new library({
        ...kept,
        connectTimeout,
        protocol: 2,
        lazyConnect: true,
        enableOfflineQueue: false,
        enableReadyCheck: false,
        enableAutoPipelining: false,
        autoResendUnfulfilledCommands: false,
        autoResubscribe: false,
        retryStrategy: null,
        reconnectOnError: null,
        maxRetriesPerRequest: null,
        disableClientInfo: true,
      }));
    },
  };
}

/** The options of a client, and where its nodes are. `library` is the class of single connections. */
export function fromIoredis(client: Loose, library: Class): Driver {
  const options: Loose = client['options'];
  if (client['isCluster'] === true) {
    const seeds = (client['startupNodes'] as unknown[]).map((node) => seed(library, node));
    const secure = seeds.some((one) => one.tls) && { tls: {} };
    const first = { ...seeds[0]?.options, ...secure, ...(options['redisOptions'] ?? {}), keyPrefix: options['keyPrefix'], db: 0 };
    return driver(library, first, {
      name: `the cluster of ${String(seeds[0]?.address.host)}:${String(seeds[0]?.address.port)}`,
      seeds: seeds.map((one) => one.address),
      translate: translator(options['natMap']),
    });
  }
  const sentinels = options['sentinels'] as Loose[] | null | undefined;
  if (!sentinels?.length) return driver(library, options);
  if (options['role'] === 'slave') throw new RangeError('the client must be for the master, not for a replica');
  return driver(library, options, {
    name: `the master ${String(options['name'])}`,
    service: String(options['name']),
    sentinels: sentinels.map((one) => ({ host: String(one['host'] ?? 'localhost'), port: Number(one['port'] ?? 26379) })),
    translate: translator(options['natMap']),
  });
}

/** A startup node: a port, a URL or options. The class parses it, and does not connect. */
function seed(library: Class, node: unknown): { address: Address; options: Loose; tls: boolean } {
  const parsed = typeof node === 'object' ? (node as Loose) : optionsOf(library, node as string | number);
  const address = { host: String(parsed['host'] ?? '127.0.0.1'), port: Number(parsed['port'] ?? 6379) };
  const { username, password } = parsed;
  return { address, options: { ...(username && { username }), ...(password && { password }) }, tls: Boolean(parsed['tls']) };
}

export function optionsOf(library: Class, target: string | number): Loose {
  const make = library as unknown as new (target: string | number, options: Loose) => Loose;
  return new make(target, { lazyConnect: true })['options'] as Loose;
}
