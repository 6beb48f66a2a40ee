import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';

const same = assert.deepEqual;
const atOnce = (callers, call) => Promise.all(Array.from({ length: callers }, () => call()));
async function until(condition) {
  for (const end = Date.now() + 20_000; !await condition(); await pause(5)) assert(Date.now() < end, 'not in time');
}
function loader(...outcomes) {
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

// The part that this process plays: none in the first one, which starts the others.
const role = process.argv[2];
if (role) process.on('disconnect', () => process.exit(1));

// This script again, in a process of its own, which ends with this one.
const start = role => fork(process.argv[1], [role]);
const ended = async child => { child.exitCode ?? await once(child, 'exit'); return child.exitCode };
