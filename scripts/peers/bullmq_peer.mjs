// Tasks with BullMQ, with its default settings except for the timeout, if one is set.
import { Queue, Worker } from 'bullmq';
import { main, perform, port, queue as name, second, timeout } from './tasks.mjs';

const connection = { port };

async function publish(bodies) {
  const queue = new Queue(name, { connection });
  for (let start = 0; start < bodies.length; start += 1000) {
    const some = bodies.slice(start, start + 1000);
    await queue.addBulk(some.map((body) => ({ name: 'do', data: body })));
  }
}

async function publishDelayed(tasks) {
  const queue = new Queue(name, { connection });
  for (const [body, due] of tasks) await queue.add('do', body, { delay: due - Date.now() });
}

function work(concurrency) {
  const times = timeout ? { lockDuration: timeout, stalledInterval: timeout } : {};
  // A worker has one queue.
  for (const queue of [name, second].filter(Boolean)) {
    new Worker(queue, (job) => perform(job.data), { connection, concurrency, ...times });
  }
  return new Promise(() => {});
}

await main({ publish, publishDelayed, work });
