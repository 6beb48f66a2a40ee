import { spawnSync } from 'node:child_process';
import { same } from './driver.mjs';

const { status, stdout } = spawnSync('node', ['--test', 'mail.test.mjs'], { encoding: 'utf8' });
console.log(stdout);
same(status, 0);
