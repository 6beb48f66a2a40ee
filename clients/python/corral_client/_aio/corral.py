"""The entrance: a Corral has the cache, the locks and the queues of one server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from .. import _driver
from .._driver import Driver
from .._time import Duration, milliseconds
from .._wire import Serializer, json_serializer
from .cache import Cache, Refresh, Rules
from .cached import Cached, cached
from .hub import Hubs
from .io import ASYNCHRONOUS
from .lock import Lock
from .queue import Queue

P = ParamSpec("P")
R = TypeVar("R")
logging.getLogger("corral_client").addHandler(logging.NullHandler())


class Corral:
    """Made from a URL, `Corral.from_url(...)`, or from a client whose options its own connections take.

    Nothing is connected before the first command.
    """

    def __init__(self, client: Any, *, redis_timeout: Duration = 0.25, serializer: Serializer = json_serializer) -> None:
        if isinstance(client, str):
            raise TypeError("a client is expected; for a URL there is Corral.from_url(...)")
        driver = client if isinstance(client, Driver) else _driver.from_client(client)
        if client is not driver and _driver.is_asynchronous(client) != ASYNCHRONOUS:
            raise TypeError(f"this client is for {'threads' if ASYNCHRONOUS else 'asyncio'}: use the other Corral")
        self._hubs = Hubs(driver)
        self._serializer = serializer
        self._queues: dict[str, Queue] = {}
        self.cache = Cache(self._hubs, serializer, milliseconds(redis_timeout, "redis_timeout"))

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Corral:
        return cls(_driver.from_url(url), **options)

    def cached(
        self,
        key: str,
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
        ignore: Iterable[str] = (),
    ) -> Callable[[Callable[P, Awaitable[R]]], Cached[P, R]]:
        """Caches the results of a function under a key such as "user:{user_id}"."""
        rules = Rules(ttl, stale, none_ttl, lease, wait, backoff, refresh, fail_open, jitter, serializer)
        return cached(self.cache, key, rules, tuple(ignore))

    def lock(
        self,
        name: str,
        *,
        ttl: Duration = 30,
        wait: Duration | None = None,
        shared: bool = False,
        limit: int | None = None,
    ) -> Lock:
        """A lock for a `with` statement. Without `wait`, a lock that another client holds is an error at once."""
        return Lock(self._hubs, name, ttl, wait, shared, limit)

    def queue(self, name: str, *, serializer: Serializer | None = None) -> Queue:
        """The queue of this name; the same object each time."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Queue(self._hubs, name, serializer or self._serializer)
        return queue

    async def call(self, *command: Any) -> Any:
        """The reply of a command of Corral or of the server, whose first argument is the key."""
        return await self._hubs.get().call(*command)

    async def close(self) -> None:
        """Waits for work in the background, and closes the connections."""
        await self._hubs.get().close()

    async def __aenter__(self) -> Corral:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
