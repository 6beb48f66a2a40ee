import { assert, ended, pause, role, same, start, until } from './driver.mjs';
import { C, close, shared } from './clients.mjs';
import { main, stopping } from './worker.mjs';

const QUEUE = 'mail', GROUP = 'workers', ME = 'driver';
// The handler learns that its task is taken away, while it works.
if (role) await main(async (payload, key, lost) => {
  same(await C('TASK.ACK', QUEUE, GROUP, key), 1);
  await new Promise(resolve => lost.addEventListener('abort', resolve));
  stopping.abort();
}, 1);
else {
  process.env.LEASE = 400;
  await C('TASK.PUBLISH', QUEUE, 'ann');
  const worker = start('worker');
  same(await ended(worker), 0);
  same([await C('XLEN', QUEUE), await C('EXISTS', 'dead:{mail}', 'delayed:{mail}')], [0, 0]);
}
if (!role) await close();
