"""Cached values: at most one load of a key at a time, in this process and among all of them.

A call asks CACHE.FETCH once. What it says decides: use the value, load it and store it, or wait for the client that
loads. When the server is away, the call goes on without it; see `_breaker.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

from .._breaker import Breaker, LastValues, local_loads
from .._time import Duration, milliseconds
from .._wire import Serializer, reason
from ..errors import LoadFailed, LoadRejected, ReplyError, ServerUnreachable
from .hub import Hub, Hubs
from .io import ASYNCHRONOUS, Flights, PerLoop, Renewal, call_loader, log, now

Refresh = Literal["background", "wait"]
#: How long a request waits at a time for a client that loads.
_WAIT_MS = 2000
#: A server that has not answered so long after the end of a wait does not answer.
_LATE_S = 1.0
_OUTAGE = ("OOM", "READONLY", "NOREPLICAS", "MISCONF", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MOVED", "ASK")


class Rules:
    """How one kind of value is cached. All times in milliseconds."""

    def __init__(
        self,
        ttl: Duration,
        stale: Duration = 0,
        none_ttl: Duration | None = None,
        lease: Duration = 10,
        wait: Duration = 30,
        backoff: Duration = 1,
        refresh: Refresh | None = None,
        fail_open: bool = True,
        jitter: int = 0,
        serializer: Serializer | None = None,
    ) -> None:
        self.ttl = milliseconds(ttl, "ttl")
        self.stale = milliseconds(stale, "stale", 0)
        self.none_ttl = self.ttl if none_ttl is None else milliseconds(none_ttl, "none_ttl")
        self.lease = milliseconds(lease, "lease", 100)
        self.wait = milliseconds(wait, "wait", 0)
        self.backoff = milliseconds(backoff, "backoff", 0)
        if refresh not in (None, "background", "wait"):
            raise ValueError(f"refresh is 'background' or 'wait', not {refresh!r}")
        self.refresh = refresh or ("background" if ASYNCHRONOUS else "wait")
        self.fail_open, self.serializer = fail_open, serializer
        if not 0 <= jitter <= 100:
            raise ValueError("jitter is a percentage, 0 to 100")
        self.jitter = jitter
        self.fresh = False

    def refreshing(self) -> Rules:
        """The same for a caller that does not accept an old value."""
        rules = copy.copy(self)
        rules.refresh, rules.fresh = "wait", True
        return rules


class _Loaded:
    """The outcome of a flight: the stored form, and its value for the first caller that takes it."""

    def __init__(self, data: bytes, value: Any, serializer: Serializer) -> None:
        self._data, self._values, self._serializer = data, [value], serializer

    def take(self) -> Any:
        try:
            return self._values.pop()
        except IndexError:
            return self._serializer.loads(self._data)


class Cache:
    """`corral.cache`: values by their keys, for what a decorator does not fit."""

    def __init__(self, hubs: Hubs, serializer: Serializer, redis_timeout_ms: int) -> None:
        self._hubs, self._serializer = hubs, serializer
        self._budget = redis_timeout_ms / 1000
        self._breaker, self._last = Breaker(), LastValues()
        self._flights: PerLoop[Flights[_Loaded]] = PerLoop(lambda: Flights(hubs.get().background))

    def forget(self) -> None:
        """Forgets what this process remembers: its last values, and that the server was away."""
        self._breaker, self._last = Breaker(), LastValues()
        self._flights.reset()

    async def get_or_load(
        self,
        key: str,
        load: Callable[[], Any],
        *,
        ttl: Duration,
        stale: Duration = 0,
        none_ttl: Duration | None = None,
        lease: Duration = 10,
        wait: Duration = 30,
        backoff: Duration = 1,
        refresh: Refresh | None = None,
        fail_open: bool = True,
        jitter: int = 0,
        serializer: Serializer | None = None,
    ) -> Any:
        """The cached value of `key`, or what `load` returns, which is cached for `ttl` and for `stale` after that."""
        rules = Rules(ttl, stale, none_ttl, lease, wait, backoff, refresh, fail_open, jitter, serializer)
        return await self.obtain(key, load, rules)

    async def obtain(self, key: str, load: Callable[[], Any], rules: Rules) -> Any:
        if not key:
            raise ValueError("a key must not be empty")
        # A refresh does not join a load that began before it.
        flight = f"refresh {key}" if rules.fresh else f"load {key}"
        loaded = await self._flights.get().run(flight, lambda: _Call(self, key, load, rules).run())
        return loaded.take()

    async def get(self, key: str) -> Any:
        """The cached value, fresh or stale; None also if there is none."""
        data = await self._hubs.get().call("CACHE.GET", key)
        return None if data is None else self._serializer.loads(data)

    async def set(self, key: str, value: Any, *, ttl: Duration, stale: Duration = 0) -> None:
        """Stores a value, and ends the lease of a client that loads it."""
        data = self._serializer.dumps(value)
        lives = milliseconds(ttl, "ttl") + milliseconds(stale, "stale", 0)
        await self._hubs.get().call("CACHE.SET", key, data, lives)
        self._last.drop(key)

    async def invalidate(self, key: str, *, stale: Duration | None = None) -> bool:
        """Removes a value, or with `stale` marks it as stale. A load that began before stores nothing."""
        self._last.drop(key)
        options = [] if stale is None else ["STALE", milliseconds(stale, "stale")]
        return bool(await self._hubs.get().call("CACHE.INVALIDATE", key, *options))


class _Call:
    """One flight: what all callers of a key share."""

    def __init__(self, cache: Cache, key: str, load: Callable[[], Any], rules: Rules) -> None:
        self._cache, self._key, self._load, self._rules = cache, key, load, rules
        self._serializer = rules.serializer or cache._serializer
        self._hub = cache._hubs.get()
        self._budget = cache._budget

    async def _ask(self, *command: Any, wait_ms: int = 0) -> Any:
        """Sends a command within what is left of the time for the server, or within the time that it may wait."""
        if wait_ms:
            return await self._hub.call(*command, timeout=wait_ms / 1000 + max(self._budget, _LATE_S), waiting=True)
        began = now()
        try:
            return await self._hub.call(*command, timeout=max(self._budget, 0.001))
        finally:
            self._budget -= now() - began

    async def run(self) -> _Loaded:
        if self._rules.fail_open and self._cache._breaker.is_open(now()):
            return await self._without_server("the server was away a moment ago")
        try:
            return await self._with_server()
        except _Outage as outage:
            if not self._rules.fail_open:
                raise outage.error from None
            self._cache._breaker.trip(now())
            log.warning("the cache goes on without the server: %s", outage.error)
            return await self._without_server(str(outage.error))

    async def _with_server(self) -> _Loaded:
        end = now() + self._rules.wait / 1000
        ask: list[Any] = ["CACHE.FETCH", self._key, self._rules.lease]
        if self._rules.stale:
            ask += ["STALE", self._rules.stale]
        wait_ms = min(self._rules.wait, _WAIT_MS) if self._rules.fresh else 0
        while True:
            command = [*ask, "BLOCK", wait_ms, *(["FRESH"] if self._rules.fresh else [])] if wait_ms else ask
            try:
                status, data, token = await self._ask(*command, wait_ms=wait_ms)
            except (ServerUnreachable, ReplyError) as error:
                if isinstance(error, ReplyError) and error.code == "UNBLOCKED":
                    continue
                raise _Outage.of(error) from error
            left = round((end - now()) * 1000)
            if status == b"STALE" and self._rules.fresh and left > 0:
                wait_ms = min(left, _WAIT_MS)
            elif status in (b"HIT", b"STALE"):
                loaded = self._decoded(data)
                if loaded is not None:
                    return loaded
                # It is treated as missing: the next request loads it.
                try:
                    await self._ask("CACHE.INVALIDATE", self._key)
                except (ServerUnreachable, ReplyError) as error:
                    raise _Outage.of(error) from error
            elif status == b"LOAD":
                return await self._load_it(int(token), None if data is None else self._decoded(data))
            elif status == b"FAIL":
                text = "" if data is None else data.decode("utf-8", "replace")
                raise LoadFailed(f"the last load of {self._key!r} failed: {text}")
            else:
                if left <= 0:
                    raise LoadFailed(f"another client still loads {self._key!r}")
                wait_ms = min(left, _WAIT_MS)

    def _decoded(self, data: bytes, seen: bool = True) -> _Loaded | None:
        """`seen`: the server has given the value out now."""
        try:
            value = self._serializer.loads(data)
        except Exception as error:
            log.warning("the cached value of %r does not decode and is loaded anew: %s", self._key, error)
            return None
        if seen:
            self._cache._last.put(self._key, data, now())
        return _Loaded(data, value, self._serializer)

    async def _load_it(self, token: int, old: _Loaded | None) -> _Loaded:
        if old is None:
            return await self._load_and_store(token)
        if self._rules.refresh == "background":
            self._hub.background.spawn(lambda: self._load_and_store(token), f"refreshing {self._key!r}")
            return old
        try:
            return await self._load_and_store(token)
        except Exception as error:
            log.warning("refreshing %r failed, the stale value is used: %s", self._key, reason(error))
            return old

    async def _load_and_store(self, token: int) -> _Loaded:
        renewal = Renewal(self._hub.background, lambda: self._extend(token), self._rules.lease / 3000)
        try:
            value = await call_loader(self._load)
            data = self._encode(value)
        except BaseException as error:
            renewal.stop()
            if isinstance(error, Exception):
                await self._fail(token, error)
            else:
                # Canceled: another client loads at once.
                self._hub.background.spawn(lambda: self._fail(token, None), f"giving up the load of {self._key!r}")
            raise
        renewal.stop()
        lives = (self._rules.none_ttl if value is None else self._rules.ttl) + self._rules.stale
        command: list[Any] = ["CACHE.SET", self._key, data, lives, "TOKEN", token]
        if self._rules.jitter:
            command += ["JITTER", self._rules.jitter]
        self._cache._last.put(self._key, data, now())
        try:
            await self._ask(*command)
        except (ServerUnreachable, ReplyError) as error:
            if not self._rules.fail_open:
                raise
            self._cache._breaker.trip(now())
            log.warning("the value of %r was loaded and not stored: %s", self._key, error)
        return _Loaded(data, self._serializer.loads(data), self._serializer)

    def _encode(self, value: Any) -> bytes:
        """The stored form, which the first caller gets back as all others do."""
        return self._serializer.dumps(value)

    async def _extend(self, token: int) -> float | None:
        try:
            await self._hub.call("CACHE.EXTEND", self._key, token, self._rules.lease)
        except ServerUnreachable as error:
            log.warning("the lease of %r was not renewed: %s", self._key, error)
        return self._rules.lease / 3000

    async def _fail(self, token: int, error: Exception | None) -> None:
        command: list[Any] = ["CACHE.FAIL", self._key, token]
        if error is not None and self._rules.backoff:
            command += ["BACKOFF", self._rules.backoff, "REASON", reason(error)]
        try:
            await self._hub.call(*command, timeout=max(self._budget, 0.05))
        except (ServerUnreachable, ReplyError) as failed:
            log.warning("the failed load of %r was not reported: %s", self._key, failed)

    async def _without_server(self, why: str) -> _Loaded:
        data = self._cache._last.get(self._key, now())
        if data is not None:
            loaded = self._decoded(data, seen=False)
            if loaded is not None:
                return loaded
        if not local_loads.enter():
            raise LoadRejected(f"{self._key!r} was not loaded: this process already loads without the server ({why})")
        try:
            value = await call_loader(self._load)
            data = self._encode(value)
        finally:
            local_loads.leave()
        self._cache._last.put(self._key, data, now())
        return _Loaded(data, self._serializer.loads(data), self._serializer)


class _Outage(Exception):
    """The server cannot help now."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error

    @staticmethod
    def of(error: Exception) -> Exception:
        if isinstance(error, ReplyError) and error.code not in _OUTAGE:
            return error
        return _Outage(error)
