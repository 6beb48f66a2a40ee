// Workers in processes of their own, with the built package: signals, kills, and ends without help.

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import { Worker } from '../src/index.js';
import { eventually, Server, SERVERS } from './server.js';

const here = dirname(fileURLToPath(import.meta.url));
const run = promisify(execFile);
const ends: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function start(program: string, withModule = true): Promise<Server> {
  const server = await Server.start(program, [], withModule);
  ends.push(() => server.remove());
  return server;
}

class App {
  output = '';
  readonly child: ChildProcess;

  constructor(...words: string[]) {
    this.child = spawn(process.execPath, [`${here}/app.mjs`, ...words], { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout!, this.child.stderr!]) stream.on('data', (data) => (this.output += String(data)));
    ends.push(() => void this.child.kill('SIGKILL'));
  }

  lines(word: string): string[] {
    return this.output.split('\n').filter((line) => line.startsWith(word));
  }

  async says(text: string, times = 1): Promise<void> {
    await eventually(() => this.output.split(text).length > times || this.child.exitCode !== null, text);
    expect(this.output).toContain(text);
  }

  /** It ends by itself. */
  async ended(): Promise<void> {
    await eventually(() => this.child.exitCode !== null || this.child.signalCode !== null, 'the end of the process');
    expect([this.child.exitCode, this.child.signalCode, this.output]).toEqual([0, null, this.output]);
    expect(this.output).toContain('closed 0');
  }
}

test.each(SERVERS)('a worker ends by itself after a signal, finishes its tasks and takes no more: %s', async (program) => {
  const server = await start(program);
  const corral = server.corral();
  ends.push(() => corral.close());
  const idle = new App(server.url);
  await idle.says('ready');
  idle.child.kill('SIGINT');
  await idle.ended();
  const busy = new App(server.url, '1');
  await busy.says('ready');
  const queue = corral.queue('work');
  await queue.publishMany([1, 2].map(() => ({ task: 'sleep', payload: { ms: 500 } })));
  await busy.says('ran ');
  busy.child.kill('SIGTERM');
  await busy.ended();
  expect(busy.lines('did')).toHaveLength(1);
  expect(busy.lines('did')[0]).toContain('true');
  expect(await queue.info()).toMatchObject({ length: 1 });
});

test.each(SERVERS)('a worker waits for a server that is not there yet, until a signal or a stop: %s', async (program) => {
  const server = await start(program);
  await server.kill();
  const [givenUp, patient] = [new App(server.url), new App(server.url)];
  for (const app of [givenUp, patient]) await app.says('tries again', 2);
  givenUp.child.kill('SIGTERM');
  await givenUp.ended();
  const corral = server.corral();
  ends.push(() => corral.close());
  const worker = new Worker(corral, corral.queue('work'));
  const run = worker.run();
  await worker.stop();
  await run;
  await server.boot();
  await patient.says('ready');
  patient.child.kill('SIGTERM');
  await patient.ended();
});

test.each(SERVERS)('a second signal does not wait, and what is given back does not count: %s', async (program) => {
  const server = await start(program);
  const corral = server.corral();
  ends.push(() => corral.close());
  const first = new App(server.url);
  await first.says('ready');
  const queue = corral.queue('work');
  const id = await queue.publish('sleep', { ms: 1_000_000 });
  await first.says('ran ');
  first.child.kill('SIGTERM');
  await first.says('stopping');
  first.child.kill('SIGTERM');
  await first.says('closed');
  // The handler still has a timer.
  first.child.kill('SIGKILL');
  const second = new App(server.url);
  await second.says('ran ');
  expect(second.lines('ran')).toEqual([`ran ${id} 1`]);
});

test.each(SERVERS)('the tasks of a killed worker are free at once: %s', async (program) => {
  const server = await start(program);
  const corral = server.corral();
  ends.push(() => corral.close());
  const first = new App(server.url);
  await first.says('ready');
  const id = await corral.queue('work').publish('sleep', { ms: 1_000_000 });
  await first.says('ran ');
  const second = new App(server.url);
  await second.says('ready');
  first.child.kill('SIGKILL');
  await second.says('ran ');
  expect(second.lines('ran')).toEqual([`ran ${id} 2`]);
});

test.each(SERVERS)('a kill at full load repeats few tasks and loses none: %s', async (program) => {
  const server = await start(program);
  const corral = server.corral();
  ends.push(() => corral.close());
  const queue = corral.queue('work');
  const total = 1500;
  const ids = await queue.publishMany(Array.from({ length: total }, () => ({ task: 'sleep', payload: { ms: 1 } })));
  const first = new App(server.url, '50');
  await first.says('did ', 200);
  first.child.kill('SIGKILL');
  const second = new App(server.url, '50');
  await eventually(async () => (await queue.info()).length === 0);
  second.child.kill('SIGTERM');
  await second.ended();
  const did = [...first.lines('did'), ...second.lines('did')].map((line) => line.split(' ')[1]);
  expect(new Set(did)).toEqual(new Set(ids));
  expect(did.length - total).toBeLessThanOrEqual(64 + 50);
});

test('a process that only publishes ends by itself, also from CommonJS, and a server without the module is named', async () => {
  const server = await start(SERVERS[0]!);
  const code = (load: string): string => `${load}
    const main = async () => {
      const corral = createCorral({ url: ${JSON.stringify(server.url)}, timeout: '30s' });
      console.log(await corral.queue('mail').publish('welcome', { to: 'ann' }), await corral.cache.getOrLoad('k', () => 7, { ttl: 60 }));
    };
    main();`;
  const esm = await run(process.execPath, ['--input-type=module', '-e', code("import { createCorral } from 'corral-client';")], { cwd: here });
  expect(esm.stdout).toMatch(/^\d+-\d+ 7\n$/);
  const cjs = await run(process.execPath, ['--input-type=commonjs', '-e', code("const { createCorral } = require('corral-client');")], { cwd: here });
  expect(cjs.stdout).toMatch(/^\d+-\d+ 7\n$/);
  const bare = await start(SERVERS[0]!, false);
  const corral = bare.corral();
  await expect(corral.cache.getOrLoad('x', () => 1, { ttl: 60 })).rejects.toMatchObject({ code: 'MODULE_MISSING', message: expect.stringContaining('has no Corral') });
  await expect(corral.queue('x').info()).rejects.toMatchObject({ code: 'MODULE_MISSING' });
  await corral.close();
});
