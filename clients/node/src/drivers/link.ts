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
  #connecting = false;
  #calls = 0;
  #retired = false;

  constructor(driver: Driver, address?: Address, toSentinel = false) {
    this.#driver = driver;
    this.#address = address;
    this.#toSentinel = toSentinel;
  }

  /** Whether new commands may be sent. */
  get usable(): boolean {
    return !this.#retired && (this.#connection === undefined || this.#connecting || this.#calls > 0 || this.#connection.usable);
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
        // A caller with little patience does not end a connection that is being made: the next one may use it.
        this.#retired ||= sent || !this.#connecting;
        end(() => reject(new CorralError('SERVER_UNREACHABLE', `${this.#driver.name}: ${what}`, { sent, cause })));
      };
      const timer = setTimeout(() => fail('no reply in time'), Math.min(Math.max(timeoutMs, 1), LONGEST_MS));
      this.#open()
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

  #open(): Promise<Connection> {
    this.#connected ??= (async () => {
      const connection = this.#driver.connection(this.#address, this.#driver.timeoutMs, this.#toSentinel);
      this.#connection = connection;
      this.#connecting = true;
      try {
        await connection.connect();
      } finally {
        this.#connecting = false;
      }
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
