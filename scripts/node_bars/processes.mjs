// Measures what the package for Node promises of several processes, on a server of its own. Takes about half a minute.
//
// Usage: scripts/node.sh bars     exits with 1 if a bar is missed
// A backlog of 50 tasks for 4 workers with 50 places each; then 1,000 cached calls per second in 4 processes, while the
// server dies.

import { fork } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { bar, packaged, withServer } from './common.mjs';

const { createCorral, Worker } = packaged;
const PROCESSES = 4;
const LOAD_MS = 20;
// Long enough that the last values are too old in the end.
const OUTAGE_MS = 16_000;

const roles = {
  /** Works until the queue is empty. Returns the number of its tasks. */
  async worker(corral) {
    const queue = corral.queue('work');
    let count = 0;
    queue.handle('slow', async () => {
      count++;
      await sleep(300);
    });
    const worker = new Worker(corral, queue, { concurrency: 50 });
    await worker.start();
    await message('end');
    await worker.stop();
    return { count };
  },

  /** 250 calls per second. */
  async caller(corral) {
    const began = performance.now();
    const times = [];
    let [running, most, rejected] = [0, 0, 0];
    const load = async () => {
      running++;
      // Before the server dies, the keys are loaded at the same time. Half a second later, all of that has ended.
      if (performance.now() - began > OUTAGE_MS / 2 + 500) most = Math.max(most, running);
      await sleep(LOAD_MS);
      running--;
      return 1;
    };
    const call = async (number) => {
      const asked = performance.now();
      try {
        await corral.cache.getOrLoad(`key:${number % 200}`, load, { ttl: 1 });
      } catch (error) {
        if (error.code !== 'LOAD_REJECTED') throw error;
        rejected++;
      }
      times.push(performance.now() - asked - LOAD_MS);
    };
    const calls = [];
    while (performance.now() - began < OUTAGE_MS) {
      const due = Math.floor((performance.now() - began) / 4);
      while (calls.length < due) calls.push(call(calls.length));
      await sleep(4);
    }
    await Promise.all(calls);
    return { most, times, rejected };
  },
};

const message = (word) => new Promise((done) => process.on('message', (said) => said === word && done()));

async function child(role, url) {
  const log = { warn: () => undefined, error: () => undefined };
  const corral = createCorral({ url, log });
  await corral.cache.get('warm').catch(() => undefined);
  const result = await roles[role](corral);
  await corral.close();
  process.send(result, () => process.exit(0));
}

// The parent.

const start = (role, url) => Array.from({ length: PROCESSES }, () => fork(fileURLToPath(import.meta.url), [role, url]));
const results = (children) => Promise.all(children.map((one) => new Promise((done, failed) => {
  one.on('message', done);
  one.on('exit', (code) => code !== 0 && failed(new Error(`a process exited with ${code}`)));
})));

async function until(condition) {
  const end = performance.now() + 60_000;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error('timed out');
    await sleep(20);
  }
}

async function backlog(url, client) {
  const children = start('worker', url);
  const found = results(children);
  await until(async () => /blocked_clients:4\r/.test(await client.info('clients')));
  const corral = createCorral({ url });
  const queue = corral.queue('work');
  await queue.publishMany(Array.from({ length: 50 }, () => ({ task: 'slow', payload: {} })));
  await until(async () => (await queue.info()).length === 0);
  children.forEach((one) => one.send('end'));
  const counts = (await found).map(({ count }) => count).sort((one, other) => one - other);
  await corral.close();
  console.log(`  tasks of each worker: ${counts.join(', ')}`);
  bar('most of one worker beside a fair part', Math.max(...counts) / (50 / PROCESSES), 2);
}

async function outage(url, _, server) {
  const children = start('caller', url);
  const found = results(children);
  await sleep(OUTAGE_MS / 2);
  server.kill('SIGKILL');
  const all = await found;
  const times = all.flatMap((one) => one.times).sort((one, other) => one - other);
  console.log(`  ${times.length} calls in ${PROCESSES} processes, ${all.reduce((sum, one) => sum + one.rejected, 0)} rejected`);
  bar('loads at a time in a process', Math.max(...all.map((one) => one.most)), 4);
  bar('p99 beyond the load in ms', times[Math.floor(times.length * 0.99)], 300);
}

if (process.send !== undefined) await child(...process.argv.slice(2));
else {
  console.log('A backlog of 50 for 4 workers with 50 places each');
  await withServer(backlog);
  console.log('The server dies under 1,000 calls per second');
  await withServer(outage);
}
