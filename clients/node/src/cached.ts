// `corral.cached`: a function whose results are cached, with the arguments of its loader.

import { Rules, type Cache, type CacheOptions, type LoadContext, type Stored } from './cache.js';
import type { Serializer } from './json.js';
import { keyOf, KeyTemplate, type KeyPart } from './keys.js';

/** Calls like the loader. The other functions take the same arguments. */
export interface Cached<A extends unknown[], T> {
  (...args: A): Promise<Stored<T>>;
  /** The key of this call. */
  key(...args: A): string;
  /** Removes the cached value. A load that began before does not store it again. */
  invalidate(...args: A): Promise<boolean>;
  /** Loads and caches the value, whether or not there is one. */
  refresh(...args: A): Promise<Stored<T>>;
  /** Calls the loader itself. */
  uncached(...args: A): Promise<T>;
  /** The same function for a caller that may leave. The load ends when all its callers have left. */
  with(options: { signal: AbortSignal }): (...args: A) => Promise<Stored<T>>;
}

export interface CachedOptions<A extends unknown[], T> extends CacheOptions<T> {
  /** The parts of the key: `(id) => ['user', id]` is `user:7`. */
  key: (...args: A) => readonly KeyPart[];
  /** Gets the arguments, and behind them a context. */
  load: (...args: [...A, LoadContext]) => T | Promise<T>;
}

export interface TemplateOptions<P, T> extends CacheOptions<T> {
  /** Such as `user:{id}` or `{{shop}}:user:{id}`, with fields of the argument of the loader, an object. */
  key: string;
  load: (values: P, context: LoadContext) => T | Promise<T>;
}

/** A loader without parameters has no argument. */
export type Values<P> = unknown extends P ? [] : [values: P];

type Options<A extends unknown[], T> = Omit<CachedOptions<A, T>, 'key'> & { key: string | CachedOptions<A, T>['key'] };

export function cached<A extends unknown[], T>(cache: Cache, options: Options<A, T>, serializer: Serializer): Cached<A, T> {
  const { load } = options;
  const rules = new Rules(options, serializer);
  const key = keys(options.key);
  const run = (args: A, context: LoadContext): T | Promise<T> => {
    // The context is the last parameter also if optional arguments are missing.
    const parameters = Math.max(load.length - 1, typeof options.key === 'string' ? 1 : 0);
    const padded = [...args, ...new Array<undefined>(Math.max(parameters - args.length, 0)).fill(undefined)];
    return load(...(padded as A), context);
  };
  const obtain = async (args: A, signal?: AbortSignal, fresh = false): Promise<Stored<T>> =>
    (await cache.obtain(key(args), (context) => run(args, context), rules, signal, fresh)) as Stored<T>;
  const call = (...args: A): Promise<Stored<T>> => obtain(args);
  return Object.assign(call, {
    key: (...args: A) => key(args),
    invalidate: async (...args: A) => cache.invalidate(key(args)),
    refresh: async (...args: A) => {
      await cache.invalidate(key(args), { stale: rules.ttl / 1000 });
      return obtain(args, undefined, true);
    },
    uncached: async (...args: A) => run(args, { signal: new AbortController().signal }),
    with: ({ signal }: { signal: AbortSignal }) => (...args: A) => obtain(args, signal),
  });
}

function keys<A extends unknown[]>(key: Options<A, unknown>['key']): (args: A) => string {
  if (typeof key === 'function') return (args) => keyOf(key(...args));
  const template = new KeyTemplate(key);
  return (args) => {
    if (template.fields.length > 0 && (typeof args[0] !== 'object' || args[0] === null)) {
      throw new TypeError(`the key '${key}' names fields of the first argument, which must be an object`);
    }
    return template.key((args[0] ?? {}) as Record<string, unknown>);
  };
}
