// The clients of users: they are used for their options, and not changed. Clusters, Sentinel, few permissions.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Cluster, Redis } from 'ioredis';
import { Cluster as Cluster5, Redis as Redis5 } from 'ioredis5';
import { Cluster as ValkeyCluster, Redis as Valkey } from 'iovalkey';
import * as redis6 from 'redis';
import * as redis5 from 'redis5';
import { createCorral, Worker, type Corral } from '../src/index.js';
import { slotOf } from '../src/wire.js';
import { eventually, quiet, Server, SERVERS } from './server.js';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** Each family once. */
async function use(corral: Corral, tag = ''): Promise<void> {
  expect(await corral.cache.getOrLoad(`${tag}key`, () => ({ text: 'größe' }), { ttl: 60 })).toEqual({ text: 'größe' });
  expect(await corral.cache.getOrLoad(`${tag}key`, () => 0, { ttl: 60 })).toEqual({ text: 'größe' });
  expect(await corral.lock(`${tag}name`, {}, ({ fence }) => fence)).toBeGreaterThan(0);
  const queue = corral.queue<{ work: { n: number } }>(`${tag}work`);
  const other = corral.queue(`${tag}other`);
  const seen: number[] = [];
  queue.handle('work', ({ n }) => void seen.push(n));
  await queue.publish('work', { n: 7 });
  await queue.publishMany([8, 9].map((n) => ({ task: 'work' as const, payload: { n } })));
  const worker = new Worker(corral, [other, queue], { concurrency: 1 });
  await worker.start();
  await eventually(() => worker.health().acked === 3);
  await worker.stop();
  expect(seen).toEqual([7, 8, 9]);
  await corral.close();
}

describe.each(SERVERS)('clients of users: %s', (program) => {
  let server: Server;
  beforeAll(async () => {
    server = await Server.start(program);
  });
  afterAll(() => server.remove());
  afterEach(() => server.empty());

  const corralOf = (client: object): Corral => createCorral({ client, timeout: '60s', redisTimeout: '60s', log: quiet });

  test.each<[string, typeof redis6]>([['redis 6', redis6], ['redis 5', redis5 as unknown as typeof redis6]])('%s: a client and a pool', async (_, library) => {
    const client = library.createClient({ url: server.url, database: 3 });
    client.on('error', () => undefined);
    const before = JSON.stringify(client.options);
    await use(corralOf(client));
    expect([client.isOpen, JSON.stringify(client.options)]).toEqual([false, before]);
    await client.connect();
    expect(await client.get('key')).toBe('{"text":"größe"}');
    await client.flushDb();
    await client.close();
    const pool = library.createClientPool({ url: server.url });
    pool.on('error', () => undefined);
    await pool.connect();
    await use(corralOf(pool));
    expect(await pool.get('key')).toBe('{"text":"größe"}');
    await pool.close();
  });

  test.each([['ioredis 6', Redis], ['ioredis 5', Redis5 as unknown as typeof Redis], ['iovalkey', Valkey as unknown as typeof Redis]] as const)('%s', async (_, Library) => {
    const client = new Library(server.port, '127.0.0.1', { lazyConnect: true, db: 3, keyPrefix: 'shop:', enableAutoPipelining: true });
    client.on('error', () => undefined);
    const before = JSON.stringify(client.options);
    await use(corralOf(client));
    expect([client.status, JSON.stringify(client.options), client.listenerCount('error')]).toEqual(['wait', before, 1]);
    // The prefix of the application is that of all keys.
    expect(await client.get('key')).toBe('{"text":"größe"}');
    expect(await server.client.select(3).then(() => server.client.keys('*'))).toEqual(expect.arrayContaining(['shop:key', 'shop:work']));
    await server.client.select(0);
    const queue = corralOf(client).queue('work');
    await queue.publish('fatal', {});
    client.disconnect();
  });

  test.each<[string, () => object]>([
    ['redis 6', () => redis6.createClient({ url: server.url })],
    ['redis 5', () => redis5.createClient({ url: server.url })],
    ['ioredis 6', () => new Redis(server.url, { lazyConnect: true })],
    ['ioredis 5', () => new Redis5(server.url, { lazyConnect: true })],
    ['iovalkey', () => new Valkey(server.url, { lazyConnect: true })],
  ])('%s: the acknowledgement of a task and the request for the next one are one packet', async (_, client) => {
    const corral = corralOf(client());
    ends.push(() => corral.close());
    const queue = corral.queue('work');
    queue.handle('work', () => undefined);
    const count = 300;
    await queue.publishMany(Array.from({ length: count }, () => ({ task: 'work', payload: {} })));
    const reads = async (): Promise<number> => Number(/total_reads_processed:(\d+)/.exec(await server.client.info('stats'))?.[1]);
    const before = await reads();
    const worker = new Worker(corral, queue, { concurrency: 1 });
    await worker.start();
    await eventually(() => worker.health().acked === count);
    expect(await reads() - before).toBeLessThan(1.2 * count);
    await worker.stop();
  });

  test('a prefix is on every key of a command, and dead letters come back', async () => {
    const corral = corralOf(new Redis(server.port, '127.0.0.1', { lazyConnect: true, keyPrefix: 'shop:' }));
    ends.push(() => corral.close());
    const queue = corral.queue('work');
    let runs = 0;
    queue.handle('fatal', { tries: 1 }, () => { if (++runs === 1) throw new Error('once'); });
    await queue.publish('fatal', {});
    const worker = new Worker(corral, queue);
    await worker.start();
    await eventually(async () => (await queue.info()).dead === 1);
    expect(await queue.redrive()).toBe(1);
    await eventually(() => runs === 2 && worker.health().acked === 1);
    await worker.stop();
    expect((await server.client.keys('*')).every((key) => key.includes('shop:'))).toBe(true);
  });

  test('a password, a user with few permissions, and invalid clients', async () => {
    await server.client.call('ACL', 'SETUSER', 'worker', 'on', '>secret', '~*', '+task.consume', '+task.ack', '+task.extend', '+task.nack', '+task.info', '+task.publish');
    const url = `redis://worker:secret@127.0.0.1:${server.port}`;
    const corral = createCorral({ url, timeout: '60s', log: quiet });
    ends.push(() => corral.close());
    const queue = corral.queue<{ work: object }>('work');
    let runs = 0;
    queue.handle('work', () => void runs++);
    await queue.publish('work', {});
    const worker = new Worker(corral, queue);
    await worker.start();
    await eventually(() => runs === 1);
    await worker.stop();
    await expect(corral.lock('x', {}, () => 1)).rejects.toMatchObject({ code: 'REPLY', reply: 'NOPERM' });
    const wrong = createCorral({ url: url.replace('secret', 'wrong'), timeout: '5s', log: quiet });
    await expect(wrong.queue('x').info()).rejects.toMatchObject({ code: 'SERVER_UNREACHABLE' });
    await wrong.close();
    await server.client.call('ACL', 'DELUSER', 'worker');
    for (const bad of [{}, { url: 'http://localhost' }, { url, client: {} }]) expect(() => createCorral(bad)).toThrow(TypeError);
    await expect(createCorral({ client: { x: 1 } }).queue('x').info()).rejects.toThrow('is expected');
  });

  test('the queue of another program is warned of', async () => {
    const warnings: string[] = [];
    await server.client.xgroup('CREATE', 'work', 'audit', '$', 'MKSTREAM');
    const corral = server.corral({ log: { warn: (text) => void warnings.push(text), error: () => undefined } });
    const worker = new Worker(corral, corral.queue('work'));
    await worker.start();
    await worker.stop();
    await corral.close();
    expect(warnings.join()).toContain('consumer groups audit');
  });
});

const cli = (port: number, ...words: string[]): string => {
  const done = spawnSync('redis-cli', ['-p', String(port), ...words], { encoding: 'utf8' });
  return done.stdout + done.stderr;
};

test('a cluster: the slots of keys, several nodes, hash tags, and a slot that moves', async () => {
  for (const key of ['a', '{a}b', 'x{}y', '{tasks}:mail', 'größe']) expect(slotOf(key)).toBe(clusterSlot(key));
  const nodes = await Promise.all([0, 1, 2].map(() => Server.start(SERVERS[0]!, ['--cluster-enabled', 'yes'])));
  ends.push(() => Promise.all(nodes.map((node) => node.remove())));
  const [first, second] = nodes as [Server, Server, Server];
  const made = cli(first.port, '--cluster', 'create', ...nodes.map((node) => `127.0.0.1:${node.port}`), '--cluster-yes');
  expect(made).toContain('All 16384 slots covered');
  const rootNodes = nodes.map((node) => ({ url: node.url }));
  const addresses = nodes.map((node) => ({ host: '127.0.0.1', port: node.port }));
  await eventually(() => nodes.every((node) => cli(node.port, 'cluster', 'info').includes('cluster_state:ok')));
  const clusters = [Cluster, Cluster5, ValkeyCluster].map((Client) => new Client(addresses, { lazyConnect: true }));
  // The package of ioredis 5 has another name here. If it is connected, one of its nodes makes the clients.
  await clusters[1]!.connect();
  ends.push(() => clusters[1]!.disconnect());
  for (const client of [redis6.createCluster({ rootNodes }), redis5.createCluster({ rootNodes }), ...clusters]) {
    const corral = createCorral({ client, timeout: '60s', redisTimeout: '60s', log: quiet });
    await use(corral, '{shop}:');
    for (let n = 0; n < 20; n++) expect(await corral.cache.getOrLoad(`key:${n}`, () => n, { ttl: 60 })).toBe(n);
    await expect(new Worker(corral, [corral.queue('mail'), corral.queue('urgent')]).start()).rejects.toThrow("'{work}:mail', '{work}:urgent'");
    await corral.close();
  }
  const corral = createCorral({ client: redis6.createCluster({ rootNodes }), timeout: '60s', redisTimeout: '60s', log: quiet });
  ends.push(() => corral.close());
  const queue = corral.queue<{ work: { n: number } }>('{moving}:work');
  const seen = new Set<number>();
  queue.handle('work', ({ n }) => void seen.add(n));
  const worker = new Worker(corral, queue);
  await worker.start();
  for (let n = 0; n < 20; n++) await queue.publish('work', { n }, { retry: true });
  const slot = String(slotOf('{moving}:work'));
  const ids = nodes.map((node) => cli(node.port, 'cluster', 'myid').trim());
  const from = nodes.findIndex((node) => cli(node.port, 'cluster', 'nodes').split('\n').some((line) => line.includes('myself') && owns(line, Number(slot))));
  const to = nodes[from] === second ? 0 : 1;
  cli(nodes[to]!.port, 'cluster', 'setslot', slot, 'importing', ids[from]!);
  cli(nodes[from]!.port, 'cluster', 'setslot', slot, 'migrating', ids[to]!);
  const keys = (): string[] => cli(nodes[from]!.port, 'cluster', 'getkeysinslot', slot, '100').split('\n').filter((key) => key !== '');
  await eventually(() => {
    for (const key of keys()) cli(nodes[from]!.port, 'migrate', '127.0.0.1', String(nodes[to]!.port), key, '0', '5000');
    return keys().length === 0;
  });
  for (const node of [nodes[to]!, nodes[from]!]) cli(node.port, 'cluster', 'setslot', slot, 'node', ids[to]!);
  for (let n = 20; n < 40; n++) await queue.publish('work', { n }, { retry: true });
  await eventually(() => seen.size === 40);
  await worker.stop();
});

function owns(line: string, slot: number): boolean {
  return line.trim().split(' ').slice(8).some((range) => {
    const [low, high] = range.split('-').map(Number);
    return low! <= slot && slot <= (high ?? low!);
  });
}

/** As the client library computes it. */
function clusterSlot(key: string): number {
  const start = key.indexOf('{');
  const end = key.indexOf('}', start + 1);
  const part = start >= 0 && end > start + 1 ? key.slice(start + 1, end) : key;
  let crc = 0;
  for (const byte of Buffer.from(part)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff;
  }
  return crc & 16383;
}

test('a failover by Sentinel', async () => {
  const program = SERVERS[0]!;
  const master = await Server.start(program, ['--replica-announce-ip', '127.0.0.1']);
  const replica = await Server.start(program, ['--replica-announce-ip', '127.0.0.1', '--replicaof', '127.0.0.1', String(master.port)]);
  const sentinel = new SentinelServer(program, master.port);
  await sentinel.start();
  ends.push(() => Promise.all([master.remove(), replica.remove(), sentinel.stop()]));
  await eventually(() => cli(sentinel.port, 'sentinel', 'replicas', 'main').includes(String(replica.port)) && cli(master.port, 'info', 'replication').includes('state=online'));
  const place = { host: '127.0.0.1', port: sentinel.port };
  const lazy = [Redis, Redis5 as unknown as typeof Redis, Valkey as unknown as typeof Redis].map((Client) =>
    new Client({ sentinels: [place], name: 'main', lazyConnect: true }));
  const connected = [redis6, redis5 as unknown as typeof redis6].map((library) =>
    library.createSentinel({ name: 'main', sentinelRootNodes: [place], scanInterval: 200 }));
  for (const client of connected) {
    client.on('error', () => undefined);
    await client.connect();
    ends.push(() => client.destroy());
  }
  const corrals = [...lazy, ...connected].map((client) => createCorral({ client, timeout: '60s', redisTimeout: '60s', log: quiet }));
  ends.push(() => Promise.all(corrals.map((corral) => corral.close())));
  const runs = new Set<string>();
  const workers = corrals.map((corral, index) => {
    corral.queue(`work:${index}`).handle('work', (_, task) => void runs.add(`${index} ${task.id}`));
    return new Worker(corral, corral.queue(`work:${index}`));
  });
  await Promise.all(workers.map((worker) => worker.start()));
  const publish = (index: number): Promise<string> =>
    eventually(() => corrals[index]!.queue(`work:${index}`).publish('work', {}, { retry: true }).catch(() => ''));
  for (const index of corrals.keys()) await publish(index);
  await eventually(() => runs.size === corrals.length);
  await eventually(() => cli(sentinel.port, 'sentinel', 'failover', 'main').includes('OK'));
  await eventually(() => cli(replica.port, 'info', 'replication').includes('role:master'));
  for (const index of corrals.keys()) {
    const id = await publish(index);
    await eventually(() => runs.has(`${index} ${id}`));
  }
  await Promise.all(workers.map((worker) => worker.stop()));
});

/** A sentinel has a file of its own, which it writes. */
class SentinelServer {
  port = 0;
  readonly #file = join(mkdtempSync(join(tmpdir(), 'corral-')), 'sentinel.conf');
  #server: Server | undefined;

  constructor(private readonly program: string, private readonly master: number) {}

  async start(): Promise<void> {
    writeFileSync(this.#file, `sentinel monitor main 127.0.0.1 ${this.master} 1\nsentinel down-after-milliseconds main 5000\n`);
    this.#server = await Server.startAs(this.program, [this.#file, '--sentinel']);
    this.port = this.#server.port;
  }

  async stop(): Promise<void> {
    await this.#server?.remove();
    rmSync(dirname(this.#file), { recursive: true });
  }
}
