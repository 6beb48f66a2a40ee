"""What keeps an application running while the server is away.

After a connection error or OOM the breaker skips the server for a second. Meanwhile a value that this process has seen
in the last five seconds is used again, and at most four loads run in this process at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from . import _fork

OPEN_S = 1.0
LAST_S = 5.0
LOCAL_LOADS = 4
LAST_COUNT = 1024
LAST_BYTES = 8 << 20


class Breaker:
    """Times are of a monotonic clock."""

    def __init__(self) -> None:
        self._open_until = float("-inf")

    def is_open(self, now: float) -> bool:
        return now < self._open_until

    def trip(self, now: float) -> None:
        self._open_until = now + OPEN_S


class LastValues:
    """The values that this process has seen last, by their keys."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        _fork.register(self)

    def put(self, key: str, value: bytes, now: float) -> None:
        with self._lock:
            self._drop(key)
            if len(value) > LAST_BYTES // 8:
                return
            self._values[key] = (value, now)
            self._bytes += len(key) + len(value)
            while self._values and (len(self._values) > LAST_COUNT or self._bytes > LAST_BYTES):
                self._drop(next(iter(self._values)))

    def get(self, key: str, now: float) -> bytes | None:
        with self._lock:
            found = self._values.get(key)
        return found[0] if found is not None and now - found[1] <= LAST_S else None

    def drop(self, key: str) -> None:
        with self._lock:
            self._drop(key)

    def _drop(self, key: str) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self._bytes -= len(key) + len(found[0])

    def after_fork(self) -> None:
        self._lock = threading.Lock()


class LocalLoads:
    """The permission to load without the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        _fork.register(self)

    def enter(self) -> bool:
        with self._lock:
            if self._running >= LOCAL_LOADS:
                return False
            self._running += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._running -= 1

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._running = 0


#: Shared by everything in this process.
local_loads = LocalLoads()
