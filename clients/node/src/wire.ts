// What stands in the fields of a task: docs/wire.md, which every package follows. Pure functions.

import { hasCode } from './errors.js';
import { JSON_TYPE, jsonSerializer, type Serializer } from './json.js';

export type Word = string | number | Uint8Array;
export type Command = readonly Word[];
/** A reply. An error reply is an Error. */
export type Reply = null | number | string | Buffer | Error | readonly Reply[];

export const GROUP = 'workers';
/** The name of a task without the field `task`. */
const DEFAULT_TASK = 'default';
/** A task with an unknown name comes back after this time. */
export const UNKNOWN_DELAY_MS = 10_000;
const REASON_BYTES = 1024;
/** The fields that mean something to the server or to the packages. All others are headers. */
const RESERVED = new Set(
  ('payload timestamp retry_count original_id group priority reason deliveries key tries expire_unix_ms task' +
    ' content-type cron ack').split(' '),
);

export function checkName(name: string, what: string): string {
  if (typeof name !== 'string' || name === '') throw new TypeError(`the name of a ${what} must be a text that is not empty`);
  return name;
}

export function checkHeaders(headers: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(headers)) {
    if (name === '' || typeof value !== 'string') throw new TypeError('headers are texts: name and value');
    if (RESERVED.has(name)) throw new RangeError(`the header '${name}' has a meaning of its own`);
  }
}

/** A text of a reply. */
export function text(reply: Reply | undefined): string {
  return Buffer.isBuffer(reply) ? reply.toString('utf8') : String(reply ?? '');
}

/** Digits of a reasonable number: anybody can write anything into a stream. */
function digits(value: string): number | undefined {
  return /^\d{1,12}$/.test(value) ? Number(value) : undefined;
}

/** A task as it was delivered. */
export class Delivery {
  readonly task: string;
  /** The id that the publisher got. */
  readonly originalId: string;
  /** 1 for the first try. Each delivery counts, except those that were given back SILENT. */
  readonly attempt: number;
  /** Unix seconds at which a run of a schedule was due. */
  readonly cron: number | undefined;

  constructor(
    readonly stream: string,
    readonly id: string,
    readonly fields: ReadonlyMap<string, Buffer>,
    deliveries: number,
  ) {
    this.task = this.text('task') || DEFAULT_TASK;
    this.originalId = this.text('original_id') || id;
    this.attempt = (digits(this.text('retry_count')) ?? 0) + deliveries;
    this.cron = digits(this.text('cron'));
  }

  text(name: string, otherwise = ''): string {
    return this.fields.get(name)?.toString('utf8') ?? otherwise;
  }

  get headers(): Record<string, string> {
    const names = [...this.fields.keys()].filter((name) => !RESERVED.has(name));
    return Object.fromEntries(names.map((name) => [name, this.text(name)]));
  }
}

/** From an element of the reply of TASK.CONSUME … META; with THEN its fifth element names the stream. */
export function delivery(entry: Reply, stream: string): Delivery {
  const [id, pairs, , deliveries, from] = entry as [Reply, readonly Reply[], Reply, Reply, Reply?];
  const fields = new Map<string, Buffer>();
  for (let index = 0; index + 1 < pairs.length; index += 2) {
    const value = pairs[index + 1];
    fields.set(text(pairs[index]), Buffer.isBuffer(value) ? value : Buffer.from(text(value)));
  }
  return new Delivery(from === undefined ? stream : text(from), text(id), fields, Number(deliveries));
}

/** The payload cannot be decoded, now or later. */
export class BadPayload extends Error {
  readonly code = 'BAD_PAYLOAD';
  override readonly name = 'BadPayload';
}

/** The arguments of the handler. */
export function payloadOf(task: Delivery, serializer: Serializer): Record<string, unknown> {
  const kind = task.text('content-type', JSON_TYPE);
  if (kind !== JSON_TYPE && kind !== serializer.contentType) throw new BadPayload(`content-type ${kind} is not supported`);
  let payload: unknown;
  try {
    payload = (kind === JSON_TYPE ? jsonSerializer : serializer).decode(task.fields.get('payload') ?? Buffer.alloc(0));
  } catch (error) {
    throw new BadPayload(`the payload does not decode: ${String(error)}`, { cause: error });
  }
  if (typeof payload !== 'object' || payload === null || Array.isArray(payload)) {
    throw new BadPayload('the payload is not a JSON object');
  }
  return payload as Record<string, unknown>;
}

/** What becomes of a task: `ACK`, or a mode of TASK.NACK. */
export interface Outcome {
  readonly mode: 'ACK' | 'FAIL' | 'FATAL' | 'SILENT';
  readonly delayMs?: number;
  readonly reason?: string;
}

/** The outcome of a run that ended with `error`. `tries` is the limit of the handler, beside that of the queue. */
export function outcome(error: unknown, attempt: number, tries: number | undefined): Outcome {
  if (error === undefined) return { mode: 'ACK' };
  if (hasCode(error, 'LATER')) return { mode: 'SILENT', delayMs: (error as unknown as { delayMs: number }).delayMs };
  if (hasCode(error, 'BAD_PAYLOAD')) return { mode: 'FATAL', reason: error.message };
  if (hasCode(error, 'FATAL') || (tries !== undefined && attempt >= tries)) return { mode: 'FATAL', reason: reason(error) };
  return { mode: 'FAIL', reason: reason(error) };
}

/** The name of the error and its text, at most 1024 bytes of UTF-8. */
export function reason(error: unknown): string {
  const full =
    error instanceof Error ? (error.message ? `${error.name}: ${error.message}` : error.name) : `Error: ${String(error)}`;
  const bytes = Buffer.from(full);
  if (bytes.length <= REASON_BYTES) return full;
  let end = REASON_BYTES;
  // Not in the middle of a character.
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return bytes.toString('utf8', 0, end);
}

export function nackCommand(task: Delivery, consumer: string, what: Outcome, payload?: Uint8Array): Word[] {
  const command: Word[] = ['TASK.NACK', task.stream, GROUP, consumer, what.mode, task.id];
  if (what.delayMs !== undefined) command.push('DELAY', what.delayMs);
  if (what.reason) command.push('REASON', what.reason);
  if (payload !== undefined) command.push('PAYLOAD', payload);
  return command;
}

/** A map of RESP2, a flat array, as an object with texts. */
export function asMap(reply: Reply): unknown {
  if (Buffer.isBuffer(reply)) return reply.toString('utf8');
  if (!Array.isArray(reply)) return reply;
  const list = reply as readonly Reply[];
  const isName = (item: Reply, index: number): boolean => index % 2 === 1 || Buffer.isBuffer(item) || typeof item === 'string';
  if (list.length === 0 || list.length % 2 === 1 || !list.every(isName)) return list.map(asMap);
  const found: Record<string, unknown> = {};
  for (let index = 0; index < list.length; index += 2) found[text(list[index])] = asMap(list[index + 1] ?? null);
  return found;
}

/** The stream of the dead letters of a queue. */
export function deadLetters(stream: string): string {
  const start = stream.indexOf('{');
  const end = start < 0 ? -1 : stream.indexOf('}', start + 1);
  if (end > start + 1) return `dead::${stream}`;
  return stream.includes('}') ? `dead:${stream}` : `dead:{${stream}}`;
}

/** The hash slot of a key in a cluster. */
export function slotOf(key: string): number {
  const start = key.indexOf('{');
  const end = start < 0 ? -1 : key.indexOf('}', start + 1);
  let crc = 0;
  for (const byte of Buffer.from(end > start + 1 ? key.slice(start + 1, end) : key)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff;
  }
  return crc % 16384;
}
