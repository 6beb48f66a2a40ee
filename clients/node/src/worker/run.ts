// Runs one handler.

import type { RunningTask, Task } from '../tasks.js';
import { payloadOf } from '../wire.js';
import type { Run } from './running.js';

/** Called around each handler: `async (task, next) => { await next(); }`. */
export type Middleware = (task: Task, next: () => Promise<unknown>) => unknown;

/** Calls the handler, from the first middleware inwards. */
export async function runHandler(run: Pick<Run, 'delivery' | 'definition' | 'queue'> & { task: RunningTask }, middleware: readonly Middleware[]): Promise<void> {
  const { task, definition } = run;
  task.payload = payloadOf(run.delivery, run.queue.serializer);
  const call = async (index: number): Promise<unknown> => {
    const layer = middleware[index];
    return layer === undefined ? definition.handler(task.payload as never, task) : layer(task, () => call(index + 1));
  };
  await call(0);
}
