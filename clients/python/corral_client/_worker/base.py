"""What a worker for threads and one for asyncio share: their arguments, and how they make an engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .._sync.hub import Hub
from .._time import Duration, milliseconds
from ..errors import ServerUnreachable
from .engine import Engine
from .runners import Middleware
from .running import QueueLike

log = logging.getLogger("corral_client")
M = TypeVar("M", bound=Callable[..., Any])
#: Tasks that are asked for at a time by a worker on an event loop, at most.
_BATCH = 16
_LONGEST_PAUSE_S = 5.0


class BaseWorker:
    def __init__(
        self,
        queues: QueueLike | Sequence[QueueLike],
        *,
        concurrency: int = 8,
        tied: bool = True,
        batch: int | None = None,
        shutdown_timeout: Duration = 25,
    ) -> None:
        self.queues: list[Any] = list(queues) if isinstance(queues, Sequence) else [queues]
        if not self.queues or not all(hasattr(queue, "_definitions") for queue in self.queues):
            raise TypeError("a worker is made from queues: Worker([corral.queue('mail')])")
        if len({queue.name for queue in self.queues}) < len(self.queues):
            raise ValueError("a worker is made from different queues")
        if isinstance(concurrency, bool) or concurrency < 1 or (batch is not None and batch < 1):
            raise ValueError("concurrency and batch are at least 1")
        self.concurrency, self.tied, self._batch = concurrency, tied, batch
        self.shutdown_timeout = milliseconds(shutdown_timeout, "shutdown_timeout", 0) / 1000
        self._middleware: list[Middleware] = []
        self._engine: Engine | None = None
        self._hub: Hub | None = None

    def middleware(self, function: M) -> M:
        """Adds a function that is called with the task and the next one: `def timed(task, call): return call()`.

        A plain function is called around plain handlers, a coroutine function around coroutines.
        """
        if self._engine is not None:
            raise RuntimeError("the worker runs already")
        self._middleware.append(function)
        return function

    def health(self) -> dict[str, Any]:
        """What the worker does now. `ok` is false if it does not get tasks, or cannot report them."""
        engine = self._engine
        return {"ok": False, "running": 0} if engine is None else engine.health()

    def _batch_size(self) -> int:
        """One task at a time for threads: another worker may be free."""
        if self._batch is not None:
            return self._batch
        plain = any(not task.is_async for queue in self.queues for task in queue._definitions.values())
        return 1 if plain else max(1, min(_BATCH, self.concurrency // 4))

    def _make_engine(self, loop: asyncio.AbstractEventLoop | None) -> Engine:
        if self._engine is not None:
            raise RuntimeError("the worker runs already")
        self._hub = Hub(self.queues[0]._hubs.driver)
        try:
            engine = Engine(
                self._hub,
                self.queues,
                concurrency=self.concurrency,
                tied=self.tied,
                batch=self._batch_size(),
                shutdown_timeout=self.shutdown_timeout,
                middleware=self._middleware,
                loop=loop,
            )
            self._engine = engine
            engine.start()
        except BaseException:
            self._close()
            raise
        return engine

    @staticmethod
    def _pause_before_retry(failures: int, error: ServerUnreachable) -> float:
        """How many seconds `run` waits for a server that it cannot reach."""
        pause = min(0.1 * 2.0 ** min(failures, 10), _LONGEST_PAUSE_S)
        log.warning("the worker cannot start and tries again in %.1f s: %s", pause, error)
        return pause

    def _close(self) -> None:
        """Steps 1 to 5; afterwards the worker may be started again."""
        engine, hub = self._engine, self._hub
        try:
            if engine is not None:
                engine.stop()
        finally:
            self._engine = self._hub = None
            if hub is not None:
                hub.close(0.2)
