// Runs of a schedule that must not overlap: each holds a lock for its time.

import { Renewal } from '../background.js';
import { isServerError } from '../errors.js';
import type { Hub } from '../hub.js';
import type { Delivery } from '../wire.js';

const LEASE_MS = 30_000;

export class Overlap {
  readonly #hub: Hub;
  readonly #held = new Map<string, { name: string; renewal: Renewal }>();

  constructor(hub: Hub) {
    this.#hub = hub;
  }

  /** False if another run of this schedule has not ended. A server that does not answer is no reason to skip a run. */
  async enter(delivery: Delivery): Promise<boolean> {
    const name = `cron:${delivery.stream}:${delivery.task}`;
    const me = delivery.originalId;
    try {
      if ((await this.#hub.call(['LOCK.ACQUIRE', name, me, LEASE_MS, 'FENCE'])) === 0) return false;
    } catch (error) {
      this.#hub.reports.warn(`whether the run before has ended is unknown: ${String(error)}`);
      return true;
    }
    const renewal = new Renewal(this.#hub.background, () => this.#renew(name, me), LEASE_MS / 3);
    this.#held.set(me, { name, renewal });
    return true;
  }

  async #renew(name: string, me: string): Promise<number | undefined> {
    try {
      return (await this.#hub.call(['LOCK.EXTEND', name, me, LEASE_MS])) === 1 ? LEASE_MS / 3 : undefined;
    } catch (error) {
      if (!isServerError(error)) throw error;
      return LEASE_MS / 10;
    }
  }

  leave(delivery: Delivery): void {
    const held = this.#held.get(delivery.originalId);
    if (held === undefined) return;
    this.#held.delete(delivery.originalId);
    held.renewal.stop();
    void this.#hub.background.spawn(() => this.#hub.call(['LOCK.RELEASE', held.name, delivery.originalId]), 'ending a run');
  }

  close(): void {
    for (const { renewal } of this.#held.values()) renewal.stop();
  }
}
