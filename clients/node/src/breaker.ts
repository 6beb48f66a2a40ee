// What keeps an application running while the server is away.
//
// After a connection error or OOM the breaker skips the server for a second. Meanwhile a value that this process has seen
// in the last five seconds is used again, and at most four loads run in this process at a time.

const OPEN_MS = 1000;
const LAST_MS = 5000;
const LOCAL_LOADS = 4;
const LAST_COUNT = 1024;
const LAST_BYTES = 8 << 20;

/** Times are of a monotonic clock. */
export class Breaker {
  #openUntil = Number.NEGATIVE_INFINITY;

  isOpen(now: number): boolean {
    return now < this.#openUntil;
  }

  trip(now: number): void {
    this.#openUntil = now + OPEN_MS;
  }
}

/** The values that this process has seen last, by their keys. */
export class LastValues {
  readonly #values = new Map<string, { data: Buffer; at: number }>();
  #bytes = 0;

  put(key: string, data: Buffer, now: number): void {
    this.drop(key);
    if (data.length > LAST_BYTES / 8) return;
    // A reply may be a view of a larger chunk, which must not be kept.
    this.#values.set(key, { data: Buffer.from(data), at: now });
    this.#bytes += key.length + data.length;
    for (const oldest of this.#values.keys()) {
      if (this.#values.size <= LAST_COUNT && this.#bytes <= LAST_BYTES) break;
      this.drop(oldest);
    }
  }

  get(key: string, now: number): Buffer | undefined {
    const found = this.#values.get(key);
    return found !== undefined && now - found.at <= LAST_MS ? found.data : undefined;
  }

  drop(key: string): void {
    const found = this.#values.get(key);
    if (found === undefined) return;
    this.#values.delete(key);
    this.#bytes -= key.length + found.data.length;
  }
}

let running = 0;

/** Runs a load without the server, of which this process has four at a time; undefined if there are as many. */
export async function localLoad<T>(load: () => Promise<T>): Promise<{ value: T } | undefined> {
  if (running >= LOCAL_LOADS) return undefined;
  running++;
  try {
    return { value: await load() };
  } finally {
    running--;
  }
}
