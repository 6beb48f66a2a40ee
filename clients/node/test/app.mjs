// A worker in a process of its own: node app.mjs URL [concurrency]. It says what it does, one line each.

import { createCorral, Worker } from 'corral-client';

const [url, concurrency = '4', tied = 'true'] = process.argv.slice(2);
const log = { warn: (message) => console.error(message), error: (message) => console.error(message) };
const corral = createCorral({ url, timeout: '30s', log });
const queue = corral.queue('work');
queue.handle('sleep', async ({ ms }, task) => {
  console.log(`ran ${task.id} ${task.attempt}`);
  // Uses the connection of the application, which must not keep the process from ending.
  await corral.cache.getOrLoad('used', () => 1, { ttl: 60 });
  await new Promise((done) => setTimeout(done, ms));
  console.log(`did ${task.id} ${task.stopping}`);
});
const before = process.listenerCount('SIGTERM');
const worker = new Worker(corral, queue, { concurrency: Number(concurrency), tied: tied === 'true', shutdownTimeout: '60s' });
const running = worker.run();
const words = ['ready', 'stopping'];
const wait = setInterval(() => {
  const { ok, stopping } = worker.health();
  if (words[0] === (ok ? 'ready' : stopping ? 'stopping' : '')) console.log(words.shift());
}, 5);
await running;
clearInterval(wait);
console.log(`closed ${process.listenerCount('SIGTERM') - before}`);
