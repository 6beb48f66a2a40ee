// Measures what the package for Node promises, on a server of its own, beside BullMQ and bee-queue. Takes some minutes.
//
// Usage: scripts/node.sh bars [TASKS]     exits with 1 if a bar is missed
// Tasks with a small JSON payload and handlers that do nothing, all defaults, renewal of leases on. The time of the server
// is its CPU time from the first task to the last, from /proc; where there is none, that of all commands.

import { existsSync, readFileSync } from 'node:fs';
import { beeQueue, bullmq, corral } from '../peers/queues.mjs';
import { bar, packaged, require, withServer } from './common.mjs';

const bull = require('bullmq');
const Bee = require('bee-queue');

const COUNT = Number(process.argv[2] ?? 5000);
const payload = { to: 'ann@example.org', subject: 'Welcome', n: 7 };
let [url, client, server] = [];

/** Microseconds of CPU time that the server has used. */
async function serverMicros() {
  if (existsSync(`/proc/${server.pid}/schedstat`)) {
    const [nanos] = readFileSync(`/proc/${server.pid}/schedstat`, 'utf8').split(' ');
    return Number(nanos) / 1000;
  }
  if (existsSync(`/proc/${server.pid}/stat`)) {
    const fields = readFileSync(`/proc/${server.pid}/stat`, 'utf8').split(') ')[1].split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10_000;
  }
  const stats = await client.info('commandstats');
  return [...stats.matchAll(/usec=(\d+)/g)].reduce((sum, [, micros]) => sum + Number(micros), 0);
}

const systems = {
  corral: () => corral(packaged, 'work', port()),
  bullmq: () => bullmq(bull, 'work', port()),
  'bee-queue': () => beeQueue(Bee, 'work', port()),
};
const port = () => Number(new URL(url).port);

/** The time of the server for each task, and tasks per second. */
async function load(name, concurrency) {
  await client.flushall();
  const system = systems[name]();
  await system.fill(Array.from({ length: COUNT }, () => payload));
  let done = 0;
  let finish;
  const finished = new Promise((resolve) => (finish = resolve));
  const [began, before] = [performance.now(), await serverMicros()];
  const stop = await system.run(concurrency, async () => {
    if (++done === COUNT) finish();
  });
  await finished;
  const rate = COUNT / ((performance.now() - began) / 1000);
  // What is left to acknowledge belongs to the tasks.
  await stop();
  const micros = ((await serverMicros()) - before) / COUNT;
  await system.close();
  return { micros, rate };
}

/** The time of the server for one request and its reply. */
async function roundTrip() {
  const before = await serverMicros();
  for (let n = 0; n < COUNT; n++) await client.ping();
  return ((await serverMicros()) - before) / COUNT;
}

/** Milliseconds from the publish to the handler, when there is little to do. */
async function delays(name) {
  await client.flushall();
  const system = systems[name]();
  const found = [];
  const stop = await system.run(10, async ({ at }) => void found.push(performance.now() - at));
  const count = 300;
  for (let n = 0; n < count; n++) {
    await system.add({ ...payload, at: performance.now() });
    await new Promise((done) => setTimeout(done, 5));
  }
  while (found.length < count) await new Promise((done) => setTimeout(done, 5));
  await stop();
  await system.close();
  found.sort((one, other) => one - other);
  return { p50: found[Math.floor(count / 2)], p99: found[Math.floor(count * 0.99)] };
}

await withServer(async (...started) => {
  [url, client, server] = started;
  console.log(`${COUNT} tasks that do nothing`);
  console.log(`  a PING: ${(await roundTrip()).toFixed(1)} us of the server`);
  // With few places, a request brings 1 or 2 tasks, because what is fetched starts at once. Then a round trip, XREADGROUP,
  // XACK and XDEL take most of the time, with any client.
  for (const [concurrency, most] of [[1, 0.65], [10, 0.6], [50, 0.25]]) {
    const found = {};
    for (const name of Object.keys(systems)) {
      // The better of two runs: other programs disturb one.
      const runs = [await load(name, concurrency), await load(name, concurrency)];
      found[name] = runs.reduce((best, one) => (one.micros < best.micros ? one : best));
      const { micros, rate } = found[name];
      console.log(`  ${String(concurrency).padStart(2)} at a time  ${name.padEnd(10)} ${micros.toFixed(1).padStart(6)} us of the server per task, ${rate.toFixed(0).padStart(6)} tasks/s`);
    }
    bar(`the server's time beside BullMQ, ${concurrency} at a time`, found.corral.micros / found.bullmq.micros, most);
  }
  for (const name of Object.keys(systems)) {
    const { p50, p99 } = await delays(name);
    console.log(`  delay  ${name.padEnd(10)} p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms`);
  }
});
