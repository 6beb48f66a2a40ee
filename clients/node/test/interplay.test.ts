// With the package for Python: what one writes, the other reads. Both in processes of their own.

import { spawn, type ChildProcess } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Worker, type Corral } from '../src/index.js';
import { eventually, Server, SERVERS } from './server.js';

const here = dirname(fileURLToPath(import.meta.url));
const PYTHON = process.env['CORRAL_PACKAGE_PYTHON'] ?? '';

class Peer {
  output = '';
  readonly child: ChildProcess;

  constructor(server: Server, part: string) {
    const path = join(here, '..', '..', 'python');
    this.child = spawn(PYTHON, [join(here, 'peer.py'), server.url, part], {
      stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, PYTHONPATH: path, PYTHONDONTWRITEBYTECODE: '1' },
    });
    for (const stream of [this.child.stdout!, this.child.stderr!]) stream.on('data', (data) => (this.output += String(data)));
  }

  get lines(): unknown[][] {
    return this.output.split('\n').filter((line) => line.startsWith('[')).map((line) => JSON.parse(line) as unknown[]);
  }

  /** The lines, when there are so many. */
  async said(count: number): Promise<unknown[][]> {
    await eventually(() => this.lines.length >= count || this.child.exitCode !== null, `what Python says: ${this.output}`);
    expect(this.lines.length, this.output).toBeGreaterThanOrEqual(count);
    return this.lines;
  }

  async end(): Promise<void> {
    this.child.stdin!.end();
    await eventually(() => this.child.exitCode !== null || this.child.signalCode !== null);
    expect(this.child.exitCode, this.output).toBe(0);
  }
}

// Without the package for Python there is nothing to test; with CI=true it is there.
describe.runIf(PYTHON !== '' || process.env['CI'] === 'true').each(SERVERS)('with Python on %s', (program) => {
  let server: Server;
  let corral: Corral;
  beforeAll(async () => {
    server = await Server.start(program);
    corral = server.corral();
  });
  afterEach(() => server.empty());
  afterAll(async () => {
    await corral.close();
    await server.remove();
  });

  test('Python runs what Node and redis-cli publish, and both share a queue', async () => {
    const peer = new Peer(server, 'worker');
    await peer.said(1);
    const queue = corral.queue<{ welcome: { to: string; n?: number }; only: { n: number } }>('both');
    const id = await queue.publish('welcome', { to: 'größe', n: 7 }, { headers: { tenant: 'blue' } });
    const raw = String(await server.client.call('TASK.PUBLISH', 'both', '{"to": "ann"}', 'FIELDS', '1', 'task', 'welcome'));
    expect((await peer.said(3)).slice(1)).toEqual([['ran', id, 1, 'größe', 7, { tenant: 'blue' }], ['ran', raw, 1, 'ann', 0, {}]]);
    let here = 0;
    queue.handle('welcome', () => void here++);
    const worker = new Worker(corral, queue, { concurrency: 4 });
    await worker.start();
    await queue.publishMany(Array.from({ length: 200 }, (_, n) => ({ task: 'welcome' as const, payload: { to: 'x', n } })));
    await eventually(async () => (await queue.info()).length === 0);
    await eventually(() => peer.lines.length - 3 + here >= 200);
    await worker.stop();
    const there = peer.lines.length - 3;
    expect(there + here).toBe(200);
    expect(Math.min(there, here)).toBeGreaterThan(0);
    await peer.end();
  });

  test('Node runs what Python publishes', async () => {
    const peer = new Peer(server, 'publish');
    const [[first, second] = []] = await peer.said(1);
    await peer.end();
    const seen: unknown[] = [];
    const other = corral.queue<{ welcome: object; later: object }>('both');
    other.definitions.clear();
    other.handle('welcome', (payload, { id, attempt, headers }) => void seen.push([id, attempt, payload, headers]));
    other.handle('later', (payload, { id }) => void seen.push([id, payload]));
    const worker = new Worker(corral, other, { concurrency: 1 });
    await worker.start();
    await eventually(() => worker.health().acked === 2);
    await worker.stop();
    expect(seen).toEqual([[first, 1, { to: 'größe', n: 1 }, { tenant: 'blue' }], [second, { to: 'ann' }]]);
  });

  test('cached values and locks are the same', async () => {
    const user = corral.cached({ key: (id: number) => ['user', id], ttl: 60, load: (id) => ({ from: 'node', id }) });
    expect(await user(1)).toEqual({ from: 'node', id: 1 });
    const peer = new Peer(server, 'cache');
    const [values] = await peer.said(2);
    expect(values).toEqual([{ from: 'node', id: 1 }, { from: 'python', name: 'größe' }]);
    expect(await user(2)).toEqual({ from: 'python', name: 'größe' });
    await expect(corral.lock('shared', {}, () => 1)).rejects.toMatchObject({ code: 'LOCK_NOT_ACQUIRED' });
    await peer.end();
    expect(await corral.lock('shared', { wait: '60s' }, () => 1)).toBe(1);
  });
});
