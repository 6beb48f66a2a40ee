// What both measurements of the package for Node need: the package, a server of their own, and bars.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = fileURLToPath(new URL('../../clients/node/', import.meta.url));
export const require = createRequire(join(here, 'package.json'));
/** What the built package exports. */
export const packaged = await import(pathToFileURL(join(here, 'dist/esm/index.js')));
const { Redis } = require('ioredis');

/** Calls `body` with the URL of a new server, a client of it, and its process. */
export async function withServer(body) {
  const directory = mkdtempSync(join(tmpdir(), 'corral-'));
  const port = 20000 + Math.floor(Math.random() * 10000);
  const words = ['--port', port, '--bind', '127.0.0.1', '--dir', directory, '--save', '', '--loadmodule', resolve(process.env.CORRAL_MODULE)];
  const server = spawn(process.env.SERVER ?? 'redis-server', words.map(String), { stdio: 'ignore' });
  const client = new Redis(port, '127.0.0.1', { retryStrategy: () => 50 });
  client.on('error', () => undefined);
  try {
    await client.ping();
    await body(`redis://127.0.0.1:${port}`, client, server);
  } finally {
    client.disconnect();
    server.kill();
    rmSync(directory, { recursive: true, force: true });
  }
}

/** A missed bar makes the process exit with 1. */
export function bar(what, value, most) {
  const fine = value <= most;
  console.log(`  ${fine ? 'ok    ' : 'MISSED'}  ${what}: ${value.toFixed(2)}, at most ${most}`);
  if (!fine) process.exitCode = 1;
}
