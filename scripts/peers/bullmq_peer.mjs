// Tasks with BullMQ, with its default settings except for the timeout, if one is set.
import * as bull from 'bullmq';
import { bullmq } from './queues.mjs';
import { main, perform, port, queue as name, second, timeout } from './tasks.mjs';

const queue = bullmq(bull, name, port);

async function publishDelayed(tasks) {
  for (const [body, due] of tasks) await queue.add(body, { delay: due - Date.now() });
}

async function work(concurrency) {
  const times = timeout ? { lockDuration: timeout, stalledInterval: timeout } : {};
  await queue.run(concurrency, perform, times);
  // A worker has one queue.
  if (second) await bullmq(bull, second, port).run(concurrency, perform, times);
  return new Promise(() => {});
}

await main({ publish: queue.fill, publishDelayed, work });
