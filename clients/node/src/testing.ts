// Tests without a server: the same surface over a server in memory, and a clock that the test moves.
//
//     const fake = memoryCorral();
//     await fake.corral.queue('mail').publish('welcome', { to: 'ann' });
//     await fake.run();             // runs the tasks that are due
//     fake.advance('5m');

import { Corral } from './corral.js';
import { dropReason } from './cron.js';
import type { Driver } from './drivers/driver.js';
import { Hub } from './hub.js';
import { Reports, type Logger } from './log.js';
import { MemoryServer } from './memory/server.js';
import type { Queue } from './queue.js';
import { RunningTask } from './tasks.js';
import { milliseconds, type Duration } from './time.js';
import { delivery, GROUP, nackCommand, outcome, UNKNOWN_DELAY_MS, type Delivery, type Outcome, type Reply } from './wire.js';
import { runHandler } from './worker/run.js';
import { Timetable } from './worker/timetable.js';

const CONSUMER = 'memory';
const MOST = 10_000;
const START_MS = 1_800_000_000_000;
const SILENT: Logger = { warn: () => undefined, error: () => undefined };

/** A try that `run` made. */
export interface Ran {
  task: string;
  id: string;
  attempt: number;
  /** `ACK`: done. `FAIL`: tried again. `FATAL`: a dead letter. `SILENT`: later. */
  outcome: Outcome['mode'];
  error?: unknown;
}

export interface MemoryCorral {
  readonly corral: Corral;
  /** The time of the clock. */
  readonly now: Date;
  /** Moves the clock. Nothing runs before `run`. */
  advance(duration: Duration): Promise<void>;
  /** From now on there is no connection to the server, or there is one again. */
  away(away?: boolean): void;
  /** Runs the tasks that are due, and those that they publish, one after the other. */
  run(): Promise<Ran[]>;
  /** The fields of the tasks that wait in a queue, ready and delayed. */
  tasks(queue: string): Record<string, string>[];
  /** The fields of the dead letters of a queue; `reason` says why. */
  deadLetters(queue: string): Record<string, string>[];
  /** How often each command was sent. */
  readonly counts: ReadonlyMap<string, number>;
  /** A Corral that was given gets its own server back. */
  restore(): void;
}

/** A Corral without a server: a new one, or the given one until `restore`. */
export function memoryCorral(given?: Corral): MemoryCorral {
  const server = new MemoryServer(START_MS);
  const resolve = (): Promise<Driver> => Promise.resolve(server.driver());
  const corral = given ?? new Corral({ log: SILENT, redisTimeout: 60 });
  return new Memory(corral, server, new Hub(resolve, new Reports(SILENT)), corral.exchange(resolve));
}

class Memory implements MemoryCorral {
  constructor(
    readonly corral: Corral,
    private readonly server: MemoryServer,
    private readonly hub: Hub,
    readonly restore: () => void,
  ) {}

  get now(): Date {
    return new Date(this.server.nowMs);
  }

  get counts(): ReadonlyMap<string, number> {
    return this.server.counts;
  }

  async advance(duration: Duration): Promise<void> {
    await this.#plan();
    this.server.advance(milliseconds(duration, 'duration', 0));
  }

  away(away = true): void {
    this.server.away = away;
  }

  tasks(queue: string): Record<string, string>[] {
    const { ready, delayed } = this.server.tasks.stream(queue);
    return [...ready, ...delayed].map((entry) => texts(entry.fields));
  }

  deadLetters(queue: string): Record<string, string>[] {
    return this.server.tasks.stream(queue).dead.map((entry) => texts(entry.fields));
  }

  async #plan(): Promise<void> {
    await new Timetable(this.hub, [...this.corral.queues.values()]).plan();
  }

  async run(): Promise<Ran[]> {
    await this.#plan();
    const ran: Ran[] = [];
    for (let found = true; found; ) {
      found = false;
      for (const queue of this.corral.queues.values()) {
        const reply = await this.hub.call(['TASK.CONSUME', GROUP, CONSUMER, queue.name, 'COUNT', 1, 'META'], { key: queue.name });
        for (const entry of reply as readonly Reply[]) {
          found = true;
          const result = await this.#try(queue, delivery(entry, queue.name));
          if (result !== undefined && ran.push(result) >= MOST) throw new Error(`${MOST} tasks have run, and there are still more`);
        }
      }
    }
    await this.#plan();
    return ran;
  }

  async #try(queue: Queue, task: Delivery): Promise<Ran | undefined> {
    const definition = queue.definitions.get(task.task);
    const late = task.cron !== undefined && dropReason(definition?.schedule, task.cron, Math.floor(this.server.nowMs / 1000), task.attempt);
    if (definition === undefined || late) {
      await this.#tell(task, late ? { mode: 'ACK' } : { mode: 'SILENT', delayMs: UNKNOWN_DELAY_MS });
      return undefined;
    }
    const running = new RunningTask(task, queue.name, queue.serializer, await this.hub.features(), () => undefined);
    let error: unknown;
    try {
      await runHandler({ delivery: task, definition, queue, task: running }, []);
    } catch (thrown) {
      error = thrown ?? new Error(`${String(thrown)} was thrown`);
    }
    const what = outcome(error, task.attempt, definition.tries);
    await this.#tell(task, what, running.saved);
    return { task: task.task, id: task.originalId, attempt: task.attempt, outcome: what.mode, ...(error !== undefined && { error }) };
  }

  async #tell(task: Delivery, what: Outcome, payload?: Uint8Array): Promise<void> {
    await this.hub.call(what.mode === 'ACK' ? ['TASK.ACK', task.stream, GROUP, task.id] : nackCommand(task, CONSUMER, what, payload));
  }
}

function texts(fields: ReadonlyMap<string, Buffer>): Record<string, string> {
  return Object.fromEntries([...fields].map(([name, value]) => [name, value.toString()]));
}
