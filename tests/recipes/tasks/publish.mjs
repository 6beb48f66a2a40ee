const first = await publish('mail', 'ann', { key: 'welcome:ann' });
same(await publish('mail', 'ann', { key: 'welcome:ann' }), first);
assert.notEqual(await publish('mail', 'ann'), first);
assert.notEqual(await publish('mail', 'ann', { options: ['PRIORITY', 9] }), first);
same([await C('XLEN', 'mail'), await C('XLEN', 'priority9:{mail}')], [2, 1]);
