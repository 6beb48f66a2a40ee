// needs: corral-client
import { assert, ended, run, same } from './driver.mjs';
import { corral } from './corral.mjs';

const steps = run('steps.mjs');
same(await ended(steps), 0);
assert.match(steps.printed, /^step 0 token (\d+)\nstep 1 token \1\nstep 2 token \1\n$/);
same(await corral.call('EXISTS', 'lock:{nightly-batch}'), 0);
await corral.close();
