// Tasks with bee-queue, with its default settings.
import Queue from 'bee-queue';
import { main, perform, port, queue as name } from './tasks.mjs';

const queue = new Queue(name, { redis: { host: '127.0.0.1', port } });

async function publish(bodies) {
  await queue.ready();
  for (let start = 0; start < bodies.length; start += 1000) {
    await queue.saveAll(bodies.slice(start, start + 1000).map((body) => queue.createJob({ body })));
  }
}

function work(concurrency) {
  queue.process(concurrency, (job) => perform(job.data.body));
  return new Promise(() => {});
}

await main({ publish, work });
