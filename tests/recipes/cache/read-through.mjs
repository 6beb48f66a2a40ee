let load = loader(['html', 60_000]);
same(await atOnce(50, () => cached('page', load, { patience: 10_000 })), Array(50).fill('html'));
same(load.calls, 1);
load = loader(new Error('down'), ['html', 60_000]);
const got = await atOnce(50, () => cached('other', load, { lease: 60_000, patience: 10_000 }).catch(() => null));
same([got.filter(v => v === null).length, got.filter(v => v === 'html').length, load.calls], [1, 49, 2]);
await C('CACHE.FETCH', 'hanging', 60_000);
await assert.rejects(cached('hanging', load, { patience: 50 }), /hanging/);
