// Tests of the shop without a server. Run them with `node --test`.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { memoryCorral, type MemoryCorral } from 'corral-client/testing';
import { addToCart, corral, db, mail, product, signUp } from './shop.js';

let fake: MemoryCorral;
beforeEach(() => {
  db.exec('DELETE FROM outbox; DELETE FROM report');
  fake = memoryCorral(corral);
});
afterEach(() => fake.restore());

const outbox = (): unknown[] => db.all('SELECT address, text FROM outbox').map((row) => Object.values(row));

test('a new customer gets one mail', async () => {
  assert.equal(await signUp('ann@example.org'), await signUp('ann@example.org'));
  await fake.run();
  assert.deepEqual(outbox(), [['ann@example.org', 'Welcome']]);
});

test('the reminder is about the last item, and comes 30 minutes after it', async () => {
  await addToCart('ann@example.org', 'tea');
  await fake.advance('20m');
  await addToCart('ann@example.org', 'milk');
  await fake.advance('20m');
  assert.deepEqual(await fake.run(), []);
  await fake.advance('10m');
  await fake.run();
  assert.deepEqual(outbox(), [['ann@example.org', 'Your cart is waiting, with milk']]);
});

test('a mail without an address is a dead letter', async () => {
  await mail.publish('welcome', { to: 'ann' });
  assert.equal((await fake.run())[0]?.outcome, 'FATAL');
  assert.equal(fake.deadLetters('{shop}:mail')[0]?.['reason'], "Fatal: 'ann' is no address");
});

test('a product that does not exist is asked for once', async () => {
  assert.equal(await product(404), null);
  assert.equal(await product(404), null);
  assert.equal(fake.counts.get('CACHE.SET'), 1);
});

test('there is a report every night', async () => {
  await fake.run();
  await fake.advance('1d');
  assert.deepEqual((await fake.run()).map((ran) => ran.task), ['report']);
  assert.equal(db.get('SELECT mails FROM report')?.['mails'], 0);
});
