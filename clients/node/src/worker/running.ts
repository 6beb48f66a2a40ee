// The tasks that run in this worker. A task is in the table from its delivery until the server knows its end.
// One task, one run: a second delivery of a task that is in the table is not started, it renews the lease.

import type { Queue } from '../queue.js';
import type { Definition, RunningTask } from '../tasks.js';
import { now } from '../time.js';
import type { Delivery, Word } from '../wire.js';

/** One run of a task. `consumer` is the name to which it is leased. */
export class Run {
  readonly began = now();
  leaseEnds: number;
  /** What the server is still to be told, once the handler has ended. */
  command: Word[] | 'ACK' | undefined;
  givenBack = false;
  tooLong = false;
  /** Delivered to this worker again after its lease had ended. */
  redelivered = false;
  timer: NodeJS.Timeout | undefined;

  constructor(
    readonly delivery: Delivery,
    readonly definition: Definition,
    readonly queue: Queue,
    readonly task: RunningTask,
    public consumer: string,
    leaseMs: number,
  ) {
    this.leaseEnds = this.began + leaseMs;
  }

  /** Whether another task waits for the end of this one. */
  get urgent(): boolean {
    return this.delivery.fields.has('ack');
  }
}

/** Wakes those that wait for a change. */
export class Changes {
  #waiting: (() => void)[] = [];

  notify(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  /** Until a change, or for so long. */
  wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((one) => one !== wake);
        resolve();
      }, Math.max(ms, 0));
      this.#waiting.push(wake);
    });
  }
}

const place = (delivery: Delivery): string => `${delivery.originalId} ${delivery.stream}`;

/** Runs by queue and id. */
export class Table {
  readonly changes = new Changes();
  readonly #runs = new Map<string, Run>();
  /** Places of tasks whose handler has not ended. */
  taken = 0;

  constructor(private readonly places: number) {}

  get free(): number {
    return this.places - this.taken;
  }

  get(delivery: Delivery): Run | undefined {
    return this.#runs.get(place(delivery));
  }

  enter(run: Run): void {
    this.#runs.set(place(run.delivery), run);
    this.taken++;
  }

  handlerEnded(run: Run): void {
    clearTimeout(run.timer);
    this.taken--;
    this.changes.notify();
  }

  leave(run: Run): void {
    if (this.#runs.get(place(run.delivery)) === run) this.#runs.delete(place(run.delivery));
    this.changes.notify();
  }

  all(): Run[] {
    return [...this.#runs.values()];
  }

  /** Those whose handler has not ended. */
  running(): Run[] {
    return this.all().filter((run) => run.command === undefined && !run.givenBack);
  }
}
