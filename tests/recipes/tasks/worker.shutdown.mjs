import { assert, ended, pause, role, same, start, until } from './driver.mjs';
import { C, close, shared } from './clients.mjs';
import { main, stopping } from './worker.mjs';

const QUEUE = 'mail', GROUP = 'workers', ME = 'driver';
const handle = async payload => {
  await C('RPUSH', 'begun', payload);
  await until(() => C('EXISTS', 'go'));
  await C('RPUSH', 'finished', payload);
};
const counted = async field => Number((await C('INFO', 'corral')).match(`corral_${field}:(\\d+)`)[1]);

if (role) {
  stopping.signal.addEventListener('abort', () => C('SET', 'stopping', 1));
  await main(handle, 2);
} else {
  await C('TASK.PUBLISH', QUEUE, 'in work');
  const worker = start('worker');
  await until(async () => await C('LLEN', 'begun') === 1 && await counted('task_waiters') === 1);
  worker.kill('SIGTERM');
  await until(() => C('EXISTS', 'stopping'));
  // A task that comes now is given back: nobody begins it, and that does not count.
  const late = await C('TASK.PUBLISH', QUEUE, 'late');
  await until(async () => await counted('task_requeued') === 1);
  same(worker.exitCode, null);
  // What was in work is finished.
  await C('SET', 'go', 1);
  same(await ended(worker), 0);
  same([await C('LRANGE', 'begun', 0, -1), await C('LRANGE', 'finished', 0, -1)], [['in work'], ['in work']]);
  const [[, fields, , deliveries]] = await C('TASK.CONSUME', GROUP, ME, QUEUE, 'META');
  same([fields[1], fields[5], fields[7], deliveries], ['late', '0', late, 1]);
}
if (!role) await close();
