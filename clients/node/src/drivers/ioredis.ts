// ioredis and iovalkey: single clients, also by Sentinel, and clusters.

import type { Socket } from 'node:net';
import type { Command, Reply } from '../wire.js';
import {
  DEFAULT_TIMEOUT_MS, prefixOf, translator, words, type Connection, type Driver, type Loose,
} from './driver.js';

/** Makes a client: `duplicate` of the user's client, so of the same library, with all options that matter. */
type Make = (options: Loose) => Loose;

const TO_SENTINEL = ['family', 'keepAlive', 'noDelay', 'connectionName'];
const KEPT = [...TO_SENTINEL, 'host', 'port', 'path', 'username', 'password', 'db', 'tls'];

/** What must differ from the options of the user. */
const OURS: Loose = {
  protocol: 2,
  lazyConnect: true,
  keyPrefix: '',
  sentinels: null,
  name: null,
  readOnly: false,
  stringNumbers: false,
  enableOfflineQueue: false,
  enableReadyCheck: false,
  enableAutoPipelining: false,
  autoResendUnfulfilledCommands: false,
  autoResubscribe: false,
  retryStrategy: null,
  reconnectOnError: null,
  maxRetriesPerRequest: null,
  commandTimeout: undefined,
  socketTimeout: undefined,
  blockingTimeout: undefined,
  disableClientInfo: true,
};

class IoredisConnection implements Connection {
  readonly #client: Loose;

  constructor(client: Loose) {
    this.#client = client;
    // Each command rejects with its own error, so this event adds nothing.
    client['on']('error', () => undefined);
  }

  async connect(): Promise<void> {
    await this.#client['connect']();
    this.#client['stream']?.unref();
  }

  async send(command: Command): Promise<Reply> {
    // Commands that are sent in one turn leave in one packet.
    const stream = this.#client['stream'] as Socket | undefined;
    if (stream?.writableCorked === 0) {
      stream.cork();
      process.nextTick(() => stream.uncork());
    }
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

function driver(make: Make, options: Loose, more: Partial<Driver> = {}): Driver {
  return {
    name: String(options['path'] ?? `${String(options['host'] ?? 'localhost')}:${String(options['port'] ?? 6379)}`),
    keyPrefix: prefixOf(options['keyPrefix']),
    timeoutMs: Number(options['commandTimeout'] ?? options['socketTimeout'] ?? DEFAULT_TIMEOUT_MS) || DEFAULT_TIMEOUT_MS,
    seeds: [],
    sentinels: [],
    translate: (address) => address,
    ...more,
    connection(address, connectTimeout, toSentinel = false) {
      const chosen: Loose = {};
      for (const name of KEPT) chosen[name] = toSentinel && !TO_SENTINEL.includes(name) ? undefined : options[name];
      if (toSentinel) {
        const { sentinelUsername: username, sentinelPassword: password, enableTLSForSentinelMode: secure, sentinelTLS } = options;
        Object.assign(chosen, { username, password, tls: sentinelTLS ?? (secure ? {} : undefined) });
      }
      if (address !== undefined) Object.assign(chosen, address, { path: undefined });
      return new IoredisConnection(make({ ...chosen, ...OURS, connectTimeout }));
    },
  };
}

/** The options of a client, and where its nodes are. It is not changed. */
export function fromIoredis(client: Loose, make: Make = (options) => client['duplicate'](options) as Loose): Driver {
  const options: Loose = client['options'];
  if (client['isCluster'] === true) {
    const seeds = (client['startupNodes'] as unknown[]).map(seed);
    const { username, password, tls } = { ...seeds[0] };
    const first = { username, password, tls, ...(options['redisOptions'] ?? {}), keyPrefix: options['keyPrefix'], db: 0 };
    return driver(make, first, {
      name: `the cluster of ${String(seeds[0]?.['host'])}:${String(seeds[0]?.['port'])}`,
      seeds: seeds.map(({ host, port }) => ({ host, port })),
      translate: translator(options['natMap']),
    });
  }
  const sentinels = options['sentinels'] as Loose[] | null | undefined;
  if (!sentinels?.length) return driver(make, options);
  if (options['role'] === 'slave') throw new RangeError('the client must be for the master, not for a replica');
  return driver(make, options, {
    name: `the master ${String(options['name'])}`,
    service: String(options['name']),
    sentinels: sentinels.map((one) => ({ host: String(one['host'] ?? 'localhost'), port: Number(one['port'] ?? 26379) })),
    translate: translator(options['natMap']),
  });
}

/** A node of a cluster as a user names it: a port, a URL, or options. */
function seed(node: unknown): Loose {
  let found: Loose;
  if (typeof node === 'object') found = { ...node };
  else if (/^\d+$/.test(node as string)) found = { port: node };
  else {
    const text = node as string;
    const url = new URL(text.includes('://') ? text : `redis://${text}`);
    found = { host: url.hostname, port: url.port, username: url.username, password: decodeURIComponent(url.password) };
    if (url.protocol === 'rediss:') found['tls'] = {};
  }
  const { host, port, username, password, tls } = found;
  return {
    host: String(host || '127.0.0.1'), port: Number(port || 6379), username: username || undefined, password: password || undefined, tls,
  };
}
