import { assert, pause, same, until } from './driver.mjs';
import { C, close } from './clients.mjs';
import { withLock } from './lock.mjs';

let inside = 0;
const order = [];
await Promise.all(Array.from({ length: 60 }, () => withLock('batch', async (lost, token) => {
  same(++inside, 1);
  order.push(token);
  await pause(5);
  inside--;
})));
same([order.length, order], [60, [...order].sort((a, b) => a - b)]);
await withLock('batch', async lost => {
  await pause(2_000);
  same([await C('LOCK.ACQUIRE', 'batch', 'other', 1_000, 'FENCE'), lost.aborted], [0, false]);
}, { ttl: 600 });
await C('LOCK.ACQUIRE', 'batch', 'other', 60_000);
await assert.rejects(withLock('batch', () => assert.fail('granted'), { patience: 50 }), /not granted/);
await C('LOCK.RELEASE', 'batch', 'other');
await withLock('batch', async lost => {
  await C('DEL', 'lock:{batch}');
  await until(() => lost.aborted);
}, { ttl: 600 });
await assert.rejects(withLock('batch', () => { throw new Error('broken') }), /broken/);
same(await C('EXISTS', 'lock:{batch}'), 0);
// The release does not get through: the work is done, and nothing is thrown.
same(await withLock('batch', async () => { await C('ACL', 'SETUSER', 'default', '-lock.release'); return 7 }), 7);
await C('ACL', 'SETUSER', 'default', '+lock.release');
await close();
