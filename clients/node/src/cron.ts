// Repeated tasks: which run is next, and what becomes of a run that is delivered.
//
// A run has the id `cron:<task>:<unix s>`. Every worker publishes the next run ahead of time, with UNIQUE and AT, so one
// of them is enough and all of them together add one task. Pure functions of a given time; docs/wire.md has the rules.
// Croner finds the times of a clock without a zone; the zone, with its gaps and repeated hours, is applied here.

import { Cron } from 'croner';

/** A run that is delivered later than this was missed. */
export const GRACE_S = 60;
/** How long the mark of a run is kept after it is due. */
const MARK_MS = 3_600_000;
const DAY_MS = 86_400_000;
const MINUTE_MS = 60_000;
const ITEM = String.raw`(\*|(\d+|[A-Za-z]{3})(-(\d+|[A-Za-z]{3}))?)(/\d+)?`;
const FIELD = new RegExp(`^${ITEM}(,${ITEM})*$`);

export type Misfire = 'once' | 'skip';

/** A time zone: what a clock shows at an instant, as milliseconds of a clock that has no zone. */
class Zone {
  readonly #format: Intl.DateTimeFormat;

  constructor(name: string) {
    this.#format = new Intl.DateTimeFormat('en-US', {
      timeZone: name, hourCycle: 'h23', year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric',
      minute: 'numeric', second: 'numeric',
    });
  }

  offset(instant: number): number {
    const parts: Record<string, number> = {};
    for (const { type, value } of this.#format.formatToParts(instant)) parts[type] = Number(value);
    const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = parts;
    return Date.UTC(year, month - 1, day, hour, minute, second) - Math.floor(instant / 1000) * 1000;
  }

  /** The instant at which the offset changes, between two instants with different offsets. */
  change(before: number, after: number): number {
    const offset = this.offset(before);
    let [low, high] = [before, after];
    while (high - low > 1000) {
      const middle = Math.floor((low + high) / 2000) * 1000;
      if (this.offset(middle) === offset) low = middle;
      else high = middle;
    }
    return high;
  }

  /** When the clock shows this for the first time; a time that it skips is the end of the gap. */
  instant(shown: number): number {
    const offsets = [this.offset(shown - DAY_MS), this.offset(shown + DAY_MS)];
    const found = offsets.map((offset) => shown - offset).filter((instant) => instant + this.offset(instant) === shown);
    return found.length > 0 ? Math.min(...found) : this.change(shown - DAY_MS, shown + DAY_MS);
  }
}

/** Five fields, a time zone, and the rules for late and overlapping runs. */
export class Schedule {
  readonly #cron: Cron;
  readonly #zone: Zone;
  readonly #elapsed: boolean;

  constructor(
    readonly expression: string,
    readonly tz = 'UTC',
    readonly misfire: Misfire = 'once',
    readonly overlap = false,
  ) {
    const fields = expression.trim().split(/\s+/);
    if (fields.length !== 5 || !fields.every((field) => FIELD.test(field))) {
      throw new RangeError(`'${expression}' is not a schedule of five fields: minute, hour, day, month, weekday`);
    }
    if (misfire !== 'once' && misfire !== 'skip') throw new RangeError(`misfire is 'once' or 'skip', not '${String(misfire)}'`);
    const [minute = '', hour = '', day = '', , weekday = ''] = fields;
    this.#elapsed = minute.startsWith('*') || hour.startsWith('*');
    try {
      const both = day.startsWith('*') || weekday.startsWith('*');
      this.#cron = new Cron(fields.join(' '), { timezone: 'UTC', mode: '5-part', domAndDow: both });
      this.#zone = new Zone(tz);
      this.nextRun(0);
    } catch (error) {
      throw new RangeError(`the schedule '${expression}' (${tz}) is not valid: ${String(error)}`, { cause: error });
    }
  }

  /** The first run later than the unix time `after`, in unix seconds. */
  nextRun(after: number): number {
    const ms = after * 1000;
    return (this.#elapsed ? this.#nextElapsed(ms) : this.#nextShown(ms)) / 1000;
  }

  /** The next time after `shown` on a clock without a zone. */
  #next(shown: number): number {
    const next = this.#cron.nextRun(new Date(shown));
    if (next === null) throw new RangeError(`the schedule '${this.expression}' has no next run`);
    return next.getTime();
  }

  /** Times of the clock: each runs once, also if the clock skips it or shows it twice. */
  #nextShown(after: number): number {
    let shown = after + this.#zone.offset(after) - DAY_MS - MINUTE_MS;
    for (;;) {
      shown = this.#next(shown);
      const instant = this.#zone.instant(shown);
      if (instant > after) return instant;
    }
  }

  /** Elapsed time: every instant at which the clock shows a time of the schedule. */
  #nextElapsed(after: number): number {
    let from = after;
    for (;;) {
      const offset = this.#zone.offset(from);
      const instant = this.#next(from + offset) - offset;
      if (this.#zone.offset(instant) === offset) return instant;
      const change = this.#zone.change(from, instant);
      const first = change + this.#zone.offset(change);
      if (this.#next(first - 1000) === first) return change;
      from = change;
    }
  }

  hasRun(at: number): boolean {
    try {
      return this.nextRun(at - 1) === at;
    } catch {
      return false; // A time that no calendar has.
    }
  }

  /** Whether a delivered run is run, or acknowledged without being run. */
  decide(scheduled: number, now: number, attempt = 1): 'run' | 'drop' {
    if (!this.hasRun(scheduled)) return 'drop';
    return this.misfire === 'skip' && attempt === 1 && now - scheduled > GRACE_S ? 'drop' : 'run';
  }
}

export function runId(task: string, at: number): string {
  return `cron:${task}:${at}`;
}

/** The window of UNIQUE for a run at `at`: until an hour after it. */
export function markMs(at: number, nowMs: number): number {
  return Math.max(at * 1000 - nowMs, 0) + MARK_MS;
}

/** Why a delivered run is acknowledged without being run. */
export function dropReason(schedule: Schedule | undefined, scheduled: number, now: number, attempt = 1): string | undefined {
  if (schedule === undefined) return 'this worker has no such schedule';
  if (schedule.decide(scheduled, now, attempt) === 'run') return undefined;
  return schedule.hasRun(scheduled) ? 'the run was missed' : 'the schedule has changed';
}
