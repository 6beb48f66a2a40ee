// What the drivers of the Node files share.
import assert from 'node:assert/strict';
import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';

export { assert, pause };
export const same = assert.deepEqual;
export const atOnce = (callers, call) => Promise.all(Array.from({ length: callers }, () => call()));
export async function until(condition) {
  for (const end = Date.now() + 20_000; !await condition(); await pause(5)) assert(Date.now() < end, 'not in time');
}
export function loader(...outcomes) {
  const load = async () => {
    const outcome = outcomes[Math.min(load.calls++, outcomes.length - 1)];
    await pause(50);
    await load.go;
    if (outcome instanceof Error) throw outcome;
    return outcome;
  };
  load.calls = 0;
  return load;
}

// The role of this process: none in the first one, which starts the others.
export const role = process.argv[2];
if (role) process.on('disconnect', () => process.exit(1)).channel.unref();

// The driver again with a role, or a file of the page with what it prints.
export const start = role => fork(process.argv[1], [role]);
export function run(file) {
  const child = spawn('node', [file], { stdio: ['ignore', 'pipe', 'inherit'] });
  child.printed = '';
  child.stdout.on('data', text => { child.printed += text });
  return child;
}
export const ended = async child => { child.exitCode ?? child.signalCode ?? await once(child, 'exit'); return child.exitCode };
