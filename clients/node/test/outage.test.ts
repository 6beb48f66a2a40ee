// The server is away, hangs, is full, restarts, or closes connections.

import { connect, createServer, type AddressInfo } from 'node:net';
import { afterEach, expect, test, vi } from 'vitest';
import { createCorral, Worker, type CorralOptions } from '../src/index.js';
import { memoryCorral } from '../src/testing.js';
import { gate } from './backends.js';
import { eventually, quiet, Server, SERVERS, sleep } from './server.js';

const servers: Server[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  await Promise.all(servers.splice(0).map((server) => server.remove()));
});

async function start(program: string, ...options: string[]): Promise<Server> {
  const server = await Server.start(program, options);
  servers.push(server);
  return server;
}

const fast: Partial<CorralOptions> = { timeout: '2s', redisTimeout: '250ms' };

test('four loads run at a time without the server, and more are rejected', async () => {
  const fake = memoryCorral();
  fake.away();
  const open = gate();
  let running = 0;
  const get = (key: string): Promise<number> => fake.corral.cache.getOrLoad(key, async () => { running++; await open.promise; return 1; }, { ttl: 60 });
  const calls = Array.from({ length: 6 }, (_, index) => get(`key:${index}`));
  await expect(calls[4]).rejects.toMatchObject({ code: 'LOAD_REJECTED' });
  await expect(calls[5]).rejects.toMatchObject({ code: 'LOAD_REJECTED' });
  expect(running).toBe(4);
  // Callers of one key share a load, also now.
  const shared = get('key:0');
  open.open();
  expect(await Promise.all([...calls.slice(0, 4), shared])).toEqual([1, 1, 1, 1, 1]);
  expect(await get('key:7')).toBe(1);
});

test('a last value is used for five seconds, the server is not asked for one, and fail-open can be declined', async () => {
  const fake = memoryCorral();
  let loads = 0;
  const get = fake.corral.cached({ key: () => ['last'], ttl: 60, load: () => ++loads });
  let time = performance.now();
  vi.spyOn(performance, 'now').mockImplementation(() => time);
  expect(await get()).toBe(1);
  fake.away();
  expect(await get()).toBe(1);
  time += 4000;
  expect(await get()).toBe(1);
  time += 1500;
  expect(await get()).toBe(2);
  fake.away(false);
  // The breaker skips the server for a second.
  const asked = fake.counts.get('CACHE.FETCH');
  time += 900;
  expect(await get()).toBe(2);
  expect(fake.counts.get('CACHE.FETCH')).toBe(asked);
  time += 200;
  expect(await get()).toBe(1);
  fake.away();
  await expect(fake.corral.cache.getOrLoad('no', () => 1, { ttl: 60, failOpen: false })).rejects.toMatchObject({ code: 'SERVER_UNREACHABLE' });
});

test.each(SERVERS)('a server that hangs or dies does not stop loads, and they are cached again later: %s', async (program) => {
  const server = await start(program);
  const corral = server.corral(fast);
  let loads = 0;
  const get = (key: string): Promise<number> => corral.cache.getOrLoad(key, () => ++loads, { ttl: 60 });
  await eventually(async () => {
    await get('warm');
    return server.client.exists('warm');
  });
  server.process!.kill('SIGSTOP');
  const before = loads;
  expect(await get('hangs')).toBe(before + 1);
  server.process!.kill('SIGCONT');
  await eventually(async () => {
    await get('again');
    return server.client.exists('again');
  });
  await server.kill();
  expect(await get('dead')).toBeGreaterThan(before);
  await server.boot();
  await eventually(async () => {
    await get('back');
    return server.client.exists('back');
  });
  await corral.close();
});

test('a connection that takes longer than a caller waits is made all the same', async () => {
  const server = await start(SERVERS[0]!);
  // Replies begin after a while, as with a slow handshake.
  const open = gate();
  const proxy = createServer((socket) => {
    const upstream = connect(server.port, '127.0.0.1');
    for (const end of [socket, upstream]) end.on('error', () => undefined);
    upstream.on('close', () => socket.destroy());
    socket.on('close', () => upstream.destroy());
    socket.pipe(upstream);
    void open.promise.then(() => upstream.pipe(socket));
  }).listen(0, '127.0.0.1');
  await new Promise((done) => proxy.once('listening', done));
  // The password makes the client exchange something before the connection is ready.
  await server.client.config('SET', 'requirepass', 'secret');
  const url = `redis://:secret@127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  const corral = createCorral({ url, timeout: '60s', redisTimeout: '100ms', log: quiet });
  expect(await corral.cache.getOrLoad('slow', () => 1, { ttl: 60 })).toBe(1);
  open.open();
  await eventually(async () => {
    await corral.cache.getOrLoad('later', () => 1, { ttl: 60 });
    return server.client.exists('later');
  });
  expect((await server.client.info('stats')).match(/total_connections_received:(\d+)/)?.[1]).toBe('2');
  await corral.close();
  proxy.close();
});

test.each(SERVERS)('full memory is an outage for loads, a wrong type is none: %s', async (program) => {
  const server = await start(program, '--maxmemory', '100mb', '--maxmemory-policy', 'noeviction');
  const corral = server.corral();
  await server.client.lpush('list', 'x');
  await expect(corral.cache.getOrLoad('list', () => 1, { ttl: 60 })).rejects.toMatchObject({ code: 'REPLY', reply: 'WRONGTYPE' });
  await server.client.config('SET', 'maxmemory', '1');
  expect(await corral.cache.getOrLoad('full', () => 1, { ttl: 60 })).toBe(1);
  await expect(corral.queue('mail').publish('x', {})).rejects.toMatchObject({ code: 'REPLY', reply: 'OOM' });
  await expect(corral.lock('x', {}, () => 1)).rejects.toMatchObject({ reply: 'OOM' });
  await corral.close();
});

test.each(SERVERS)('a waiting caller goes on when the server dies: %s', async (program) => {
  const server = await start(program);
  const [corral, other] = [server.corral({ timeout: '2s' }), server.corral({ timeout: '2s' })];
  const open = gate<number>();
  const slow = corral.cache.getOrLoad('slow', () => open.promise, { ttl: 60 });
  await eventually(() => server.client.call('CACHE.FETCH', 'slow', 10_000).then((reply) => (reply as string[])[0] === 'WAIT'));
  const waiting = other.cache.getOrLoad('slow', () => 2, { ttl: 60 });
  await eventually(async () => (await server.clients()).some((client) => client['flags']!.includes('b')));
  await server.kill();
  expect(await waiting).toBe(2);
  open.open(1);
  expect(await slow).toBe(1);
  await Promise.all([corral.close(), other.close()]);
});

test.each(SERVERS)('a lost reply of a publish is an unknown outcome, and is repeated only as the same task: %s', async (program) => {
  const server = await start(program);
  const corral = server.corral({ timeout: '1s' });
  const mail = corral.queue('mail');
  await mail.info();
  server.process!.kill('SIGSTOP');
  await expect(mail.publish('x', {})).rejects.toMatchObject({ code: 'PUBLISH_UNKNOWN', sent: true });
  const retried = mail.publish('y', {}, { retry: true });
  await sleep(1200);
  server.process!.kill('SIGCONT');
  const id = await retried;
  await eventually(async () => (await mail.info()).length >= 1);
  const tasks = (await server.client.xrange('mail', '-', '+')).filter(([, fields]) => fields.includes('y'));
  expect(tasks.map(([entry]) => entry)).toEqual([id]);
  await server.kill();
  await eventually(() => mail.info().then(() => false, () => true));
  await expect(mail.publish('z', {})).rejects.toMatchObject({ code: 'SERVER_UNREACHABLE', sent: false });
  await corral.close();
});

test.each(SERVERS)('connections that are killed are made anew, and nothing is lost or runs twice at a time: %s', async (program) => {
  const server = await start(program);
  const corral = server.corral();
  const queue = corral.queue<{ count: { n: number } }>('work');
  const running = new Set<string>();
  const seen = new Map<number, number>();
  let twice = 0;
  queue.handle('count', async ({ n }, task) => {
    if (running.has(task.id)) twice++;
    running.add(task.id);
    await sleep(5);
    running.delete(task.id);
    seen.set(n, (seen.get(n) ?? 0) + 1);
  });
  await queue.publishMany(Array.from({ length: 300 }, (_, n) => ({ task: 'count' as const, payload: { n } })));
  const worker = new Worker(corral, queue, { concurrency: 10 });
  await worker.start();
  for (let kill = 0; kill < 10 && seen.size < 300; kill++) {
    await server.client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    await sleep(40);
  }
  await eventually(async () => seen.size === 300 && (await queue.info()).length === 0);
  expect(twice).toBe(0);
  await worker.stop();
  await corral.close();
});

test.each(SERVERS)('a worker and a lock go on after a restart of the server: %s', async (program) => {
  const server = await start(program);
  const corral = server.corral({ log: quiet });
  const queue = corral.queue<{ count: { n: number } }>('work');
  const seen: number[] = [];
  queue.handle('count', ({ n }) => void seen.push(n));
  const worker = new Worker(corral, queue);
  await worker.start();
  await queue.publish('count', { n: 1 });
  await eventually(() => seen.length === 1);
  const held = gate();
  const holder = corral.lock('x', { ttl: '60s' }, () => held.promise).catch((error: unknown) => error);
  await eventually(() => server.client.exists('lock:{x}'));
  const waiting = corral.lock('x', { wait: '60s' }, () => 'mine');
  await eventually(async () => (await server.clients()).filter((client) => client['flags']!.includes('b')).length === 2);
  await server.kill();
  await server.boot();
  expect(await waiting).toBe('mine');
  held.open();
  await holder;
  await eventually(() => queue.publish('count', { n: 2 }, { retry: true }).catch(() => ''));
  await eventually(() => seen.includes(2));
  await worker.stop();
  await corral.close();
});

test('a worker stops although the server hangs', async () => {
  const server = await start(SERVERS[0]!);
  const corral = server.corral({ timeout: '60s' });
  const queue = corral.queue('work');
  queue.cron('never', '0 0 1 1 *', () => undefined);
  const worker = new Worker(corral, queue, { shutdownTimeout: 0 });
  await worker.start();
  await eventually(async () => (await server.clients()).some((client) => client['flags']!.includes('b')));
  server.process!.kill('SIGSTOP');
  // Far less than the time-out of a command.
  const stopped = worker.stop().then(() => true);
  expect(await Promise.race([stopped, sleep(40_000).then(() => false)])).toBe(true);
  server.process!.kill('SIGCONT');
  await corral.close();
});
