"""Tests without a server: the same surface over a dict, and a clock that the test moves.

    with memory(shop.corral) as fake:
        shop.signup("ann")
        fake.run()                    # runs the tasks that are due, in this thread
        fake.advance("5m")
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ._cron import drop_reason
from ._driver import Driver, from_url
from ._memory.server import MemoryServer
from ._sync.corral import Corral
from ._sync.hub import Hub
from ._time import Duration, milliseconds
from ._wire import GROUP, UNKNOWN_DELAY_MS, Delivery, Outcome, delivery, nack_command, outcome
from ._worker.runners import call_with
from ._worker.running import Run
from ._worker.timetable import Timetable

_CONSUMER = "memory"
_MOST = 10_000


@dataclass(frozen=True)
class Ran:
    """A try that `run` made. `outcome` is ACK, FAIL, FATAL or SILENT."""

    task: str
    id: str
    attempt: int
    outcome: str
    error: BaseException | None = None


class Memory:
    """A server in memory, and its clock."""

    def __init__(self, corral: Any, server: MemoryServer) -> None:
        self.corral, self.server = corral, server
        self._hub = Hub(Driver(memory=server))

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.server.now_ms / 1000, UTC)

    def advance(self, duration: Duration) -> None:
        """Moves the clock. Nothing runs before `run`."""
        self._plan()
        self.server.advance(milliseconds(duration, "duration", 0))

    def away(self, away: bool = True) -> None:
        """From now on there is no connection to the server."""
        self.server.away = away

    def run(self) -> list[Ran]:
        """Runs the tasks that are due, and those that they publish, one after the other. Handlers may be coroutines."""
        return asyncio.run(self._run(in_loop=False))

    async def run_async(self) -> list[Ran]:
        """The same on the running event loop."""
        return await self._run(in_loop=True)

    def tasks(self, queue: str) -> list[dict[str, str]]:
        """The fields of the tasks that wait in a queue, ready and delayed."""
        stream = self.server.tasks.stream(queue.encode())
        return [_texts(entry.fields) for entry in (*stream.ready, *stream.delayed)]

    def dead_letters(self, queue: str) -> list[dict[str, str]]:
        """The fields of the dead letters of a queue; `reason` says why."""
        return [_texts(entry.fields) for entry in self.server.tasks.stream(queue.encode()).dead]

    def _queues(self) -> list[Any]:
        return list(self.corral._queues.values())

    def _plan(self) -> None:
        timetable = Timetable(self._hub, self._queues())
        if timetable._schedules:
            timetable.plan()

    async def _run(self, in_loop: bool) -> list[Ran]:
        self._plan()
        ran: list[Ran] = []
        while len(ran) < _MOST:
            found = False
            for queue in self._queues():
                reply = self._hub.call("TASK.CONSUME", GROUP, _CONSUMER, queue.name, "COUNT", 1, "META", key=queue.name)
                for entry in reply:
                    found = True
                    result = await self._try(queue, delivery(entry, queue.name), in_loop)
                    if result is not None:
                        ran.append(result)
            if not found:
                self._plan()
                return ran
        raise RuntimeError(f"{_MOST} tasks have run, and there are still more")

    async def _try(self, queue: Any, task: Delivery, in_loop: bool) -> Ran | None:
        definition = queue._definitions.get(task.task)
        if task.cron is not None and drop_reason(
            definition and definition.schedule, task.cron, self.server.now_ms // 1000, task.attempt
        ):
            self._tell(task, Outcome("ACK"))
            return None
        if definition is None:
            self._tell(task, Outcome("SILENT", UNKNOWN_DELAY_MS))
            return None
        run = Run(task, definition, queue, _CONSUMER, float("inf"))
        error: BaseException | None = None
        try:
            # A plain handler may use the Corral for threads, or asyncio.run: it gets a thread without an event loop.
            result = call_with((), run) if definition.is_async else await asyncio.to_thread(call_with, (), run)
            if isinstance(result, Awaitable):
                await result
        except Exception as raised:
            error = raised
        what = outcome(error, task.attempt, definition.tries)
        self._tell(task, what, run.task._checkpoint)
        return Ran(task.task, task.original_id, task.attempt, what.mode, error)

    def _tell(self, task: Delivery, what: Outcome, payload: bytes | None = None) -> None:
        if what.mode == "ACK":
            self._hub.call("TASK.ACK", task.stream, GROUP, task.id)
        else:
            self._hub.call(*nack_command(task, _CONSUMER, what, payload))


def _texts(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode("utf-8", "replace") for name, value in fields.items()}


@contextlib.contextmanager
def memory(corral: Any = None) -> Iterator[Memory]:
    """A Corral without a server: a new one for threads, or the given one, which gets its own server back at the end."""
    server = MemoryServer()
    driver = Driver(memory=server)
    if corral is None:
        yield Memory(Corral(driver), server)
        return
    with _on(corral, replace(driver)):
        yield Memory(corral, server)


@contextlib.contextmanager
def on_server(corral: Any, url: str) -> Iterator[None]:
    """Until the end, the given Corral uses the server at this URL, for example that of the fixture `corral_server`."""
    with _on(corral, from_url(url)):
        yield


@contextlib.contextmanager
def _on(corral: Any, driver: Driver) -> Iterator[None]:
    before = corral._hubs.exchange(driver)
    corral.cache.forget()
    try:
        yield
    finally:
        corral._hubs.exchange(before)
        corral.cache.forget()
