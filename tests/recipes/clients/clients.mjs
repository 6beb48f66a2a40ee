import { assert, same, until } from './driver.mjs';
import { C, W, close } from './clients.mjs';

same(await W('TASK.CONSUME', 'workers', 'w1', 'mail', 'BLOCK', 10_000, 'META'), []);
const tasks = Array.from({ length: 100 }, (_, n) => W('TASK.CONSUME', 'workers', `w${n}`, 'mail', 'BLOCK', 10_000, 'META'));
await until(async () => /corral_task_waiters:100\r/.test(await C('INFO', 'corral')));
for (let n = 0; n < 100; n++) await C('TASK.PUBLISH', 'mail', n);
const payloads = (await Promise.all(tasks)).map(([[, fields]]) => Number(fields[1]));
same(payloads.sort((a, b) => a - b), Array.from({ length: 100 }, (_, n) => n));
await assert.rejects(C('LOCK.EXTEND'), /wrong number/);
await close();
