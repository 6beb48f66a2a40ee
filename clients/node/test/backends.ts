// The same tests in memory and on every server.

import { afterAll, beforeAll, beforeEach, describe } from 'vitest';
import type { Corral } from '../src/index.js';
import { memoryCorral, type MemoryCorral } from '../src/testing.js';
import { nameOf, Server, SERVERS, sleep } from './server.js';

export interface Backend {
  corral: Corral;
  /** Another process, as far as the server can see. In memory it is the same. */
  other: Corral;
  fake?: MemoryCorral;
  server?: Server;
  /** Seconds of the clock, or of real time. */
  pass(seconds: number): Promise<void>;
}

export function onEach(body: (backend: Backend) => void): void {
  for (const program of ['memory', ...SERVERS]) {
    describe(nameOf(program), () => {
      // Filled before each test.
      const backend = {} as Backend;
      let server: Server | undefined;
      beforeAll(async () => {
        if (program !== 'memory') server = await Server.start(program);
      });
      beforeEach(async () => {
        if (server === undefined) {
          const fake = memoryCorral();
          Object.assign(backend, { corral: fake.corral, other: fake.corral, fake, pass: (seconds: number) => fake.advance(seconds) });
          return;
        }
        await backend.corral?.close();
        await backend.other?.close();
        await server.empty();
        Object.assign(backend, {
          corral: server.corral(), other: server.corral(), server, pass: (seconds: number) => sleep(seconds * 1000),
        });
      });
      afterAll(async () => {
        await backend.corral?.close();
        await backend.other?.close();
        await server?.remove();
      });
      body(backend);
    });
  }
}

/** A promise that is settled from outside. */
export function gate<T = void>(): { promise: Promise<T>; open: (value: T) => void; fail: (error: unknown) => void } {
  let open!: (value: T) => void;
  let fail!: (error: unknown) => void;
  const promise = new Promise<T>((resolve, reject) => {
    open = resolve;
    fail = reject;
  });
  return { promise, open, fail };
}

export async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
