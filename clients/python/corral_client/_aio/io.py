"""What asyncio and threads do differently, for asyncio: connections, limits, renewals, single-flight, background work.

`_sync/io.py` has the same names for threads; everything else in `_sync` is generated from this directory.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from .. import _fork
from .._driver import Address, Driver, error_replies, failures
from .._memory.server import WAITING, MemoryServer
from ..errors import ServerUnreachable

log = logging.getLogger("corral_client")
T = TypeVar("T")
now = time.monotonic
Limit = asyncio.Semaphore
ASYNCHRONOUS = True


class Link:
    """One connection. `call` sends commands and reads their replies; an error reply is in the list as it is."""

    def __init__(self, driver: Driver, address: Address | None, options: Any = None) -> None:
        self._driver, self.address = driver, address
        self._connection = driver.connection(address, True, options)
        _fork.register(self)

    async def call(self, commands: Sequence[Sequence[Any]], timeout: float) -> list[Any]:
        connection, sent = self._connection, False
        try:
            async with asyncio.timeout(timeout):
                if not connection.is_connected:
                    await connection.connect()
                packed = connection.pack_commands(commands)
                sent = True
                await connection.send_packed_command(packed, check_health=False)
                replies: list[Any] = []
                for _ in commands:
                    try:
                        replies.append(await connection.read_response())
                    except error_replies(self._driver.package) as error:
                        replies.append(error)
                return replies
        except failures(self._driver.package) as error:
            await self.close()
            what = "no reply in time" if isinstance(error, TimeoutError) else str(error)
            raise ServerUnreachable(f"{self._driver.name()}: {what}", sent) from error
        except BaseException:
            await self.close()
            raise

    def is_usable(self) -> bool:
        """Whether an idle connection is still open, as far as this side knows."""
        reader = getattr(self._connection, "_reader", None)
        return bool(self._connection.is_connected) and reader is not None and not reader.at_eof()

    async def close(self) -> None:
        try:
            await self._connection.disconnect(nowait=True)
        except Exception as error:  # A broken connection has nothing left to close.
            log.debug("closing a connection: %s", error)

    def after_fork(self) -> None:
        writer = getattr(self._connection, "_writer", None)
        sock = writer.get_extra_info("socket") if writer is not None else None
        if sock is not None:
            _fork.replace_descriptor(sock.fileno())


class MemoryLink:
    """A connection to a server in memory."""

    _numbers = itertools.count(1)

    def __init__(self, server: MemoryServer) -> None:
        self._server, self.number = server, next(self._numbers)

    async def call(self, commands: Sequence[Sequence[Any]], timeout: float) -> list[Any]:
        try:
            if len(commands) > 1:
                return self._server.transaction(commands, self.number)
            call = self._server.begin(commands[0], self.number)
            while (reply := call.poll()) is WAITING:
                await asyncio.sleep(0.005)
            return [reply]
        except ConnectionError as error:
            raise ServerUnreachable(str(error)) from error

    def is_usable(self) -> bool:
        return True

    async def close(self) -> None:
        pass


class PerLoop(Generic[T]):
    """One value for each event loop that is running."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = weakref.WeakKeyDictionary()
        _fork.register(self)

    def get(self) -> T:
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            value = self._values[loop] = self._make()
        return value

    def reset(self) -> None:
        self._values = weakref.WeakKeyDictionary()

    after_fork = reset


class Background:
    """Work that nobody waits for. `close` waits for it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Callable[[], Coroutine[Any, Any, Any]], what: str) -> None:
        async def run() -> None:
            try:
                await work()
            except Exception as error:
                log.warning("%s: %s: %s", what, type(error).__name__, error)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, timeout: float) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=timeout)
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending, timeout=timeout)


class Renewal:
    """Calls `renew` again and again, each time after the seconds that it returned before, until that is None."""

    def __init__(self, background: Background, renew: Callable[[], Awaitable[float | None]], first: float) -> None:
        self._stopped = asyncio.Event()
        self._renew, self._first = renew, first
        background.spawn(self._run, "renewing a lease")

    async def _run(self) -> None:
        delay: float | None = self._first
        while delay is not None and not self._stopped.is_set():
            try:
                async with asyncio.timeout(delay):
                    await self._stopped.wait()
            except TimeoutError:
                delay = await self._renew()

    def stop(self) -> None:
        self._stopped.set()


_running: contextvars.ContextVar[frozenset[str]] = contextvars.ContextVar("corral_loading", default=frozenset())


class _Flight(Generic[T]):
    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.callers = 0
        self.raised = False


class Flights(Generic[T]):
    """Single-flight: callers of one key share one run, which none of them cancels alone.

    The last caller to leave cancels the run. Each caller gets an exception of its own.
    """

    def __init__(self, background: Background) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    async def run(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if key in _running.get():
            raise RuntimeError(f"the loader of {key!r} asks for {key!r} itself")
        flight = self._flights.get(key)
        if flight is None:
            token = _running.set(_running.get() | {key})
            flight = self._flights[key] = _Flight(asyncio.get_running_loop().create_task(work()))
            _running.reset(token)
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        flight.callers += 1
        try:
            return await asyncio.shield(flight.task)
        except Exception as error:
            if flight.raised:
                raise own(error) from error
            flight.raised = True
            raise
        finally:
            flight.callers -= 1
            if flight.callers == 0 and not flight.task.done():
                self._forget(key, flight.task)
                flight.task.cancel()

    def _landed(self, key: str, task: asyncio.Task[T]) -> None:
        self._forget(key, task)
        if not task.cancelled():
            task.exception()  # Retrieved, although every caller may have left.

    def _forget(self, key: str, task: asyncio.Task[T]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]


def own(error: Exception) -> Exception:
    """A copy of an exception, for one of several callers."""
    try:
        copy = type(error).__new__(type(error), *error.args)
        copy.__dict__.update(error.__dict__)
    except Exception:
        return error
    return copy


async def call_loader(load: Callable[[], Any]) -> Any:
    """The result of a loader, which may be a coroutine function or a plain one."""
    result = load()
    if asyncio.iscoroutine(result) or isinstance(result, Awaitable):
        return await result
    return result


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def finish(background: Background, work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
    """Runs `work` to its end, even if the caller is cancelled meanwhile."""
    done = asyncio.Event()

    async def run() -> None:
        try:
            await work()
        finally:
            done.set()

    background.spawn(run, what)
    await done.wait()


class Watch:
    """Cancels the task of a `with` body when its lease is lost; see `asyncio.timeout` for the same technique."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._fired = False
        self._active = True

    def fire(self) -> None:
        if self._active and not self._fired and self._task is not None:
            self._fired = True
            self._task.cancel()

    def end(self, error: type[BaseException] | None) -> bool:
        """True if the body was cancelled by this watch, and by nobody else."""
        self._active = False
        if not self._fired or self._task is None:
            return False
        return self._task.uncancel() <= 0 and error is not None and issubclass(error, asyncio.CancelledError)


def owner() -> object:
    """The task that runs."""
    return asyncio.current_task()
