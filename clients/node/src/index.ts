// Corral for Node: cached values, locks and task queues on a Redis or Valkey server with the module Corral.
// Bare numbers are seconds; texts such as "5m" are accepted as well.

export { createCorral, type Corral, type CorralOptions } from './corral.js';
export { CorralError, Fatal, Later, LockLost, type ErrorCode } from './errors.js';
export { Worker, type WorkerOptions } from './worker/worker.js';
export type { Cached, CachedOptions } from './cached.js';
export type { CacheOptions } from './cache.js';
export type { FencedLease as Lease, LockOptions } from './lock.js';
export type { Queue } from './queue.js';
export type { Serializer } from './json.js';
export type { PublishOptions, Task } from './tasks.js';
export type { Duration } from './time.js';
