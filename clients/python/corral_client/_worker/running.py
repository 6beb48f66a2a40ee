"""The tasks that run in this worker. A task is in the table from its delivery until the server knows its end.

One task, one run: a second delivery of a task that is in the table is not started, it renews the lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .._features import Features
from .._tasks import Definition, Task
from .._wire import Delivery, Serializer

now = time.monotonic


class QueueLike(Protocol):
    """A queue for threads or for asyncio."""

    name: str
    _serializer: Serializer
    _definitions: dict[str, Definition]


class Run:
    """One run of a task. `consumer` is the name to which it is leased."""

    def __init__(
        self,
        delivery: Delivery,
        definition: Definition,
        queue: QueueLike,
        consumer: str,
        lease_s: float,
        features: Features | None = None,
    ) -> None:
        self.delivery, self.definition, self.consumer = delivery, definition, consumer
        self.serializer = queue._serializer
        self.task = Task(delivery, queue._serializer, features)
        self.began = now()
        self.lease_ends = self.began + lease_s
        #: What the server is still to be told, once the handler has ended.
        self.command: list[Any] | None = None
        self.given_back = False
        self.too_long = False
        self.cancel: Callable[[], None] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.delivery.stream, self.delivery.original_id

    @property
    def urgent(self) -> bool:
        """Whether another task waits for the end of this one."""
        return "ack" in self.delivery.fields

    def ends(self) -> float:
        """When it will have run for as long as it may."""
        limit = self.definition.max_runtime_ms
        return float("inf") if limit is None else self.began + limit / 1000


class Table:
    """Runs by queue and id. `changed` also guards the free places."""

    def __init__(self, concurrency: int) -> None:
        self.changed = threading.Condition()
        self.free = concurrency
        self._runs: dict[tuple[str, str], Run] = {}

    def get(self, delivery: Delivery) -> Run | None:
        return self._runs.get((delivery.stream, delivery.original_id))

    def enter(self, run: Run) -> None:
        with self.changed:
            self._runs[run.key] = run
            self.free -= 1

    def handler_ended(self) -> None:
        with self.changed:
            self.free += 1
            self.changed.notify_all()

    def leave(self, run: Run) -> None:
        with self.changed:
            if self._runs.get(run.key) is run:
                del self._runs[run.key]
            self.changed.notify_all()

    def all(self) -> list[Run]:
        with self.changed:
            return list(self._runs.values())

    def running(self) -> list[Run]:
        """Those whose handler has not ended."""
        return [run for run in self.all() if run.command is None and not run.given_back]

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self.changed:
            return self.changed.wait_for(condition, timeout)


def chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
