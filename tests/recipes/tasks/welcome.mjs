// needs: corral-client
import { ended, run, same, until } from './driver.mjs';
import { corral } from './corral.mjs';

const mail = corral.queue('mail');
await mail.publish('welcome', { to: 'ann' });
const worker = run('welcome.mjs');
await until(() => worker.printed === 'sending ann@example.org\n');
await until(async () => (await mail.info()).dead === 1);
worker.kill('SIGTERM');
same(await ended(worker), 0);
same((await mail.info()).length, 0);
await corral.close();
