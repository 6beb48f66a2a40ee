// The shop: a cached query, e-mails from a worker with two queues, reminders, and a report every night.
// Run the worker with `node shop.js`; web.ts is the page.

import { createCorral, Fatal, Worker, type Duration, type Task } from 'corral-client';
import sqlite from 'node-sqlite3-wasm';

// The names and payloads are those of the shop in Python: a worker of either sends the mails of both.
interface Mails {
  new_password: { to: string };
  welcome: { to: string };
  reminder: { to: string; item: string };
}

export const corral = createCorral({ url: process.env['CORRAL_URL'] ?? 'redis://localhost:6379' });
export const urgent = corral.queue<Mails>('{shop}:urgent');
export const mail = corral.queue<Mails>('{shop}:mail');
export const db = new sqlite.Database(process.env['SHOP_DATABASE'] ?? 'shop.db');
db.exec(`PRAGMA busy_timeout = 30000;
  CREATE TABLE IF NOT EXISTS products (id INTEGER PRIMARY KEY, name, price);
  CREATE TABLE IF NOT EXISTS outbox (task PRIMARY KEY, address, text);
  CREATE TABLE IF NOT EXISTS report (one INTEGER PRIMARY KEY, mails, fence);`);

export const product = corral.cached({
  key: (id: number) => ['product', id],
  ttl: '5m',
  stale: '1h',
  nullTtl: '10s',
  load: (id) => db.get('SELECT name, price FROM products WHERE id = ?', id),
});

export async function signUp(email: string): Promise<string> {
  return mail.publish('welcome', { to: email }, { unique: { id: `welcome:${email}`, for: '1d' } });
}

export const forgotten = (email: string): Promise<string> => urgent.publish('new_password', { to: email }, { retry: true });

// The reminder is about the last item, and comes some time after it.
export function addToCart(email: string, item: string): Promise<string> {
  const last = { id: `reminder:${email}`, for: '1d', until: 'start', last: true } as const;
  return mail.publish('reminder', { to: email, item }, { delay: (process.env['SHOP_DELAY'] ?? '30m') as Duration, unique: last });
}

// The id of a task is the same in all of its tries, and unique in its queue: so a mail is not sent again.
function send(task: Task, to: string, text: string): void {
  if (!to.includes('@')) throw new Fatal(`'${to}' is no address`);
  db.run('INSERT OR IGNORE INTO outbox VALUES (?, ?, ?)', [`${task.queue} ${task.id}`, to, text]);
}

urgent.handle('new_password', { tries: 3 }, ({ to }, task) => send(task, to, 'Your new password'));

mail.handle('welcome', { tries: 5, maxRuntime: '1m' }, ({ to }, task) => send(task, to, 'Welcome'));

mail.handle('reminder', { tries: 5 }, ({ to, item }, task) => send(task, to, `Your cart is waiting, with ${item}`));

mail.cron('report', '0 2 * * *', { tz: 'Europe/Berlin' }, () => report());

// An older holder, which has been stopped for a while, does not overwrite a newer report.
export const report = (): Promise<void> =>
  corral.lock('{shop}:report', { ttl: '30s', wait: '10s' }, ({ fence }) => {
    db.run(
      `INSERT INTO report SELECT 1, count(*), ? FROM outbox WHERE true
         ON CONFLICT DO UPDATE SET mails = excluded.mails, fence = excluded.fence WHERE fence < excluded.fence`,
      [fence],
    );
  });

export const worker = new Worker(corral, [urgent, mail], { concurrency: 50 });

if (process.argv[1]?.endsWith('shop.js')) await worker.run();
