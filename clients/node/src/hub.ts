// The connections of one Corral: which node has a key, one connection for short commands to each node, and one for each
// command that waits. Nothing is sent a second time, except what the server did not run: MOVED, ASK, TRYAGAIN and (with
// Sentinel) READONLY change nothing.

import { Background } from './background.js';
import type { Address, Driver } from './drivers/driver.js';
import { Link } from './drivers/link.js';
import { CorralError } from './errors.js';
import { Features, PROBE, replyError } from './features.js';
import type { Reports } from './log.js';
import { now, pause } from './time.js';
import { deadLetters, slotOf, text, type Command, type Reply } from './wire.js';

/** Idle connections that are kept for commands that wait, to each node. */
const KEPT_IDLE = 16;
const RETRIES = 8;

export interface CallOptions {
  /** The name that decides about the node; otherwise the first argument. */
  key?: string;
  timeoutMs?: number;
  /** On a connection of its own. */
  waiting?: boolean;
}

type Range = readonly [first: number, last: number, address: Address];

export class Hub {
  readonly background: Background;
  readonly reports: Reports;
  readonly #resolve: () => Promise<Driver>;
  #driver: Promise<Driver> | undefined;
  #features: Features | undefined;
  readonly #shared = new Map<string, Link>();
  readonly #idle = new Map<string, Link[]>();
  #slots: readonly Range[] = [];
  #master: Address | undefined;

  constructor(resolve: () => Promise<Driver>, reports: Reports) {
    this.#resolve = resolve;
    this.reports = reports;
    this.background = new Background(reports);
  }

  /** Another hub for the same server. */
  sibling(): Hub {
    return new Hub(() => this.driver(), this.reports);
  }

  driver(): Promise<Driver> {
    if (this.#driver === undefined) {
      this.#driver = this.#resolve();
      this.#driver.catch(() => (this.#driver = undefined));
    }
    return this.#driver;
  }

  /** Asks once. A user without the permission for COMMAND is assumed to have everything. */
  async features(timeoutMs?: number): Promise<Features> {
    if (this.#features === undefined) {
      const driver = await this.driver();
      const timeout = timeoutMs ?? driver.timeoutMs;
      const [docs = null] = await this.#send(driver, [PROBE], await this.#address(driver, '', timeout), timeout, false);
      const features = new Features(docs);
      features.check(driver.name);
      this.#features = features;
    }
    return this.#features;
  }

  /** The reply of a command. An error reply is thrown. */
  async call(command: Command, options: CallOptions = {}): Promise<Reply> {
    const [reply = null] = await this.run([command], options);
    if (reply instanceof Error) throw reply;
    return reply;
  }

  /** The replies of commands that are sent together. Error replies are in the list. */
  async run(commands: readonly Command[], options: CallOptions = {}): Promise<Reply[]> {
    const driver = await this.driver();
    const end = now() + (options.timeoutMs ?? driver.timeoutMs);
    const left = (): number => Math.max(end - now(), 1);
    if (this.#features === undefined) await this.features(left());
    const key = driver.keyPrefix + (options.key ?? text(commands[0]?.[1] as Reply));
    const prefixed = driver.keyPrefix === '' ? commands : commands.map((command) => withPrefix(command, driver.keyPrefix));
    for (let attempt = 0; ; attempt++) {
      let replies: Reply[];
      try {
        replies = await this.#send(driver, prefixed, await this.#address(driver, key, left()), left(), options.waiting ?? false);
        const asked = replies.length === 1 && replies[0] instanceof Error ? /^ASK \d+ (\S+):(\d+)$/.exec(replies[0].message) : null;
        if (asked !== null) {
          const address = driver.translate({ host: asked[1] ?? '', port: Number(asked[2]) });
          replies = (await this.#send(driver, [['ASKING'], ...prefixed], address, left(), options.waiting ?? false)).slice(1);
        }
      } catch (error) {
        this.forgetNodes();
        throw error;
      }
      const explained = replies.map((reply) => (reply instanceof Error ? this.#explain(reply, driver) : reply));
      if (!mayRetry(explained, driver) || attempt === RETRIES - 1 || now() >= end) return explained;
      this.forgetNodes();
      if (attempt > 0) await pause(Math.min(20 * 2 ** attempt, left()));
    }
  }

  #explain(reply: Error, driver: Driver): CorralError {
    const error = replyError(reply, driver.name);
    return this.#features === undefined ? error : this.#features.explain(error);
  }

  async #send(driver: Driver, commands: readonly Command[], address: Address | undefined, timeoutMs: number, waiting: boolean): Promise<Reply[]> {
    const place = address === undefined ? '' : `${address.host}:${address.port}`;
    if (!waiting) {
      let link = this.#shared.get(place);
      if (!link?.usable) {
        link?.close();
        this.#shared.set(place, (link = new Link(driver, address)));
      }
      return link.call(commands, timeoutMs);
    }
    const idle = this.#idle.get(place) ?? [];
    this.#idle.set(place, idle);
    let link = idle.pop();
    while (link !== undefined && !link.usable) {
      link.close();
      link = idle.pop();
    }
    link ??= new Link(driver, address);
    const replies = await link.call(commands, timeoutMs);
    if (idle.length < KEPT_IDLE && this.#idle.get(place) === idle && link.usable) idle.push(link);
    else link.close();
    return replies;
  }

  /** The next command asks anew where its key is. */
  forgetNodes(): void {
    this.#slots = [];
    this.#master = undefined;
  }

  /** A connection for a caller that manages it by itself, to the node that has a key. */
  async link(key: string): Promise<Link> {
    const driver = await this.driver();
    return new Link(driver, await this.#address(driver, driver.keyPrefix + key, driver.timeoutMs));
  }

  async #address(driver: Driver, key: string, timeoutMs: number): Promise<Address | undefined> {
    if (driver.seeds.length > 0) {
      const slots = this.#slots.length > 0 ? this.#slots : await this.#loadSlots(driver, timeoutMs);
      const slot = slotOf(key);
      const found = slots.find(([first, last]) => first <= slot && slot <= last);
      if (found !== undefined) return found[2];
      this.#slots = [];
      throw new CorralError('SERVER_UNREACHABLE', `${driver.name}: no node serves the slot of '${key}'`, { sent: false });
    }
    if (driver.currentMaster !== undefined) {
      const master = driver.currentMaster();
      if (master === undefined) throw new CorralError('SERVER_UNREACHABLE', 'no sentinel knows the master', { sent: false });
      return master;
    }
    if (driver.service !== undefined) return (this.#master ??= await this.#findMaster(driver, timeoutMs));
    return undefined;
  }

  async #loadSlots(driver: Driver, timeoutMs: number): Promise<readonly Range[]> {
    const end = now() + timeoutMs;
    const known = [...this.#shared.keys()].filter((place) => place !== '').map((place): Address => {
      const colon = place.lastIndexOf(':');
      return { host: place.slice(0, colon), port: Number(place.slice(colon + 1)) };
    });
    let failure: unknown;
    for (const seed of [...known, ...driver.seeds]) {
      const link = new Link(driver, seed);
      try {
        const [reply] = await link.call([['CLUSTER', 'SLOTS']], Math.max(end - now(), 1));
        if (reply instanceof Error) throw replyError(reply, driver.name);
        return (this.#slots = (reply as readonly [number, number, readonly Reply[]][]).map(([first, last, node]): Range => [
          // An empty host means: the one that was asked.
          first, last, driver.translate({ host: text(node[0]) || seed.host, port: Number(node[1]) }),
        ]));
      } catch (error) {
        failure = error;
      } finally {
        link.close();
      }
    }
    throw failure;
  }

  async #findMaster(driver: Driver, timeoutMs: number): Promise<Address> {
    const end = now() + timeoutMs;
    for (const sentinel of driver.sentinels) {
      const link = new Link(driver, sentinel, true);
      try {
        const [reply] = await link.call([['SENTINEL', 'GET-MASTER-ADDR-BY-NAME', driver.service ?? '']], Math.max(end - now(), 1));
        if (Array.isArray(reply)) return driver.translate({ host: text(reply[0] as Reply), port: Number(text(reply[1] as Reply)) });
      } catch (error) {
        this.reports.warn(`a sentinel does not answer: ${String(error)}`);
      } finally {
        link.close();
      }
    }
    throw new CorralError('SERVER_UNREACHABLE', `no sentinel knows ${driver.name}`, { sent: false });
  }

  /** Waits for work in the background, and closes the connections. */
  async close(timeoutMs = 5000): Promise<void> {
    await this.background.close(timeoutMs);
    for (const link of [...this.#shared.values(), ...[...this.#idle.values()].flat()]) link.close();
    this.#shared.clear();
    this.#idle.clear();
  }
}

/** Whether the server ran none of the commands, and another node will, or this one soon. */
function mayRetry(replies: readonly Reply[], driver: Driver): boolean {
  const codes = ['MOVED', 'TRYAGAIN', 'ASK'];
  if (driver.service !== undefined || driver.currentMaster !== undefined) codes.push('READONLY');
  const done = replies.some((reply) => !(reply instanceof Error) && !['OK', 'QUEUED'].includes(text(reply)));
  return !done && replies.some((reply) => reply instanceof CorralError && codes.includes(reply.reply ?? ''));
}

/** A command with the prefix on its keys. */
export function withPrefix(command: Command, prefix: string): Command {
  const name = String(command[0]).toUpperCase();
  if (!/^(CACHE|TASK|LOCK)\./.test(name)) return command;
  const found = [...command];
  const at = (index: number): void => {
    if (index < found.length) found[index] = prefix + text(found[index] as Reply);
  };
  if (name === 'TASK.REDRIVE') {
    at(2);
    found[1] = deadLetters(String(found[2]));
  } else if (name === 'TASK.CONSUME') {
    at(3);
    const then = found.indexOf('THEN');
    if (then > 3) for (let index = then + 2; index < found.length; index++) at(index);
  } else at(1);
  return found;
}
