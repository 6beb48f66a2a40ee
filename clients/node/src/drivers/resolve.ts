// Which client library: that of the client, or for a URL the first that is installed.

import { fromIoredis } from './ioredis.js';
import { fromNodeRedis, parsed } from './node_redis.js';
import type { Driver, Loose } from './driver.js';

const NAMES = ['redis', '@redis/client', 'ioredis', 'iovalkey'] as const;
type Name = (typeof NAMES)[number];
type Class = new (...words: unknown[]) => Loose;

/** A library, or undefined if it is not installed. */
async function load(name: Name): Promise<Loose | undefined> {
  try {
    // A literal for each, so that bundlers find them.
    switch (name) {
      case 'redis': return (await import('redis'));
      case '@redis/client': return (await import('@redis/client'));
      case 'ioredis': return (await import('ioredis'));
      case 'iovalkey': return (await import('iovalkey'));
    }
  } catch (error) {
    if (['ERR_MODULE_NOT_FOUND', 'MODULE_NOT_FOUND'].includes(String((error as Loose)['code']))) return undefined;
    throw error;
  }
}

const classOf = (library: Loose): Class => (library['Redis'] ?? library['default']?.Redis ?? library['default']) as Class;
const createOf = (library: Loose): ((options: Loose) => Loose) => (library['createClient'] ?? library['default']?.createClient) as never;

export async function fromUrl(url: string): Promise<Driver> {
  const target = url.replace(/^valkey(s?):/, 'redis$1:');
  for (const name of NAMES) {
    const library = await load(name);
    if (library === undefined) continue;
    if (name === 'redis' || name === '@redis/client') {
      const create = createOf(library);
      return (await fromNodeRedis({ options: parsed(create, { url: target }) }, create)) as Driver;
    }
    // Never connected; it parses the URL, and makes the connections.
    return fromIoredis(new (classOf(library))(target, { lazyConnect: true }));
  }
  throw new TypeError('to reach a server by its URL, install one of the packages redis, ioredis and iovalkey');
}

export function checkUrl(url: string): void {
  if (!/^(redis|valkey)s?:\/\//.test(url)) throw new TypeError('the URL must begin with redis://, rediss://, valkey:// or valkeys://');
}

export async function fromClient(client: object): Promise<Driver> {
  const given = client as Loose;
  if (given['isCluster'] === true && Array.isArray(given['startupNodes'])) return fromIoredis(given, await makerOf(given));
  if (typeof given['callBuffer'] === 'function' && given['options'] !== undefined) return fromIoredis(given);
  const found = typeof given['sendCommand'] === 'function' || typeof given['execute'] === 'function'
    ? await fromNodeRedis(given, await creatorOf(given)) : undefined;
  if (found === undefined) throw new TypeError('a URL, or a client of redis, ioredis or iovalkey, is expected');
  return found;
}

/** A client of node-redis makes clients of its own version. */
async function creatorOf(client: Loose): Promise<(options: Loose) => Loose> {
  if (client['options'] !== undefined && typeof client['duplicate'] === 'function') {
    const library = client['constructor'] as Class;
    return (options) => new library(options);
  }
  for (const name of NAMES.slice(0, 2)) {
    const library = await load(name);
    if (library !== undefined) return createOf(library);
  }
  throw new TypeError('the package redis is not installed');
}

/** A node of a cluster of ioredis makes clients; if none is connected yet, its library does. */
async function makerOf(cluster: Loose): Promise<(options: Loose) => Loose> {
  const [node] = cluster['nodes']() as Loose[];
  if (node !== undefined) return (options) => node['duplicate'](options) as Loose;
  for (const name of ['ioredis', 'iovalkey'] as const) {
    const library = await load(name);
    const kind: unknown = library?.['Cluster'] ?? library?.['default']?.Cluster;
    if (library === undefined || typeof kind !== 'function' || !(cluster instanceof kind)) continue;
    const found = classOf(library);
    return (options) => new found(options);
  }
  throw new TypeError('the client library of this cluster was not found');
}
