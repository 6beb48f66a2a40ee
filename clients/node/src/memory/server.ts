// A server in the memory of this process, for tests: the commands of Corral that the package sends, and a clock.
//
// The clock stands still until `advance`. A command that waits ends when its turn comes, when the clock reaches its
// deadline, or after as much real time, so that nothing hangs. The package runs unchanged on top of it.

import type { Connection, Driver } from '../drivers/driver.js';
import type { Command, Reply } from '../wire.js';
import { Strings } from './strings.js';
import { Tasks } from './tasks.js';

/** The reply of a command that has to wait. */
export const WAITING = Symbol('waiting');
export type Result = Reply | typeof WAITING;

/** An error reply. */
export class Rejected extends Error {}

const BLOCKING = new Set(['CACHE.FETCH', 'LOCK.ACQUIRE', 'TASK.CONSUME']);

/** A command that is being run. The object identifies it among those that wait. */
export interface Call {
  readonly name: string;
  readonly words: readonly Buffer[];
  readonly client: number;
}

interface Waiting {
  readonly call: Call;
  readonly endsMs: number;
  readonly timer: NodeJS.Timeout;
  readonly resolve: (reply: Reply) => void;
}

export class MemoryServer {
  nowMs: number;
  /** Every command fails as if there were no connection. */
  away = false;
  /** How often each command was sent. */
  readonly counts = new Map<string, number>();
  readonly tasks: Tasks;
  readonly #strings: Strings;
  readonly #commands: Map<string, (call: Call) => Result>;
  #waiting: Waiting[] = [];
  #clients = 0;

  constructor(startMs: number) {
    this.nowMs = startMs;
    this.#strings = new Strings(this);
    this.tasks = new Tasks(this);
    this.#commands = new Map([...this.#strings.commands(), ...this.tasks.commands()]);
  }

  driver(): Driver {
    return {
      name: 'a server in memory', keyPrefix: '', timeoutMs: 60_000, seeds: [], sentinels: [], translate: (address) => address,
      connection: () => new MemoryConnection(this, ++this.#clients),
    };
  }

  /** Moves the clock. What becomes due in between becomes due. */
  advance(ms: number): void {
    this.nowMs += ms;
    this.changed();
  }

  /** The reply of a command, now or when it has waited long enough. */
  send(command: Command, client: number): Promise<Reply> {
    const words = command.map((word) => (Buffer.isBuffer(word) ? word : typeof word === 'object' ? Buffer.from(word) : Buffer.from(String(word))));
    const call: Call = { name: String(words[0]).toUpperCase(), words, client };
    this.counts.set(call.name, (this.counts.get(call.name) ?? 0) + 1);
    const reply = this.#try(call);
    if (reply !== WAITING) {
      this.changed();
      return Promise.resolve(reply);
    }
    const block = blockMs(call);
    if (block === undefined) return Promise.resolve(this.#leave(call));
    return new Promise((resolve) => {
      const end = (): void => this.#end(waiting, this.#leave(call));
      const timer = setTimeout(end, Math.min(block, 2 ** 31 - 1));
      const waiting: Waiting = { call, endsMs: this.nowMs + block, timer, resolve };
      this.#waiting.push(waiting);
    });
  }

  #end(waiting: Waiting, reply: Reply): void {
    clearTimeout(waiting.timer);
    this.#waiting = this.#waiting.filter((one) => one !== waiting);
    waiting.resolve(reply);
  }

  /** Something has changed: those that wait are tried again, first come, first served. */
  changed(): void {
    for (let again = true; again; ) {
      again = false;
      for (const waiting of [...this.#waiting]) {
        const reply = this.#try(waiting.call);
        if (reply !== WAITING) {
          this.#end(waiting, reply);
          again = true;
        } else if (this.nowMs >= waiting.endsMs) this.#end(waiting, this.#leave(waiting.call));
      }
    }
  }

  /** The connection of a client closes. */
  disconnect(client: number): void {
    for (const waiting of this.#waiting.filter((one) => one.call.client === client)) this.#end(waiting, this.#leave(waiting.call));
  }

  #try(call: Call): Result {
    try {
      return this.#run(call);
    } catch (error) {
      if (error instanceof Rejected) return error;
      throw error;
    }
  }

  #run(call: Call): Result {
    const command = this.#commands.get(call.name);
    if (command !== undefined) {
      if (!call.words[1]?.length) throw new Rejected('ERR the name must not be empty');
      return command(call);
    }
    switch (`${call.name} ${call.name === 'CLIENT' ? String(call.words[1]).toUpperCase() : ''}`.trim()) {
      case 'PING':
        return 'PONG';
      case 'TIME':
        return [String(Math.floor(this.nowMs / 1000)), String((this.nowMs % 1000) * 1000)];
      case 'COMMAND':
        return null;
      case 'CLIENT ID':
        return call.client;
      case 'CLIENT UNBLOCK': {
        const found = this.#waiting.find((waiting) => waiting.call.client === wholeNumber(call.words[2]));
        if (found !== undefined) this.#end(found, this.#leave(found.call));
        return found === undefined ? 0 : 1;
      }
    }
    throw new Rejected(`ERR unknown command '${call.name}'`);
  }

  /** The reply of a wait that has ended. */
  #leave(call: Call): Reply {
    return call.name === 'TASK.CONSUME' ? [] : this.#strings.leave(call);
  }
}

class MemoryConnection implements Connection {
  #queued: Command[] | undefined;

  constructor(private readonly server: MemoryServer, private readonly client: number) {}

  async connect(): Promise<void> {
    this.#check();
  }

  async send(command: Command): Promise<Reply> {
    this.#check();
    const name = String(command[0]).toUpperCase();
    if (name === 'MULTI') {
      this.#queued = [];
      return 'OK';
    }
    const queued = this.#queued;
    if (queued === undefined) return this.server.send(command, this.client);
    if (name !== 'EXEC') {
      queued.push(command);
      return 'QUEUED';
    }
    this.#queued = undefined;
    return Promise.all(queued.map((one) => this.server.send(one, this.client)));
  }

  #check(): void {
    if (this.server.away) throw new Error('the server is away');
  }

  get usable(): boolean {
    return !this.server.away;
  }

  close(): void {
    this.server.disconnect(this.client);
  }
}

function blockMs(call: Call): number | undefined {
  if (!BLOCKING.has(call.name)) return undefined;
  const at = call.words.findIndex((word, index) => index >= 3 && String(word).toUpperCase() === 'BLOCK');
  return at < 0 ? undefined : wholeNumber(call.words[at + 1]);
}

export function wholeNumber(word: Buffer | undefined, least = 0): number {
  const text = String(word);
  if (!/^(0|-?[1-9]\d*)$/.test(text)) throw new Rejected('ERR value is not an integer or out of range');
  if (Number(text) < least) throw new Rejected('ERR value is out of range');
  return Number(text);
}

/** The words behind the fixed arguments of a command. */
export class Options {
  readonly #found = new Map<string, readonly Buffer[]>();

  /** `flags` stand alone, `values` are followed by a word (`UNIQUE` by two), `lists` by a number and words. */
  constructor(given: readonly Buffer[], known: { flags?: string; values?: string; lists?: string; rest?: string }) {
    const words = [...given];
    const is = (kind: string | undefined, name: string): boolean => (kind ?? '').split(' ').includes(name);
    while (words.length > 0) {
      const name = String(words.shift()).toUpperCase();
      let count: number;
      if (is(known.flags, name)) count = 0;
      else if (is(known.values, name)) count = name === 'UNIQUE' ? 2 : 1;
      else if (is(known.lists, name)) count = wholeNumber(words.shift(), 1) * (name === 'FIELDS' ? 2 : 1);
      else if (is(known.rest, name)) count = words.length;
      else throw new Rejected('ERR syntax error');
      if (this.#found.has(name) || words.length < count) throw new Rejected('ERR syntax error');
      this.#found.set(name, words.splice(0, count));
    }
  }

  has(name: string): boolean {
    return this.#found.has(name);
  }

  words(name: string): readonly Buffer[] {
    return this.#found.get(name) ?? [];
  }

  text(name: string): string | undefined {
    return this.#found.get(name)?.[0]?.toString();
  }

  number(name: string, otherwise: number, least = 0): number {
    const word = this.#found.get(name)?.[0];
    return word === undefined ? otherwise : wholeNumber(word, least);
  }
}

