// Renews the leases of all tasks of a worker, and notices when the event loop was blocked.
//
// A third of the shortest lease passes between two rounds. A round also reads the leases from TASK.INFO, so a changed policy
// takes effect at once. After a pause of half a lease the renewals may have come too late: then the tasks are lost.

import type { Hub } from '../hub.js';
import { atMost, now } from '../time.js';
import { asMap, GROUP, type Reply } from '../wire.js';
import type { Run, Table } from './running.js';

const LONGEST_MS = 20_000;
const SHORTEST_MS = 50;
const LONGEST_TICK_MS = 1000;
const AT_ONCE = 128;
const ASSUMED_MS = 300_000;
/** A stop does not wait longer for a server that does not answer. */
const PATIENCE_MS = 300;

export class Heartbeat {
  /** By queue; infinity if leases do not end. */
  readonly leases: Map<string, number>;
  #timer: NodeJS.Timeout | undefined;
  #tick: NodeJS.Timeout | undefined;
  #ticked = now();
  #round: Promise<void> = Promise.resolve();
  #again = false;
  #closing = false;

  constructor(
    private readonly hub: Hub,
    private readonly table: Table,
    private readonly streams: readonly string[],
    private readonly lost: (run: Run, why: string) => void,
  ) {
    this.leases = new Map(streams.map((stream) => [stream, ASSUMED_MS]));
  }

  /** Reads the leases, and begins. */
  async start(): Promise<void> {
    for (const stream of this.streams) {
      const [info = null] = await this.hub.run([['TASK.INFO', stream]]);
      this.#read(stream, info, true);
    }
    this.#schedule();
    this.#watch();
  }

  /** Renews now. */
  kick(): void {
    clearTimeout(this.#timer);
    this.#again = true;
    this.#timer = setTimeout(() => this.#beat(), 0);
  }

  async close(): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#tick);
    await atMost(this.#round, PATIENCE_MS);
    clearTimeout(this.#timer);
  }

  lease(stream: string): number {
    return this.leases.get(stream) ?? ASSUMED_MS;
  }

  get #shortest(): number {
    return Math.min(...this.leases.values());
  }

  #schedule(): void {
    if (this.#closing) return;
    clearTimeout(this.#timer);
    const delay = this.#again ? 0 : Math.max(Math.min(LONGEST_MS, this.#shortest / 3), SHORTEST_MS);
    this.#timer = setTimeout(() => this.#beat(), delay);
  }

  #beat(): void {
    this.look();
    this.#again = false;
    this.#round = this.#renewAll().finally(() => this.#schedule());
  }

  #watch(): void {
    this.#ticked = now();
    const tick = (): void => {
      this.look();
      if (!this.#closing) this.#tick = setTimeout(tick, Math.max(Math.min(LONGEST_TICK_MS, this.#shortest / 8), 5));
    };
    tick();
  }

  /** Whether the event loop has been blocked for half a lease since the last look. */
  look(): void {
    const at = now();
    const before = this.#ticked;
    this.#ticked = at;
    for (const run of at - before > this.#shortest / 2 ? this.table.running() : []) {
      if (at - Math.max(before, run.began) > this.lease(run.delivery.stream) / 2) this.lost(run, 'the event loop was blocked');
    }
  }

  async #renewAll(): Promise<void> {
    for (const stream of this.streams) {
      try {
        await this.#renew(stream);
      } catch (error) {
        this.hub.reports.warn(`the leases of '${stream}' were not renewed: ${String(error)}`);
      }
    }
    for (const run of this.table.running()) if (now() > run.leaseEnds && !run.tooLong) this.lost(run, 'the lease has expired');
  }

  async #renew(stream: string): Promise<void> {
    const runs = this.table.all().filter((run) => run.delivery.stream === stream && !run.tooLong && !run.givenBack);
    const size = (await this.hub.features()).has('TASK.EXTEND', '*id') ? AT_ONCE : 1;
    const batches: Run[][] = [];
    for (const consumer of new Set(runs.map((run) => run.consumer))) {
      const mine = runs.filter((run) => run.consumer === consumer);
      for (let index = 0; index < mine.length; index += size) batches.push(mine.slice(index, index + size));
    }
    const extended = batches.map((batch) => ({ batch, consumer: batch[0]?.consumer ?? '' }));
    const commands = extended.map(({ batch, consumer }) => ['TASK.EXTEND', stream, GROUP, consumer, ...batch.map((run) => run.delivery.id)]);
    const began = now();
    const replies = await this.hub.run([...commands, ['TASK.INFO', stream]], { key: stream });
    this.#read(stream, replies.pop() ?? null, false);
    extended.forEach(({ batch, consumer }, index) => {
      const reply = replies[index] ?? null;
      if (reply instanceof Error) throw reply;
      batch.forEach((run, at) => {
        const held = Array.isArray(reply) ? (reply as readonly Reply[])[at] : reply;
        if (held === 1) run.leaseEnds = began + this.lease(stream);
        // Delivered again to another connection of this worker, it has another consumer by now.
        else if (run.consumer === consumer && run.command === undefined) this.lost(run, 'the task is leased to another worker');
      });
    });
  }

  #read(stream: string, reply: Reply, first: boolean): void {
    if (reply instanceof Error) {
      if (first) this.hub.reports.warn(`the lease of '${stream}' is unknown, ${ASSUMED_MS / 1000} s are assumed: ${reply.message}`);
      return;
    }
    const info = asMap(reply) as { policy?: { lease_ms?: number }; groups?: { name?: string }[] } | null;
    const lease = info?.policy?.lease_ms;
    if (lease !== undefined) this.leases.set(stream, lease === 0 ? Number.POSITIVE_INFINITY : lease);
    const others = (info?.groups ?? []).map((group) => group.name ?? '').filter((name) => name !== GROUP);
    if (first && others.length > 0) {
      this.hub.reports.warn(
        `the queue '${stream}' also has the consumer groups ${others.join(', ')}: they get every task as well, and keep it from being deleted`,
      );
    }
  }
}
