// The programs of examples/node with the built package, started as their first lines say.

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { createCorral } from '../src/index.js';
import { eventually, freePort, quiet, Server, SERVERS } from './server.js';

const run = promisify(execFile);
const packages = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const source = join(packages, '..', 'examples', 'node');
const PYTHON = process.env['CORRAL_PACKAGE_PYTHON'] ?? '';
// scripts/node.sh has installed the package there.
const consumer = process.env['CORRAL_CONSUMER'] ?? '';
const built = join(consumer, 'examples');

let server: Server;
let directory: string;
const running: ChildProcess[] = [];

beforeAll(async () => {
  server = await Server.start(SERVERS[0]!);
  rmSync(built, { recursive: true, force: true });
  cpSync(source, built, { recursive: true });
  await run(process.execPath, [createRequire(import.meta.url).resolve('typescript/bin/tsc'), '-p', built]).catch((error: unknown) => {
    throw new Error((error as { stdout: string }).stdout);
  });
});
beforeEach(async () => {
  await server.empty();
  directory = mkdtempSync(join(tmpdir(), 'corral-'));
});
afterEach(async () => {
  for (const child of running.splice(0)) {
    child.kill('SIGKILL');
    await eventually(() => child.exitCode !== null || child.signalCode !== null);
  }
  rmSync(directory, { recursive: true, force: true });
});
afterAll(() => server.remove());

const environment = (port = 0): NodeJS.ProcessEnv =>
  ({ ...process.env, CORRAL_URL: server.url, SHOP_DATABASE: join(directory, 'shop.db'), PORT: String(port) });

const start = (program: string, port?: number, env = environment(port)): ChildProcess =>
  startAs(process.execPath, [join(built, program)], { env, cwd: directory });

function startAs(program: string, words: readonly string[], options: { env: NodeJS.ProcessEnv; cwd: string }): ChildProcess {
  const child = spawn(program, words, { ...options, stdio: 'inherit' });
  running.push(child);
  return child;
}

async function ended(child: ChildProcess, how: [number | null, NodeJS.Signals | null] = [0, null]): Promise<void> {
  child.kill('SIGTERM');
  await eventually(() => child.exitCode !== null || child.signalCode !== null, 'the end of the program');
  expect([child.exitCode, child.signalCode]).toEqual(how);
}

async function ask(port: number, path: string, method = 'GET', body?: unknown): Promise<unknown> {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    method, headers: { 'content-type': 'application/json' }, ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return response.ok ? response.json() : response.status;
}

test('the tests of the shop pass without a server', async () => {
  const done = await run(process.execPath, ['--test', join(built, 'shop.test.js')], { env: { ...environment(), CORRAL_URL: 'redis://127.0.0.1:1' }, cwd: directory });
  expect(done.stdout).toContain('pass 5');
});

test('the shop: a page with a cached query, and a worker that sends mails, at night a report', async () => {
  const port = await freePort();
  const worker = start('shop.js');
  const web = start('web.js', port);
  await eventually(() => ask(port, '/products/7').catch(() => undefined), 'the page');
  expect(await ask(port, '/products/7')).toBe(404);
  await ask(port, '/products/7', 'PUT', { name: 'Tea', price: 3 });
  await eventually(async () => {
    expect(await ask(port, '/products/7')).toEqual({ name: 'Tea', price: 3 });
    return (await server.client.get('product:7')) === '{"name":"Tea","price":3}';
  });
  const { task } = (await ask(port, '/customers', 'POST', { email: 'ann@example.org' })) as { task: string };
  const mail = createCorral({ url: server.url, timeout: '60s', log: quiet }).queue('{shop}:mail');
  await eventually(async () => (await mail.state(task)) === undefined, 'the mail is sent');
  await ask(port, '/carts', 'POST', { email: 'ann@example.org', item: 'tea' });
  // The reminder, and the report of the coming night.
  await eventually(async () => (await mail.info()).delayed === 2);
  await ended(worker);
  await ended(web);
});

// Without the package for Python there is nothing to test; with CI=true it is there.
test.runIf(PYTHON !== '' || process.env['CI'] === 'true')('the shops in Node and Python share their queues', async () => {
  const env = (name: string): NodeJS.ProcessEnv => ({
    ...environment(), SHOP_DATABASE: join(directory, `${name}.db`), SHOP_DELAY: '1s',
    PYTHONPATH: join(packages, 'python'), PYTHONDONTWRITEBYTECODE: '1',
  });
  const node = { env: env('node'), cwd: built };
  const python = { env: env('python'), cwd: join(source, '..', 'python') };
  const inNode = (code: string): Promise<{ stdout: string }> => run(process.execPath, ['--input-type=module', '-e', code], node);
  const inPython = (code: string): Promise<{ stdout: string }> => run(PYTHON, ['-c', code], python);
  for (const queue of ['{shop}:urgent', '{shop}:mail']) await server.client.call('TASK.POLICY', queue, 'PAUSED', '1');

  // Everyone visits both shops, first the one in Python: it welcomes each customer once, and the last item counts.
  const customers = Array.from({ length: 50 }, (_, n) => `${n}@example.org`);
  await inPython(`import shop
for address in ${JSON.stringify(customers)}:
    shop.sign_up(address), shop.forgotten(address), shop.add_to_cart(address, "tea")`);
  await inNode(`import { addToCart, corral, forgotten, signUp } from './shop.js';
for (const email of ${JSON.stringify(customers)})
  await Promise.all([signUp(email), forgotten(email), addToCart(email, 'milk')]);
await corral.close();`);

  const workers = [
    start('shop.js', 0, node.env), startAs(PYTHON, ['-m', 'corral_client.cli', 'worker', 'shop:worker'], python),
  ];
  const waiting = async (): Promise<boolean> => Number(/corral_task_waiters:(\d+)/.exec(await server.client.info('corral'))?.[1]) === workers.length;
  await eventually(waiting, 'both workers wait');
  for (const queue of ['{shop}:urgent', '{shop}:mail']) await server.client.call('TASK.POLICY', queue, 'PAUSED', '0');
  const corral = createCorral({ url: server.url, timeout: '60s', log: quiet });
  const [urgent, mail] = [corral.queue('{shop}:urgent'), corral.queue('{shop}:mail')];
  // The report of the coming night is the same for both.
  await eventually(async () => {
    const states = [await urgent.info(), await mail.info()];
    return states.every(({ length }) => length === 0) && states[0]!.delayed + states[1]!.delayed === 1;
  }, 'all mails are sent');
  expect([(await urgent.info()).dead, (await mail.info()).dead]).toEqual([0, 0]);
  await corral.close();
  for (const worker of workers) await ended(worker);

  const query = 'SELECT address, text FROM outbox';
  const parse = ({ stdout }: { stdout: string }): string[] => (JSON.parse(stdout) as string[][]).map((row) => row.join(' '));
  const byNode = parse(await inNode(`import { corral, db } from './shop.js';
console.log(JSON.stringify(db.all('${query}').map((row) => Object.values(row))));
await corral.close();`));
  const byPython = parse(await inPython(`import json, shop; print(json.dumps(shop.execute("${query}")))`));
  expect(byNode.length).toBeGreaterThan(0);
  expect(byPython.length).toBeGreaterThan(0);
  const texts = ['Welcome', 'Your cart is waiting, with milk', 'Your new password', 'Your new password'];
  expect([...byNode, ...byPython].sort()).toEqual(customers.flatMap((address) => texts.map((text) => `${address} ${text}`)).sort());
});

test('NestJS', async () => {
  const port = await freePort();
  const app = start('nest.js', port);
  await eventually(() => ask(port, '/articles/7').catch(() => undefined), 'the page');
  expect(await ask(port, '/articles/7')).toEqual({ id: 7, title: 'Article 7' });
  await ask(port, '/articles', 'POST', { id: 7 });
  await eventually(async () => JSON.stringify(await ask(port, '/articles/thumbnails')) === '["7.png"]');
  await eventually(() => server.client.exists('article:7').then((found) => found === 0));
  // When everything is closed, Nest sends itself the signal again.
  await ended(app, [null, 'SIGTERM']);
});

test('the code of the README runs', async () => {
  const place = join(consumer, 'readme');
  rmSync(place, { recursive: true, force: true });
  mkdirSync(place);
  const page = readFileSync(join(source, '..', '..', 'clients', 'node', 'README.md'), 'utf8');
  const blocks = [...page.matchAll(/^```js (\S+)\n([\s\S]*?)^```$/gm)];
  expect(blocks).toHaveLength(2);
  for (const [, name, code] of blocks) writeFileSync(join(place, name!), code!);
  const env = { ...process.env, REDIS_URL: server.url };
  const done = await run(process.execPath, ['--test', join(place, 'shop.test.mjs')], { env });
  expect(done.stdout).toContain('pass 3');
  const worker = spawn(process.execPath, [join(place, 'shop.mjs')], { env, stdio: 'inherit' });
  running.push(worker);
  const corral = createCorral({ url: server.url, timeout: '60s', log: quiet });
  const queue = corral.queue('{shop}:mail');
  const id = await queue.publish('welcome', { to: 'ann' });
  await eventually(async () => (await queue.state(id)) === undefined);
  await corral.close();
  await ended(worker);
});

test('the examples are short and without plumbing', () => {
  expect(readFileSync(join(source, 'shop.ts'), 'utf8').split('\n').filter((line) => line.trim() !== '').length).toBeLessThan(80);
  for (const name of ['shop.ts', 'web.ts', 'nest.ts']) {
    expect(readFileSync(join(source, name), 'utf8')).not.toMatch(/setInterval|TASK\.|CACHE\.|LOCK\.|process\.exit|sendCommand/);
  }
});
