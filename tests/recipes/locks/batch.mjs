import { ended, run, same, until } from './driver.mjs';
import { C, close } from './clients.mjs';

const batch = run('batch.mjs');
same(await ended(batch), 0);
await until(() => batch.printed === 'step 0\nstep 1\nstep 2\n');
same(await C('EXISTS', 'lock:{nightly-batch}'), 0);
await close();
