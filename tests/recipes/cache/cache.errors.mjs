import { assert, atOnce, loader, same, until } from './driver.mjs';
import { cached } from './cache.mjs';
import { C, close } from './clients.mjs';

const load = loader('old', 'new', new Error('down'));
const page = key => cached(key, load, { ttl: 60_000, stale: 10_000, backoff: 60_000, behind: true });
same(await atOnce(50, () => page('page')), Array(50).fill('old'));
same(load.calls, 1);
await C('PEXPIRE', 'page', 9_000);
let go;
load.go = new Promise(resolve => { go = resolve });
same(await atOnce(20, () => page('page')), Array(20).fill('old'));
await until(() => load.calls === 2);
go();
await until(async () => await C('GET', 'page') === 'new');
// A failed load: the old value is used.
await C('PEXPIRE', 'page', 9_000);
same(await cached('page', load, { ttl: 60_000, stale: 10_000, backoff: 60_000 }), 'new');
same(load.calls, 3);
await assert.rejects(page('cold'), /down/);
await assert.rejects(page('cold'), /down/);
same(load.calls, 4);
await close();
