"""Servers for the tests: each of CORRAL_TEST_SERVERS (paths, separated by colons; default redis-server)."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from corral_client import Corral
from corral_client import asyncio as corral_asyncio
from corral_client.pytest_plugin import start_server
from corral_client.testing import Memory, memory

SERVERS = [path for path in os.environ.get("CORRAL_TEST_SERVERS", "redis-server").split(":") if path]
MODULE = os.environ.get("CORRAL_MODULE", "")
PATIENCE_S = 60.0


def eventually(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Waits until the condition holds, and returns its value."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.01)
    return value


class Seen:
    """What handlers have seen."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    def __call__(self, value: Any) -> None:
        self.runs.append(value)


def idle(corral: Corral, *queues: str) -> bool:
    for name in queues:
        info = corral.queue(name).info()
        if info["length"] or info["delayed"]:
            return False
    return True


async def eventually_async(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """The same on an event loop."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come about"
        await asyncio.sleep(0.01)
    return value


@dataclass
class Server:
    """A server of its own. `client` is a plain client, beside the package."""

    program: str
    directory: str = field(default_factory=lambda: tempfile.mkdtemp(prefix="corral-"))
    options: tuple[str, ...] = ()
    process: Any = None
    port: int = 0

    def start(self) -> Server:
        self.process, self.port = start_server(self.program, MODULE, self.directory, *self.options)
        self.client = redis.Redis(port=self.port, protocol=2)
        return self

    def restart(self) -> None:
        """On the same port, without its data."""
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.directory, "--save", ""]
        with open(os.devnull, "wb") as null:
            self.process = subprocess.Popen([*command, *self.options, "--loadmodule", os.path.abspath(MODULE)], stdout=null)
        eventually(self.answers, "the server is back")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        """Of a client that has patience with a slow machine."""
        return f"redis://127.0.0.1:{self.port}?socket_timeout={PATIENCE_S:g}"

    def clients(self, **fields: str) -> list[dict[str, str]]:
        found = self.client.client_list()
        return [one for one in found if all(one.get(name) == value for name, value in fields.items())]

    def calls(self, command: str) -> int:
        """How often a command was called, also inside others."""
        return int(self.client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def _need_module() -> None:
    if not MODULE:
        pytest.skip("CORRAL_MODULE does not name the module")


def _name(program: str) -> str:
    return Path(program).parent.name.split("_")[0] if "/" in program else program


@pytest.fixture(scope="session", params=SERVERS, ids=_name)
def shared_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    _need_module()
    server = Server(request.param).start()
    yield server
    server.remove()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """An empty server that the test leaves running."""
    if not shared_server.answers():
        shared_server.start()
    shared_server.client.flushall()
    shared_server.client.config_resetstat()
    return shared_server


@pytest.fixture(params=SERVERS, ids=_name)
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that the test may kill."""
    _need_module()
    server = Server(request.param).start()
    yield server
    server.remove()


@pytest.fixture
def corral(server: Server) -> Iterator[Corral]:
    corral = Corral.from_url(server.url, redis_timeout=PATIENCE_S)
    yield corral
    corral.close()


@dataclass
class Backend:
    """A Corral for threads and one for asyncio, on a server or in memory."""

    corral: Corral
    asyncio: corral_asyncio.Corral
    fake: Memory | None
    server: Server | None

    def advance(self, seconds: float) -> None:
        if self.fake is not None:
            self.fake.advance(seconds)
        else:
            time.sleep(seconds)


@pytest.fixture(params=["memory", *SERVERS], ids=_name)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The same tests in memory and on servers."""
    if request.param == "memory":
        with memory() as fake:
            driver = fake.corral._hubs.driver
            yield Backend(fake.corral, corral_asyncio.Corral(driver, redis_timeout=PATIENCE_S), fake, None)
        return
    _need_module()
    server = _started(request.param)
    server.client.flushall()
    corral = Corral.from_url(server.url, redis_timeout=PATIENCE_S)
    yield Backend(corral, corral_asyncio.Corral.from_url(server.url, redis_timeout=PATIENCE_S), None, server)
    corral.close()


_servers: dict[str, Server] = {}


def _started(program: str) -> Server:
    if program not in _servers:
        _servers[program] = Server(program).start()
    return _servers[program]


def pytest_sessionfinish() -> None:
    for server in _servers.values():
        server.remove()
