"""Keeps the next run of each schedule in its queue. The time is that of the server: clocks that are wrong do not matter."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from .._cron import GRACE_S, mark_ms, run_id
from .._sync.hub import Hub
from .._tasks import Definition, Options, Unique
from .._wire import json_serializer
from ..errors import CorralError
from .running import QueueLike

log = logging.getLogger("corral_client")
#: The runs are published again this often, should the queue have been deleted.
_AGAIN_S = 60.0
_RETRY_S = 2.0


class Timetable:
    def __init__(self, hub: Hub, queues: Sequence[QueueLike]) -> None:
        self._hub = hub
        self._schedules = [
            (queue, definition) for queue in queues for definition in queue._definitions.values() if definition.schedule
        ]
        self._planned: dict[tuple[str, str], int] = {}
        self._offset = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="corral: schedules", daemon=True)

    def start(self) -> None:
        if self._schedules:
            self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(1)

    def server_time(self) -> float:
        """Unix seconds of the server, as far as this process knows."""
        return time.time() + self._offset

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                wait = self.plan()
            except CorralError as error:
                log.warning("the next runs were not published: %s", error)
                wait = _RETRY_S
            except Exception:
                log.exception("the next runs were not published")
                wait = _AGAIN_S
            self._closing.wait(wait)

    def plan(self) -> float:
        """Publishes the next run of each schedule. Returns the seconds until the next look."""
        self._read_clock()
        wait = _AGAIN_S
        for queue, definition in self._schedules:
            wait = min(wait, self._plan(queue, definition) - self.server_time())
        return max(wait, 0.0) + 0.01

    def _read_clock(self) -> None:
        before = time.time()
        try:
            seconds, micros = self._hub.call("TIME", key=self._schedules[0][0].name)
        except CorralError as error:
            # Without the permission for TIME, the clock of this machine has to do.
            log.debug("the clock of the server is unknown: %s", error)
            return
        self._offset = int(seconds) + int(micros) / 1e6 - (before + time.time()) / 2

    def _plan(self, queue: QueueLike, definition: Definition) -> int:
        """The time of the next run, which is in the queue now."""
        assert definition.schedule is not None
        now = self.server_time()
        place = (queue.name, definition.name)
        # A run that this process saw coming is not missed because the process was busy for a moment.
        after = max(self._planned.get(place, int(now)), int(now) - GRACE_S)
        after = min(after, int(now))
        at = definition.schedule.next_run(after)
        unique = Unique(run_id(definition.name, at), mark_ms(at, int(now * 1000)) / 1000)
        command = Options(at=at, unique=unique, cron=at).command(
            queue.name, definition.name, json_serializer.dumps({}), None, definition.tries, self._hub.features()
        )
        self._hub.call(*command)
        self._planned[place] = at
        return at
