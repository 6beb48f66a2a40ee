// The machine of a worker: what becomes of a task from its delivery to its end, and the five steps of a stop: ask no more,
// tell the handlers, wait and then abort, give back what still runs, close everything.

import { dropReason } from '../cron.js';
import { hasCode, Later } from '../errors.js';
import { Features } from '../features.js';
import type { Hub } from '../hub.js';
import type { Queue } from '../queue.js';
import { RunningTask, taskLost } from '../tasks.js';
import { now } from '../time.js';
import { GROUP, nackCommand, outcome, slotOf, UNKNOWN_DELAY_MS, type Delivery, type Outcome, type Word } from '../wire.js';
import { Fetcher } from './fetcher.js';
import { BATCH, Finisher } from './finisher.js';
import { Heartbeat } from './heartbeat.js';
import { Overlap } from './overlap.js';
import { runHandler, type Middleware } from './run.js';
import { Run, Table } from './running.js';
import { Timetable } from './timetable.js';

const ABORTED_MS = 2000;
const TWICE_DELAY_MS = 5000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export interface EngineOptions {
  concurrency: number;
  tied: boolean;
  batch: number;
  shutdownMs: number;
  middleware: readonly Middleware[];
}

/** What the worker does now. `ok` is false if it does not get tasks, or cannot report them. */
export interface Health {
  ok: boolean;
  stopping: boolean;
  running: number;
  free: number;
  unacknowledged: number;
  askedMsAgo: number;
  started: number;
  succeeded: number;
  failed: number;
  lost: number;
  unknown: number;
  acked: number;
  returned: number;
  notOurs: number;
}

export class Engine {
  /** Set by a second signal: do not wait for the handlers. */
  hurry = false;
  readonly #table: Table;
  readonly #finisher: Finisher;
  readonly #heartbeat: Heartbeat;
  readonly #fetcher: Fetcher;
  readonly #overlap: Overlap;
  readonly #timetable: Timetable;
  readonly #queues: Map<string, Queue>;
  #features = new Features(null);
  readonly #counts = { started: 0, succeeded: 0, failed: 0, lost: 0, unknown: 0 };

  constructor(private readonly hub: Hub, queues: readonly Queue[], private readonly options: EngineOptions) {
    this.#queues = new Map(queues.map((queue) => [queue.name, queue]));
    const names = [...this.#queues.keys()];
    this.#table = new Table(options.concurrency);
    this.#finisher = new Finisher(hub, this.#table);
    this.#heartbeat = new Heartbeat(hub, this.#table, names, (run, why) => this.#lost(run, why));
    const accept = (task: Delivery, consumer: string): void => this.#accept(task, consumer);
    this.#fetcher = new Fetcher(hub, this.#table, this.#finisher, names, options.batch, options.tied, accept, () => this.#heartbeat.kick());
    this.#overlap = new Overlap(hub);
    this.#timetable = new Timetable(hub, queues);
  }

  async start(): Promise<void> {
    const names = [...this.#queues.keys()];
    const { seeds, keyPrefix } = await this.hub.driver();
    if (seeds.length > 0 && new Set(names.map((name) => slotOf(keyPrefix + name))).size > 1) {
      throw new RangeError(
        `in a cluster the queues of a worker need one hash tag, for example ${names.map((name) => `'{work}:${name}'`).join(', ')}`,
      );
    }
    this.#features = await this.hub.features();
    if (this.options.tied) this.#features.require('TASK.CONSUME', 'TIED');
    if (names.length > 1) this.#features.require('TASK.CONSUME', 'THEN');
    await this.#heartbeat.start();
    this.#timetable.start();
    this.#fetcher.start();
  }

  // A delivered task, from here to its end.

  #accept(delivery: Delivery, consumer: string): void {
    const queue = this.#queues.get(delivery.stream);
    if (queue === undefined || this.#fetcher.stopping) return this.#answer(delivery, consumer, { mode: 'SILENT' });
    const before = this.#table.get(delivery);
    // Under another id, a task whose handler has ended is back from what the server was told, whose reply is on its way.
    const isBack = before?.command !== undefined && before.delivery.id !== delivery.id;
    if (before !== undefined && !isBack) return this.#again(before, delivery, consumer);
    const definition = queue.definitions.get(delivery.task);
    if (delivery.cron !== undefined) {
      const at = Math.floor(this.#timetable.serverTime() / 1000);
      const why = dropReason(definition?.schedule, delivery.cron, at, delivery.attempt);
      if (why !== undefined) return this.#skip(delivery, consumer, why);
    }
    if (definition === undefined) {
      this.#counts.unknown++;
      this.hub.reports.error(`the task ${delivery.originalId} is unknown: '${delivery.task}'. It is given back for another worker`);
      return this.#answer(delivery, consumer, { mode: 'SILENT', delayMs: UNKNOWN_DELAY_MS });
    }
    const look = (): void => this.#heartbeat.look();
    const task = new RunningTask(delivery, queue.name, queue.serializer, this.#features, look);
    const run = new Run(delivery, definition, queue, task, consumer, this.#heartbeat.lease(delivery.stream));
    this.#table.enter(run);
    void this.#run(run);
  }

  async #run(run: Run): Promise<void> {
    const { delivery, definition } = run;
    if (delivery.cron !== undefined && definition.schedule?.overlap === false && !(await this.#overlap.enter(delivery))) {
      if (run.givenBack) { this.#returned(run); return; }
      this.hub.reports.warn(`the run of '${delivery.task}' at ${delivery.cron} is skipped: the run before it has not ended`);
      run.command = 'ACK';
      this.#table.handlerEnded(run);
      this.#finisher.add(run); return;
    }
    this.#counts.started++;
    const limit = definition.maxRuntimeMs;
    if (limit !== undefined) run.timer = setTimeout(() => this.#ranTooLong(run, limit), Math.min(limit, LONGEST_TIMER_MS));
    let error: unknown;
    try {
      await runHandler(run, this.options.middleware);
    } catch (thrown) {
      error = thrown ?? new Error(`${String(thrown)} was thrown`);
    }
    this.#ended(run, error);
  }

  #ranTooLong(run: Run, limit: number): void {
    run.tooLong = true;
    this.#lost(run, 'it has run for maxRuntime', new DOMException(`it ran longer than ${limit / 1000} s`, 'TimeoutError'));
  }

  /** A delivery of a task that runs here, or whose end the server does not know yet. */
  #again(run: Run, delivery: Delivery, consumer: string): void {
    if (delivery.id !== run.delivery.id) return this.#answer(delivery, consumer, { mode: 'SILENT', delayMs: TWICE_DELAY_MS });
    if (run.tooLong) return;
    run.redelivered = true;
    run.consumer = consumer;
    run.leaseEnds = now() + this.#heartbeat.lease(delivery.stream);
    if (Array.isArray(run.command)) run.command[3] = consumer;
  }

  #skip(delivery: Delivery, consumer: string, why: string): void {
    this.hub.reports.warn(`the run of '${delivery.task}' at ${String(delivery.cron)} is skipped: ${why}`);
    this.#answer(delivery, consumer, { mode: 'ACK' });
  }

  /** The end of a task that is not run. */
  #answer(delivery: Delivery, consumer: string, what: Outcome): void {
    const command: Word[] = what.mode === 'ACK' ? ['TASK.ACK', delivery.stream, GROUP, delivery.id] : nackCommand(delivery, consumer, what);
    void this.hub.background.spawn(() => this.hub.call(command), `giving back the task ${delivery.originalId}, whose lease will expire,`);
  }

  #ended(run: Run, thrown: unknown): void {
    const { task } = run;
    this.#overlap.leave(run.delivery);
    this.#heartbeat.look();
    if (run.givenBack) return this.#returned(run);
    let error = thrown;
    if (error === task.signal.reason || (task.signal.aborted && error instanceof Error && error.name === 'AbortError')) {
      if (run.tooLong) error = task.signal.reason;
      else if (task.isLost) error = taskLost(task.id);
      else if (error !== undefined && this.#fetcher.stopping) error = new Later(0);
    }
    const lost = hasCode(error, 'TASK_LOST');
    // Lost and delivered here again, it was not started: now it is given back for another try.
    const what: Outcome = lost ? { mode: 'SILENT', delayMs: 0 } : outcome(error, task.attempt, run.definition.tries);
    run.command = what.mode === 'ACK' ? 'ACK' : nackCommand(run.delivery, run.consumer, what, task.saved);
    this.#table.handlerEnded(run);
    this.#count(run, error, lost);
    if (lost && !run.redelivered) this.#table.leave(run);
    else this.#finisher.add(run);
  }

  #returned(run: Run): void {
    this.#table.handlerEnded(run);
    this.#table.leave(run);
  }

  #count(run: Run, error: unknown, lost: boolean): void {
    if (error === undefined) this.#counts.succeeded++;
    else if (!lost && !hasCode(error, 'LATER')) {
      this.#counts.failed++;
      this.hub.reports.error(`the task ${run.task.id} (${run.task.name}, try ${run.task.attempt}) failed`, error);
    }
  }

  #lost(run: Run, why: string, reason: Error = taskLost(run.task.id)): void {
    if (run.task.isLost) return;
    run.task.isLost = true;
    this.#counts.lost++;
    this.hub.reports.error(`the task ${run.task.id} (${run.task.name}) is lost: ${why}`);
    run.task.abort(reason);
  }

  // The end.

  async stop(): Promise<void> {
    const end = now() + this.options.shutdownMs;
    this.#fetcher.stopping = true;
    const tell = (): void => this.#table.running().forEach((run) => (run.task.isStopping = true));
    tell();
    await Promise.all([this.#timetable.close(), this.#fetcher.stop(3000)]);
    tell();
    await this.#awaitHandlers(end);
    if (!this.hurry) {
      for (const run of this.#table.running()) run.task.abort(new DOMException('the worker stops', 'AbortError'));
      await this.#awaitHandlers(now() + ABORTED_MS);
    }
    await this.#giveBack();
    await this.#finisher.close(now() - this.#fetcher.askedAt < 10_000 ? 1000 : 200);
    await this.#heartbeat.close();
    await this.#fetcher.close();
    this.#overlap.close();
  }

  async #awaitHandlers(end: number): Promise<void> {
    while (this.#table.running().length > 0 && !this.hurry && now() < end) {
      await this.#table.changes.wait(Math.min(end - now(), 100));
    }
  }

  async #giveBack(): Promise<void> {
    const streams = new Map<string, Word[][]>();
    for (const run of this.#table.running()) {
      run.givenBack = true;
      run.task.isLost = true;
      run.task.abort(taskLost(run.task.id));
      const commands = streams.get(run.delivery.stream) ?? [];
      streams.set(run.delivery.stream, [...commands, nackCommand(run.delivery, run.consumer, { mode: 'SILENT' }, run.task.saved)]);
    }
    for (const [stream, commands] of streams) {
      this.hub.reports.warn(`${commands.length} tasks of '${stream}' still ran at the end and are given back`);
      await this.hub.run(commands, { key: stream, timeoutMs: 1000 })
        .catch((error: unknown) => this.hub.reports.error('they were not given back, their leases will expire', error));
    }
  }

  health(): Health {
    const running = this.#table.running().length;
    const silent = now() - this.#fetcher.askedAt;
    return {
      ok: silent < 15_000 && this.#finisher.pending < BATCH && !this.#fetcher.stopping,
      stopping: this.#fetcher.stopping,
      running,
      free: this.options.concurrency - running,
      unacknowledged: this.#finisher.pending,
      askedMsAgo: Math.round(silent),
      ...this.#counts,
      ...this.#finisher.counts,
    };
  }
}
