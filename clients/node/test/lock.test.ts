import { expect, test } from 'vitest';
import { aborted, gate, onEach } from './backends.js';
import { eventually, Server, SERVERS, sleep } from './server.js';

onEach((backend) => {
  test('one holds and the others are refused, with a larger token each time', async () => {
    const fences: number[] = [];
    const result = await backend.corral.lock('nightly', { ttl: '30s' }, async ({ fence, name, lost }) => {
      fences.push(fence);
      expect([name, lost]).toEqual(['nightly', false]);
      await expect(backend.other.lock('nightly', {}, () => 1)).rejects.toMatchObject({ code: 'LOCK_NOT_ACQUIRED' });
      return 'done';
    });
    expect(result).toBe('done');
    await backend.other.lock('nightly', {}, ({ fence }) => fences.push(fence));
    expect(fences[1]).toBeGreaterThan(fences[0]!);
  });

  test('an error of the body is that of the call, and the lock is free', async () => {
    await expect(backend.corral.lock('x', {}, () => { throw new TypeError('mine'); })).rejects.toThrow('mine');
    expect(await backend.other.lock('x', {}, () => 1)).toBe(1);
  });

  test('those that wait hold one after the other', async () => {
    let holders = 0;
    let most = 0;
    await Promise.all(Array.from({ length: 20 }, (_, index) =>
      (index % 2 ? backend.corral : backend.other).lock('turns', { wait: '60s' }, async () => {
        most = Math.max(most, ++holders);
        await sleep(2);
        holders--;
      })));
    expect([most, holders]).toEqual([1, 0]);
  });

  test('a wait ends', async () => {
    await backend.corral.lock('busy', {}, async () => {
      await expect(backend.other.lock('busy', { wait: '100ms' }, () => 1)).rejects.toMatchObject({ code: 'LOCK_NOT_ACQUIRED' });
    });
  });

  test('shared holders and a limit', async () => {
    await backend.corral.lock('doc', { shared: true }, async ({ fence }) => {
      expect(fence).toBeUndefined();
      expect(await backend.other.lock('doc', { shared: true }, () => 1)).toBe(1);
      await expect(backend.other.lock('doc', {}, () => 1)).rejects.toMatchObject({ code: 'LOCK_NOT_ACQUIRED' });
    });
    await backend.corral.lock('pool', { limit: 2 }, () =>
      backend.corral.lock('pool', { limit: 2 }, async () => {
        await expect(backend.corral.lock('pool', { limit: 2 }, () => 1)).rejects.toMatchObject({ code: 'LOCK_NOT_ACQUIRED' });
      }));
  });

  test('invalid options are rejected', async () => {
    for (const bad of [{ ttl: 0 }, { wait: -1 }, { shared: true, limit: 2 }, { limit: 0 }, { limit: 1.5 }, { ttl: 'soon' }]) {
      await expect(backend.corral.lock('x', bad as never, () => 1)).rejects.toThrow();
    }
    await expect(backend.corral.lock('', {}, () => 1)).rejects.toThrow(/empty/);
  });

  test('a signal ends the wait, and withdraws the request', async () => {
    const [entered, held] = [gate(), gate()];
    const holder = backend.corral.lock('line', {}, () => {
      entered.open();
      return held.promise;
    });
    await entered.promise;
    const controller = new AbortController();
    const waiting = backend.other.lock('line', { wait: '60s', signal: controller.signal }, () => { throw new Error('held'); });
    await sleep(20);
    controller.abort();
    await expect(waiting).rejects.toMatchObject({ name: 'AbortError' });
    held.open();
    await holder;
    expect(await backend.corral.lock('line', { wait: '60s' }, () => 7)).toBe(7);
  });

  test('a lock is free after an abort at any step', async () => {
    for (let step = 0; step < 10; step++) {
      const controller = new AbortController();
      const call = backend.corral.lock(`step:${step}`, { wait: '1s', signal: controller.signal }, async ({ signal }) => {
        await aborted(signal);
        signal.throwIfAborted();
      });
      for (let tick = 0; tick < step; tick++) await new Promise((done) => setImmediate(done));
      controller.abort();
      await expect(call).rejects.toMatchObject({ name: 'AbortError' });
      expect(await backend.other.lock(`step:${step}`, { wait: '60s' }, () => 1)).toBe(1);
    }
  });

  test('a lease is renewed while the body runs', async () => {
    if (backend.server === undefined) return;
    await backend.corral.lock('long', { ttl: '3s' }, async (lease) => {
      await eventually(async () => (await backend.server!.calls('lock.extend')) >= 3);
      lease.check();
      expect(lease.signal.aborted).toBe(false);
    });
  });

  test('a lost lease aborts the signal, and the body cannot end as if nothing had happened', async () => {
    if (backend.server === undefined) return;
    let reason: unknown;
    const call = backend.corral.lock('lost', { ttl: '3s' }, async (lease) => {
      await backend.server!.client.del('lock:{lost}');
      await aborted(lease.signal);
      reason = lease.signal.reason;
      expect(lease.lost).toBe(true);
      expect(() => lease.check()).toThrow('has ended');
    });
    await expect(call).rejects.toMatchObject({ code: 'LOCK_LOST', name: 'LockLost' });
    expect(reason).toMatchObject({ code: 'LOCK_LOST' });
  });
});

test.each(SERVERS)('a lease ends by itself when the server is away, on %s', async (program) => {
  const server = await Server.start(program);
  const corral = server.corral({ timeout: '1s' });
  try {
    const call = corral.lock('away', { ttl: '1s' }, async ({ signal }) => {
      await server.kill();
      await aborted(signal);
    });
    await expect(call).rejects.toMatchObject({ code: 'LOCK_LOST' });
  } finally {
    await corral.close();
    await server.remove();
  }
});
