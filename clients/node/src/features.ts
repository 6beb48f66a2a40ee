// What the server can do, read from COMMAND DOCS, and what its error replies mean for a user.

import { CorralError } from './errors.js';
import { text, type Command, type Reply } from './wire.js';

export const PROBE: Command = [
  'COMMAND', 'DOCS', 'cache.fetch', 'lock.acquire', 'task.publish', 'task.consume', 'task.extend', 'task.nack', 'task.redrive',
  'task.state',
];

export class Features {
  /** The tokens of each command; undefined if the server did not say: then everything is assumed. */
  readonly #tokens: Map<string, Set<string>> | undefined;

  constructor(docs: Reply) {
    if (!Array.isArray(docs)) return;
    const list = docs as readonly Reply[];
    this.#tokens = new Map();
    for (let index = 0; index + 1 < list.length; index += 2) {
      const tokens = new Set<string>();
      collect(list[index + 1] ?? null, tokens);
      this.#tokens.set(text(list[index]).toUpperCase(), tokens);
    }
  }

  has(command: string, option?: string): boolean {
    const known = this.#tokens?.get(command);
    return this.#tokens === undefined || (known !== undefined && (option === undefined || known.has(option)));
  }

  require(command: string, option?: string): void {
    if (this.has(command, option)) return;
    const what = option === undefined ? command : `${command} … ${option}`;
    throw new CorralError('FEATURE_MISSING', `this server has a version of Corral without ${what}: update the module`);
  }

  /** A command that a server with Corral does not know is a newer one. */
  explain(error: CorralError): CorralError {
    if (error.code !== 'MODULE_MISSING' || this.#tokens === undefined) return error;
    return new CorralError('FEATURE_MISSING', 'this server has a version of Corral without this command: update the module');
  }

  check(server: string): void {
    if (this.#tokens !== undefined && !this.#tokens.has('TASK.CONSUME')) throw noModule(server);
  }
}

/** All tokens of the arguments, however deep they are. An argument that may be repeated has the token `*name`. */
function collect(doc: Reply, tokens: Set<string>): void {
  if (!Array.isArray(doc)) return;
  const list = doc as readonly Reply[];
  const pairs = new Map<string, Reply>();
  for (let index = 0; index + 1 < list.length; index += 2) {
    const name = list[index];
    if (Buffer.isBuffer(name) || typeof name === 'string') pairs.set(text(name), list[index + 1] ?? null);
  }
  const token = pairs.get('token');
  if (token !== undefined) tokens.add(text(token).toUpperCase());
  const flags = pairs.get('flags');
  if (pairs.has('name') && Array.isArray(flags) && flags.some((flag: Reply) => text(flag) === 'multiple')) {
    tokens.add(`*${text(pairs.get('name'))}`);
  }
  for (const item of list) collect(item, tokens);
}

function noModule(server: string): CorralError {
  return new CorralError('MODULE_MISSING', `this server has no Corral: load libcorral.so into the server at ${server}`);
}

/** The error of this package for an error reply. */
export function replyError(error: Error, server: string): CorralError {
  const message = error.message;
  if (/unknown command/i.test(message) && /(cache|task|lock)\./i.test(message)) return noModule(server);
  if (message.startsWith('TASKFULL')) return new CorralError('QUEUE_FULL', message, { reply: 'TASKFULL', ids: [], cause: error });
  return new CorralError('REPLY', message, { reply: message.split(' ', 1)[0] ?? '', cause: error });
}
