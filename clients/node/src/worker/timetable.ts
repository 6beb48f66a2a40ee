// Keeps the next run of each schedule in its queue. The time is that of the server: clocks that are wrong do not matter.

import { GRACE_S, markMs, runId, type Schedule } from '../cron.js';
import type { Hub } from '../hub.js';
import type { Queue } from '../queue.js';
import { publishCommand, type Definition } from '../tasks.js';
import { atMost } from '../time.js';
import { text, type Reply } from '../wire.js';

/** The runs are published again this often, should the queue have been deleted. */
const AGAIN_MS = 60_000;
const RETRY_MS = 2000;
/** A stop does not wait longer for a server that does not answer. */
const PATIENCE_MS = 1000;

interface Planned {
  readonly queue: Queue;
  readonly definition: Definition;
  readonly schedule: Schedule;
}

export class Timetable {
  readonly #hub: Hub;
  readonly #schedules: Planned[];
  readonly #planned = new Map<Definition, number>();
  #offsetMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #closing = false;
  #planning: Promise<void> = Promise.resolve();

  constructor(hub: Hub, queues: readonly Queue[]) {
    this.#hub = hub;
    this.#schedules = queues.flatMap((queue) => [...queue.definitions.values()].flatMap((definition) =>
      definition.schedule === undefined ? [] : [{ queue, definition, schedule: definition.schedule }]));
  }

  start(): void {
    if (this.#schedules.length > 0) this.#planning = this.#work();
  }

  async close(): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#timer);
    await atMost(this.#planning, PATIENCE_MS);
  }

  /** Unix milliseconds of the server, as far as this process knows. */
  serverTime(): number {
    return Date.now() + this.#offsetMs;
  }

  async #work(): Promise<void> {
    let wait = RETRY_MS;
    try {
      wait = await this.plan();
    } catch (error) {
      this.#hub.reports.error('the next runs were not published', error);
    }
    if (this.#closing) return;
    this.#timer = setTimeout(() => {
      this.#planning = this.#work();
    }, wait);
  }

  /** Publishes the next run of each schedule. Returns the milliseconds until the next look. */
  async plan(): Promise<number> {
    if (this.#schedules.length === 0) return AGAIN_MS;
    await this.#readClock();
    let wait = AGAIN_MS;
    for (const one of this.#schedules) wait = Math.min(wait, (await this.#plan(one)) * 1000 - this.serverTime());
    return Math.max(wait, 0) + 10;
  }

  async #readClock(): Promise<void> {
    const before = Date.now();
    try {
      const reply = (await this.#hub.call(['TIME'], { key: this.#schedules[0]?.queue.name ?? '' })) as readonly Reply[];
      this.#offsetMs = Number(text(reply[0])) * 1000 + Number(text(reply[1])) / 1000 - (before + Date.now()) / 2;
    } catch (error) {
      // Without the permission for TIME, the clock of this machine has to do.
      if ((error as { code?: string }).code !== 'REPLY') throw error;
    }
  }

  /** The time of the next run, which is in the queue now. */
  async #plan({ queue, definition, schedule }: Planned): Promise<number> {
    const nowMs = this.serverTime();
    const now = Math.floor(nowMs / 1000);
    // A run that this process saw coming is not missed because the process was busy for a moment.
    const after = Math.min(Math.max(this.#planned.get(definition) ?? now, now - GRACE_S), now);
    const at = schedule.nextRun(after);
    const { name, tries } = definition;
    const command = publishCommand(queue.name, {
      task: name,
      payload: Buffer.from('{}'),
      cron: at,
      options: { at, unique: { id: runId(name, at), for: markMs(at, Math.floor(nowMs)) / 1000 } },
      ...(tries !== undefined && { tries }),
    }, await this.#hub.features());
    await this.#hub.call(command);
    this.#planned.set(definition, at);
    return at;
  }
}
