// Durations and points in time. A user writes seconds as a number, or "5m"; the server takes integers in milliseconds.
// What is not a finite time of at least `least` milliseconds is rejected here, before anything is sent.

type Unit = 'ms' | 's' | 'm' | 'h' | 'd' | 'w';

/** Seconds, or a text such as `"500ms"`, `"5m"` or `"1h"`. */
export type Duration = number | `${number}${Unit}`;

const UNITS: Record<Unit, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };
const TEXT = /^(\d+(?:\.\d+)?)(ms|s|m|h|d|w)$/;

/** A duration in milliseconds; `name` is the option that an error mentions. */
export function milliseconds(value: Duration, name: string, least = 1): number {
  let ms: number;
  if (typeof value === 'number') {
    ms = value * 1000;
  } else if (typeof value === 'string') {
    const found = TEXT.exec(value);
    if (found === null) throw new RangeError(`${name}: '${value}' is not a duration such as "500ms", "5m" or "1h"`);
    ms = Number(found[1]) * UNITS[found[2] as Unit];
  } else {
    throw new TypeError(`${name}: seconds or a text such as "5m" are expected, not ${typeof value}`);
  }
  const rounded = Math.round(ms);
  if (!Number.isFinite(ms) || rounded < least || rounded > Number.MAX_SAFE_INTEGER) {
    throw new RangeError(`${name}: ${value} is not a duration of at least ${least} ms`);
  }
  return rounded;
}

/** A point in time in unix milliseconds: a Date, or unix seconds. */
export function unixMs(value: Date | number, name: string): number {
  const ms = value instanceof Date ? value.getTime() : typeof value === 'number' ? value * 1000 : Number.NaN;
  if (!Number.isFinite(ms) || ms < 0 || ms > Number.MAX_SAFE_INTEGER) {
    throw new RangeError(`${name}: ${String(value)} is not a time since 1970; a Date or unix seconds are expected`);
  }
  return Math.round(ms);
}

/** Monotonic milliseconds. */
export const now = (): number => performance.now();

export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, Math.max(ms, 0)));

/** Until the work has ended, or for so long. */
export async function atMost(work: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)));
  await Promise.race([work, late]).finally(() => clearTimeout(timer));
}
