// Without a server, and schedules.

import { expect, test } from 'vitest';
import { createCorral, Later, Worker } from '../src/index.js';
import { memoryCorral } from '../src/testing.js';
import { eventually, quiet } from './server.js';

test('run runs what is due and what that publishes, and the clock stands still until it is moved', async () => {
  const fake = memoryCorral();
  const mail = fake.corral.queue<{ first: { n: number }; second: { n: number } }>('mail');
  const seen: number[] = [];
  mail.handle('first', async ({ n }) => void (await mail.publish('second', { n: n + 1 })));
  mail.handle('second', ({ n }, task) => {
    if (task.attempt === 1 && n === 2) throw new Error('once');
    seen.push(n);
  });
  const id = await mail.publish('first', { n: 1 });
  await mail.publish('second', { n: 9 }, { delay: '5m' });
  expect(fake.tasks('mail').map((task) => task['task'])).toEqual(['first', 'second']);
  const ran = await fake.run();
  expect(ran).toMatchObject([{ task: 'first', id, attempt: 1, outcome: 'ACK' }, { task: 'second', outcome: 'FAIL', error: { message: 'once' } }]);
  expect(seen).toEqual([]);
  await fake.advance('5m');
  expect((await fake.run()).map((one) => one.outcome).sort()).toEqual(['ACK', 'ACK']);
  expect(seen.sort()).toEqual([2, 9]);
  expect(fake.now.getTime()).toBe(1_800_000_300_000);
});

test('a schedule runs once, a late run once, and a missed run is skipped if that is the rule', async () => {
  const fake = memoryCorral();
  const queue = fake.corral.queue('nightly');
  const runs: [string, string][] = [];
  queue.cron('report', '0 2 * * *', { tz: 'Europe/Berlin' }, (task) => void runs.push(['report', task.scheduled!.toISOString()]));
  queue.cron('tidy', '0 2 * * *', { misfire: 'skip' }, (task) => void runs.push(['tidy', task.scheduled!.toISOString()]));
  await fake.run();
  expect(runs).toEqual([]);
  await fake.advance('2d');
  await fake.run();
  // The clock began at 2027-01-15T08:00:00Z.
  expect(runs).toEqual([['report', '2027-01-16T01:00:00.000Z']]);
  await fake.advance((Date.parse('2027-01-18T02:00:30Z') - fake.now.getTime()) / 1000);
  await fake.run();
  expect(runs.slice(1)).toEqual([['report', '2027-01-18T01:00:00.000Z'], ['tidy', '2027-01-18T02:00:00.000Z']]);
});

test('a schedule that has changed or gone is not run', async () => {
  const fake = memoryCorral();
  const before = fake.corral.queue('nightly');
  let runs = 0;
  before.cron('report', '0 2 * * *', () => void runs++);
  await fake.run();
  before.definitions.clear();
  before.cron('report', '0 3 * * *', () => void runs++);
  await fake.advance((Date.parse('2027-01-16T02:30:00Z') - fake.now.getTime()) / 1000);
  expect(await fake.run()).toEqual([]);
  before.definitions.clear();
  await fake.advance('1h');
  expect(await fake.run()).toEqual([]);
  expect([runs, fake.tasks('nightly'), fake.deadLetters('nightly')]).toEqual([0, [], []]);
});

test('a worker runs a schedule, and many workers add a run once', async () => {
  const fake = memoryCorral();
  const queue = fake.corral.queue('nightly');
  let runs = 0;
  queue.cron('report', '* * * * *', () => void runs++);
  const workers = [1, 2, 3].map(() => new Worker(fake.corral, queue));
  await Promise.all(workers.map((worker) => worker.start()));
  await eventually(() => fake.tasks('nightly').length === 1);
  await fake.advance('1m');
  await eventually(() => runs === 1);
  await Promise.all(workers.map((worker) => worker.stop()));
  expect(runs).toBe(1);
});

test('runs of a schedule do not overlap', async () => {
  const fake = memoryCorral();
  const queue = fake.corral.queue('nightly');
  let running = 0;
  queue.cron('slow', '* * * * *', (task) => {
    running++;
    return new Promise<void>((resolve) => task.signal.addEventListener('abort', () => resolve()));
  });
  for (const at of [1_800_000_000, 1_799_999_940]) {
    await fake.corral.call('TASK.PUBLISH', 'nightly', '{}', 'FIELDS', 2, 'task', 'slow', 'cron', at);
  }
  const worker = new Worker(fake.corral, queue, { shutdownTimeout: 0 });
  await worker.start();
  await eventually(() => worker.health().acked === 1);
  expect([running, worker.health().started, worker.health().running]).toEqual([1, 1, 1]);
  await worker.stop();
});

test('a Corral of the application gets its server back, and an outage is simulated', async () => {
  const corral = createCorral({ url: 'redis://127.0.0.1:1', log: quiet });
  const user = corral.cached({ key: (id: number) => ['user', id], ttl: 60, load: (id) => id });
  const fake = memoryCorral(corral);
  expect([await user(1), fake.counts.get('CACHE.SET')]).toEqual([1, 1]);
  fake.away();
  expect(await user(2)).toBe(2);
  await expect(corral.queue('mail').publish('x', {})).rejects.toMatchObject({ code: 'SERVER_UNREACHABLE', sent: false });
  await expect(user.invalidate(1)).rejects.toMatchObject({ code: 'SERVER_UNREACHABLE' });
  fake.away(false);
  expect(await corral.queue('mail').publish('x', {})).toMatch(/^\d+-\d+$/);
  fake.restore();
  await expect(corral.queue('mail').info()).rejects.toMatchObject({ code: 'SERVER_UNREACHABLE' });
  expect(new Later('5m').delayMs).toBe(300_000);
});
