// needs: corral-client
import { same, until } from './driver.mjs';
import { corral } from './corral.mjs';

// A server that is slow to answer at first is not asked for a second.
await until(async () => {
  same(await corral.cache.getOrLoad('key', () => ({ n: 7 }), { ttl: 60 }), { n: 7 });
  return await corral.call('GET', 'key') !== null;
});
same(`${await corral.call('GET', 'key')}`, '{"n":7}');
await corral.close();
