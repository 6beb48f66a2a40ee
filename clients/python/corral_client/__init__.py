"""Corral for Python: cached values, locks and task queues on a Redis or Valkey server with the module Corral.

The same names are in `corral_client.asyncio`. Bare numbers are seconds; "5m" and timedelta are accepted as well.
"""

from ._sync.corral import Corral
from ._sync.lock import Lease
from ._sync.queue import Queue
from ._tasks import Task, TaskLost, Unique
from ._worker.threads import Worker
from .errors import (
    CorralError,
    Fatal,
    FeatureMissing,
    Later,
    LoadFailed,
    LoadRejected,
    LockLost,
    LockNotAcquired,
    ModuleMissing,
    PublishUnknown,
    QueueFull,
    ReplyError,
    ServerUnreachable,
)

__all__ = [
    "Corral",
    "CorralError",
    "Fatal",
    "FeatureMissing",
    "Later",
    "Lease",
    "LoadFailed",
    "LoadRejected",
    "LockLost",
    "LockNotAcquired",
    "ModuleMissing",
    "PublishUnknown",
    "Queue",
    "QueueFull",
    "ReplyError",
    "ServerUnreachable",
    "Task",
    "TaskLost",
    "Unique",
    "Worker",
]
