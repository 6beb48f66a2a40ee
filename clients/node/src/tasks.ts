// Tasks, apart from sending and running them: what a handler gets, what a queue knows, what a publisher asks for.

import type { Schedule } from './cron.js';
import { CorralError } from './errors.js';
import type { Features } from './features.js';
import type { Serializer } from './json.js';
import { milliseconds, unixMs, type Duration } from './time.js';
import { checkHeaders, checkName, type Delivery, type Word } from './wire.js';

/** What a handler gets beside the payload. */
export interface Task {
  readonly name: string;
  readonly queue: string;
  /** The id that the publisher got: the same in all tries, and unique in its queue. */
  readonly id: string;
  /** 1 for the first try. */
  readonly attempt: number;
  readonly headers: Readonly<Record<string, string>>;
  /** When a run of a schedule was due. */
  readonly scheduled: Date | undefined;
  /** Aborted when the task is lost, has run for `maxRuntime`, or must end because the worker does. */
  readonly signal: AbortSignal;
  /** Whether the task is no longer leased to this worker: its result does not count. */
  readonly lost: boolean;
  /** Whether the worker is shutting down: a long task returns soon, or throws Later. */
  readonly stopping: boolean;
  /** Throws a CorralError with the code TASK_LOST if the task is lost. */
  check(): void;
  /** If this try does not finish, the next one gets these fields of the payload instead of the present ones. */
  checkpoint(changes: Readonly<Record<string, unknown>>): void;
}

export type Handler<P> = (payload: P, task: Task) => unknown;

export interface HandlerOptions {
  /** After so many tries the task goes to the dead-letter queue. The policy of the queue has a limit as well. */
  tries?: number;
  /** After this time the signal is aborted, and the lease is not renewed anymore. */
  maxRuntime?: Duration;
}

/** A task that this process knows: its handler and its rules. */
export class Definition {
  readonly tries: number | undefined;
  readonly maxRuntimeMs: number | undefined;

  constructor(
    readonly name: string,
    readonly handler: Handler<never>,
    options: HandlerOptions = {},
    readonly schedule?: Schedule,
  ) {
    checkName(name, 'task');
    if (typeof handler !== 'function') throw new TypeError(`the handler of '${name}' must be a function`);
    const { tries, maxRuntime } = options;
    if (tries !== undefined && (!Number.isInteger(tries) || tries < 1)) throw new RangeError('tries is at least 1');
    this.tries = tries;
    this.maxRuntimeMs = maxRuntime === undefined ? undefined : milliseconds(maxRuntime, 'maxRuntime');
  }
}

/** For a time, tasks with this id are added once. */
export interface Unique {
  id: string;
  for: Duration;
  /** The time also ends when the task begins, or when it is done. */
  until?: 'start' | 'done';
  /** The last one published counts. */
  last?: boolean;
}

export interface PublishOptions {
  /** Not before this time has passed. */
  delay?: Duration;
  /** Not before this time: a Date, or unix seconds. */
  at?: Date | number;
  /** 0 to 9, 9 first. */
  priority?: number;
  unique?: Unique;
  /** Tasks with the same key run one after the other, in the order in which they were published. */
  key?: string;
  /** Not run if it has not begun by then. */
  expire?: Duration;
  /** For the handler. */
  headers?: Readonly<Record<string, string>>;
  /** Whether a publish whose reply was lost is sent again, with an id that makes it one task. */
  retry?: boolean;
}

export interface Message {
  readonly task: string;
  readonly payload: Uint8Array;
  /** Unless it is JSON. */
  readonly contentType?: string;
  readonly tries?: number;
  readonly options: PublishOptions;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cron?: number;
}

/** The command TASK.PUBLISH. Options that are not valid are rejected before anything is sent. */
export function publishCommand(stream: string, message: Message, features: Features): Word[] {
  const { options } = message;
  const { delay, at, priority = 0, unique, key, expire } = options;
  if (delay !== undefined && at !== undefined) throw new RangeError('a task has a delay or a time, not both');
  if (!Number.isInteger(priority) || priority < 0 || priority > 9) throw new RangeError('priority is a number from 0 to 9');
  const need = (option: string): void => features.require('TASK.PUBLISH', option);
  const command: Word[] = ['TASK.PUBLISH', stream, message.payload];
  if (delay !== undefined) command.push('DELAY', milliseconds(delay, 'delay', 0));
  if (at !== undefined) command.push('AT', unixMs(at, 'at'));
  if (expire !== undefined) {
    need('EXPIRE');
    command.push('EXPIRE', milliseconds(expire, 'expire'));
  }
  if (priority > 0) command.push('PRIORITY', priority);
  if (unique !== undefined) {
    const { until, last = false } = unique;
    if (until !== undefined && until !== 'start' && until !== 'done') throw new RangeError(`until is 'start' or 'done', not '${String(until)}'`);
    command.push('UNIQUE', checkName(unique.id, 'unique task'), milliseconds(unique.for, 'for'));
    if (until !== undefined) {
      need('UNTIL');
      command.push('UNTIL', until.toUpperCase());
    }
    if (last) {
      need('LAST');
      command.push('LAST');
    }
  }
  if (key !== undefined) {
    need('KEY');
    command.push('KEY', checkName(key, 'key'));
  }
  if (message.tries !== undefined && features.has('TASK.PUBLISH', 'TRIES')) command.push('TRIES', message.tries);
  need('FIELDS');
  const fields = Object.entries(fieldsOf(message));
  return [...command, 'FIELDS', fields.length, ...fields.flat()];
}

function fieldsOf(message: Message): Record<string, string> {
  const { contentType, cron, headers = {}, options } = message;
  const fields: Record<string, string> = { task: checkName(message.task, 'task') };
  if (contentType !== undefined) fields['content-type'] = contentType;
  if (cron !== undefined) fields['cron'] = String(cron);
  // Another task waits for the end of this one.
  if (options.key !== undefined || options.unique?.until === 'done') fields['ack'] = 'now';
  const all = { ...headers, ...options.headers };
  checkHeaders(all);
  return { ...fields, ...all };
}

/** The state behind a Task. `look` is called before it is read: the lease may have ended while the event loop was blocked. */
export class RunningTask implements Task {
  readonly name: string;
  readonly id: string;
  readonly attempt: number;
  readonly scheduled: Date | undefined;
  payload: Record<string, unknown> = {};
  saved: Uint8Array | undefined;
  isLost = false;
  isStopping = false;
  readonly #controller = new AbortController();

  constructor(
    private readonly delivery: Delivery,
    readonly queue: string,
    private readonly serializer: Serializer,
    private readonly features: Features,
    private readonly look: () => void,
  ) {
    this.name = delivery.task;
    this.id = delivery.originalId;
    this.attempt = delivery.attempt;
    this.scheduled = delivery.cron === undefined ? undefined : new Date(delivery.cron * 1000);
  }

  get headers(): Readonly<Record<string, string>> {
    return this.delivery.headers;
  }

  get signal(): AbortSignal {
    this.look();
    return this.#controller.signal;
  }

  get lost(): boolean {
    this.look();
    return this.isLost;
  }

  get stopping(): boolean {
    return this.isStopping;
  }

  check(): void {
    if (this.lost) throw taskLost(this.id);
  }

  checkpoint(changes: Readonly<Record<string, unknown>>): void {
    this.features.require('TASK.NACK', 'PAYLOAD');
    this.saved = this.serializer.encode({ ...this.payload, ...changes });
  }

  abort(reason: Error): void {
    this.#controller.abort(reason);
  }
}

export function taskLost(id: string): CorralError {
  return new CorralError('TASK_LOST', `the task ${id} is no longer leased to this worker`);
}
