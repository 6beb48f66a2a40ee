import { afterEach, expect, test } from 'vitest';
import { Fatal, Later, Worker, type Task, type WorkerOptions } from '../src/index.js';
import { aborted, gate, onEach } from './backends.js';
import { eventually, Server, SERVERS, sleep } from './server.js';

const workers: Worker[] = [];
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()));
});

async function started(...args: ConstructorParameters<typeof Worker>): Promise<Worker> {
  const worker = new Worker(...args);
  workers.push(worker);
  await worker.start();
  return worker;
}

interface Mail {
  welcome: { to: string };
  slow: Record<string, never>;
}

onEach((backend) => {
  const mail = (): ReturnType<typeof backend.corral.queue<Mail>> => backend.corral.queue<Mail>('mail');
  const run = (options: WorkerOptions = {}): Promise<Worker> => started(backend.corral, [mail()], { shutdownTimeout: '60s', ...options });
  const idle = async (name = 'mail'): Promise<boolean> => {
    const info = await backend.corral.queue(name).info();
    return info.length === 0 && info.delayed === 0;
  };

  test('tasks are run with their payloads and acknowledged', async () => {
    const seen: [string, string, number, string][] = [];
    mail().handle('welcome', ({ to }, task) => void seen.push([to, task.id, task.attempt, task.headers['tenant'] ?? '']));
    const ids = [await mail().publish('welcome', { to: 'ann' }, { headers: { tenant: 'blue' } })];
    ids.push(...(await mail().publishMany([{ task: 'welcome', payload: { to: 'bob' } }, { task: 'welcome', payload: { to: 'eve' } }])));
    const worker = await run();
    await eventually(() => worker.health().acked === 3);
    expect(seen).toEqual([['ann', ids[0], 1, 'blue'], ['bob', ids[1], 1, ''], ['eve', ids[2], 1, '']]);
    expect(await idle()).toBe(true);
    expect(worker.health()).toMatchObject({ ok: true, running: 0, started: 3, succeeded: 3, failed: 0 });
  });

  test('what becomes of a task: error, Fatal, Later, the last try, a bad payload', async () => {
    const tries: number[] = [];
    const queue = backend.corral.queue<{ retry: object; fatal: object; later: object; two: object }>('mail');
    await backend.corral.call('TASK.POLICY', 'mail', 'BACKOFF', 1, 1);
    queue.handle('retry', (_, { attempt }) => {
      tries.push(attempt);
      if (attempt < 3) throw new TypeError('again');
    });
    queue.handle('fatal', () => { throw new Fatal('no such address'); });
    let later = 0;
    queue.handle('later', (_, task) => {
      expect(task.attempt).toBe(1);
      if (++later < 3) throw new Later('1ms');
    });
    queue.handle('two', { tries: 2 }, () => { throw new RangeError('never'); });
    await queue.publishMany((['retry', 'fatal', 'later', 'two'] as const).map((task) => ({ task, payload: {} })));
    await backend.corral.call('TASK.PUBLISH', 'mail', '{', 'FIELDS', 1, 'task', 'retry');
    const worker = await run();
    await eventually(async () => {
      await backend.pass(backend.fake ? 1 : 0);
      return worker.health().acked === 2 && (await queue.info()).dead === 3;
    });
    expect([tries, later]).toEqual([[1, 2, 3], 3]);
    if (backend.fake) {
      expect(backend.fake.deadLetters('mail').map((letter) => letter['reason'])).toEqual(expect.arrayContaining([
        'Fatal: no such address', 'RangeError: never', expect.stringContaining('payload does not decode'),
      ]));
    }
    expect(await queue.redrive()).toBe(3);
  });

  test('an unknown task is given back and does not count', async () => {
    await backend.corral.call('TASK.PUBLISH', 'mail', '{}', 'FIELDS', 1, 'task', 'newer');
    const worker = await run();
    await eventually(() => worker.health().unknown === 1);
    await eventually(async () => (await mail().info()).delayed === 1);
    expect(worker.health().started).toBe(0);
  });

  test('no more tasks are fetched than start at once', async () => {
    const open = gate();
    let most = 0;
    let running = 0;
    mail().handle('slow', async () => {
      most = Math.max(most, ++running);
      await open.promise;
      running--;
    });
    await mail().publishMany(Array.from({ length: 12 }, () => ({ task: 'slow' as const, payload: {} })));
    const worker = await run({ concurrency: 5 });
    await eventually(() => running === 5);
    expect((await mail().info()).groups[0]).toMatchObject({ leased: 5 });
    open.open();
    await eventually(() => worker.health().acked === 12);
    expect(most).toBe(5);
  });

  test('queues are served in their order', async () => {
    const seen: string[] = [];
    const urgent = backend.corral.queue('urgent');
    for (const queue of [mail() as unknown as typeof urgent, urgent]) queue.handle('slow', (_, task) => void seen.push(task.queue));
    await mail().publishMany(Array.from({ length: 3 }, () => ({ task: 'slow' as const, payload: {} })));
    await urgent.publish('slow', {});
    const worker = await started(backend.corral, [urgent, mail()], { concurrency: 1 });
    await eventually(() => worker.health().acked === 4);
    expect(seen).toEqual(['urgent', 'mail', 'mail', 'mail']);
  });

  test('middleware is called from the first inwards', async () => {
    const seen: string[] = [];
    mail().handle('welcome', () => void seen.push('handler'));
    const worker = new Worker(backend.corral, mail());
    workers.push(worker);
    worker.use(async (task, next) => { seen.push(`in ${task.name}`); await next(); seen.push('out'); });
    worker.use((_, next) => { seen.push('second'); return next(); });
    await worker.start();
    await mail().publish('welcome', { to: 'ann' });
    await eventually(() => worker.health().acked === 1);
    expect(seen).toEqual(['in welcome', 'second', 'handler', 'out']);
    expect(() => worker.use(() => undefined)).toThrow('runs already');
  });

  test('a checkpoint changes the payload of the next try', async () => {
    const seen: unknown[] = [];
    const queue = backend.corral.queue<{ copy: { page: number; of: number } }>('mail');
    queue.handle('copy', (payload, task) => {
      seen.push(payload);
      if (payload.page < 2) {
        task.checkpoint({ page: payload.page + 1 });
        throw new Later(0);
      }
    });
    await queue.publish('copy', { page: 0, of: 9 });
    const worker = await run();
    await eventually(() => worker.health().acked === 1);
    expect(seen).toEqual([{ page: 0, of: 9 }, { page: 1, of: 9 }, { page: 2, of: 9 }]);
  });

  test('a handler that runs too long is aborted, and its task is tried again', async () => {
    const reasons: unknown[] = [];
    await backend.corral.call('TASK.POLICY', 'mail', 'BACKOFF', 1, 1);
    mail().handle('slow', { maxRuntime: '50ms' }, async (_, task) => {
      if (task.attempt > 1) return;
      await aborted(task.signal);
      reasons.push(task.signal.reason);
      expect(task.lost).toBe(true);
      task.signal.throwIfAborted();
    });
    await mail().publish('slow', {});
    const worker = await run();
    await eventually(async () => {
      await backend.pass(backend.fake ? 1 : 0);
      return worker.health().acked === 1;
    });
    expect(reasons).toMatchObject([{ name: 'TimeoutError' }]);
    expect(worker.health()).toMatchObject({ failed: 1, succeeded: 1, lost: 1 });
  });

  test('a worker that stops finishes its tasks and takes no more', async () => {
    const open = gate();
    let stopping = false;
    mail().handle('slow', async (_, task) => {
      await open.promise;
      stopping = task.stopping;
    });
    await mail().publishMany(Array.from({ length: 3 }, () => ({ task: 'slow' as const, payload: {} })));
    const worker = await run({ concurrency: 1 });
    await eventually(() => worker.health().running === 1);
    const stopped = worker.stop();
    await eventually(() => worker.health().stopping);
    open.open();
    await stopped;
    expect(stopping).toBe(true);
    expect(await mail().info()).toMatchObject({ length: 2, delayed: 0 });
    // It may be started again.
    await worker.start();
    await eventually(async () => idle());
  });

  test('what does not end in time is given back and not counted', async () => {
    const signals: AbortSignal[] = [];
    const open = gate();
    mail().handle('slow', async (_, { attempt, signal }) => {
      expect(attempt).toBe(1);
      signals.push(signal);
      if (signals.length === 1) await new Promise(() => undefined);
      if (signals.length === 2) {
        await aborted(signal);
        signal.throwIfAborted();
      }
      open.open();
    });
    await mail().publishMany(Array.from({ length: 2 }, () => ({ task: 'slow' as const, payload: {} })));
    const worker = await run({ shutdownTimeout: '50ms' });
    await eventually(() => signals.length === 2);
    await worker.stop();
    expect(signals.every((signal) => signal.aborted)).toBe(true);
    expect(await mail().info()).toMatchObject({ length: 2 });
    await worker.start();
    await eventually(async () => idle());
    await open.promise;
  });

  test('options of a publish', async () => {
    const queue = mail();
    const waiting = (): Promise<number> => queue.info().then((info) => info.length + info.delayed);
    const once = { id: 'welcome:7', for: '1h' } as const;
    const id = await queue.publish('welcome', { to: 'ann' }, { unique: once });
    expect(await queue.publish('welcome', { to: 'bob' }, { unique: once })).toBe(id);
    expect(await queue.publish('welcome', { to: 'eve' }, { unique: { ...once, last: true } })).toBe(id);
    expect(await waiting()).toBe(1);
    const delayed = await queue.publish('welcome', { to: 'ann' }, { delay: '5m', priority: 5, expire: '1d', retry: true });
    expect(await queue.state(delayed)).toMatchObject({ state: 'delayed' });
    expect(await queue.cancel(delayed)).toBe(1);
    await queue.publish('welcome', { to: 'ann' }, { at: new Date(Date.now() + 8e10) });
    expect(await waiting()).toBe(2);
    await backend.corral.call('TASK.POLICY', 'mail', 'LIMIT', 3);
    const three = Array.from({ length: 3 }, (_, index) => ({ task: 'welcome' as const, payload: { to: String(index) } }));
    await expect(queue.publishMany(three)).rejects.toMatchObject({ code: 'QUEUE_FULL', ids: [expect.any(String)] });
    for (const bad of [
      { delay: 1, at: 1 }, { priority: 10 }, { unique: { id: '', for: 1 } }, { unique: { id: 'x', for: 1, until: 'now' } },
      { headers: { payload: 'x' } }, { delay: -1 }, { at: new Date(Number.NaN) }, { headers: { a: 1 } },
    ]) {
      await expect(queue.publish('welcome', { to: 'ann' }, bad as never)).rejects.toThrow();
    }
    await expect(queue.publish('welcome', [] as never)).rejects.toThrow('object');
    await expect(queue.publish('welcome', { to: Number.NaN } as never)).rejects.toThrow('JSON');
    expect(await queue.publishMany([])).toEqual([]);
  });

  test('unique until done ends with the task', async () => {
    const open = gate();
    let runs = 0;
    mail().handle('slow', async () => { if (++runs === 1) await open.promise; });
    const unique = { id: 'one', for: '1h', until: 'done' } as const;
    const id = await mail().publish('slow', {}, { unique });
    const worker = await run();
    await eventually(() => runs === 1);
    expect(await mail().publish('slow', {}, { unique })).toBe(id);
    open.open();
    await eventually(() => worker.health().acked === 1);
    expect(await mail().publish('slow', {}, { unique })).not.toBe(id);
    await eventually(() => worker.health().acked === 2);
  });

  test('invalid definitions and worker options are rejected', () => {
    const queue = mail();
    queue.handle('welcome', () => undefined);
    expect(() => queue.handle('welcome', () => undefined)).toThrow('already');
    expect(() => queue.handle('slow', { tries: 0 }, () => undefined)).toThrow('tries');
    expect(() => queue.handle('slow', { maxRuntime: 'x' as never }, () => undefined)).toThrow('maxRuntime');
    expect(() => queue.handle('slow', 7 as never)).toThrow('function');
    expect(() => queue.cron('report', '0 2 * *', () => undefined)).toThrow('five fields');
    for (const [queues, options] of [[[], {}], [[queue, queue], {}], [queue, { concurrency: 0 }], [queue, { batch: 0 }], [{ name: 'x' }, {}]] as const) {
      expect(() => new Worker(backend.corral, queues as never, options)).toThrow();
    }
  });

  test('entries of any content do not stop a worker', async () => {
    if (backend.server === undefined) return;
    const seen: string[] = [];
    mail().handle('welcome', ({ to }) => void seen.push(to));
    const { client } = backend.server;
    await client.xadd('mail', '*', 'a', 'b');
    await client.xadd('mail', '*', 'task', Buffer.from([0xff, 0xfe]), 'payload', Buffer.from([0xff]), 'retry_count', '99999999999999999999');
    await client.xadd('mail', '*', 'task', 'welcome', 'cron', 'x', 'payload', '{"to":"ann"}');
    await client.xadd('mail', '*', 'task', 'welcome', 'payload', 'null');
    const worker = await run();
    await eventually(() => seen.length === 1 && worker.health().unknown >= 2 && worker.health().failed === 1);
  });
});

test.each(SERVERS)('a lease is renewed, a task that another worker took is lost, and a delivery again does not start it again: %s', async (program) => {
  const server = await Server.start(program);
  const corral = server.corral();
  try {
    const queue = corral.queue<{ long: { n: number } }>('work');
    await corral.call('TASK.POLICY', 'work', 'LEASE', 3000);
    const runs: Task[] = [];
    const open = gate();
    let lost: unknown;
    queue.handle('long', async ({ n }, task) => {
      runs.push(task);
      if (n === 1) await open.promise;
      if (n !== 2) return;
      await aborted(task.signal);
      lost = task.signal.reason;
      task.check();
    });
    const worker = await started(corral, queue, { shutdownTimeout: '60s' });
    const first = await queue.publish('long', { n: 1 });
    await eventually(() => runs.length === 1);
    const before = await server.calls('task.extend');
    await eventually(async () => (await server.calls('task.extend')) >= before + 4);
    // As if the lease had ended while nobody renewed it: the entry is claimed by nobody, and delivered again.
    await server.client.xclaim('work', 'workers', 'nobody', 0, first, 'IDLE', 600_000);
    await sleep(50);
    await eventually(async () => (await server.client.xpending('work', 'workers'))[0] === 1);
    expect(runs).toHaveLength(1);
    open.open();
    await eventually(() => worker.health().running === 0);
    const second = await queue.publish('long', { n: 2 });
    await eventually(() => runs.some((task) => task.id === second));
    await server.client.xclaim('work', 'workers', 'thief', 0, second, 'IDLE', 0);
    await eventually(() => lost);
    expect(lost).toMatchObject({ code: 'TASK_LOST' });
    await eventually(() => worker.health().running === 0);
    expect(worker.health().lost).toBeGreaterThanOrEqual(1);
  } finally {
    await Promise.all(workers.splice(0).map((worker) => worker.stop()));
    await corral.close();
    await server.remove();
  }
});

test.each(SERVERS)('an event loop that was blocked for half a lease has lost its tasks: %s', async (program) => {
  const server = await Server.start(program);
  const corral = server.corral();
  try {
    const queue = corral.queue<{ block: object }>('work');
    await corral.call('TASK.POLICY', 'work', 'LEASE', 1000, 'BACKOFF', 1, 1);
    const seen: unknown[] = [];
    let renewed = false;
    queue.handle('block', (_, task) => {
      if (seen.length > 0) return;
      const { signal } = task;
      const end = performance.now() + 1200;
      while (performance.now() < end);
      // Before anything else runs.
      seen.push(task.lost, signal.aborted, renewed);
      task.check();
    });
    const worker = await started(corral, queue, { shutdownTimeout: '60s' });
    setTimeout(() => (renewed = true), 100);
    await queue.publish('block', {});
    await eventually(() => worker.health().acked === 1);
    expect(seen.slice(0, 2)).toEqual([true, true]);
    expect(worker.health()).toMatchObject({ lost: 1, succeeded: 1, failed: 0 });
  } finally {
    await Promise.all(workers.splice(0).map((worker) => worker.stop()));
    await corral.close();
    await server.remove();
  }
});
