// The tasks and the command line that all Node peers share, like tasks.py.
import { Redis } from 'ioredis';

export const port = Number(process.env.PORT);
export const queue = process.env.QUEUE;
export const second = process.env.SECOND;
export const timeout = Number(process.env.TIMEOUT || 0) * 1000;
export const tied = Boolean(process.env.TIED);
export const store = new Redis(port);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const now = () => performance.timeOrigin + performance.now();

// Does nothing, except for the few tasks that report progress.
export async function perform(body) {
  const [word, rest] = body.split(' ');
  if (word === 'mark') {
    await store.set(`${queue}:${rest}`, now() / 1000);
  } else if (word === 'due') {
    await store.rpush(`${queue}:late`, now() - Number(rest));
  } else if (word === 'hang') {
    if ((await store.incr(`${queue}:runs${rest}`)) === 1) {
      await store.set(`${queue}:worker${rest}`, process.pid);
      await sleep(600_000);
    }
    await store.set(`${queue}:again${rest}`, now() / 1000);
  }
}

// publish(bodies), publishDelayed([[body, due in Unix milliseconds], ...]), work(number of workers)
export async function main({ publish, publishDelayed, work }) {
  const [what, number] = process.argv.slice(2);
  const count = Number(number);
  if (what === 'publish') {
    const bodies = new Array(count).fill('noop');
    bodies[Math.floor(count / 5)] = 'mark begin';
    bodies[count - 1] = 'mark end';
    await publish(bodies);
  } else if (what === 'publish_delayed') {
    // Spread over 40 seconds, after a lead time for publishing.
    const due = () => Math.round(now() + 5000 + Math.random() * 40_000);
    const dues = Array.from({ length: count }, due);
    await publishDelayed(dues.map((due) => [`due ${due}`, due]));
  } else if (what === 'hang') {
    await publish([`hang ${count}`]);
  } else if (what === 'now') {
    // One at a time, to an idle worker.
    await publish(['noop']);
    for (let sent = 0; sent < count; sent++) {
      await sleep(20);
      await publish([`due ${now()}`]);
    }
  } else if (what === 'work') {
    return work(count);
  }
  process.exit(0);
}
