// needs: bullmq corral-client
import { ended, run, same, until } from './driver.mjs';
import { C, close } from './clients.mjs';

const both = [run('bullmq_before.mjs'), run('bullmq_after.mjs')];
for (const one of both) await until(() => one.printed === 'sending ann\n');
same([await C('ZCARD', 'bull:mail:delayed'), await C('ZCARD', 'delayed:{mail}')], [1, 1]);
for (const one of both) { one.kill('SIGTERM'); same(await ended(one), 0) }
await close();
