// All errors of the package. Check `code` instead of the class: that also works with two copies of the package in one program.

import { milliseconds, type Duration } from './time.js';

/** What a `CorralError` says. `REPLY`: the server rejected a command, and `reply` is the first word of its reply. */
export type ErrorCode =
  | 'MODULE_MISSING'
  | 'FEATURE_MISSING'
  | 'SERVER_UNREACHABLE'
  | 'PUBLISH_UNKNOWN'
  | 'QUEUE_FULL'
  | 'REPLY'
  | 'LOAD_FAILED'
  | 'LOAD_REJECTED'
  | 'LOCK_NOT_ACQUIRED'
  | 'LOCK_LOST'
  | 'TASK_LOST';

export class CorralError extends Error {
  readonly code: ErrorCode;
  /** The first word of an error reply, such as `WRONGTYPE`. */
  declare readonly reply?: string;
  /** Whether a command whose reply is missing may have reached the server. */
  declare readonly sent?: boolean;
  /** The tasks that `publishMany` added before the queue was full. */
  declare readonly ids?: string[];

  constructor(code: ErrorCode, message: string, details: ErrorOptions & Pick<CorralError, 'reply' | 'sent' | 'ids'> = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    if (details.reply !== undefined) this.reply = details.reply;
    if (details.sent !== undefined) this.sent = details.sent;
    if (details.ids !== undefined) this.ids = details.ids;
  }

  override get name(): string {
    return this.code
      .toLowerCase()
      .replace(/(^|_)([a-z])/g, (_, _separator, letter: string) => letter.toUpperCase());
  }
}

/** The lease of a lock expired, or was taken away, while its holder was still at work. */
export class LockLost extends CorralError {
  constructor(message: string) {
    super('LOCK_LOST', message);
  }
}

/** Thrown by a handler: the task goes to the dead-letter queue, whatever tries are left. */
export class Fatal extends Error {
  readonly code = 'FATAL';
  override readonly name = 'Fatal';
}

/** Thrown by a handler: the task comes back after the delay, which does not count as a try. */
export class Later extends Error {
  readonly code = 'LATER';
  override readonly name = 'Later';
  readonly delayMs: number;

  constructor(delay: Duration, reason = '') {
    super(reason || `again after ${typeof delay === 'number' ? `${delay} s` : delay}`);
    this.delayMs = milliseconds(delay, 'delay', 0);
  }
}

export function hasCode<C extends string>(error: unknown, code: C): error is Error & { code: C } {
  return error instanceof Error && (error as { code?: unknown }).code === code;
}

/** No connection, or an error reply: what an outage of the server looks like. */
export function isServerError(error: unknown): error is CorralError {
  return (
    hasCode(error, 'SERVER_UNREACHABLE') || hasCode(error, 'REPLY') || hasCode(error, 'MODULE_MISSING') ||
    hasCode(error, 'FEATURE_MISSING') || hasCode(error, 'QUEUE_FULL')
  );
}
