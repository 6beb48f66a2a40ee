"""The machine of a worker, the same for threads and for asyncio. It runs in threads, so a busy event loop cannot stop it.

Threads: one asks for tasks, one renews leases, one acknowledges, one keeps schedules; handlers run in a runner. A stop has
five steps: ask no more, tell the handlers, wait and then cancel, give back what still runs, close everything.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

from .._cron import drop_reason
from .._driver import slot_of
from .._sync.hub import Hub
from .._tasks import TaskLost
from .._wire import GROUP, UNKNOWN_DELAY_MS, BadPayload, Delivery, Outcome, nack_command, outcome
from ..errors import CorralError, Fatal, Later, ReplyError, ServerUnreachable
from .fetcher import Fetcher
from .finisher import BATCH, Finisher
from .heartbeat import Heartbeat
from .overlap import Overlap
from .runners import LoopRunner, Middleware, ThreadRunner
from .running import QueueLike, Run, Table, now
from .timetable import Timetable

log = logging.getLogger("corral_client")
_CANCELED_S = 2.0
_TWICE_DELAY_MS = 5000


class Engine:
    def __init__(
        self,
        hub: Hub,
        queues: Sequence[QueueLike],
        *,
        concurrency: int,
        tied: bool,
        batch: int,
        shutdown_timeout: float,
        middleware: Sequence[Middleware],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self._hub, self._queues = hub, {queue.name: queue for queue in queues}
        self._check_names()
        features = self._features = hub.features()
        if tied:
            features.require("TASK.CONSUME", "TIED")
        if len(queues) > 1:
            features.require("TASK.CONSUME", "THEN")
        self.table = Table(concurrency)
        self._concurrency, self._shutdown_timeout = concurrency, shutdown_timeout
        asynchronous = [layer for layer in middleware if asyncio.iscoroutinefunction(layer)]
        plain = [layer for layer in middleware if not asyncio.iscoroutinefunction(layer)]
        self._threads = ThreadRunner(concurrency, plain, self._ended)
        self._loops: LoopRunner | None = None
        if loop is not None or any(task.is_async for queue in queues for task in queue._definitions.values()):
            self._loops = LoopRunner(loop, asynchronous, self._ended)
        self.counts = {"started": 0, "succeeded": 0, "failed": 0, "lost": 0, "unknown": 0}
        self.hurry = threading.Event()
        names = list(self._queues)
        self.finisher = Finisher(hub, self.table)
        self.heartbeat = Heartbeat(hub.driver, self.table, names, self._lost)
        self.fetcher = Fetcher(
            hub, self.table, self.finisher, names, batch, tied, self._accept, self.heartbeat.kick
        )
        self._overlap = Overlap(hub)
        self._timetable = Timetable(hub, list(queues))

    def _check_names(self) -> None:
        if self._hub.driver.is_cluster() and len({slot_of(name.encode()) for name in self._queues}) > 1:
            wanted = ", ".join(f"'{{work}}:{name}'" for name in self._queues)
            raise ValueError(f"in a cluster the queues of a worker need one hash tag, for example {wanted}")

    def start(self) -> None:
        self.heartbeat.start()
        self._timetable.start()
        self.fetcher.start()

    # A delivered task, from here to its end.

    def _accept(self, delivery: Delivery, consumer: str) -> None:
        queue = self._queues[delivery.stream]
        if self.fetcher.stopping.is_set():
            return self._answer(delivery, consumer, Outcome("SILENT"))
        before = self.table.get(delivery)
        # Under another id, a task whose handler has ended is back: the server has its end, the reply is on its way.
        if before is not None and (before.command is None or before.delivery.id == delivery.id):
            return self._again(before, delivery, consumer)
        definition = queue._definitions.get(delivery.task)
        if delivery.cron is not None:
            at = self._timetable.server_time()
            schedule = definition.schedule if definition is not None else None
            why = drop_reason(schedule, delivery.cron, int(at), delivery.attempt)
            if why is None and schedule is not None and not schedule.overlap and not self._overlap.enter(delivery):
                why = "the run before it has not ended"
            if why is not None:
                log.warning("the run of %r at %d is skipped: %s", delivery.task, delivery.cron, why)
                return self._answer(delivery, consumer, Outcome("ACK"))
        if definition is None:
            self.counts["unknown"] += 1
            log.error("the task %s is unknown: %r. It is given back for another worker", delivery.original_id, delivery.task)
            return self._answer(delivery, consumer, Outcome("SILENT", UNKNOWN_DELAY_MS))
        lease = self.heartbeat.leases[delivery.stream] or float("inf")
        run = Run(delivery, definition, queue, consumer, lease, self._features)
        self.table.enter(run)
        self.counts["started"] += 1
        self.heartbeat.watch(run)
        if definition.is_async and self._loops is not None:
            self._loops.start(run)
        else:
            self._threads.start(run)
        return None

    def _again(self, run: Run, delivery: Delivery, consumer: str) -> None:
        """A delivery of a task that runs here, or whose end the server does not know yet."""
        if delivery.id != run.delivery.id:
            self._answer(delivery, consumer, Outcome("SILENT", _TWICE_DELAY_MS))
        elif not run.too_long:
            run.consumer = consumer
            run.task._lost.clear()
            run.lease_ends = now() + (self.heartbeat.leases[delivery.stream] or float("inf"))
            if run.command is not None and run.command != ["ACK"]:
                run.command[3] = consumer

    def _answer(self, delivery: Delivery, consumer: str, what: Outcome) -> None:
        """The end of a task that is not run."""
        command = ["TASK.ACK", delivery.stream, GROUP, delivery.id]
        if what.mode != "ACK":
            command = nack_command(delivery, consumer, what)
        try:
            self._hub.call(*command)
        except (ServerUnreachable, ReplyError) as error:
            log.warning("the task %s was not given back, its lease will expire: %s", delivery.original_id, error)

    def _ended(self, run: Run, error: BaseException | None) -> None:
        """The handler has ended. Runs in its thread, or on its event loop."""
        self._overlap.leave(run.delivery)
        with self.table.changed:
            if run.given_back:
                self.table.handler_ended()
                self.table.leave(run)
                return
            if isinstance(error, asyncio.CancelledError):
                # The worker cancels for one of three reasons. A handler that cancels itself has failed.
                if run.too_long:
                    error = TimeoutError(f"it ran longer than {(run.definition.max_runtime_ms or 0) / 1000:g} s")
                elif run.task.lost:
                    error = TaskLost(f"the task {run.task.id} was lost")
                elif self.fetcher.stopping.is_set():
                    error = Later(0)
            what = outcome(error, run.task.attempt, run.definition.tries)
            run.command = ["ACK"]
            if what.mode != "ACK":
                run.command = nack_command(run.delivery, run.consumer, what, run.task._checkpoint)
            self.table.handler_ended()
        self._count(run, error)
        if isinstance(error, TaskLost):
            self.table.leave(run)
        else:
            self.finisher.add(run)

    def _count(self, run: Run, error: BaseException | None) -> None:
        if error is None:
            self.counts["succeeded"] += 1
        elif not isinstance(error, Later | TaskLost):
            self.counts["failed"] += 1
            trace = None if isinstance(error, Fatal | BadPayload) else error
            log.error("the task %s (%s, try %d) failed: %r", run.task.id, run.task.name, run.task.attempt, error, exc_info=trace)

    def _lost(self, run: Run, why: str) -> None:
        if run.task.lost:
            return
        self.counts["lost"] += 1
        log.error("the task %s (%s) is lost: %s", run.task.id, run.task.name, why)
        run.task._lost.set()
        if run.cancel is not None:
            run.cancel()

    # The end.

    def stop(self, timeout: float | None = None) -> None:
        end = now() + (self._shutdown_timeout if timeout is None else timeout)
        self._timetable.close()
        self.fetcher.stopping.set()
        for run in self.table.running():
            run.task._stopping.set()
        self.fetcher.stop(3.0)
        for run in self.table.running():
            run.task._stopping.set()
        self._await_handlers(end)
        if self.table.running() and not self.hurry.is_set():
            for run in self.table.running():
                if run.cancel is not None:
                    run.cancel()
            self._await_handlers(now() + _CANCELED_S)
        self._give_back()
        self.finisher.close(1.0 if self._reachable() else 0.2)
        self.heartbeat.close(0.5)
        self.fetcher.close()
        self._threads.close()
        if self._loops is not None:
            self._loops.close()
        self._overlap.close()

    def _await_handlers(self, end: float) -> None:
        while self.table.running() and not self.hurry.is_set() and now() < end:
            self.table.wait(lambda: not self.table.running(), min(max(end - now(), 0), 0.1))

    def _reachable(self) -> bool:
        return now() - self.fetcher.asked_at < 10

    def _give_back(self) -> None:
        streams: dict[str, list[list[Any]]] = {}
        with self.table.changed:
            for run in self.table.running():
                run.given_back = True
                run.task._lost.set()
                command = nack_command(run.delivery, run.consumer, Outcome("SILENT"), run.task._checkpoint)
                streams.setdefault(run.delivery.stream, []).append(command)
        for stream, commands in streams.items():
            log.warning("%d tasks of %r still ran at the end and are given back", len(commands), stream)
            try:
                self._hub.run(commands, key=stream, timeout=1.0)
            except CorralError as error:
                log.error("they were not given back, their leases will expire: %s", error)

    def health(self) -> dict[str, Any]:
        """`ok`: tasks are asked for, and acknowledgements arrive."""
        running = len(self.table.running())
        silent = now() - self.fetcher.asked_at
        stuck = self.finisher.pending >= BATCH
        return {
            "ok": silent < 15 and not stuck and not self.fetcher.stopping.is_set(),
            "stopping": self.fetcher.stopping.is_set(),
            "running": running,
            "free": self._concurrency - running,
            "unacknowledged": self.finisher.pending,
            "asked_s_ago": round(silent, 1),
            **self.counts,
            **self.finisher.counts,
        }
