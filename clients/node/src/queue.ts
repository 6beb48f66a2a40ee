// Queues: tasks are handled and published by their names.
//
// Publishing is never repeated by itself, because a second TASK.PUBLISH is a second task. With UNIQUE it is the same task,
// so then it may be sent again.

import { randomUUID } from 'node:crypto';
import { Schedule, type Misfire } from './cron.js';
import { CorralError, hasCode } from './errors.js';
import type { Hub } from './hub.js';
import { JSON_TYPE, type Serializer } from './json.js';
import { Definition, publishCommand, type Handler, type HandlerOptions, type Message, type PublishOptions } from './tasks.js';
import { pause } from './time.js';
import { asMap, checkName, deadLetters, text, type Command, type Reply } from './wire.js';

/** A publish that may be repeated is repeated this often. */
const REPEATS = 4;
const RETRY_WINDOW_S = 600;

export interface CronOptions extends HandlerOptions {
  tz?: string;
  /** What becomes of a run that is more than a minute late: it runs once, or not at all. */
  misfire?: Misfire;
  /** Whether a run may begin before the last one has ended. */
  overlap?: boolean;
}

/** The payload of each task, by its name. */
export type Payloads = Record<string, object>;

/** A task for `publishMany`. */
export type NewTask<T> = { [K in keyof T & string]: PublishOptions & { task: K; payload: T[K] } }[keyof T & string];

interface Connections {
  hub(): Hub;
  headers(): Readonly<Record<string, string>>;
}

export class Queue<T extends { [K in keyof T]: object } = Payloads> {
  /** @internal */
  readonly definitions = new Map<string, Definition>();
  /** @internal */
  readonly serializer: Serializer;
  readonly #connections: Connections;

  /** @internal */
  constructor(readonly name: string, connections: Connections, serializer: Serializer) {
    checkName(name, 'queue');
    this.#connections = connections;
    this.serializer = serializer;
  }

  /** Says how workers in this process run a task. */
  handle<K extends keyof T & string>(task: K, handler: Handler<T[K]>): void;
  handle<K extends keyof T & string>(task: K, options: HandlerOptions, handler: Handler<T[K]>): void;
  handle<K extends keyof T & string>(task: K, options: HandlerOptions | Handler<T[K]>, handler?: Handler<T[K]>): void {
    if (typeof options === 'function') this.#define(new Definition(task, options));
    else this.#define(new Definition(task, handler as Handler<never>, options));
  }

  /** Runs a task at the times of a schedule of five fields. */
  cron(task: string, schedule: string, handler: (task: Parameters<Handler<object>>[1]) => unknown): void;
  cron(task: string, schedule: string, options: CronOptions, handler: (task: Parameters<Handler<object>>[1]) => unknown): void;
  cron(task: string, schedule: string, ...rest: unknown[]): void {
    const handler = rest.pop() as (task: Parameters<Handler<object>>[1]) => unknown;
    const options = (rest[0] ?? {}) as CronOptions;
    if (typeof handler !== 'function') throw new TypeError(`the handler of '${task}' must be a function`);
    const times = new Schedule(schedule, options.tz, options.misfire, options.overlap);
    this.#define(new Definition(task, (_payload, running) => handler(running), options, times));
  }

  #define(definition: Definition): void {
    if (this.definitions.has(definition.name)) throw new RangeError(`the queue '${this.name}' has a task '${definition.name}' already`);
    this.definitions.set(definition.name, definition);
  }

  /** Publishes a task, and returns its id. */
  async publish<K extends keyof T & string>(task: K, payload: T[K], options: PublishOptions = {}): Promise<string> {
    const [id = ''] = await this.#publish([{ ...options, task, payload }]);
    return id;
  }

  /** Publishes tasks in one MULTI. An error with the code QUEUE_FULL says which were added before. */
  async publishMany(tasks: readonly NewTask<T>[]): Promise<string[]> {
    return tasks.length === 0 ? [] : this.#publish(tasks);
  }

  async #publish(tasks: readonly NewTask<T>[]): Promise<string[]> {
    const hub = this.#connections.hub();
    const headers = this.#connections.headers();
    const messages = tasks.map((one) => this.#message(one, headers));
    const features = await hub.features();
    const publishes = messages.map((message) => publishCommand(this.name, message, features));
    const many = publishes.length > 1;
    const commands = many ? [['MULTI'], ...publishes, ['EXEC']] : publishes;
    const replies = await this.#send(hub, commands, messages.every((message) => message.options.unique !== undefined));
    if (!many) return ids(replies);
    const failed = replies.find((reply) => reply instanceof Error);
    if (failed !== undefined) throw failed;
    return ids(replies.at(-1) as readonly Reply[]);
  }

  #message({ task, payload, ...rest }: NewTask<T>, headers: Readonly<Record<string, string>>): Message {
    const options = rest as PublishOptions;
    if (typeof payload !== 'object' || payload === null || Array.isArray(payload)) throw new TypeError('a payload is an object');
    const unique = options.unique ?? (options.retry ? { id: randomUUID(), for: RETRY_WINDOW_S } : undefined);
    const { contentType } = this.serializer;
    const tries = this.definitions.get(task)?.tries;
    return {
      task,
      payload: this.serializer.encode(payload),
      headers,
      options: unique === undefined ? options : { ...options, unique },
      ...(contentType !== JSON_TYPE && { contentType }),
      ...(tries !== undefined && { tries }),
    };
  }

  async #send(hub: Hub, commands: readonly Command[], repeatable: boolean): Promise<Reply[]> {
    let sent = false;
    for (let attempt = 0; ; attempt++) {
      try {
        return await hub.run(commands, { key: this.name });
      } catch (error) {
        if (!hasCode(error, 'SERVER_UNREACHABLE')) throw error;
        sent ||= (error as unknown as CorralError).sent === true;
        if (!repeatable || attempt === REPEATS) {
          if (!sent) throw error;
          throw new CorralError('PUBLISH_UNKNOWN', `whether the task was added is unknown: ${error.message}`, { sent: true, cause: error });
        }
      }
      await pause(100 * 2 ** attempt);
    }
  }

  /** The reply of TASK.INFO. */
  async info(): Promise<QueueInfo> {
    return asMap(await this.#connections.hub().call(['TASK.INFO', this.name])) as QueueInfo;
  }

  /** Where a task is: the reply of TASK.STATE; undefined if it is done or unknown. */
  async state(id: string): Promise<Record<string, unknown> | undefined> {
    const hub = this.#connections.hub();
    (await hub.features()).require('TASK.STATE');
    return (asMap(await hub.call(['TASK.STATE', this.name, id])) ?? undefined) as Record<string, unknown> | undefined;
  }

  /** Removes tasks that no worker has. Returns how many were removed. */
  async cancel(...taskIds: string[]): Promise<number> {
    return taskIds.length === 0 ? 0 : Number(await this.#connections.hub().call(['TASK.CANCEL', this.name, ...taskIds]));
  }

  /** Moves dead letters back to the queue: those with these ids, or the oldest. Returns how many were moved. */
  async redrive(options: { ids?: readonly string[]; count?: number } = {}): Promise<number> {
    const { ids: taskIds, count = 1000 } = options;
    if (taskIds?.length === 0) return 0;
    const hub = this.#connections.hub();
    if (taskIds !== undefined) (await hub.features()).require('TASK.REDRIVE', 'ID');
    const words = taskIds === undefined ? ['COUNT', count] : ['ID', ...taskIds];
    return Number(await hub.call(['TASK.REDRIVE', deadLetters(this.name), this.name, ...words]));
  }
}

/** Some of what TASK.INFO says. */
export interface QueueInfo extends Record<string, unknown> {
  length: number;
  delayed: number;
  dead: number;
  policy: Record<string, number>;
  groups: Record<string, unknown>[];
}

function ids(replies: readonly Reply[]): string[] {
  const added = replies.filter((reply) => !(reply instanceof Error)).map((reply) => text(reply));
  const failed = replies.find((reply) => reply instanceof Error);
  if (failed === undefined) return added;
  if (!failed.message.startsWith('TASKFULL')) throw failed;
  throw new CorralError('QUEUE_FULL', failed.message, { reply: 'TASKFULL', ids: added });
}
