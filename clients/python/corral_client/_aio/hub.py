"""The connections of one Corral: which node has a key, a pool for short commands, and one for those that wait.

A command that waits never takes a connection from the pool of the others. Nothing is sent a second time, except what
the server did not run: MOVED, TRYAGAIN and READONLY (with Sentinel) change nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from .. import _fork
from .._driver import Address, Driver, slot_of
from .._features import PROBE, Features, reply_error
from ..errors import ReplyError, ServerUnreachable
from .io import Background, Limit, Link, MemoryLink, PerLoop, log, now, pause

#: Connections for short commands, at most. More callers wait their turn.
POOL_SIZE = 50
#: Idle connections that are kept, of each kind and node.
KEPT_IDLE = 16
_RETRIES = 8
_RETRY_CODES = ("MOVED", "TRYAGAIN", "ASK")


def open_link(driver: Driver, address: Address | None) -> Link | MemoryLink:
    """A new connection to a node, or to a server in memory."""
    return Link(driver, address) if driver.memory is None else MemoryLink(driver.memory)


class Hub:
    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.background = Background()
        self._limit = Limit(POOL_SIZE)
        self._idle: dict[tuple[bool, Address | None], list[Link | MemoryLink]] = {}
        self._slots: dict[int, Address] = {}
        self._features: Features | None = None
        self._connecting: set[Address | None] = set()
        self._closed = False
        _fork.register(self)

    async def features(self, timeout: float | None = None) -> Features:
        """Asks once. A user without the permission for COMMAND is assumed to have everything."""
        if self._features is None:
            address = await self._address(b"", timeout or self.driver.timeout)
            (docs,) = await self._send([PROBE], address, timeout or self.driver.timeout, False)
            features = Features(docs)
            features.check(self.driver.name())
            self._features = features
        return self._features

    async def call(
        self, *command: Any, key: str | None = None, timeout: float | None = None, waiting: bool = False
    ) -> Any:
        """The reply of a command. An error reply is raised."""
        (reply,) = await self.run([command], key=key, timeout=timeout, waiting=waiting)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def run(
        self,
        commands: Sequence[Sequence[Any]],
        *,
        key: str | None = None,
        timeout: float | None = None,
        waiting: bool = False,
    ) -> list[Any]:
        """The replies of commands that are sent together. Error replies are in the list."""
        end = now() + (timeout or self.driver.timeout)
        if self._features is None:
            await self.features(max(end - now(), 0.001))
        name = str(commands[0][1]) if key is None else key
        for attempt in range(_RETRIES):
            address = await self._address(name.encode("utf-8", "surrogateescape"), max(end - now(), 0.001))
            try:
                replies = await self._send(commands, address, max(end - now(), 0.001), waiting)
            except ServerUnreachable:
                self._slots = {}
                raise
            replies = [self._error(reply) if isinstance(reply, Exception) else reply for reply in replies]
            if not self._may_retry(replies) or attempt == _RETRIES - 1 or now() >= end:
                return replies
            self._slots = {}
            await self._drop_idle()
            if attempt:
                await pause(min(0.02 * 2**attempt, max(end - now(), 0)))
        raise AssertionError("unreachable")

    def _error(self, reply: Exception) -> Exception:
        error = reply_error(reply, self.driver.name())
        return error if self._features is None else self._features.explain(error)

    def _may_retry(self, replies: list[Any]) -> bool:
        """Whether the server ran none of the commands, and another node will, or this one soon."""
        codes = [reply.code for reply in replies if isinstance(reply, ReplyError)]
        done = [reply for reply in replies if not isinstance(reply, Exception) and reply not in (b"OK", b"QUEUED")]
        retry = (*_RETRY_CODES, "READONLY") if self.driver.service else _RETRY_CODES
        return not done and any(code in retry for code in codes)

    async def _send(
        self, commands: Sequence[Sequence[Any]], address: Address | None, timeout: float, waiting: bool
    ) -> list[Any]:
        if waiting:
            return await self._send_on(commands, address, timeout, True)
        async with self._limit:
            return await self._send_on(commands, address, timeout, False)

    async def _send_on(
        self, commands: Sequence[Sequence[Any]], address: Address | None, timeout: float, waiting: bool
    ) -> list[Any]:
        idle = self._idle.setdefault((waiting, address), [])
        link = await self._take(idle, address)
        try:
            replies = await link.call(commands, timeout)
        except ServerUnreachable as error:
            # The other idle connections probably broke as well.
            await self._drop_idle()
            if not error.sent and timeout < self.driver.timeout and "Timeout" in type(error.__cause__).__name__:
                self._connect_for_others(address)
            raise
        await self._keep(link, idle)
        return replies

    async def _keep(self, link: Link | MemoryLink, idle: list[Link | MemoryLink]) -> None:
        if self._closed or len(idle) >= KEPT_IDLE:
            await link.close()
        else:
            idle.append(link)

    def _connect_for_others(self, address: Address | None) -> None:
        """Connects in the background: a caller whose time is shorter than connecting takes would never succeed."""

        async def connect() -> None:
            link = open_link(self.driver, address)
            try:
                await link.call([("PING",)], self.driver.timeout)
                await self._keep(link, self._idle.setdefault((False, address), []))
            finally:
                self._connecting.discard(address)

        if address not in self._connecting:
            self._connecting.add(address)
            self.background.spawn(connect, "connecting")

    async def _take(self, idle: list[Link | MemoryLink], address: Address | None) -> Link | MemoryLink:
        while idle:
            try:
                link = idle.pop()
            except IndexError:  # Another thread was faster.
                break
            if link.is_usable():
                return link
            await link.close()
        return open_link(self.driver, address)

    def forget_nodes(self) -> None:
        """The next command asks anew where its key is."""
        self._slots = {}

    async def address_of(self, key: str) -> Address | None:
        return await self._address(key.encode(), self.driver.timeout)

    async def _address(self, key: bytes, timeout: float) -> Address | None:
        if self.driver.is_cluster():
            slots = self._slots or await self._load_slots(timeout)
            address = slots.get(slot_of(key))
            if address is None:
                self._slots = {}
                raise ServerUnreachable(f"{self.driver.name()}: no node serves the slot of {key!r}")
            return address
        if self.driver.service:
            slots = self._slots or {0: await self._find_master(timeout)}
            self._slots = slots
            return slots[0]
        return None

    async def _load_slots(self, timeout: float) -> dict[int, Address]:
        end, known = now() + timeout, [address for _, address in self._idle if address is not None]
        error: ServerUnreachable | None = None
        for seed in dict.fromkeys([*known, *self.driver.seeds]):
            link = Link(self.driver, seed)
            try:
                (reply,) = await link.call([("CLUSTER", "SLOTS")], max(end - now(), 0.001))
            except ServerUnreachable as failed:
                error = failed
                continue
            finally:
                await link.close()
            if isinstance(reply, Exception):
                raise reply_error(reply, self.driver.name())
            slots: dict[int, Address] = {}
            for first, last, node, *_ in reply:
                # An empty host means: the one that was asked.
                address = (node[0].decode() or seed[0], int(node[1]))
                slots.update(dict.fromkeys(range(first, last + 1), address))
            self._slots = slots
            return slots
        raise error or ServerUnreachable(f"{self.driver.name()}: no node is known")

    async def _find_master(self, timeout: float) -> Address:
        end = now() + timeout
        for options in self.driver.sentinels:
            link = Link(self.driver, None, options)
            try:
                command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.driver.service)
                (reply,) = await link.call([command], max(end - now(), 0.001))
            except ServerUnreachable as error:
                log.warning("a sentinel does not answer: %s", error)
                continue
            finally:
                await link.close()
            if isinstance(reply, list) and len(reply) == 2:
                return reply[0].decode(), int(reply[1])
        raise ServerUnreachable(f"no sentinel knows {self.driver.name()}")

    async def _drop_idle(self) -> None:
        for idle in list(self._idle.values()):
            while idle:
                with contextlib.suppress(IndexError):
                    await idle.pop().close()

    async def close(self, timeout: float = 5.0) -> None:
        await self.background.close(timeout)
        self._closed = True
        await self._drop_idle()

    def after_fork(self) -> None:
        self._idle = {}
        self._limit = Limit(POOL_SIZE)
        self._connecting = set()
        self.background = Background()


class Hubs:
    """The hub of the running event loop, or of this process. Tests exchange the driver."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._hubs: PerLoop[Hub] = PerLoop(lambda: Hub(self.driver))

    def get(self) -> Hub:
        return self._hubs.get()

    def exchange(self, driver: Driver) -> Driver:
        """From now on another server. Returns the driver of the one before."""
        before, self.driver = self.driver, driver
        self._hubs.reset()
        return before
