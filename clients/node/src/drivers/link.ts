// A connection with deadlines. One that has missed a reply is not used again: what it receives later belongs to nobody.

import { CorralError } from '../errors.js';
import type { Command, Reply } from '../wire.js';
import type { Address, Connection, Driver } from './driver.js';

const LONGEST_MS = 2 ** 31 - 1;

export class Link {
  readonly #driver: Driver;
  readonly #address: Address | undefined;
  readonly #toSentinel: boolean;
  #connection: Connection | undefined;
  #connected: Promise<Connection> | undefined;
  #calls = 0;
  #retired = false;

  constructor(driver: Driver, address?: Address, toSentinel = false) {
    this.#driver = driver;
    this.#address = address;
    this.#toSentinel = toSentinel;
  }

  /** Whether new commands may be sent. */
  get usable(): boolean {
    return !this.#retired && (this.#connection === undefined || this.#calls > 0 || this.#connection.usable);
  }

  /** Sends commands together. Error replies are among the replies. */
  call(commands: readonly Command[], timeoutMs: number): Promise<Reply[]> {
    return new Promise((resolve, reject) => {
      let sent = false;
      let ended = false;
      this.#calls++;
      const end = (settle: () => void): void => {
        if (ended) return;
        ended = true;
        clearTimeout(timer);
        this.#calls--;
        if (this.#retired && this.#calls === 0) this.close();
        settle();
      };
      const fail = (what: string, cause?: unknown): void => {
        this.#retired = true;
        end(() => reject(new CorralError('SERVER_UNREACHABLE', `${this.#driver.name}: ${what}`, { sent, cause })));
      };
      const timer = setTimeout(() => fail('no reply in time'), Math.min(Math.max(timeoutMs, 1), LONGEST_MS));
      this.#open(timeoutMs)
        .then((connection) => {
          if (ended) return [];
          sent = true;
          return Promise.all(commands.map((command) => connection.send(command)));
        })
        .then(
          (replies) => end(() => resolve(replies)),
          (error: unknown) => fail(error instanceof Error ? error.message || error.name : String(error), error),
        );
    });
  }

  #open(timeoutMs: number): Promise<Connection> {
    this.#connected ??= (async () => {
      const connection = this.#driver.connection(this.#address, Math.max(Math.ceil(timeoutMs), 1), this.#toSentinel);
      this.#connection = connection;
      await connection.connect();
      if (this.#retired && this.#calls === 0) connection.close();
      return connection;
    })();
    return this.#connected;
  }

  close(): void {
    this.#retired = true;
    this.#connection?.close();
  }
}
