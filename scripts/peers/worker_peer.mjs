// Tasks with the package of Corral for Node: one worker takes as many as it has room for.
import * as client from 'corral-client';
import { corral } from './queues.mjs';
import { main, perform, port, queue as name } from './tasks.mjs';

const queue = corral(client, name, port);

async function work(concurrency) {
  await queue.run(concurrency, ({ body }) => perform(body));
  return new Promise(() => {});
}

await main({ publish: (bodies) => queue.fill(bodies.map((body) => ({ body }))), work });
