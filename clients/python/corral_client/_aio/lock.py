"""Locks: a lease on a name, renewed while the body of the `with` runs.

An identifier stands for one acquisition. It is asked for without waiting on a shared connection first, and then waits on
a connection that waits only. Whatever ends the wait, a RELEASE follows, which also withdraws a request in the queue.
"""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import Any

from .._time import Duration, milliseconds
from ..errors import LockLost, LockNotAcquired, ReplyError, ServerUnreachable
from .hub import Hub, Hubs
from .io import Renewal, Watch, finish, log, now, owner, pause

#: How long one request waits. The next one takes the same place in the queue.
_WAIT_MS = 20_000


class Lease:
    """A lock that is held: `fence` is its fencing token, or None if the lock is shared or limited."""

    def __init__(self, name: str, identifier: str, ttl_ms: int) -> None:
        self.name, self.identifier = name, identifier
        self.fence: int | None = None
        self._ttl_ms = ttl_ms
        self._ends = 0.0
        self._gone = False

    @property
    def lost(self) -> bool:
        """Whether the lease has ended. It is true at the latest when the lease expires."""
        return self._gone or now() >= self._ends

    @property
    def remaining(self) -> float:
        """Seconds until the lease ends if it is not renewed."""
        return 0.0 if self._gone else max(self._ends - now(), 0.0)

    def check(self) -> None:
        """Raises LockLost if the lease has ended."""
        if self.lost:
            raise LockLost(f"the lease of the lock {self.name!r} has ended")


class Lock:
    """`with corral.lock(...) as lease:`. One object may be used again, and by several tasks or threads at a time."""

    def __init__(
        self, hubs: Hubs, name: str, ttl: Duration, wait: Duration | None, shared: bool, limit: int | None
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError("the name of a lock must be a text that is not empty")
        if shared and limit is not None:
            raise ValueError("a lock is either shared or limited")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ValueError("limit is a number of holders, at least 1")
        self._hubs, self._name = hubs, name
        self._ttl_ms = milliseconds(ttl, "ttl", 100)
        self._wait_ms = 0 if wait is None else milliseconds(wait, "wait", 0)
        self._mode = ["SHARED"] if shared else ["LIMIT", limit] if limit is not None else ["FENCE"]
        self._held: list[_Holding] = []

    async def __aenter__(self) -> Lease:
        holding = _Holding(self._hubs.get(), self._name, self._ttl_ms, self._mode)
        await holding.acquire(self._wait_ms)
        self._held.append(holding)
        return holding.lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        holding = next((held for held in reversed(self._held) if held.belongs_here()), self._held[-1])
        self._held.remove(holding)
        await holding.end(kind)


class _Holding:
    """One acquisition, from its first request to its release."""

    def __init__(self, hub: Hub, name: str, ttl_ms: int, mode: list[Any]) -> None:
        self._hub, self._mode = hub, mode
        self.lease = Lease(name, uuid.uuid4().hex, ttl_ms)
        self._ask = ["LOCK.ACQUIRE", name, self.lease.identifier, ttl_ms, *mode]
        self._renewal: Renewal | None = None
        self._watch: Watch | None = None
        self._owner = owner()

    def belongs_here(self) -> bool:
        return self._owner == owner()

    async def acquire(self, wait_ms: int) -> None:
        try:
            granted = await self._request(wait_ms)
        except BaseException:
            self._withdraw()
            raise
        if not granted:
            raise LockNotAcquired(f"another client holds the lock {self.lease.name!r}")
        self.lease.fence = granted if self._mode == ["FENCE"] else None
        self._watch = Watch()
        self._renewal = Renewal(self._hub.background, self._renew, self.lease._ttl_ms / 3000)

    async def _request(self, wait_ms: int) -> int:
        began = now()
        granted = int(await self._hub.call(*self._ask))
        self.lease._ends = began + self.lease._ttl_ms / 1000
        end = began + wait_ms / 1000
        while not granted:
            left = round((end - now()) * 1000)
            if left <= 0:
                return 0
            block = min(left, _WAIT_MS)
            try:
                command = [*self._ask, "BLOCK", block]
                granted = int(await self._hub.call(*command, timeout=block / 1000 + 5, waiting=True))
            except (ServerUnreachable, ReplyError) as error:
                if isinstance(error, ReplyError) and error.code != "UNBLOCKED":
                    raise
                if now() >= end:
                    raise
                # The server may have restarted, or another one is the master now.
                await pause(0.1)
                continue
            if granted and not await self._confirm():
                granted = 0
        return granted

    async def _confirm(self) -> bool:
        """The lease began when it was granted, and the reply may have been read later."""
        began = now()
        if not await self._hub.call("LOCK.EXTEND", self.lease.name, self.lease.identifier, self.lease._ttl_ms):
            return False
        self.lease._ends = began + self.lease._ttl_ms / 1000
        return True

    def _withdraw(self) -> None:
        """A request whose reply was not read may have been granted, or may still wait.

        The server may read it after the first RELEASE, which comes by another connection, but not after its reply.
        """

        async def release() -> None:
            for _ in range(2):
                await self._hub.call("LOCK.RELEASE", self.lease.name, self.lease.identifier)

        self._hub.background.spawn(release, f"withdrawing the request for the lock {self.lease.name!r}")

    async def _renew(self) -> float | None:
        lease, began = self.lease, now()
        try:
            held = await self._hub.call(
                "LOCK.EXTEND", lease.name, lease.identifier, lease._ttl_ms, timeout=max(lease.remaining, 0.05)
            )
        except (ServerUnreachable, ReplyError) as error:
            log.warning("the lease of the lock %r was not renewed: %s", lease.name, error)
            held = None
        if held:
            lease._ends = began + lease._ttl_ms / 1000
            return lease._ttl_ms / 3000
        if held == 0 or lease.remaining <= 0:
            self._lose()
            return None
        return min(lease._ttl_ms / 10_000, lease.remaining)

    def _lose(self) -> None:
        self.lease._gone = True
        log.error("the lease of the lock %r has ended while its holder was at work", self.lease.name)
        if self._watch is not None:
            self._watch.fire()

    async def end(self, kind: type[BaseException] | None) -> None:
        if self._renewal is not None:
            self._renewal.stop()
        canceled = self._watch is not None and self._watch.end(kind)
        lost = self.lease.lost
        await finish(self._hub.background, self._release, f"releasing the lock {self.lease.name!r}")
        if canceled or (lost and kind is None):
            raise LockLost(f"the lease of the lock {self.lease.name!r} has ended")

    async def _release(self) -> None:
        try:
            await self._hub.call("LOCK.RELEASE", self.lease.name, self.lease.identifier)
        except (ServerUnreachable, ReplyError) as error:
            # The lease expires by itself.
            log.warning("the lock %r was not released: %s", self.lease.name, error)
