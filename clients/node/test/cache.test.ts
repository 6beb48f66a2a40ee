import { getEventListeners } from 'node:events';
import { expect, test } from 'vitest';
import type { Serializer } from '../src/index.js';
import { gate, onEach } from './backends.js';
import { eventually } from './server.js';

const until = AbortSignal.timeout.bind(AbortSignal);

onEach((backend) => {
  test('a loader is called once per key, and everyone gets the decoded form', async () => {
    let loads = 0;
    const user = backend.corral.cached({
      key: (id: number) => ['user', id],
      ttl: '5m',
      load: (id, { signal }) => {
        expect(signal.aborted).toBe(false);
        loads++;
        return { id, at: new Date(0), none: undefined };
      },
    });
    const first = await user(7);
    expect(first).toEqual({ id: 7, at: '1970-01-01T00:00:00.000Z' });
    expect('none' in first).toBe(false);
    const second = await user(7);
    expect(second).toEqual(first);
    expect(second).not.toBe(first);
    expect(await user(8)).toMatchObject({ id: 8 });
    expect(loads).toBe(2);
    expect(user.key(7)).toBe('user:7');
    expect(await user.uncached(9)).toMatchObject({ at: new Date(0) });
  });

  test('a template names fields of the argument, and optional arguments may be missing', async () => {
    const page = backend.corral.cached({ key: '{{shop}}:page:{path}', ttl: 60, load: ({ path }: { path: string }) => path.length });
    expect(await page({ path: '/a:b' })).toBe(4);
    expect(page.key({ path: '/a:b' })).toBe('{shop}:page:/a%3Ab');
    expect(() => page.key(7 as never)).toThrow(/object/);
    const list = backend.corral.cached({
      key: (tag: string, count?: number) => ['list', tag, count ?? 10],
      ttl: 60,
      load: async (tag, count, { signal }) => [tag, count ?? null, signal.aborted],
    });
    expect(await list('a')).toEqual(['a', null, false]);
    expect(await list('a', 5)).toEqual(['a', 5, false]);
  });

  test('null is a value with a time of its own, and undefined is stored as null', async () => {
    let loads = 0;
    const find = backend.corral.cached({
      key: (id: number) => ['find', id], ttl: '1h', nullTtl: '300ms',
      load: (id: number): string | undefined => (loads++, id === 1 ? 'one' : undefined),
    });
    expect([await find(1), await find(2), await find(2)]).toEqual(['one', null, null]);
    expect(loads).toBe(2);
    await backend.pass(0.4);
    expect([await find(1), await find(2)]).toEqual(['one', null]);
    expect(loads).toBe(3);
  });

  test('what JSON cannot hold is a TypeError that names the serializer, and leaves no lease', async () => {
    const load = (value: unknown): Promise<unknown> => backend.corral.cache.getOrLoad('odd', () => value, { ttl: 60, backoff: 0 });
    for (const value of [Number.NaN, 1n, new Map(), Buffer.from('x')]) await expect(load(value)).rejects.toThrow(/serializer/);
    expect(await load(7)).toBe(7);
  });

  test('a serializer of the user is used', async () => {
    const serializer: Serializer = {
      contentType: 'application/octet-stream',
      encode: (value) => value as Uint8Array,
      decode: (data) => new Uint8Array(data),
    };
    const bytes = new Uint8Array([0, 255, 13, 10]);
    const get = (): Promise<Uint8Array> => backend.corral.cache.getOrLoad('bytes', () => bytes, { ttl: 60, serializer });
    expect(await get()).toEqual(bytes);
    expect(await get()).toEqual(bytes);
  });

  test('a stored value that does not decode, or that parse rejects, is loaded anew', async () => {
    await backend.corral.call('CACHE.SET', 'page', '{', 60_000);
    let loads = 0;
    const options = {
      ttl: 60,
      parse: (value: unknown): { n: number } => {
        if (typeof (value as { n?: unknown } | null)?.n !== 'number') throw new TypeError('not a page');
        return value as { n: number };
      },
    };
    const get = (): Promise<{ n: number }> => backend.corral.cache.getOrLoad('page', () => (loads++, { n: loads }), options);
    expect(await get()).toEqual({ n: 1 });
    await backend.corral.cache.set('page', { m: 1 }, { ttl: 60 });
    expect(await get()).toEqual({ n: 2 });
    await expect(backend.corral.cache.getOrLoad('bad', () => ({}) as { n: number }, options)).rejects.toThrow('not a page');
  });

  test('callers share one load, and each gets a value of its own', async () => {
    const loaded = gate<{ list: number[] }>();
    let loads = 0;
    const get = (): Promise<{ list: number[] }> => backend.corral.cache.getOrLoad('shared', () => (loads++, loaded.promise), { ttl: 60 });
    const calls = Array.from({ length: 50 }, get);
    await eventually(() => loads === 1);
    loaded.open({ list: [] });
    const values = await Promise.all(calls);
    values[0]!.list.push(1);
    expect(values.slice(1).every((value) => value.list.length === 0)).toBe(true);
    expect(new Set(values).size).toBe(50);
    expect(loads).toBe(1);
  });

  test('a failure is an error of each caller, and backs off', async () => {
    class Down extends Error {
      override readonly name = 'Down';
    }
    const get = (): Promise<unknown> =>
      backend.corral.cache.getOrLoad('down', async () => { throw new Down('database'); }, { ttl: 60, backoff: '300ms' });
    const results = await Promise.allSettled([get(), get(), get()]);
    const errors = results.map((result) => (result as PromiseRejectedResult).reason as Error);
    expect(errors.every((error) => error instanceof Down && error.message === 'database')).toBe(true);
    expect(new Set(errors).size).toBe(3);
    await expect(get()).rejects.toMatchObject({ code: 'LOAD_FAILED', message: expect.stringContaining('Down: database') });
    await backend.pass(0.4);
    expect(await backend.corral.cache.getOrLoad('down', () => 1, { ttl: 60 })).toBe(1);
  });

  test('a stale value is used at once and refreshed by one in the background', async () => {
    let loads = 0;
    const second = gate();
    const get = backend.corral.cached({
      key: () => ['stale'], ttl: '200ms', stale: '1h',
      load: async () => {
        if (++loads > 1) await second.promise;
        return loads;
      },
    });
    expect(await get()).toBe(1);
    await backend.pass(0.3);
    expect(await Promise.all([get(), get(), get()])).toEqual([1, 1, 1]);
    await eventually(() => loads === 2);
    expect(await get()).toBe(1);
    second.open();
    await eventually(async () => (await get()) === 2);
    expect(loads).toBe(2);
  });

  test('a stale value is used if its refresh fails, also by a caller that waits for it', async () => {
    let broken = false;
    const get = (refresh: 'wait' | 'background'): Promise<number> =>
      backend.corral.cache.getOrLoad('mild', () => { if (broken) throw new Error('down'); return 1; }, { ttl: '200ms', stale: '1h', refresh, backoff: 0 });
    expect(await get('wait')).toBe(1);
    await backend.pass(0.3);
    broken = true;
    expect(await get('wait')).toBe(1);
    expect(await get('background')).toBe(1);
  });

  test('an invalidation voids a load that began before, and refresh loads now', async () => {
    let loads = 0;
    const first = gate();
    const get = backend.corral.cached({ key: () => ['void'], ttl: 60, load: async () => { if (++loads === 1) await first.promise; return loads; } });
    const slow = get();
    await eventually(() => loads === 1);
    expect(await get.invalidate()).toBe(true);
    first.open();
    expect(await slow).toBe(1);
    expect(await get()).toBe(2);
    expect(await get()).toBe(2);
    expect(await get.refresh()).toBe(3);
    expect(await get()).toBe(3);
    expect(await backend.corral.cache.invalidate('void', { stale: 60 })).toBe(true);
    expect(await backend.corral.cache.get('void')).toBe(3);
    expect(await backend.corral.cache.get('nothing')).toBeUndefined();
  });

  test('a loader that asks for its own key is an error', async () => {
    const get = (): Promise<unknown> => backend.corral.cache.getOrLoad('self', () => get(), { ttl: 60, backoff: 0 });
    await expect(get()).rejects.toThrow('asks for its own key');
  });

  test('a caller that leaves takes nobody along, and the last one ends the load', async () => {
    const [one, two] = [new AbortController(), new AbortController()];
    let seen: AbortSignal | undefined;
    let loads = 0;
    const get = backend.corral.cached({
      key: () => ['leave'], ttl: 60,
      load: ({ signal }) => {
        seen = signal;
        return ++loads === 1 ? new Promise<number>(() => undefined) : loads;
      },
    });
    const first = get.with({ signal: one.signal })();
    const second = get.with({ signal: two.signal })();
    await eventually(() => seen !== undefined);
    const signal = seen!;
    one.abort(new Error('gone'));
    await expect(first).rejects.toThrow('gone');
    expect(signal.aborted).toBe(false);
    two.abort();
    await expect(second).rejects.toMatchObject({ name: 'AbortError' });
    expect(signal.aborted).toBe(true);
    // Another one loads at once: the lease has been given up, without a back-off.
    expect(await get.with({ signal: until(30_000) })()).toBe(2);
    await expect(get.with({ signal: AbortSignal.abort() })()).rejects.toMatchObject({ name: 'AbortError' });
  });

  test('a load that is aborted at any step leaves no lease and no listener', async () => {
    for (let step = 0; step < 12; step++) {
      const controller = new AbortController();
      const key = `step:${step}`;
      const call = backend.corral.cache.getOrLoad(key, async () => { for (let tick = 0; tick < 3; tick++) await Promise.resolve(); return 1; }, { ttl: 60, signal: controller.signal });
      for (let tick = 0; tick < step; tick++) await (step % 2 ? Promise.resolve() : new Promise((done) => setImmediate(done)));
      controller.abort();
      await call.catch((error: unknown) => expect(error).toMatchObject({ name: 'AbortError' }));
      expect(await backend.corral.cache.getOrLoad(key, () => 2, { ttl: 60, signal: until(30_000) })).toBeGreaterThan(0);
      expect(getEventListeners(controller.signal, 'abort')).toEqual([]);
    }
    const { signal } = new AbortController();
    for (let n = 0; n < 20; n++) {
      await backend.corral.cache.getOrLoad(`listener:${n}`, () => 1, { ttl: 60, signal });
      await backend.corral.lock('listener', { signal }, () => 1);
    }
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });

  test('invalid options are rejected before anything is sent', async () => {
    const before = backend.fake?.counts.get('CACHE.FETCH');
    for (const bad of [{ ttl: 0 }, { ttl: '5 m' }, { ttl: 1, jitter: 101 }, { ttl: 1, refresh: 'now' }, { ttl: Number.NaN }, { ttl: 1, lease: '1ms' }]) {
      await expect(backend.corral.cache.getOrLoad('x', () => 1, bad as never)).rejects.toThrow(/Error|ttl|jitter|refresh|lease/);
      expect(() => backend.corral.cached({ key: () => ['x'], load: () => 1, ...(bad as { ttl: number }) })).toThrow();
    }
    await expect(backend.corral.cache.getOrLoad('', () => 1, { ttl: 1 })).rejects.toThrow(/empty/);
    expect(() => backend.corral.cached({ key: 'a:{', ttl: 1, load: () => 1 })).toThrow(/template/);
    expect(backend.fake?.counts.get('CACHE.FETCH')).toBe(before);
  });

  test('another process waits for the load, and the lease of a slow load is renewed', async () => {
    if (backend.server === undefined) return;
    const loaded = gate<number>();
    let loads = 0;
    const options = { ttl: 60, lease: '3s' } as const;
    const slow = backend.corral.cache.getOrLoad('wait', () => (loads++, loaded.promise), options);
    await eventually(() => loads === 1);
    const waiting = backend.other.cache.getOrLoad('wait', () => { throw new Error('loaded twice'); }, options);
    await eventually(async () => (await backend.server!.calls('cache.extend')) >= 2);
    loaded.open(7);
    expect([await slow, await waiting]).toEqual([7, 7]);
  });
});
