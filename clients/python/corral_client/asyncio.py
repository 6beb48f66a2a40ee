"""The same names as in `corral_client`, for asyncio."""

from ._aio.corral import Corral
from ._aio.lock import Lease
from ._aio.queue import Queue
from ._tasks import Task, TaskLost, Unique
from ._worker.loops import Worker
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
