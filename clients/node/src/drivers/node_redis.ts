// node-redis: clients, pools, clusters and sentinels.

import type { Command, Reply } from '../wire.js';
import {
  DEFAULT_TIMEOUT_MS, inherits, prefixOf, translator, words, type Address, type Connection, type Driver, type Loose,
} from './driver.js';

type Create = (options: Loose) => Loose;

// RESP2 types `$` and `+`.
const BYTES = { typeMapping: { 36: Buffer, 43: Buffer }, timeout: undefined };

class NodeRedisConnection implements Connection {
  readonly #client: Loose;

  constructor(client: Loose) {
    this.#client = client;
    // Each command rejects with its own error, so this event adds nothing.
    client['on']('error', () => undefined);
    client['unref']();
  }

  async connect(): Promise<void> {
    await this.#client['connect']();
  }

  async send(command: Command): Promise<Reply> {
    try {
      return await this.#client['sendCommand'](words(command), BYTES);
    } catch (error) {
      if (inherits(error, 'ErrorReply')) return error as Error;
      throw error;
    }
  }

  get usable(): boolean {
    return this.#client['isReady'] === true;
  }

  close(): void {
    try {
      this.#client['destroy']();
    } catch {
      // It is closed already.
    }
  }
}

/** `options` are those of one client of the library. */
function driver(create: Create, options: Loose, more: Partial<Driver> = {}): Driver {
  const socket: Loose = options['socket'] ?? {};
  const connection = (address: Address | undefined, connectTimeout: number): Connection => {
    const kept: Loose = { ...socket };
    delete kept['socketTimeout'];
    if (address !== undefined) {
      delete kept['path'];
      Object.assign(kept, address);
    }
    const chosen: Loose = {};
    for (const name of ['username', 'password', 'credentialsProvider', 'database', 'name']) {
      if (options[name] !== undefined) chosen[name] = options[name];
    }
    return new NodeRedisConnection(create({
      ...chosen,
      socket: { ...kept, connectTimeout, reconnectStrategy: false },
      RESP: 2,
      disableOfflineQueue: true,
      disableClientInfo: true,
      maintNotifications: 'disabled',
      commandOptions: BYTES,
    }));
  };
  return {
    name: String(socket['path'] ?? `${String(socket['host'] ?? 'localhost')}:${String(socket['port'] ?? 6379)}`),
    keyPrefix: prefixOf(options['keyPrefix']),
    timeoutMs: Number(options['commandOptions']?.timeout ?? socket['socketTimeout'] ?? DEFAULT_TIMEOUT_MS) || DEFAULT_TIMEOUT_MS,
    seeds: [],
    sentinels: [],
    translate: (address) => address,
    connection,
    ...more,
  };
}

/** The options of a client of this library, and where its nodes are. Nothing is changed on it. */
export async function fromNodeRedis(client: Loose, create: Create): Promise<Driver | undefined> {
  if (typeof client['getMasterNode'] === 'function') {
    // Its options are not public. It knows the master, and a connection of it has what the nodes need.
    const options = (await client['_execute'](false, (one: Loose) => Promise.resolve(one['options']))) as Loose;
    return driver(create, { ...options, keyPrefix: options['keyPrefix'] ?? client['_keyPrefix'] }, {
      name: 'the master',
      currentMaster: () => client['getMasterNode']() as Address | undefined,
    });
  }
  if (client['_options']?.rootNodes !== undefined) {
    const options: Loose = client['_options'];
    const nodes = (options['rootNodes'] as Loose[]).map((node) => parsed(create, { ...options['defaults'], ...node }));
    const seeds = nodes.map(({ socket }) => ({ host: String(socket?.host ?? 'localhost'), port: Number(socket?.port ?? 6379) }));
    const defaults = parsed(create, { ...options['defaults'] });
    const first: Loose = { ...nodes[0], ...defaults, socket: { ...nodes[0]?.['socket'], ...defaults['socket'] }, database: undefined };
    return driver(create, { ...first, keyPrefix: options['keyPrefix'] }, {
      name: `the cluster of ${String(seeds[0]?.host)}:${String(seeds[0]?.port)}`,
      seeds,
      translate: translator(options['nodeAddressMap']),
    });
  }
  if (typeof client['execute'] === 'function' && 'totalClients' in client) {
    return driver(create, (await client['execute']((one: Loose) => Promise.resolve(one['options']))) as Loose);
  }
  return client['options'] === undefined ? undefined : driver(create, client['options'] as Loose);
}

/** Options with what their URL says. Nothing connects. */
export function parsed(create: Create, options: Loose): Loose {
  const client = create({ ...options, maintNotifications: 'disabled' });
  const found = { ...client['options'] } as Loose;
  new NodeRedisConnection(client).close();
  return found;
}
