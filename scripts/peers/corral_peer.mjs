// Tasks with Corral.
import { randomUUID } from 'node:crypto';
import { Redis } from 'ioredis';
import { main, perform, port, queue, second, store, tied, timeout } from './tasks.mjs';

async function publish(bodies) {
  if (timeout) await store.call('TASK.POLICY', queue, 'LEASE', timeout);
  for (let start = 0; start < bodies.length; start += 1000) {
    const some = bodies.slice(start, start + 1000);
    await Promise.all(some.map((body) => store.call('TASK.PUBLISH', queue, body)));
  }
}

async function publishDelayed(tasks) {
  for (const [body, due] of tasks) await store.call('TASK.PUBLISH', queue, body, 'AT', due);
}

async function worker() {
  const server = new Redis(port);
  const me = randomUUID();
  for (;;) {
    const args = ['workers', me, queue, 'COUNT', 1, 'BLOCK', 10_000, 'META'];
    if (tied) args.push('TIED');
    if (second) args.push('THEN', 1, second);
    for (const [id, fields, , , from] of await server.call('TASK.CONSUME', ...args)) {
      await perform(fields[1]);
      await server.call('TASK.ACK', from ?? queue, 'workers', id);
    }
  }
}

const work = (count) => Promise.all(Array.from({ length: count }, worker));

await main({ publish, publishDelayed, work });
