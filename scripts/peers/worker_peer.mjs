// Tasks with the package of Corral for Node: one worker takes as many as it has room for.
import { createCorral, Worker } from 'corral-client';
import { main, perform, port, queue as name } from './tasks.mjs';

const corral = createCorral({ url: `redis://127.0.0.1:${port}` });
const queue = corral.queue(name);

async function publish(bodies) {
  for (let start = 0; start < bodies.length; start += 500) {
    await queue.publishMany(bodies.slice(start, start + 500).map((body) => ({ task: 'do', payload: { body } })));
  }
}

async function work(concurrency) {
  queue.handle('do', ({ body }) => perform(body));
  await new Worker(corral, queue, { concurrency }).start();
  return new Promise(() => {});
}

await main({ publish, work });
