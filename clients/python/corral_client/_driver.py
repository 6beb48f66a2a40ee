"""How to reach the server: the user's options, without what must differ.

The connections of this package are its own, made from the options of a URL or of a client of redis-py or valkey-py,
which is never changed. They speak RESP2, return bytes and never send a command again by themselves.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis.connection

if TYPE_CHECKING:
    from ._memory.server import MemoryServer

Address = tuple[str, int]
DEFAULT_TIMEOUT_S = 5.0
_SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys")
_KEPT = frozenset(
    "host port path db username password credential_provider client_name socket_keepalive socket_keepalive_options"
    " socket_type".split()
)


@dataclass(frozen=True)
class Driver:
    """`seeds` are the known nodes of a cluster, `sentinels` the options of each sentinel of `service`."""

    package: str = "redis"
    kind: str = "Connection"
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout: float = DEFAULT_TIMEOUT_S
    seeds: tuple[Address, ...] = ()
    service: str = ""
    sentinels: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    memory: MemoryServer | None = None

    def connection(self, address: Address | None, asynchronous: bool, options: Mapping[str, Any] | None = None) -> Any:
        """A connection of the client library that is not connected yet."""
        module = importlib.import_module(f"{self.package}{'.asyncio' if asynchronous else ''}.connection")
        retry = importlib.import_module(f"{self.package}{'.asyncio' if asynchronous else ''}.retry")
        backoff = importlib.import_module(f"{self.package}.backoff")
        kind = self.kind
        arguments = dict(self.options)
        if options is not None:
            arguments, kind = _kept(options), "Connection"
        if address is not None:
            arguments |= {"host": address[0], "port": address[1]}
        return getattr(module, kind)(
            **arguments,
            protocol=2,
            decode_responses=False,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=retry.Retry(backoff.NoBackoff(), 0),
        )

    def name(self) -> str:
        """For messages, without a password."""
        if self.seeds:
            return f"the cluster of {self.seeds[0][0]}:{self.seeds[0][1]}"
        if self.service:
            return f"the master {self.service}"
        return str(self.options.get("path") or f"{self.options.get('host', 'localhost')}:{self.options.get('port', 6379)}")

    def is_cluster(self) -> bool:
        return bool(self.seeds)


def from_url(url: str) -> Driver:
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise ValueError(f"the URL must begin with one of {', '.join(f'{name}://' for name in _SCHEMES)}")
    options = redis.connection.parse_url(url.replace("valkey", "redis", 1) if scheme.startswith("valkey") else url)
    return _driver("redis", options, options.get("connection_class"))


def from_client(client: Any) -> Driver:
    package = type(client).__module__.split(".")[0]
    for base in type(client).__mro__:
        if base.__module__.split(".")[0] in ("redis", "valkey"):
            package = base.__module__.split(".")[0]
            break
    if package not in ("redis", "valkey"):
        raise TypeError(f"a URL or a client of redis-py or valkey-py is expected, not {type(client).__name__}")
    if nodes := getattr(client, "nodes_manager", None):
        options = dict(getattr(nodes, "connection_kwargs", None) or getattr(client, "connection_kwargs", {}))
        seeds = tuple((str(node.host), int(node.port)) for node in nodes.startup_nodes.values())
        kind = options.get("connection_class")
        driver = _driver(package, options, kind)
        if options.get("ssl"):
            driver = replace(driver, kind="SSLConnection")
        kept = {name: value for name, value in driver.options.items() if name not in ("host", "port", "db")}
        return replace(driver, options=kept, seeds=seeds)
    pool = client.connection_pool
    driver = _driver(package, pool.connection_kwargs, pool.connection_class)
    if manager := getattr(pool, "sentinel_manager", None):
        if not pool.is_master:
            raise ValueError("the client must be for the master: sentinel.master_for(...)")
        sentinels = tuple(sentinel.connection_pool.connection_kwargs for sentinel in manager.sentinels)
        return replace(driver, service=pool.service_name, sentinels=sentinels)
    return driver


def is_asynchronous(client: Any) -> bool:
    return any(".asyncio" in base.__module__ for base in type(client).__mro__)


def _kept(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in options.items()
        if value is not None and (name in _KEPT or (name.startswith("ssl_") and name != "ssl_context"))
    }


def _driver(package: str, options: Mapping[str, Any], kind: type | None) -> Driver:
    names = [base.__name__ for base in kind.__mro__] if kind is not None else []
    known = ("SSLConnection", "UnixDomainSocketConnection")
    name = next((name for name in known if name in names), "Connection")
    timeout = options.get("socket_timeout") or DEFAULT_TIMEOUT_S
    return Driver(package, name, _kept(options), float(timeout))


@functools.cache
def failures(package: str) -> tuple[type[Exception], ...]:
    """What a connection of this client library raises when it fails."""
    exceptions = importlib.import_module(f"{package}.exceptions")
    return (exceptions.ValkeyError if package == "valkey" else exceptions.RedisError, OSError, TimeoutError)


@functools.cache
def error_replies(package: str) -> tuple[type[Exception], ...]:
    """What it raises for an error reply."""
    return (importlib.import_module(f"{package}.exceptions").ResponseError,)


def slot_of(key: bytes) -> int:
    """The hash slot of a key in a cluster."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return _crc16(key) % 16384


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc
