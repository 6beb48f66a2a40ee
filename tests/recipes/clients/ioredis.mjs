// needs: ioredis
import { same } from './driver.mjs';
import { C, W, close } from './ioredis.mjs';

same(await W('TASK.CONSUME', 'workers', 'w1', 'mail', 'BLOCK', 10_000, 'META'), []);
const [waiting] = [W('LOCK.ACQUIRE', 'nightly-batch', 'me', 30_000, 'BLOCK', 5_000), await C('TASK.PUBLISH', 'mail', 'ann')];
same(await waiting, 1);
const [[, fields]] = await W('TASK.CONSUME', 'workers', 'w1', 'mail', 'BLOCK', 5_000, 'META');
same(fields[1], 'ann');
await close();
