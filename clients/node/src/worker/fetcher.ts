// Asks for tasks, on a connection that nothing interrupts. It also carries the outcomes that are known when it asks.
//
// A connection has its own name as a consumer, new after each reconnect. With TIED the leases end with the connection: so it
// is closed last, after everything else has been told to the server. Nothing is asked for that does not start at once.

import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { Link } from '../drivers/link.js';
import { CorralError } from '../errors.js';
import { replyError } from '../features.js';
import { withPrefix, type Hub } from '../hub.js';
import { now } from '../time.js';
import { delivery, GROUP, text, type Command, type Delivery, type Reply, type Word } from '../wire.js';
import { BATCH, type Finisher } from './finisher.js';
import { Changes, type Table } from './running.js';

const BLOCK_MS = 2000;
const PATIENCE_MS = BLOCK_MS + 5000;
const WAITED_MS = 5;
const POLITE_BATCHES = 3;
const GIVE_WAY_MS = 2;
/** After these another node is asked. */
const MOVED_ON = new Set(['UNBLOCKED', 'READONLY', 'MOVED', 'CLUSTERDOWN', 'MASTERDOWN']);

export class Fetcher {
  stopping = false;
  askedAt = now();
  readonly #stopped = new Changes();
  #link: Link | undefined;
  #client: number | undefined;
  #consumer = '';
  #prefix = '';
  #waiting = false;
  #polite = 0;
  #loop: Promise<void> | undefined;
  #running = false;

  constructor(
    private readonly hub: Hub,
    private readonly table: Table,
    private readonly finisher: Finisher,
    private readonly streams: readonly string[],
    private readonly batch: number,
    private readonly tied: boolean,
    private readonly accept: (task: Delivery, consumer: string) => void,
    private readonly reconnected: () => void,
  ) {}

  get #first(): string {
    return this.streams[0] ?? '';
  }

  start(): void {
    this.#running = true;
    this.#loop = this.#work().finally(() => {
      this.#running = false;
      this.#stopped.notify();
    });
  }

  /** Asks no more. The request that waits is ended on the server; without permission, its time runs out. */
  async stop(timeoutMs: number): Promise<void> {
    this.stopping = true;
    this.table.changes.notify();
    this.#stopped.notify();
    const end = now() + timeoutMs;
    while (this.#running && now() < end) {
      if (this.#waiting && this.#client !== undefined) {
        await this.hub.call(['CLIENT', 'UNBLOCK', this.#client], { key: this.#first, timeoutMs: 1000 }).catch(() => undefined);
      }
      if (this.#running) await this.#stopped.wait(50);
    }
  }

  /** Ends the leases that are tied to the connection. */
  async close(): Promise<void> {
    this.#link?.close();
    await this.#loop;
  }

  #free(): number {
    return this.finisher.pending < BATCH ? Math.min(this.table.free, this.batch) : 0;
  }

  async #work(): Promise<void> {
    let failures = 0;
    while (!this.stopping) {
      const free = this.#free();
      if (free <= 0) {
        // With all places taken this worker is as alive as with a request that waits.
        this.askedAt = now();
        await this.table.changes.wait(1000);
        continue;
      }
      try {
        const asked = now();
        const got = await this.#ask(free);
        failures = 0;
        if (now() - asked > WAITED_MS) this.#polite = POLITE_BATCHES;
        if (got === this.batch && got > 1) await this.#giveWay();
      } catch (error) {
        failures++;
        if (error instanceof CorralError && error.code === 'REPLY' && !MOVED_ON.has(error.reply ?? '')) {
          // The connection is kept: leases may be tied to it.
          this.hub.reports.error('no tasks', error);
        } else this.#drop(error);
        if (!this.stopping) await this.#stopped.wait(Math.min(100 * 2 ** failures, 5000) * (0.5 + Math.random() / 2));
      }
    }
  }

  /**
   * After a wait, other workers may have been woken by the same tasks, and their processes may take longer. So the first
   * batches leave them a moment. A worker that finds tasks without waiting loses no time.
   */
  async #giveWay(): Promise<void> {
    if (this.#polite === 0) return;
    this.#polite--;
    await this.#stopped.wait(GIVE_WAY_MS);
  }

  /** Returns the number of tasks. */
  async #ask(count: number): Promise<number> {
    const link = this.#link ?? (await this.#connect());
    const { name } = await this.hub.driver();
    if (this.stopping) return 0;
    const command: Word[] = ['TASK.CONSUME', GROUP, this.#consumer, this.#first, 'COUNT', count, 'BLOCK', BLOCK_MS, 'META'];
    if (this.tied) command.push('TIED');
    if (this.streams.length > 1) command.push('THEN', this.streams.length - 1, ...this.streams.slice(1));
    const send = (commands: readonly Command[]): Promise<Reply[]> =>
      link.call(commands.map((one) => withPrefix(one, this.#prefix)), PATIENCE_MS);
    // Outcomes first: their replies do not wait for a task.
    this.finisher.sendNow(async (commands) => {
      const replies = await send(commands);
      return replies.map((one) => (one instanceof Error ? replyError(one, name) : one));
    });
    this.#waiting = true;
    let reply: Reply | undefined;
    try {
      [reply] = await send([command]);
    } finally {
      this.#waiting = false;
    }
    this.askedAt = now();
    if (reply instanceof Error) throw replyError(reply, name);
    const entries = (reply ?? []) as readonly (readonly Reply[])[];
    for (const entry of entries) {
      const named = entry.length > 4 ? [...entry.slice(0, 4), text(entry[4]).slice(this.#prefix.length)] : entry;
      try {
        this.accept(delivery(named, this.#first), this.#consumer);
      } catch (error) {
        this.hub.reports.error('a task was not accepted, its lease will expire', error);
      }
    }
    return entries.length;
  }

  async #connect(): Promise<Link> {
    this.#prefix = (await this.hub.driver()).keyPrefix;
    const link = await this.hub.link(this.#first);
    this.#link = link;
    const [client] = await link.call([['CLIENT', 'ID']], PATIENCE_MS);
    // A user without the permission for CLIENT stops up to two seconds later.
    this.#client = typeof client === 'number' ? client : undefined;
    this.#consumer = `${hostname()}-${process.pid}-${randomUUID().slice(0, 8)}`;
    return link;
  }

  #drop(error: unknown): void {
    if (!this.stopping) this.hub.reports.error('the connection for tasks is made anew', error);
    this.#link?.close();
    this.#link = undefined;
    // There may be another master, or the slot of the queue may be elsewhere.
    this.hub.forgetNodes();
    // The leases that were tied to the connection have ended. Those that nobody has taken yet can be renewed.
    this.reconnected();
  }
}
