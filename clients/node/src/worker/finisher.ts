// Tells the server what became of tasks: up to 64 acknowledgements in one command, or those of 5 ms. If the worker asks
// for tasks sooner, they go in the same packet, which saves the server a round trip.
// A reply that is lost is no loss: the commands may be sent again, and are, until the lease expires. 0 is counted only.

import { CorralError } from '../errors.js';
import type { Hub } from '../hub.js';
import { now, pause } from '../time.js';
import { GROUP, type Command, type Reply } from '../wire.js';
import { Changes, type Run, type Table } from './running.js';

export const BATCH = 64;
const HOLD_MS = 5;
const AGAIN_MS = 200;
/** Sends commands that are all for the keys of one queue. Errors are among the replies. */
type Send = (commands: readonly Command[], stream: string) => Promise<Reply[]>;
const PASSING = new Set(
  ['READONLY', 'NOREPLICAS', 'MISCONF', 'OOM', 'TRYAGAIN', 'MOVED', 'LOADING', 'CLUSTERDOWN', 'MASTERDOWN', 'BUSY'],
);

export class Finisher {
  readonly counts = { acked: 0, returned: 0, notOurs: 0 };
  readonly #hub: Hub;
  readonly #table: Table;
  readonly #done = new Changes();
  readonly #shared: Send = (commands, key) => this.#hub.run(commands, { key });
  #runs: Run[] = [];
  #timer: NodeJS.Timeout | undefined;
  #sending = false;
  #closing = false;

  constructor(hub: Hub, table: Table) {
    this.#hub = hub;
    this.#table = table;
  }

  get pending(): number {
    return this.#runs.length;
  }

  /** `run.command` says what to send. */
  add(run: Run): void {
    this.#runs.push(run);
    if (this.#sending) return;
    if (run.urgent || this.#closing || this.#runs.length >= BATCH) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), HOLD_MS);
  }

  /** Calls `send` at once with what is pending, if anything is. Retries use the shared connection. */
  sendNow(send: Send): void {
    if (!this.#sending) this.#flush(send);
  }

  /** Sends what is left. */
  async close(timeoutMs: number): Promise<void> {
    this.#closing = true;
    const end = now() + timeoutMs;
    if (!this.#sending) this.#flush();
    while (this.#runs.length > 0 && now() < end) await this.#done.wait(end - now());
    if (this.#runs.length === 0) return;
    this.#hub.reports.error(`${this.#runs.length} finished tasks could not be acknowledged and will be delivered again`);
    this.#runs = [];
  }

  #flush(send = this.#shared): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#runs.length === 0) return;
    this.#sending = true;
    void this.#work(send);
  }

  async #work(first: Send): Promise<void> {
    for (let send = first; this.#runs.length > 0; send = this.#shared) {
      const batch = this.#runs.slice(0, BATCH);
      const again = await this.#send(batch, send);
      this.#runs = [...again, ...this.#runs.slice(batch.length)];
      this.#table.changes.notify();
      this.#done.notify();
      if (again.length > 0) await pause(AGAIN_MS);
      else if (this.#runs.length > 0 && this.#runs.length < BATCH && !this.#closing && !this.#runs.some((run) => run.urgent)) {
        this.#timer = setTimeout(() => this.#flush(), HOLD_MS);
        break;
      }
    }
    this.#sending = false;
  }

  /** Returns those that must be sent again. */
  async #send(batch: readonly Run[], send: Send): Promise<Run[]> {
    const streams = new Map<string, Run[]>();
    for (const run of batch) streams.set(run.delivery.stream, [...(streams.get(run.delivery.stream) ?? []), run]);
    const again = await Promise.all([...streams].map(async ([stream, runs]) => {
      const acks = runs.filter((run) => run.command === 'ACK');
      const others = runs.filter((run) => run.command !== 'ACK');
      const commands = others.map((run) => run.command as Command);
      if (acks.length > 0) commands.push(['TASK.ACK', stream, GROUP, ...acks.map((run) => run.delivery.id)]);
      return this.#settle(send(commands, stream), stream, others, acks);
    }));
    return again.flat();
  }

  async #settle(sent: Promise<Reply[]>, stream: string, others: readonly Run[], acks: readonly Run[]): Promise<Run[]> {
    let replies: Reply[];
    try {
      replies = await sent;
    } catch (error) {
      return this.#keep([...others, ...acks], error);
    }
    return replies.flatMap((reply, index) => {
      const other = others[index];
      const runs = other === undefined ? acks : [other];
      if (reply instanceof CorralError && PASSING.has(reply.reply ?? '')) return this.#keep(runs, reply);
      if (reply instanceof Error) this.#hub.reports.error(`the end of ${runs.length} tasks of '${stream}' was rejected`, reply);
      else if (other !== undefined) this.counts[reply === 0 ? 'notOurs' : 'returned']++;
      else {
        this.counts.acked += Number(reply);
        this.counts.notOurs += acks.length - Number(reply);
      }
      for (const run of runs) this.#table.leave(run);
      return [];
    });
  }

  /** What may still succeed: after the end of a lease, another worker has the task. */
  #keep(runs: readonly Run[], error: unknown): Run[] {
    return runs.filter((run) => {
      if (now() < run.leaseEnds) return true;
      this.#hub.reports.error(`the end of the task ${run.task.id} could not be reported in time`, error);
      this.#table.leave(run);
      return false;
    });
  }
}
