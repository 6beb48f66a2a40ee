"""Tells the server what became of tasks: up to 64 acknowledgements in one command, or those of 5 ms.

A reply that is lost is no loss: the commands may be sent again, and are, until the lease expires. 0 is counted only.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from .._sync.hub import Hub
from .._wire import GROUP
from ..errors import ReplyError, ServerUnreachable
from .running import Run, Table, now

log = logging.getLogger("corral_client")
BATCH = 64
_HOLD_S = 0.005
_AGAIN_S = 0.2
_PASSING = ("READONLY", "NOREPLICAS", "MISCONF", "OOM", "TRYAGAIN", "MOVED", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "BUSY")


class Finisher:
    def __init__(self, hub: Hub, table: Table) -> None:
        self._hub, self._table = hub, table
        self._runs: list[Run] = []
        self._first = 0.0
        self._changed = threading.Condition()
        self._hurry = self._closing = False
        self.counts = {"acked": 0, "returned": 0, "not_ours": 0}
        self._thread = threading.Thread(target=self._work, name="corral: acknowledgements", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> None:
        """`run.command` says what to send."""
        with self._changed:
            if not self._runs:
                self._first = now()
            self._runs.append(run)
            self._hurry = self._hurry or run.urgent
            self._changed.notify()

    def close(self, timeout: float) -> None:
        """Sends what is left."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._runs:
            log.error("%d finished tasks could not be acknowledged and will be delivered again", len(self._runs))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._runs and not self._closing:
                    self._changed.wait()
                while self._runs and len(self._runs) < BATCH and not (self._hurry or self._closing):
                    left = self._first + _HOLD_S - now()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                if not self._runs:
                    return
                batch, self._hurry = self._runs[:BATCH], False
            again = self._send(batch)
            with self._changed:
                self._runs = again + self._runs[len(batch) :]
                self._first = now()
                if again:
                    self._changed.wait(_AGAIN_S)
            with self._table.changed:
                self._table.changed.notify_all()

    def _send(self, batch: list[Run]) -> list[Run]:
        """Returns those that must be sent again."""
        again: list[Run] = []
        streams: dict[str, list[Run]] = {}
        for run in batch:
            streams.setdefault(run.delivery.stream, []).append(run)
        for stream, runs in streams.items():
            acks = [run for run in runs if run.command == ["ACK"]]
            others = [run for run in runs if run.command != ["ACK"]]
            commands: list[list[Any]] = [run.command or [] for run in others]
            if acks:
                commands.append(["TASK.ACK", stream, GROUP, *(run.delivery.id for run in acks)])
            again += self._send_stream(stream, commands, others, acks)
        return again

    def _send_stream(self, stream: str, commands: list[list[Any]], others: list[Run], acks: list[Run]) -> list[Run]:
        try:
            replies = self._hub.run(commands, key=stream)
        except ServerUnreachable as error:
            return self._keep(others + acks, error)
        again: list[Run] = []
        for index, reply in enumerate(replies):
            runs = [others[index]] if index < len(others) else acks
            if isinstance(reply, ReplyError) and reply.code in _PASSING:
                again += self._keep(runs, reply)
                continue
            if isinstance(reply, Exception):
                log.error("the end of %d tasks of %r was rejected: %s", len(runs), stream, reply)
            elif index < len(others):
                self.counts["returned" if reply else "not_ours"] += 1
            else:
                self.counts["acked"] += int(reply)
                self.counts["not_ours"] += len(acks) - int(reply)
            for run in runs:
                self._table.leave(run)
        return again

    def _keep(self, runs: list[Run], error: Exception) -> list[Run]:
        """What may still succeed: after the end of a lease, another worker has the task."""
        kept = [run for run in runs if now() < run.lease_ends]
        for run in runs:
            if run not in kept:
                log.error("the end of the task %s could not be reported in time: %s", run.task.id, error)
                self._table.leave(run)
        return kept
