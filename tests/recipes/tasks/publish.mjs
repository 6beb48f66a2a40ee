import { assert, ended, pause, role, same, start, until } from './driver.mjs';
import { C, close, shared } from './clients.mjs';
import { publish } from './publish.mjs';

const QUEUE = 'mail', GROUP = 'workers', ME = 'driver';
const first = await publish('mail', 'ann', { key: 'welcome:ann' });
same(await publish('mail', 'ann', { key: 'welcome:ann' }), first);
assert.notEqual(await publish('mail', 'ann'), first);
assert.notEqual(await publish('mail', 'ann', { options: ['PRIORITY', 9] }), first);
same([await C('XLEN', 'mail'), await C('XLEN', 'priority9:{mail}')], [2, 1]);
await close();
