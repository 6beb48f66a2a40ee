"""Run handlers: plain functions in threads, coroutines in an event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from .._wire import arguments
from .running import Run

Middleware = Callable[..., Any]
Ended = Callable[[Run, BaseException | None], None]


class ThreadRunner:
    """Its threads are daemons: a handler that hangs does not keep the process from ending."""

    def __init__(self, count: int, middleware: Sequence[Middleware], ended: Ended) -> None:
        self._jobs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._middleware, self._ended, self._count = middleware, ended, count
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)

    def start(self, run: Run) -> None:
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, name=f"corral: handler {len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(run)

    def _work(self) -> None:
        while (run := self._jobs.get()) is not None:
            error: BaseException | None = None
            try:
                call_with(self._middleware, run)
            except BaseException as raised:  # Also SystemExit: a handler does not end a worker.
                error = raised
            self._ended(run, error)
            self._idle.release()

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)


def call_with(middleware: Sequence[Middleware], run: Run) -> Any:
    """Calls the handler, from the first middleware inwards."""
    run.task._arguments = arguments(run.delivery, run.serializer)

    def handler() -> Any:
        return run.definition.function(run.task, **run.task._arguments)

    call: Callable[[], Any] = handler
    for layer in reversed(middleware):
        call = _wrapped(layer, run, call)
    return call()


def _wrapped(layer: Middleware, run: Run, call: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: layer(run.task, call)


class LoopRunner:
    """Handlers on an event loop: the given one, or one in a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None, middleware: Sequence[Middleware], ended: Ended) -> None:
        self._middleware, self._ended = middleware, ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        if loop is None:
            loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=loop.run_forever, name="corral: event loop", daemon=True)
            self._thread.start()
        self._loop = loop

    def start(self, run: Run) -> None:
        self._loop.call_soon_threadsafe(self._start, run)

    def _start(self, run: Run) -> None:
        if run.task.lost or run.given_back:
            self._ended(run, asyncio.CancelledError())
            return
        task = self._loop.create_task(self._work(run))
        # Called through the loop, so the task has made its first step by then, and reports its end in any case.
        run.cancel = lambda: self._call(task.cancel)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _call(self, function: Callable[[], Any]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    async def _work(self, run: Run) -> None:
        error: BaseException | None = None
        try:
            result = call_with(self._middleware, run)
            if isinstance(result, Awaitable):
                await result
        except BaseException as raised:
            error = raised
        self._ended(run, error)

    def close(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(1)
