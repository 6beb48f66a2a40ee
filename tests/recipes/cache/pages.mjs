// needs: corral-client
import { same, until } from './driver.mjs';
import { corral } from './corral.mjs';
import { page } from './pages.mjs';

// A server that is slow to answer at first is not asked for a second.
await until(async () => {
  same(await Promise.all([page(1), page(1), page(2)]), ['<html>page 1', '<html>page 1', '<html>page 2']);
  return await corral.call('GET', 'page:1') !== null;
});
same(`${await corral.call('GET', 'page:1')}`, '"<html>page 1"');
await corral.close();
