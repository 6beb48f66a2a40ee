import { assert, ended, pause, role, same, start, until } from './driver.mjs';
import { C, close, shared } from './clients.mjs';
import { Fatal, Later, main, stopping } from './worker.mjs';

const QUEUE = 'mail', GROUP = 'workers', ME = 'driver';
await C('TASK.POLICY', QUEUE, 'TRIES', 3, 'BACKOFF', 1, 5);
const ids = {}, seen = [];
for (const payload of ['good', 'bad', 'unreadable', 'later']) ids[payload] = await C('TASK.PUBLISH', QUEUE, payload);

const running = main(async (payload, key) => {
  seen.push([payload, key]);
  if (payload === 'bad') throw new Error('down');
  if (payload === 'unreadable') throw new Fatal('no JSON');
  if (payload === 'later' && seen.filter(([one]) => one === 'later').length < 5) throw new Later(1);
}, 3);
// In one step: a task may come due in between.
const left = "return redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2])";
await until(async () => await C('XLEN', 'dead:{mail}') === 2 && await C('EVAL', left, 2, QUEUE, 'delayed:{mail}') === 0);

// Every attempt is known by the id that PUBLISH replied.
for (const [payload, times] of Object.entries({ good: 1, bad: 3, unreadable: 1, later: 5 }))
  same(seen.filter(([one]) => one === payload).map(([, key]) => key), Array(times).fill(ids[payload]));
const dead = (await shared.xRange('dead:{mail}', '-', '+')).map(({ message: m }) => [m.payload, m.reason, m.retry_count]);
same(dead.sort(), [['bad', 'Error: down', '3'], ['unreadable', 'Error: no JSON', '1']]);
stopping.abort();
await running;
