"""Runs of a schedule that must not overlap: each holds a lock for its time."""

from __future__ import annotations

import logging
import threading

from .._sync.hub import Hub
from .._sync.io import Renewal
from .._wire import Delivery
from ..errors import CorralError

log = logging.getLogger("corral_client")
_LEASE_MS = 30_000


class Overlap:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._held: dict[str, tuple[str, Renewal]] = {}
        self._lock = threading.Lock()

    def enter(self, delivery: Delivery) -> bool:
        """False if another run of this schedule has not ended. A server that does not answer is no reason to skip a run."""
        name, me = f"cron:{delivery.stream}:{delivery.task}", delivery.original_id
        try:
            if not self._hub.call("LOCK.ACQUIRE", name, me, _LEASE_MS, "FENCE"):
                return False
        except CorralError as error:
            log.warning("whether the run before has ended is unknown: %s", error)
            return True
        renewal = Renewal(self._hub.background, lambda: self._renew(name, me), _LEASE_MS / 3000)
        with self._lock:
            self._held[me] = (name, renewal)
        return True

    def _renew(self, name: str, me: str) -> float | None:
        try:
            return _LEASE_MS / 3000 if self._hub.call("LOCK.EXTEND", name, me, _LEASE_MS) else None
        except CorralError:
            return _LEASE_MS / 10_000

    def leave(self, delivery: Delivery) -> None:
        if delivery.cron is None:
            return
        with self._lock:
            held = self._held.pop(delivery.original_id, None)
        if held is not None:
            held[1].stop()
            name, me = held[0], delivery.original_id
            self._hub.background.spawn(lambda: self._hub.call("LOCK.RELEASE", name, me), "ending a run")

    def close(self) -> None:
        with self._lock:
            for _, renewal in self._held.values():
                renewal.stop()
