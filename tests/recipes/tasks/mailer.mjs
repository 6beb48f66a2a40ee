import { ended, run, same, until } from './driver.mjs';
import { C, close } from './clients.mjs';

// As printed: it runs until a signal comes, finishes what it has, and exits.
for (const signal of ['SIGTERM', 'SIGINT']) {
  await C('TASK.PUBLISH', 'mail', `ann ${signal}`);
  const mailer = run('mailer.mjs');
  await until(() => mailer.printed === `sending ann ${signal}\n`);
  mailer.kill(signal);
  same(await ended(mailer), 0);
}
same(await C('XLEN', 'mail'), 0);
await close();
