import { assert, atOnce, loader, same } from './driver.mjs';

// There is no server: connections are refused.
process.env.REDIS_URL = 'redis://127.0.0.1:1';
const { cached } = await import('./cache.mjs');
const load = loader('html');
same(await atOnce(400, () => cached('page', load)), Array(400).fill('html'));
assert(load.calls < 40, `${load.calls} loads`);
process.exit();
