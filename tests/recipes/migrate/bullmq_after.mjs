// needs: corral-client
import { ended, run, same, until } from './driver.mjs';
import { C, close } from './clients.mjs';

const one = run('bullmq_after.mjs');
await until(() => one.printed === 'sending ann\n');
same(await C('ZCARD', 'delayed:{mail}'), 1);
one.kill('SIGTERM');
same(await ended(one), 0);
await close();
