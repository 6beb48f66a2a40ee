"""The worker of a program without an event loop."""

from __future__ import annotations

import itertools
import queue
import signal
import threading
from types import FrameType, TracebackType

from ..errors import ServerUnreachable
from .base import BaseWorker
from .engine import Engine

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Worker(BaseWorker):
    """Runs the tasks of queues. `run()` owns the process; `with worker:` runs it beside other things."""

    def run(self) -> None:
        """Runs until SIGTERM or SIGINT, and waits for the server before it starts, if necessary.

        A second signal does not wait for the handlers.
        """
        signals: queue.SimpleQueue[int] = queue.SimpleQueue()

        def note(number: int, frame: FrameType | None) -> None:
            signals.put(number)

        before = {number: signal.signal(number, note) for number in _SIGNALS}
        try:
            engine = self._engine_once_reachable(signals)
            if engine is None:
                return
            signals.get()
            closing = threading.Thread(target=self._close, name="corral: shutdown")
            closing.start()
            while closing.is_alive():
                try:
                    signals.get(timeout=0.05)
                    engine.hurry.set()
                except queue.Empty:
                    pass
            closing.join()
        finally:
            self._close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _engine_once_reachable(self, signals: queue.SimpleQueue[int]) -> Engine | None:
        """None if there is a signal before."""
        for failures in itertools.count():
            try:
                return self._make_engine(None)
            except ServerUnreachable as error:
                pause = self._pause_before_retry(failures, error)
            try:
                signals.get(timeout=pause)
            except queue.Empty:
                continue
            break
        return None

    def start(self) -> None:
        self._make_engine(None)

    def stop(self) -> None:
        self._close()

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
