"""Renews the leases of all tasks of a worker, from one thread with a connection of its own.

A third of the shortest lease passes between two rounds. A round also reads the leases from TASK.INFO, so a changed policy
takes effect at once. A task whose lease this worker has lost is marked as lost. A task that exceeds its max_runtime is not
renewed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .._driver import Driver
from .._sync.hub import Hub
from .._sync.queue import as_map
from .._wire import GROUP
from ..errors import CorralError
from .running import Run, Table, chunks, now

log = logging.getLogger("corral_client")
_LONGEST_S = 20.0
_SHORTEST_S = 0.05
_AT_ONCE = 128


class Heartbeat:
    def __init__(self, driver: Driver, table: Table, streams: list[str], lost: Callable[[Run, str], None]) -> None:
        self._hub = Hub(driver)
        self._table, self._lost, self._streams = table, lost, streams
        self.leases = dict.fromkeys(streams, 300.0)
        self._wake = threading.Event()
        self._closing = False
        self._due = 0.0
        self._thread = threading.Thread(target=self._work, name="corral: heartbeat", daemon=True)

    def start(self) -> None:
        """Reads the leases, and begins."""
        for stream in self._streams:
            self._read(stream, self._hub.run([["TASK.INFO", stream]])[0], first=True)
        self._thread.start()

    def kick(self) -> None:
        """Renews now."""
        self._due = 0.0
        self._wake.set()

    def watch(self, run: Run) -> None:
        """A new run: its time may end before the next round."""
        if run.definition.max_runtime_ms is not None:
            self._wake.set()

    def close(self, timeout: float) -> None:
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._hub.close(0.1)

    def _interval(self) -> float:
        return max(min([_LONGEST_S, *(lease / 3 for lease in self.leases.values() if lease)]), _SHORTEST_S)

    def _pause(self) -> float:
        """Seconds until there is something to do."""
        ends = [run.ends() for run in self._table.running() if not run.too_long]
        return max(min([self._due, *ends]) - now(), 0.0)

    def _work(self) -> None:
        self._due = now() + self._interval()
        while not self._closing:
            self._wake.wait(self._pause())
            self._wake.clear()
            for run in self._table.running():
                if now() >= run.ends() and not run.too_long:
                    run.too_long = True
                    self._lost(run, "it has run for max_runtime")
            if now() >= self._due and not self._closing:
                self._round()
                self._due = now() + self._interval()

    def _round(self) -> None:
        for stream in self._streams:
            try:
                self._renew(stream)
            except CorralError as error:
                log.warning("the leases of %r were not renewed: %s", stream, error)
            except Exception:
                log.exception("the leases of %r were not renewed", stream)
        for run in self._table.running():
            if now() > run.lease_ends and not run.too_long:
                self._lost(run, "the lease has expired")

    def _renew(self, stream: str) -> None:
        runs = [run for run in self._table.all() if run.delivery.stream == stream and not run.too_long and not run.given_back]
        consumers: dict[str, list[Run]] = {}
        for run in runs:
            consumers.setdefault(run.consumer, []).append(run)
        size = _AT_ONCE if self._hub.features().has("TASK.EXTEND", "*id") else 1
        batches = [(name, batch) for name, mine in consumers.items() for batch in chunks(mine, size)]
        commands = [["TASK.EXTEND", stream, GROUP, name, *(run.delivery.id for run in batch)] for name, batch in batches]
        began = now()
        replies = self._hub.run([*commands, ["TASK.INFO", stream]], key=stream)
        self._read(stream, replies.pop())
        for (consumer, batch), reply in zip(batches, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            for run, held in zip(batch, reply if isinstance(reply, list) else [reply], strict=True):
                if held:
                    run.lease_ends = began + (self.leases[stream] or float("inf"))
                elif run.consumer == consumer and run.command is None:
                    # Delivered again to another connection of this worker, it has another consumer by now.
                    self._lost(run, "the task is leased to another worker")

    def _read(self, stream: str, info: object, first: bool = False) -> None:
        if isinstance(info, Exception):
            if first:
                log.warning("the lease of %r is unknown, %g s are assumed: %s", stream, self.leases[stream], info)
            return
        info = as_map(info)
        if not isinstance(info, dict):
            return
        self.leases[stream] = info["policy"]["lease_ms"] / 1000
        others = [group["name"] for group in info["groups"] if group["name"] != GROUP.decode()]
        if first and others:
            log.warning(
                "the queue %r also has the consumer groups %s: they get every task as well, and keep it from being deleted",
                stream, ", ".join(map(repr, others)),
            )
