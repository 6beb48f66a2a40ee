// How the server is reached: through single connections of the user's client library, made from the user's options.
// They speak RESP2, return bytes, and neither queue nor repeat a command. Everything else, such as which node has a key,
// is the same for all libraries and is in hub.ts.

import type { Command, Reply } from '../wire.js';

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** One connection of a client library. An idle one does not keep the process from ending. */
export interface Connection {
  /** Connects. Rejects if that fails. */
  connect(): Promise<void>;
  /** An error reply is returned. Rejects if the connection breaks. Commands sent in one turn follow each other directly. */
  send(command: Command): Promise<Reply>;
  readonly usable: boolean;
  close(): void;
}

export interface Driver {
  /** For messages, without a password. */
  readonly name: string;
  /** Of all keys; honored, because the application uses the same client for other commands. */
  readonly keyPrefix: string;
  readonly timeoutMs: number;
  /** The known nodes, if this is a cluster. */
  readonly seeds: readonly Address[];
  /** The name of the master that the sentinels know. */
  readonly service?: string;
  readonly sentinels: readonly Address[];
  /** With Sentinel, where the user's client finds the master now. */
  readonly currentMaster?: () => Address | undefined;
  /** A new connection, to an address or to the server of the options. */
  connection(address: Address | undefined, connectTimeoutMs: number, toSentinel?: boolean): Connection;
  /** Where an address that the server names is reached from here. */
  translate(address: Address): Address;
}

export const DEFAULT_TIMEOUT_MS = 5000;

 
export type Loose = Record<string, any>;

/** An address map of the user, `{ "10.0.0.1:6379": { host, port } }` or a function. */
export function translator(map: unknown): (address: Address) => Address {
  if (typeof map === 'function') return (address) => (map(`${address.host}:${address.port}`) as Address | undefined) ?? address;
  const known = (map ?? {}) as Record<string, Address | undefined>;
  return (address) => known[`${address.host}:${address.port}`] ?? address;
}

export function prefixOf(value: unknown): string {
  return Buffer.isBuffer(value) ? value.toString() : typeof value === 'string' ? value : '';
}

/** Words as the libraries take them. */
export function words(command: Command): (string | Buffer)[] {
  return command.map((word) =>
    typeof word === 'string' ? word : typeof word === 'number' ? String(word)
    : Buffer.isBuffer(word) ? word : Buffer.from(word.buffer, word.byteOffset, word.byteLength),
  );
}

export function inherits(value: unknown, name: string): boolean {
  for (let at: unknown = value; typeof at === 'object' && at !== null; at = Object.getPrototypeOf(at)) {
    if ((at as { constructor?: { name?: string } }).constructor?.name === name) return true;
  }
  return false;
}
