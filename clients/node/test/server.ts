// Servers for the tests: each of CORRAL_TEST_SERVERS (paths, separated by colons; default redis-server).

import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { Redis } from 'ioredis';
import { createCorral, type Corral, type CorralOptions } from '../src/index.js';

export const SERVERS = (process.env['CORRAL_TEST_SERVERS'] ?? 'redis-server').split(':').filter((path) => path !== '');
const MODULE = process.env['CORRAL_MODULE'];
const PATIENCE_MS = 60_000;

export const quiet = { warn: () => undefined, error: () => undefined };

/** For messages. */
export const nameOf = (program: string): string => (program.includes('/') ? (basename(dirname(program)).split('_')[0] ?? program) : program);

export const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** Waits until the condition holds, and returns its value. */
export async function eventually<T>(condition: () => T | Promise<T>, what = 'the condition'): Promise<NonNullable<T>> {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`${what} did not come about`);
    await sleep(10);
  }
}

export async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await new Promise((done) => probe.once('listening', done));
  const { port } = probe.address() as AddressInfo;
  await new Promise((done) => probe.close(done));
  return port;
}

const started = new Set<Server>();
process.once('exit', () => started.forEach((server) => server.process?.kill('SIGKILL')));

/** A server of its own. `client` is a plain client, beside the package. */
export class Server {
  process: ChildProcess | undefined;
  port = 0;
  readonly directory = mkdtempSync(join(tmpdir(), 'corral-'));
  client!: Redis;

  constructor(
    readonly program: string, readonly options: readonly string[] = [], readonly withModule = true, readonly first: readonly string[] = [],
  ) {}

  /** With words that come first, and without the module: a sentinel. */
  static startAs(program: string, first: readonly string[]): Promise<Server> {
    return Server.start(program, [], false, first);
  }

  static async start(program: string, options: readonly string[] = [], withModule = true, first: readonly string[] = []): Promise<Server> {
    const server = new Server(program, options, withModule, first);
    // Another process may take the port first.
    for (let attempt = 0; attempt < 5; attempt++) {
      server.port = await freePort();
      if (await server.boot()) return server;
    }
    throw new Error(`${program} did not start`);
  }

  async boot(): Promise<boolean> {
    if (MODULE === undefined) throw new Error('CORRAL_MODULE does not name the module');
    const place = ['--port', String(this.port), '--bind', '127.0.0.1', '--dir', this.directory, '--daemonize', 'no'];
    const words = this.first.length > 0 ? [...this.first, ...place] : [...place, '--save', ''];
    const child = spawn(this.program, [...words, ...this.options, ...(this.withModule ? ['--loadmodule', resolve(MODULE)] : [])], { stdio: 'ignore' });
    this.process = child;
    started.add(this);
    this.client ??= new Redis(this.port, '127.0.0.1', { lazyConnect: true, maxRetriesPerRequest: null, retryStrategy: () => 50 });
    this.client.on('error', () => undefined);
    if (this.client.status === 'wait') void this.client.connect().catch(() => undefined);
    const end = Date.now() + PATIENCE_MS;
    while (child.exitCode === null && Date.now() < end) {
      if (this.client.status === 'ready' && (await this.client.info('server')).includes(`process_id:${child.pid}\r`)) return true;
      await sleep(20);
    }
    return false;
  }

  async kill(): Promise<void> {
    const child = this.process;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await new Promise((done) => child.once('exit', done));
  }

  async remove(): Promise<void> {
    this.client.disconnect();
    await this.kill();
    started.delete(this);
    rmSync(this.directory, { recursive: true, force: true });
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** With patience for a slow machine. */
  corral(options: Partial<CorralOptions> = {}): Corral {
    return createCorral({ ...(options.client === undefined && { url: this.url }), timeout: '60s', redisTimeout: '60s', log: quiet, ...options });
  }

  async clients(): Promise<Record<string, string>[]> {
    const list = String(await this.client.client('LIST'));
    return list.trim().split('\n').map((line) => Object.fromEntries(line.split(' ').map((pair) => pair.split('=', 2) as [string, string])));
  }

  /** How often a command was called. */
  async calls(command: string): Promise<number> {
    const found = new RegExp(`^cmdstat_${command.replace('.', '\\.')}:calls=(\\d+)`, 'm').exec(await this.client.info('commandstats'));
    return Number(found?.[1] ?? 0);
  }

  async empty(): Promise<void> {
    await this.client.flushall();
    await this.client.config('RESETSTAT');
  }
}
