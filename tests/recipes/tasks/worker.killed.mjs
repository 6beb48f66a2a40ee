import { assert, ended, pause, role, same, start, until } from './driver.mjs';
import { C, close, shared } from './clients.mjs';
import { main } from './worker.mjs';

const QUEUE = 'mail', GROUP = 'workers', ME = 'driver';
const handle = async (payload, key) => {
  await C('RPUSH', 'begun', key);
  if (role === 'victim') await pause(60_000);
  await C('RPUSH', 'finished', key);
};

if (role) await main(handle, 1);
else {
  process.env.LEASE = 1_500;
  await C('TASK.POLICY', QUEUE, 'LEASE', 1_500);
  const id = await C('TASK.PUBLISH', QUEUE, 'ann');
  const victim = start('victim');
  await until(async () => await C('LLEN', 'begun') === 1);
  const other = start('other');
  // As long as it lives it keeps the task, beyond the lease.
  await pause(2_000);
  same([await C('LLEN', 'begun'), await C('LLEN', 'finished')], [1, 0]);
  victim.kill('SIGKILL');
  await until(async () => await C('LLEN', 'finished') === 1);
  same([await C('LRANGE', 'begun', 0, -1), await C('LRANGE', 'finished', 0, -1)], [[id, id], [id]]);
  await until(async () => await C('XLEN', QUEUE) === 0);
  other.kill('SIGKILL');
}
if (!role) await close();
