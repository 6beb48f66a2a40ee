"""What asyncio and threads do differently, for threads. `_aio/io.py` has the same names for asyncio."""

from __future__ import annotations

import heapq
import itertools
import logging
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .. import _fork
from .._driver import Address, Driver, error_replies, failures
from .._memory.server import WAITING, MemoryServer
from ..errors import ServerUnreachable

log = logging.getLogger("corral_client")
T = TypeVar("T")
now = time.monotonic
Limit = threading.Semaphore
ASYNCHRONOUS = False


class Link:
    """One connection. `call` sends commands and reads their replies; an error reply is in the list as it is."""

    def __init__(self, driver: Driver, address: Address | None, options: Any = None) -> None:
        self._driver, self.address = driver, address
        self._connection = driver.connection(address, False, options)
        _fork.register(self)

    def call(self, commands: Sequence[Sequence[Any]], timeout: float) -> list[Any]:
        connection, sent, end = self._connection, False, now() + timeout
        try:
            if connection._sock is None:
                connection.socket_connect_timeout = connection.socket_timeout = timeout
                connection.connect()
            packed = connection.pack_commands(commands)
            self._give(end)
            sent = True
            connection.send_packed_command(packed, check_health=False)
            replies: list[Any] = []
            for _ in commands:
                self._give(end)
                try:
                    replies.append(connection.read_response())
                except error_replies(self._driver.package) as error:
                    replies.append(error)
            return replies
        except failures(self._driver.package) as error:
            self.close()
            raise ServerUnreachable(f"{self._driver.name()}: {error}", sent) from error
        except BaseException:
            self.close()
            raise

    def _give(self, end: float) -> None:
        """Gives the socket the time that is left."""
        sock = self._connection._sock
        if sock is None:
            raise ConnectionError("the connection was closed")
        sock.settimeout(max(end - now(), 0.001))

    def is_usable(self) -> bool:
        """Whether an idle connection is still open: the server never sends anything by itself."""
        sock = self._connection._sock
        if sock is None:
            return False
        try:
            if not hasattr(select, "poll"):
                return not select.select([sock], [], [], 0)[0]
            poll = select.poll()
            poll.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)
            return not poll.poll(0)
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        try:
            self._connection.disconnect()
        except Exception as error:  # A broken connection has nothing left to close.
            log.debug("closing a connection: %s", error)

    def after_fork(self) -> None:
        sock = self._connection._sock
        if sock is not None:
            _fork.replace_descriptor(sock.fileno())


class MemoryLink:
    """A connection to a server in memory."""

    _numbers = itertools.count(1)

    def __init__(self, server: MemoryServer) -> None:
        self._server, self.number = server, next(self._numbers)

    def call(self, commands: Sequence[Sequence[Any]], timeout: float) -> list[Any]:
        try:
            if len(commands) > 1:
                return self._server.transaction(commands, self.number)
            call = self._server.begin(commands[0], self.number)
            while (reply := call.poll()) is WAITING:
                self._server.wait(0.01)
            return [reply]
        except ConnectionError as error:
            raise ServerUnreachable(str(error)) from error

    def is_usable(self) -> bool:
        return True

    def close(self) -> None:
        pass


class PerLoop(Generic[T]):
    """One value for all threads of this process."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._value: T | None = None
        _fork.register(self)

    def get(self) -> T:
        value = self._value
        if value is None:
            with self._lock:
                value = self._value
                if value is None:
                    value = self._value = self._make()
        return value

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._value = None

    after_fork = reset


class Background:
    """Work that nobody waits for, and the one thread that renews leases. `close` waits for the work."""

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Condition()
        self._renewals: list[tuple[float, int, Renewal]] = []
        self._numbers = itertools.count()
        self._renewer: threading.Thread | None = None

    def spawn(self, work: Callable[[], Any], what: str) -> None:
        def run() -> None:
            try:
                work()
            except Exception as error:
                log.warning("%s: %s: %s", what, type(error).__name__, error)
            finally:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=f"corral: {what}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def close(self, timeout: float) -> None:
        end = now() + timeout
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(end - now(), 0))
        with self._lock:
            self._renewals.clear()
            self._lock.notify()

    def at(self, due: float, renewal: Renewal) -> None:
        with self._lock:
            heapq.heappush(self._renewals, (due, next(self._numbers), renewal))
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="corral: renewals", daemon=True)
                self._renewer.start()
            self._lock.notify()

    def _renew(self) -> None:
        while True:
            with self._lock:
                while self._renewals and self._renewals[0][2].stopped:
                    heapq.heappop(self._renewals)
                if not self._renewals:
                    # A thread costs little, and the next lease seldom is far.
                    if not self._lock.wait(10) and not self._renewals:
                        self._renewer = None
                        return
                    continue
                wait = self._renewals[0][0] - now()
                if wait > 0:
                    self._lock.wait(wait)
                    continue
                renewal = heapq.heappop(self._renewals)[2]
            renewal.run()


class Renewal:
    """Calls `renew` again and again, each time after the seconds that it returned before, until that is None."""

    def __init__(self, background: Background, renew: Callable[[], float | None], first: float) -> None:
        self._background, self._renew = background, renew
        self.stopped = False
        background.at(now() + first, self)

    def run(self) -> None:
        try:
            delay = self._renew()
        except Exception as error:
            log.warning("renewing a lease: %s: %s", type(error).__name__, error)
            return
        if delay is not None and not self.stopped:
            self._background.at(now() + delay, self)

    def stop(self) -> None:
        self.stopped = True


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.leader = threading.get_ident()
        self.landed = threading.Event()
        self.result: T | None = None
        self.error: Exception | None = None
        self.aborted = True


class Flights(Generic[T]):
    """Single-flight: callers of one key share one run, that of the first caller.

    Each caller gets an exception of its own. If the first caller is interrupted (Ctrl-C), another one runs.
    """

    def __init__(self, background: Background) -> None:
        self._flights: dict[str, _Flight[T]] = {}
        self._lock = threading.Lock()

    def run(self, key: str, work: Callable[[], T]) -> T:
        while True:
            with self._lock:
                flight = self._flights.get(key)
                first = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight()
            if first:
                return self._lead(key, flight, work)
            if flight.leader == threading.get_ident():
                raise RuntimeError(f"the loader of {key!r} asks for {key!r} itself")
            flight.landed.wait()
            if flight.error is not None:
                raise own(flight.error) from flight.error
            if not flight.aborted:
                return flight.result  # type: ignore[return-value]

    def _lead(self, key: str, flight: _Flight[T], work: Callable[[], T]) -> T:
        try:
            flight.result = work()
            flight.aborted = False
            return flight.result
        except Exception as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                self._flights.pop(key, None)
            flight.landed.set()


def own(error: Exception) -> Exception:
    """A copy of an exception, for one of several callers."""
    try:
        copy = type(error).__new__(type(error), *error.args)
        copy.__dict__.update(error.__dict__)
    except Exception:
        return error
    return copy


def call_loader(load: Callable[[], Any]) -> Any:
    """The result of a loader."""
    return load()


def pause(seconds: float) -> None:
    time.sleep(seconds)


def finish(background: Background, work: Callable[[], None], what: str) -> None:
    """Runs `work` to its end."""
    work()


class Watch:
    """A thread cannot be interrupted: the body of a `with` asks its lease."""

    def fire(self) -> None:
        pass

    def end(self, error: type[BaseException] | None) -> bool:
        return False


def owner() -> object:
    """The thread that runs."""
    return threading.get_ident()
