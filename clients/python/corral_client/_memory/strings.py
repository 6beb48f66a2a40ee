"""CACHE.* and LOCK.* in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ReplyError
from .server import WAITING, Call, Options, number

if TYPE_CHECKING:
    from .server import MemoryServer


@dataclass
class _Value:
    """A cached value, and the lease of its loader."""

    data: bytes | None = None
    ends: int = 0
    stale_mark: bool = False
    token: int = 0
    #: Tokens from here on are valid.
    floor: int = 0
    lease_ends: int = 0
    backoff_ends: int = 0
    reason: bytes | None = None


@dataclass
class _Lock:
    exclusive: bytes | None = None
    ends: int = 0
    shared: dict[bytes, int] = field(default_factory=dict)
    #: Those that wait, first come, first served.
    line: list[tuple[object, bytes]] = field(default_factory=list)


class Strings:
    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._values: dict[bytes, _Value] = {}
        self._locks: dict[bytes, _Lock] = {}
        self._token = 0

    def commands(self) -> dict[str, Callable[[Call], Any]]:
        return {
            "CACHE.FETCH": self._fetch, "CACHE.SET": self._set, "CACHE.GET": self._get, "CACHE.EXTEND": self._extend,
            "CACHE.FAIL": self._fail, "CACHE.INVALIDATE": self._invalidate, "LOCK.ACQUIRE": self._acquire,
            "LOCK.EXTEND": self._renew, "LOCK.RELEASE": self._release, "LOCK.INFO": self._info,
        }

    def leave(self, call: Call) -> Any:
        if call.name == "CACHE.FETCH":
            value = self._value(call.words[1])
            return [b"STALE", value.data, None] if value.data is not None else [b"WAIT", None, None]
        lock = self._lock(call.words[1])
        lock.line = [place for place in lock.line if place[0] is not call.ticket]
        return 0

    def _next_token(self) -> int:
        self._token = max(self._token + 1, self._server.now_ms * 1000)
        return self._token

    def _value(self, key: bytes) -> _Value:
        value = self._values.setdefault(key, _Value())
        if value.data is not None and value.ends < self._server.now_ms:
            value.data, value.stale_mark = None, False
        return value

    def _fetch(self, call: Call) -> Any:
        now, value = self._server.now_ms, self._value(call.words[1])
        lease = number(call.words[2], 1)
        options = Options(call.words[3:]).take(values="STALE BLOCK", flags="FRESH")
        stale_ms = number(options.get("STALE", b"0"))
        fresh = value.data is not None and not value.stale_mark and value.ends - now > stale_ms
        if fresh:
            return [b"HIT", value.data, None]
        if value.backoff_ends >= now:
            return [b"FAIL", value.reason, None] if value.data is None else [b"STALE", value.data, None]
        if value.lease_ends >= now:
            if value.data is not None and "FRESH" not in options:
                return [b"STALE", value.data, None]
            return WAITING
        value.token, value.lease_ends = self._next_token(), now + lease
        return [b"LOAD", value.data, value.token]

    def _set(self, call: Call) -> Any:
        value = self._value(call.words[1])
        lives = number(call.words[3], 1)
        options = Options(call.words[4:]).take(values="TOKEN JITTER", flags="NX")
        newest = value.token
        if "TOKEN" in options:
            token = number(options["TOKEN"])
            if not value.floor < token <= value.token:
                return None
            value.floor = token
        else:
            value.floor = newest
        if "NX" in options and value.data is not None:
            return None
        value.data, value.ends, value.stale_mark = call.words[2], self._server.now_ms + lives, False
        if value.floor == newest:
            value.lease_ends = value.backoff_ends = 0
        return b"OK"

    def _get(self, call: Call) -> Any:
        return self._value(call.words[1]).data

    def _extend(self, call: Call) -> Any:
        value = self._value(call.words[1])
        if number(call.words[2]) != value.token or value.lease_ends < self._server.now_ms:
            return 0
        value.lease_ends = self._server.now_ms + number(call.words[3], 1)
        return 1

    def _fail(self, call: Call) -> Any:
        value = self._value(call.words[1])
        options = Options(call.words[3:]).take(values="BACKOFF REASON")
        if number(call.words[2]) != value.token or value.token <= value.floor:
            return 0
        value.lease_ends, value.floor = 0, value.token
        if "BACKOFF" in options:
            value.backoff_ends = self._server.now_ms + number(options["BACKOFF"], 1)
            value.reason = options.get("REASON")
        return 1

    def _invalidate(self, call: Call) -> Any:
        now, value = self._server.now_ms, self._value(call.words[1])
        options = Options(call.words[2:]).take(values="STALE")
        found = value.data is not None or value.lease_ends >= now
        value.floor, value.lease_ends, value.backoff_ends = value.token, 0, 0
        if "STALE" in options and value.data is not None:
            value.stale_mark, value.ends = True, min(value.ends, now + number(options["STALE"], 1))
        else:
            value.data, value.stale_mark = None, False
        return int(found)

    def _lock(self, name: bytes) -> _Lock:
        now, lock = self._server.now_ms, self._locks.setdefault(name, _Lock())
        if lock.exclusive is not None and lock.ends < now:
            lock.exclusive = None
        lock.shared = {holder: ends for holder, ends in lock.shared.items() if ends >= now}
        return lock

    def _acquire(self, call: Call) -> Any:
        lock, me, now = self._lock(call.words[1]), call.words[2], self._server.now_ms
        ends = now + number(call.words[3], 1)
        options = Options(call.words[4:]).take(values="LIMIT BLOCK", flags="SHARED FENCE TIED")
        shared = "SHARED" in options or "LIMIT" in options
        if me == lock.exclusive and shared or me in lock.shared and not shared:
            raise ReplyError("ERR identifier holds this lock in another mode")
        holds = me == lock.exclusive or me in lock.shared
        first = not lock.line or lock.line[0][0] is call.ticket
        limit = number(options["LIMIT"], 1) if "LIMIT" in options else None
        if shared:
            room = lock.exclusive is None and (limit is None or len(lock.shared) < limit)
        else:
            room = lock.exclusive is None and not lock.shared
        if not (holds and options) and not (room and first):
            if all(ticket is not call.ticket for ticket, _ in lock.line) and "BLOCK" in options:
                lock.line.append((call.ticket, me))
            return WAITING if "BLOCK" in options else 0
        lock.line = [place for place in lock.line if place[0] is not call.ticket]
        if shared:
            lock.shared[me] = ends
        else:
            lock.exclusive, lock.ends = me, ends
        return self._next_token() if "FENCE" in options else 1

    def _renew(self, call: Call) -> Any:
        lock, me = self._lock(call.words[1]), call.words[2]
        ends = self._server.now_ms + number(call.words[3], 1)
        if lock.exclusive == me:
            lock.ends = ends
        elif me in lock.shared:
            lock.shared[me] = ends
        else:
            return 0
        return 1

    def _release(self, call: Call) -> Any:
        lock, me = self._lock(call.words[1]), call.words[2]
        lock.line = [place for place in lock.line if place[1] != me]
        if lock.exclusive == me:
            lock.exclusive = None
            return 1
        return int(lock.shared.pop(me, None) is not None)

    def _info(self, call: Call) -> Any:
        lock = self._lock(call.words[1])
        mode = b"exclusive" if lock.exclusive is not None else b"shared" if lock.shared else b"free"
        return [b"mode", mode, b"waiters", len(lock.line)]
