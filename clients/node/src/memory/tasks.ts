// TASK.* in memory, for queues with one consumer group.

import type { Reply } from '../wire.js';
import { Options, Rejected, WAITING, wholeNumber, type Call, type MemoryServer, type Result } from './server.js';

const BASE_PRIORITY = 10n ** 17n;

class Entry {
  id = '';
  consumer: string | undefined;
  leasedAt = 0;
  deliveries = 0;
  priority = 0;
  due = 0;
  tries: number | undefined;
  expires: number | undefined;
  unique: string | undefined;
  until: string | undefined;

  constructor(readonly fields: Map<string, Buffer>) {}

  get original(): string {
    return this.text('original_id') ?? this.id;
  }

  get retries(): number {
    return Number(this.text('retry_count') ?? 0);
  }

  text(name: string): string | undefined {
    return this.fields.get(name)?.toString();
  }

  set(name: string, value: string | number): void {
    this.fields.set(name, Buffer.from(String(value)));
  }
}

export class Stream {
  ready: Entry[] = [];
  leased = new Map<string, Entry>();
  delayed: Entry[] = [];
  dead: Entry[] = [];
  marks = new Map<string, { id: string; ends: number }>();
  /** Successors of tasks that run, by the ids of those. */
  held = new Map<string, Entry>();
  policy = { LEASE: 300_000, TRIES: 20, LIMIT: 0, KEEP: 0, PAUSED: 0, BASE: 1000, MAX: 600_000 };
  group: string | undefined;
}

export class Tasks {
  readonly #server: MemoryServer;
  readonly #streams = new Map<string, Stream>();
  #sequence = 0;

  constructor(server: MemoryServer) {
    this.#server = server;
  }

  commands(): [string, (call: Call) => Result][] {
    return [
      ['TASK.PUBLISH', (call) => this.#publish(call)],
      ['TASK.CONSUME', (call) => this.#consume(call)],
      ['TASK.ACK', (call) => this.#ack(call)],
      ['TASK.EXTEND', (call) => this.#extend(call)],
      ['TASK.NACK', (call) => this.#nack(call)],
      ['TASK.CANCEL', (call) => this.#cancel(call)],
      ['TASK.REDRIVE', (call) => this.#redrive(call)],
      ['TASK.POLICY', (call) => this.#policy(call)],
      ['TASK.INFO', (call) => this.#info(call)],
      ['TASK.STATE', (call) => this.#state(call)],
    ];
  }

  stream(name: string): Stream {
    const stream = this.#streams.get(name) ?? new Stream();
    this.#streams.set(name, stream);
    return stream;
  }

  #at(call: Call, index = 1): Stream {
    return this.stream(String(call.words[index]));
  }

  #newId(priority: number, due?: number): string {
    this.#sequence++;
    const { nowMs } = this.#server;
    if (due !== undefined) return `${due}-${10n * BASE_PRIORITY + BigInt(nowMs) * 1000n + BigInt(this.#sequence % 1000)}`;
    return `${nowMs}-${BigInt(priority) * BASE_PRIORITY + BigInt(this.#sequence)}`;
  }

  #publish(call: Call): Result {
    const { nowMs } = this.#server;
    const stream = this.#at(call);
    const options = new Options(call.words.slice(3), {
      values: 'DELAY AT PRIORITY EXPIRE TRIES UNTIL UNIQUE', flags: 'LAST', lists: 'FIELDS',
    });
    const entry = new Entry(new Map([['payload', call.words[2] ?? Buffer.alloc(0)]]));
    entry.set('timestamp', Math.floor(nowMs / 1000));
    entry.set('retry_count', 0);
    const words = options.words('FIELDS');
    words.forEach((word, index) => index % 2 === 1 && entry.fields.set(String(words[index - 1]), word));
    entry.priority = options.number('PRIORITY', 0);
    entry.due = options.number('AT', nowMs + options.number('DELAY', 0));
    if (options.has('TRIES')) entry.tries = options.number('TRIES', 0);
    if (options.has('EXPIRE')) entry.expires = nowMs + options.number('EXPIRE', 0, 1);
    const unique = options.text('UNIQUE');
    if (unique !== undefined) {
      const before = this.#duplicate(stream, entry, unique, options.has('LAST'));
      if (before !== undefined) return before;
    }
    const { LIMIT } = stream.policy;
    if (LIMIT > 0 && stream.ready.length + stream.leased.size + stream.delayed.length >= LIMIT) {
      throw new Rejected('TASKFULL the queue holds as many tasks as its policy allows');
    }
    this.#add(stream, entry);
    if (unique !== undefined) {
      [entry.unique, entry.until] = [unique, options.text('UNTIL')?.toUpperCase()];
      stream.marks.set(unique, { id: entry.original, ends: nowMs + wholeNumber(options.words('UNIQUE')[1], 1) });
    }
    return entry.id;
  }

  /** The id of the task that has this mark already. With LAST, it gets what the new one says. */
  #duplicate(stream: Stream, entry: Entry, unique: string, last: boolean): string | undefined {
    const mark = stream.marks.get(unique);
    if (mark === undefined || mark.ends < this.#server.nowMs) return undefined;
    if (!last) return mark.id;
    for (const place of [stream.ready, stream.delayed]) {
      const old = place.find((one) => one.original === mark.id);
      if (old === undefined) continue;
      place.splice(place.indexOf(old), 1);
      entry.set('original_id', mark.id);
      [entry.unique, entry.until] = [old.unique, old.until];
      this.#add(stream, entry);
      return mark.id;
    }
    for (const old of stream.leased.values()) {
      if (old.original !== mark.id) continue;
      entry.id = stream.held.get(mark.id)?.id ?? this.#newId(entry.priority);
      stream.held.set(mark.id, entry);
      return entry.id;
    }
    return mark.id;
  }

  /** Into the queue, or among the delayed tasks. */
  #add(stream: Stream, entry: Entry): void {
    entry.consumer = undefined;
    entry.deliveries = 0;
    if (entry.due > this.#server.nowMs) {
      entry.id = this.#newId(entry.priority, entry.due);
      stream.delayed.push(entry);
      stream.delayed.sort((one, other) => one.due - other.due);
    } else {
      entry.id = this.#newId(entry.priority);
      stream.ready.push(entry);
      stream.ready.sort((one, other) => other.priority - one.priority);
    }
  }

  /** What is due enters the queue; what has expired, or was tried too often, is a dead letter. */
  settle(stream: Stream): void {
    const { nowMs } = this.#server;
    const { policy } = stream;
    while (stream.delayed[0] !== undefined && stream.delayed[0].due <= nowMs) {
      const [entry] = stream.delayed.splice(0, 1) as [Entry];
      entry.set('original_id', entry.original);
      this.#add(stream, entry);
    }
    for (const entry of [...stream.leased.values()]) {
      const tries = entry.tries ?? policy.TRIES;
      const expired = policy.LEASE > 0 && nowMs - entry.leasedAt > policy.LEASE;
      if (expired && tries > 0 && entry.retries + entry.deliveries >= tries) this.#bury(stream, entry, 'lease expired');
    }
    for (const entry of [...stream.ready]) {
      if (entry.expires === undefined || entry.expires >= nowMs || entry.retries > 0) continue;
      stream.ready.splice(stream.ready.indexOf(entry), 1);
      this.#bury(stream, entry, 'expired');
    }
  }

  #consume(call: Call): Result {
    const options = new Options(call.words.slice(4), { values: 'COUNT BLOCK', flags: 'META TIED', lists: 'THEN' });
    if (!options.has('META') && !options.has('THEN')) throw new Rejected('ERR this server in memory knows META only');
    const count = options.number('COUNT', 1, 1);
    const { nowMs } = this.#server;
    const found: Reply[] = [];
    for (const name of [String(call.words[3]), ...options.words('THEN').map(String)]) {
      const stream = this.stream(name);
      stream.group ??= String(call.words[1]);
      if (stream.group !== String(call.words[1])) throw new Rejected('TASKGROUPS a queue in memory has one consumer group');
      this.settle(stream);
      if (stream.policy.PAUSED) continue;
      for (const entry of this.#next(stream, count - found.length)) {
        const idle = entry.deliveries > 0 ? nowMs - entry.leasedAt : 0;
        entry.consumer = String(call.words[2]);
        entry.leasedAt = nowMs;
        entry.deliveries++;
        if (entry.until === 'START' && entry.unique !== undefined) stream.marks.delete(entry.unique);
        const pairs = [...entry.fields].flatMap(([field, value]): Reply[] => [Buffer.from(field), value]);
        const reply: Reply[] = [Buffer.from(entry.id), pairs, idle, entry.deliveries];
        found.push(options.has('THEN') ? [...reply, Buffer.from(name)] : reply);
      }
    }
    return found.length > 0 ? found : options.has('BLOCK') ? WAITING : [];
  }

  #next(stream: Stream, count: number): Entry[] {
    const { LEASE } = stream.policy;
    const expired = [...stream.leased.values()].filter((entry) => LEASE > 0 && this.#server.nowMs - entry.leasedAt > LEASE);
    const found = expired.slice(0, count);
    for (const entry of stream.ready.splice(0, Math.max(count - found.length, 0))) {
      stream.leased.set(entry.id, entry);
      found.push(entry);
    }
    return found;
  }

  /** The task is done or dead. */
  #finish(stream: Stream, entry: Entry): void {
    const { unique, until, original } = entry;
    if (until !== undefined && unique !== undefined && stream.marks.get(unique)?.id === original) stream.marks.delete(unique);
    const successor = stream.held.get(original);
    if (successor === undefined) return;
    stream.held.delete(original);
    const { id } = successor;
    this.#add(stream, successor);
    if (successor.text('original_id') === undefined) successor.set('original_id', id);
  }

  #ack(call: Call): Result {
    const stream = this.#at(call);
    let done = 0;
    for (const id of call.words.slice(3).map(String)) {
      const entry = stream.leased.get(id);
      if (entry === undefined) continue;
      stream.leased.delete(id);
      done++;
      this.#finish(stream, entry);
    }
    return done;
  }

  #extend(call: Call): Result {
    const stream = this.#at(call);
    const replies = call.words.slice(4).map((id) => {
      const entry = stream.leased.get(String(id));
      if (entry?.consumer !== String(call.words[3])) return 0;
      entry.leasedAt = this.#server.nowMs;
      return 1;
    });
    return replies.length === 1 ? (replies[0] ?? 0) : replies;
  }

  #nack(call: Call): Result {
    const stream = this.#at(call);
    const mode = String(call.words[4]).toUpperCase();
    const options = new Options(call.words.slice(6), { values: 'DELAY REASON PAYLOAD' });
    const entry = stream.leased.get(String(call.words[5]));
    if (entry?.consumer !== String(call.words[3])) return 0;
    const { policy } = stream;
    const count = entry.retries + entry.deliveries - (mode === 'SILENT' ? 1 : 0);
    const tries = entry.tries ?? policy.TRIES;
    const payload = options.words('PAYLOAD')[0];
    if (payload !== undefined) entry.fields.set('payload', payload);
    if (mode === 'FATAL' || (mode === 'FAIL' && tries > 0 && count >= tries)) {
      this.#bury(stream, entry, options.text('REASON') ?? (mode === 'FAIL' ? 'failed' : 'fatal'));
      return 2;
    }
    stream.leased.delete(entry.id);
    const limit = Math.min(policy.BASE * 2 ** Math.max(count - 1, 0), policy.MAX);
    const backoff = mode === 'SILENT' ? 0 : Math.floor(Math.random() * (limit + 1));
    entry.set('original_id', entry.original);
    entry.set('retry_count', count);
    entry.due = this.#server.nowMs + options.number('DELAY', backoff);
    this.#add(stream, entry);
    return 1;
  }

  #bury(stream: Stream, entry: Entry, reason: string): void {
    stream.leased.delete(entry.id);
    entry.set('original_id', entry.original);
    entry.set('reason', reason);
    entry.set('deliveries', entry.deliveries);
    entry.set('retry_count', entry.retries + entry.deliveries);
    stream.dead.push(entry);
    this.#finish(stream, entry);
  }

  #cancel(call: Call): Result {
    const stream = this.#at(call);
    let count = 0;
    for (const id of call.words.slice(2).map(String)) {
      for (const place of [stream.ready, stream.delayed]) {
        const entry = place.find((one) => id === one.id || id === one.original);
        if (entry === undefined) continue;
        place.splice(place.indexOf(entry), 1);
        this.#finish(stream, entry);
        count++;
      }
    }
    return count;
  }

  #redrive(call: Call): Result {
    const stream = this.#at(call, 2);
    const options = new Options(call.words.slice(3), { values: 'COUNT', rest: 'ID' });
    const ids = options.has('ID') ? options.words('ID').map(String) : undefined;
    const wanted = stream.dead.filter((entry) => ids === undefined || ids.includes(entry.id) || ids.includes(entry.original));
    const chosen = wanted.slice(0, options.number('COUNT', 1000, 1));
    for (const entry of chosen) {
      stream.dead.splice(stream.dead.indexOf(entry), 1);
      entry.fields.delete('reason');
      entry.fields.delete('deliveries');
      entry.set('retry_count', 0);
      entry.due = 0;
      entry.expires = undefined;
      this.#add(stream, entry);
    }
    return chosen.length;
  }

  #policy(call: Call): Result {
    const { policy } = this.#at(call);
    const words = call.words.slice(2);
    const at = words.findIndex((word) => String(word).toUpperCase() === 'BACKOFF');
    if (at >= 0) [policy.BASE, policy.MAX] = words.splice(at, 3).slice(1).map((word) => wholeNumber(word)) as [number, number];
    const names = ['LEASE', 'TRIES', 'LIMIT', 'KEEP', 'PAUSED'] as const;
    const options = new Options(words, { values: names.join(' ') });
    for (const name of names) policy[name] = options.number(name, policy[name]);
    return 'OK';
  }

  #state(call: Call): Result {
    const stream = this.#at(call);
    this.settle(stream);
    const id = String(call.words[2]);
    for (const [state, entries] of [['ready', stream.ready], ['delayed', stream.delayed], ['leased', [...stream.leased.values()]]] as const) {
      const entry = entries.find((one) => id === one.id || id === one.original);
      if (entry !== undefined) return ['state', state, 'id', entry.id, 'retry_count', entry.retries, 'deliveries', entry.deliveries];
    }
    return null;
  }

  #info(call: Call): Result {
    const stream = this.#at(call);
    this.settle(stream);
    const { policy, ready, leased, delayed, dead, group } = stream;
    const groups: Reply[] = group === undefined ? [] : [['name', group, 'ready', ready.length, 'leased', leased.size, 'consumers', 1]];
    return [
      'length', ready.length + leased.size, 'delayed', delayed.length, 'dead', dead.length, 'oldest_ready_ms', 0,
      'next_due_ms', delayed[0] === undefined ? -1 : delayed[0].due - this.#server.nowMs, 'groups', groups,
      'policy', [
        'lease_ms', policy.LEASE, 'tries', policy.TRIES, 'backoff_base_ms', policy.BASE, 'backoff_max_ms', policy.MAX,
        'limit', policy.LIMIT, 'keep', policy.KEEP, 'paused', policy.PAUSED,
      ],
    ];
  }
}
