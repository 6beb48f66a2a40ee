// The cases of clients/vectors.json, which every package runs: docs/wire.md in examples.

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { dropReason, markMs, runId, Schedule, type Misfire } from '../src/cron.js';
import { Fatal, Later } from '../src/errors.js';
import { jsonSerializer } from '../src/json.js';
import { keyOf, KeyTemplate } from '../src/keys.js';
import { BadPayload, delivery, Delivery, nackCommand, outcome, payloadOf, reason, UNKNOWN_DELAY_MS, type Outcome } from '../src/wire.js';

/* eslint-disable @typescript-eslint/no-explicit-any -- The cases are data. */
// A whole number beyond 2^53 is a bigint in a program for Node.
const source = readFileSync(new URL('../../vectors.json', import.meta.url), 'utf8');
const VECTORS: any = JSON.parse(source.replace(/: (\d{16,})\b/g, ': {"bigint": "$1"}'));

const unix = (text: string): number => Date.parse(text) / 1000;

/** Node has no types for days and UUIDs: they are texts. */
function argument(value: any): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if ('bigint' in value) return BigInt(value.bigint);
  if ('date' in value) return value.date;
  return 'uuid' in value ? value.uuid.toLowerCase() : value;
}

const named = (values: any): Record<string, unknown> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, argument(value)]));

test.each(VECTORS.keys.templates as any[])('the key $key is written from its template', ({ template, arguments: values, key }) => {
  expect(new KeyTemplate(template).key(named(values))).toBe(key);
});

test.each(VECTORS.keys.rejected as any[])('$arguments has no single written form', ({ template, arguments: values }) => {
  expect(() => new KeyTemplate(template).key(named(values))).toThrow(/part of a key/);
});

test('the parts of a key are encoded and joined', () => {
  expect(keyOf(['user', 7])).toBe('user:7');
  expect(keyOf(['a:b', true, 12345678901234567890n])).toBe('a%3Ab:true:12345678901234567890');
  for (const bad of [new Date(0), 2 ** 53, Number.NaN, undefined, null, {}]) expect(() => keyOf(['x', bad])).toThrow(TypeError);
  expect(() => keyOf([])).toThrow(/empty/);
});

test.each(['', 'user:{', 'user:}', 'user:{0}', 'user:{a.b}', 'user:{}'])('%s is no template', (template) => {
  expect(() => new KeyTemplate(template)).toThrow(RangeError);
});

test.each(VECTORS.cached as any[])('the cached value $text is its JSON text', ({ value, text }) => {
  expect(Buffer.from(jsonSerializer.encode(value)).toString()).toBe(text);
  expect(jsonSerializer.decode(Buffer.from(text))).toEqual(value);
});

test.each([
  Number.NaN, Number.POSITIVE_INFINITY, Buffer.from('bytes'), new Map(), new Set([1]), 1n, () => 1, undefined, [undefined],
  { a: Number.NaN }, Symbol('x'),
])('%s is no JSON', (value) => {
  expect(() => jsonSerializer.encode(value)).toThrow(/serializer/);
});

test('a cycle is no JSON, an object may say what it is', () => {
  const cycle: unknown[] = [];
  cycle.push(cycle);
  expect(() => jsonSerializer.encode(cycle)).toThrow(/serializer/);
  expect(Buffer.from(jsonSerializer.encode({ at: new Date(0), none: undefined })).toString()).toBe('{"at":"1970-01-01T00:00:00.000Z"}');
  expect(() => jsonSerializer.decode(Buffer.from([0x22, 0xff, 0x22]))).toThrow();
});

const withPayload = (payload: Buffer, kind?: string): Delivery =>
  new Delivery('mail', '1-0', new Map([['payload', payload], ...(kind ? [['content-type', Buffer.from(kind)] as const] : [])]), 1);

test.each(VECTORS.payloads.valid as any[])('the payload $payload is arguments', (one) => {
  expect(payloadOf(withPayload(Buffer.from(one.payload)), jsonSerializer)).toEqual(one.arguments);
});

test.each(VECTORS.payloads.invalid as any[])('a payload that does not decode is fatal: $payload', (one) => {
  const payload = 'payload_hex' in one ? Buffer.from(one.payload_hex, 'hex') : Buffer.from(one.payload);
  let error: unknown;
  try {
    payloadOf(withPayload(payload, one.content_type), jsonSerializer);
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(BadPayload);
  expect(outcome(error, 1, 5).mode).toBe('FATAL');
});

test.each(VECTORS.deliveries as any[])('the fields of a task say what it is: $title', (one) => {
  const pairs = one.fields.flat().map((word: string) => Buffer.from(word));
  const task = delivery([Buffer.from(one.id), pairs, 0, one.deliveries], 'mail');
  expect([task.task, task.originalId, task.attempt]).toEqual([one.task, one.original_id, one.attempt]);
  expect(task.headers).toEqual(one.headers);
  expect(task.cron).toBe(one.cron);
});

const ENDINGS: Record<string, (one: any) => Error | undefined> = {
  error: (one) => new Error(one.message),
  fatal: (one) => new Fatal(one.message),
  later: (one) => new Later(one.delay_ms / 1000),
  'bad payload': () => new BadPayload('no JSON'),
  return: () => undefined,
};

test.each(VECTORS.outcomes as any[])('what becomes of a task: $title', (one) => {
  const what: Outcome =
    one.ends === 'unknown' ? { mode: 'SILENT', delayMs: UNKNOWN_DELAY_MS } : outcome(ENDINGS[one.ends]?.(one), one.attempt, one.tries ?? undefined);
  const command =
    what.mode === 'ACK' ? ['TASK.ACK', 'mail', 'workers', '1-0'] : nackCommand(withPayload(Buffer.from('{}')), 'w1', what);
  const expected = [...one.command];
  if (expected.at(-2) === 'REASON') {
    expect(String(command.pop())).toContain(String(expected.pop()).slice(1));
  }
  expect(command).toEqual(expected);
});

test('a reason is cut at 1024 bytes without a broken character', () => {
  const text = reason(new Error('ü'.repeat(2000)));
  expect([1023, 1024]).toContain(Buffer.byteLength(text));
  expect(text.endsWith('ü')).toBe(true);
  expect(reason(new TypeError('x'))).toBe('TypeError: x');
});

describe('schedules', () => {
  test.each(VECTORS.cron.next as any[])('the next runs: $title', (one) => {
    const schedule = new Schedule(one.expression, one.tz);
    let at = unix(one.after);
    const runs = one.next.map(() => {
      at = schedule.nextRun(at);
      expect(schedule.hasRun(at)).toBe(true);
      return new Date(at * 1000).toISOString().replace('.000', '');
    });
    expect(runs).toEqual(one.next);
  });

  test.each(VECTORS.cron.delivered as any[])('a run that is delivered: $title', (one) => {
    const schedule = new Schedule(one.expression, one.tz, one.misfire as Misfire);
    const [scheduled, now] = [unix(one.scheduled), unix(one.now)];
    expect(schedule.decide(scheduled, now, one.attempt)).toBe(one.becomes);
    expect(dropReason(schedule, scheduled, now, one.attempt) === undefined).toBe(one.becomes === 'run');
  });

  test.each(VECTORS.cron.invalid as any[])('no schedule: $title', (one) => {
    expect(() => new Schedule(one.expression, one.tz)).toThrow(RangeError);
  });

  test.each(VECTORS.cron.runs as any[])('the id and the window of a run: $unique', (one) => {
    const [at, now] = [unix(one.at), unix(one.now)];
    expect(runId(one.task, at)).toBe(one.unique);
    expect(markMs(at, now * 1000)).toBe(one.window_ms);
  });

  test('there are 60 cases', () => {
    expect(Object.values(VECTORS.cron as Record<string, unknown[]>).flat().length).toBeGreaterThanOrEqual(60);
  });
});
