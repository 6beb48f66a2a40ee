import { assert, atOnce, loader, pause, same, until } from './driver.mjs';
import { LoadFailed, cached } from './cache.mjs';
import { C, close } from './clients.mjs';

// 250 callers, a load of 4 s that is longer than its lease: one load, no failure.
let calls = 0;
const slow = async () => { calls++; await pause(4_000); return 'html' };
same(await atOnce(250, () => cached('hot', slow, { lease: 1_000 })), Array(250).fill('html'));
same(calls, 1);
// With a back-off everybody gets the reason.
const load = loader(new Error('down'), 'html');
const got = await atOnce(50, () => cached('other', load, { backoff: 60_000 }).catch(error => error));
same([got.filter(error => error instanceof LoadFailed).length, load.calls], [49, 1]);
await C('CACHE.INVALIDATE', 'other');
same(await cached('other', load), 'html');
// Nobody loads: the wait ends.
await C('CACHE.FETCH', 'hanging', 60_000);
await assert.rejects(cached('hanging', load, { patience: 50 }), /hanging/);
// A loader that gives up hands over to one of those who wait.
const [, , token] = await C('CACHE.FETCH', 'given-up', 60_000);
const waiting = atOnce(20, () => cached('given-up', load));
await until(async () => /corral_cache_waiters:1/.test(await C('INFO', 'corral')));
await C('CACHE.FAIL', 'given-up', token);
same(await waiting, Array(20).fill('html'));
same(load.calls, 3);
// Memory is full.
await C('CONFIG', 'SET', 'maxmemory-policy', 'noeviction');
await C('CONFIG', 'SET', 'maxmemory', 1);
const full = loader('html');
same(await atOnce(400, () => cached('page', full)), Array(400).fill('html'));
assert(full.calls < 40, `${full.calls} loads`);
await C('CONFIG', 'SET', 'maxmemory', 0);
await close();
