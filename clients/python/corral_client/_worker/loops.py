"""The worker of a program on asyncio. Its handlers run on the event loop on which it was started."""

from __future__ import annotations

import asyncio
import itertools
import signal
from types import TracebackType

from ..errors import ServerUnreachable
from .base import BaseWorker

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Worker(BaseWorker):
    """Runs the tasks of queues. `await worker.run()` owns the process; `async with worker:` runs it beside other things."""

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, or until it is cancelled. Waits for the server before it starts, if necessary.

        A second signal does not wait for the handlers.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def note() -> None:
            engine = self._engine
            if stop.is_set() and engine is not None:
                engine.hurry.set()
            stop.set()

        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            loop.add_signal_handler(number, note)
        try:
            await self._start_once_reachable(stop)
            await stop.wait()
        finally:
            await self.stop()
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    async def _start_once_reachable(self, stop: asyncio.Event) -> None:
        for failures in itertools.count():
            try:
                return await self.start()
            except ServerUnreachable as error:
                pause = self._pause_before_retry(failures, error)
            try:
                async with asyncio.timeout(pause):
                    await stop.wait()
                return
            except TimeoutError:
                continue

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._make_engine, loop)

    async def stop(self) -> None:
        """Runs to its end even if the caller is cancelled meanwhile, because the handlers need this event loop."""
        closing = asyncio.ensure_future(asyncio.to_thread(self._close))
        canceled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:
                canceled = error
        closing.result()
        if canceled is not None:
            raise canceled

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
