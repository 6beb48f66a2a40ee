// CACHE.* and LOCK.* in memory.

import type { Reply } from '../wire.js';
import { Options, Rejected, WAITING, wholeNumber, type Call, type MemoryServer, type Result } from './server.js';

/** A cached value, and the lease of its loader. */
class Value {
  data: Buffer | null = null;
  ends = 0;
  isStale = false;
  token = 0;
  /** Tokens beyond this one are valid. */
  floor = 0;
  leaseEnds = -1;
  backoffEnds = -1;
  reason: Buffer | null = null;
}

class Lock {
  holder: string | undefined;
  ends = 0;
  shared = new Map<string, number>();
  /** Those that wait, first come, first served. */
  line: { call: Call; me: string }[] = [];
}

export class Strings {
  readonly #server: MemoryServer;
  readonly #values = new Map<string, Value>();
  readonly #locks = new Map<string, Lock>();
  #token = 0;

  constructor(server: MemoryServer) {
    this.#server = server;
  }

  commands(): [string, (call: Call) => Result][] {
    return [
      ['CACHE.FETCH', (call) => this.#fetch(call)],
      ['CACHE.SET', (call) => this.#set(call)],
      ['CACHE.GET', (call) => this.#value(call).data],
      ['CACHE.EXTEND', (call) => this.#extend(call)],
      ['CACHE.FAIL', (call) => this.#fail(call)],
      ['CACHE.INVALIDATE', (call) => this.#invalidate(call)],
      ['LOCK.ACQUIRE', (call) => this.#acquire(call)],
      ['LOCK.EXTEND', (call) => this.#renew(call)],
      ['LOCK.RELEASE', (call) => this.#release(call)],
    ];
  }

  leave(call: Call): Reply {
    if (call.name === 'CACHE.FETCH') {
      const { data } = this.#value(call);
      return data === null ? ['WAIT', null, null] : ['STALE', data, null];
    }
    const lock = this.#lock(call);
    lock.line = lock.line.filter((place) => place.call !== call);
    return 0;
  }

  #nextToken(): number {
    return (this.#token = Math.max(this.#token + 1, this.#server.nowMs * 1000));
  }

  #value(call: Call): Value {
    const key = String(call.words[1]);
    const value = this.#values.get(key) ?? new Value();
    this.#values.set(key, value);
    if (value.data !== null && value.ends < this.#server.nowMs) [value.data, value.isStale] = [null, false];
    return value;
  }

  #fetch(call: Call): Result {
    const now = this.#server.nowMs;
    const value = this.#value(call);
    const lease = wholeNumber(call.words[2], 1);
    const options = new Options(call.words.slice(3), { values: 'STALE BLOCK', flags: 'FRESH TIED' });
    const { data } = value;
    if (data !== null && !value.isStale && value.ends - now > options.number('STALE', 0)) return ['HIT', data, null];
    if (value.backoffEnds >= now) return data === null ? ['FAIL', value.reason, null] : ['STALE', data, null];
    if (value.leaseEnds >= now) return data !== null && !options.has('FRESH') ? ['STALE', data, null] : WAITING;
    value.token = this.#nextToken();
    value.leaseEnds = now + lease;
    return ['LOAD', data, value.token];
  }

  #set(call: Call): Result {
    const value = this.#value(call);
    const lives = wholeNumber(call.words[3], 1);
    const options = new Options(call.words.slice(4), { values: 'TOKEN JITTER', flags: 'NX' });
    const newest = value.token;
    if (options.has('TOKEN')) {
      const token = options.number('TOKEN', 0);
      if (token <= value.floor || token > value.token) return null;
      value.floor = token;
    } else value.floor = newest;
    if (options.has('NX') && value.data !== null) return null;
    value.data = call.words[2] ?? null;
    value.ends = this.#server.nowMs + lives;
    value.isStale = false;
    if (value.floor === newest) value.leaseEnds = value.backoffEnds = -1;
    return 'OK';
  }

  #extend(call: Call): Result {
    const value = this.#value(call);
    if (wholeNumber(call.words[2]) !== value.token || value.leaseEnds < this.#server.nowMs) return 0;
    value.leaseEnds = this.#server.nowMs + wholeNumber(call.words[3], 1);
    return 1;
  }

  #fail(call: Call): Result {
    const value = this.#value(call);
    const options = new Options(call.words.slice(3), { values: 'BACKOFF REASON' });
    const token = wholeNumber(call.words[2]);
    if (token !== value.token || token <= value.floor) return 0;
    value.leaseEnds = -1;
    value.floor = token;
    if (options.has('BACKOFF')) {
      value.backoffEnds = this.#server.nowMs + options.number('BACKOFF', 0, 1);
      value.reason = options.words('REASON')[0] ?? null;
    }
    return 1;
  }

  #invalidate(call: Call): Result {
    const now = this.#server.nowMs;
    const value = this.#value(call);
    const options = new Options(call.words.slice(2), { values: 'STALE' });
    const found = value.data !== null || value.leaseEnds >= now;
    value.floor = value.token;
    value.leaseEnds = value.backoffEnds = -1;
    if (options.has('STALE') && value.data !== null) {
      value.isStale = true;
      value.ends = Math.min(value.ends, now + options.number('STALE', 0, 1));
    } else [value.data, value.isStale] = [null, false];
    return found ? 1 : 0;
  }

  #lock(call: Call): Lock {
    const name = String(call.words[1]);
    const lock = this.#locks.get(name) ?? new Lock();
    this.#locks.set(name, lock);
    const now = this.#server.nowMs;
    if (lock.holder !== undefined && lock.ends < now) lock.holder = undefined;
    for (const [holder, ends] of lock.shared) if (ends < now) lock.shared.delete(holder);
    return lock;
  }

  #acquire(call: Call): Result {
    const lock = this.#lock(call);
    const me = String(call.words[2]);
    const ends = this.#server.nowMs + wholeNumber(call.words[3], 1);
    const options = new Options(call.words.slice(4), { values: 'LIMIT BLOCK', flags: 'SHARED FENCE TIED' });
    const shared = options.has('SHARED') || options.has('LIMIT');
    if (shared ? me === lock.holder : lock.shared.has(me)) throw new Rejected('ERR identifier holds this lock in another mode');
    const holds = me === lock.holder || lock.shared.has(me);
    const first = lock.line.length === 0 || lock.line[0]?.call === call;
    const limit = options.number('LIMIT', Number.POSITIVE_INFINITY, 1);
    const room = lock.holder === undefined && (shared ? lock.shared.size < limit : lock.shared.size === 0);
    if (!holds && !(room && first)) {
      if (!options.has('BLOCK')) return 0;
      if (!lock.line.some((place) => place.call === call)) lock.line.push({ call, me });
      return WAITING;
    }
    lock.line = lock.line.filter((place) => place.call !== call);
    if (shared) lock.shared.set(me, ends);
    else [lock.holder, lock.ends] = [me, ends];
    return options.has('FENCE') ? this.#nextToken() : 1;
  }

  #renew(call: Call): Result {
    const lock = this.#lock(call);
    const me = String(call.words[2]);
    const ends = this.#server.nowMs + wholeNumber(call.words[3], 1);
    if (lock.holder === me) lock.ends = ends;
    else if (lock.shared.has(me)) lock.shared.set(me, ends);
    else return 0;
    return 1;
  }

  #release(call: Call): Result {
    const lock = this.#lock(call);
    const me = String(call.words[2]);
    lock.line = lock.line.filter((place) => place.me !== me);
    if (lock.holder !== me) return lock.shared.delete(me) ? 1 : 0;
    lock.holder = undefined;
    return 1;
  }
}
