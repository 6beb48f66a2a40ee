// Tasks with bee-queue, with its default settings.
import Bee from 'bee-queue';
import { beeQueue } from './queues.mjs';
import { main, perform, port, queue as name } from './tasks.mjs';

const queue = beeQueue(Bee, name, port);

function work(concurrency) {
  queue.run(concurrency, ({ body }) => perform(body));
  return new Promise(() => {});
}

await main({ publish: (bodies) => queue.fill(bodies.map((body) => ({ body }))), work });
