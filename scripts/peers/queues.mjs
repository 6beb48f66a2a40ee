// The queues for Node that scripts/peers.sh and scripts/node_bars/ compare, all with the same functions: fill(payloads),
// add(payload), run(concurrency, handler), which resolves to a function that stops the worker, and close(). The caller passes
// the package, because the two scripts find it in different places.

const BATCH = 500;

// inBatches(payloads, publish): publishes many tasks.
async function inBatches(payloads, publish) {
  for (let start = 0; start < payloads.length; start += BATCH) await publish(payloads.slice(start, start + BATCH));
}

// One worker takes as many tasks as it has room for.
export function corral({ createCorral, Worker }, name, port) {
  const corral = createCorral({ url: `redis://127.0.0.1:${port}`, timeout: '60s' });
  const queue = corral.queue(name);
  return {
    fill: (payloads) => inBatches(payloads, (some) => queue.publishMany(some.map((payload) => ({ task: 'do', payload })))),
    add: (payload) => queue.publish('do', payload),
    async run(concurrency, handler) {
      queue.handle('do', handler);
      const worker = new Worker(corral, queue, { concurrency });
      await worker.start();
      return () => worker.stop();
    },
    close: () => corral.close(),
  };
}

export function bullmq({ Queue, Worker }, name, port) {
  const connection = { host: '127.0.0.1', port };
  const queue = new Queue(name, { connection });
  return {
    fill: (payloads) => inBatches(payloads, (some) => queue.addBulk(some.map((data) => ({ name: 'do', data })))),
    add: (payload, options) => queue.add('do', payload, options),
    async run(concurrency, handler, options) {
      const worker = new Worker(name, (job) => handler(job.data), { connection, concurrency, ...options });
      await worker.waitUntilReady();
      return () => worker.close();
    },
    close: () => queue.close(),
  };
}

export function beeQueue(Bee, name, port) {
  const queue = new Bee(name, { redis: { host: '127.0.0.1', port } });
  return {
    async fill(payloads) {
      await queue.ready();
      await inBatches(payloads, (some) => queue.saveAll(some.map((payload) => queue.createJob(payload))));
    },
    add: (payload) => queue.createJob(payload).save(),
    run(concurrency, handler) {
      queue.process(concurrency, (job) => handler(job.data));
      return () => undefined;
    },
    close: () => queue.close(5000),
  };
}
