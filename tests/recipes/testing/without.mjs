// needs: corral-client
import { spawnSync } from 'node:child_process';
import { same } from './driver.mjs';

// As the page says: with `node --test without.test.mjs`, and no server.
const env = { ...process.env, REDIS_URL: 'redis://127.0.0.1:1' };
same(spawnSync('node', ['--test', 'without.test.mjs'], { env, stdio: 'inherit' }).status, 0);
