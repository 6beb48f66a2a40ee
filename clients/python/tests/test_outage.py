"""The cache goes on without the server; locks and queues do not."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, Server, eventually
from corral_client import Corral, LoadRejected, ReplyError, ServerUnreachable
from corral_client import asyncio as corral_asyncio
from corral_client._breaker import LAST_BYTES, LAST_COUNT, LastValues
from corral_client.testing import Memory, memory
from proxy import Proxy
from test_process import KINDS, App, ended

#: Beyond the time for Redis: what a busy machine may add.
SLACK_S = 5.0


def test_a_value_is_loaded_without_the_server(own_server: Server) -> None:
    corral = Corral.from_url(own_server.url, redis_timeout=60)
    assert corral.cache.get_or_load("warm", lambda: 1, ttl=60) == 1
    own_server.kill()
    assert corral.cache.get_or_load("cold", lambda: 2, ttl=60) == 2
    assert corral.cache.get_or_load("warm", lambda: 3, ttl=60) == 1, "the last value of this process"
    with pytest.raises(ServerUnreachable):
        corral.cache.get_or_load("other", lambda: 4, ttl=60, fail_open=False)
    with pytest.raises(ServerUnreachable):
        corral.cache.invalidate("warm")
    with pytest.raises(ServerUnreachable), corral.lock("name"):
        pass
    assert corral.cache.get_or_load("warm", lambda: 5, ttl=60) == 5, "an invalidation counts here in any case"
    own_server.restart()
    eventually(lambda: corral.cache.get_or_load("new", lambda: 6, ttl=60) and own_server.client.get("new"), "stored again")


def test_a_server_that_hangs_costs_the_time_for_redis_once(own_server: Server) -> None:
    corral = Corral.from_url(own_server.url, redis_timeout="100ms")
    assert corral.cache.get_or_load("warm", lambda: 1, ttl=60) == 1
    os.kill(own_server.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert corral.cache.get_or_load("cold", lambda: 2, ttl=60) == 2
        assert time.monotonic() - began < 0.1 + SLACK_S
    finally:
        os.kill(own_server.process.pid, signal.SIGCONT)


def test_a_connection_that_takes_longer_than_a_caller_waits_is_made_all_the_same(own_server: Server) -> None:
    # The password makes the client exchange something before the connection is ready.
    own_server.client.config_set("requirepass", "secret")
    stored = own_server.client.exists

    proxy = Proxy(own_server, delay_s=0.5)
    url = f"redis://:secret@127.0.0.1:{proxy.port}?socket_timeout={PATIENCE_S}"
    corral = Corral.from_url(url, redis_timeout="100ms")
    eventually(lambda: corral.cache.get_or_load("threads", lambda: 1, ttl=60) and stored("threads"), "stored by threads")
    corral.close()

    async def main() -> None:
        corral = corral_asyncio.Corral.from_url(url, redis_timeout="100ms")
        async with asyncio.timeout(PATIENCE_S):
            while not stored("asyncio"):
                await corral.cache.get_or_load("asyncio", lambda: 1, ttl=60)
                await asyncio.sleep(0.02)
        await corral.close()

    asyncio.run(main())
    proxy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_waits_for_a_server_that_is_not_there_yet(own_server: Server, tmp_path: Path, kind: str) -> None:
    app = App(own_server, tmp_path)
    own_server.kill()
    given_up, patient = app.start(kind), app.start(kind)
    eventually(lambda: app.log.exists() and app.log.read_text().count("tries again") >= 4, "both try again")
    given_up.send_signal(signal.SIGTERM)
    ended(given_up, 1)
    own_server.restart()
    app.await_waiting()
    patient.send_signal(signal.SIGTERM)
    ended(patient, 1)


@pytest.fixture
def fake() -> Iterator[Memory]:
    with memory() as fake:
        yield fake


def test_four_loads_run_at_a_time_and_more_are_rejected(fake: Memory) -> None:
    fake.away()
    go, entered, results = threading.Event(), threading.Semaphore(0), []

    def load() -> int:
        entered.release()
        assert go.wait(60)
        return 1

    def call(key: str) -> None:
        results.append(fake.corral.cache.get_or_load(key, load, ttl=60))

    threads = [threading.Thread(target=call, args=(f"key:{index}",)) for index in range(4) for _ in range(5)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        assert entered.acquire(timeout=60)
    with pytest.raises(LoadRejected):
        fake.corral.cache.get_or_load("key:4", load, ttl=60)
    go.set()
    for thread in threads:
        thread.join()
    assert results == [1] * 20, "single-flight holds without the server"
    assert fake.corral.cache.get_or_load("key:4", load, ttl=60) == 1
    fake.away(False)


def test_the_breaker_does_not_ask_again_for_a_second(fake: Memory) -> None:
    server = fake.server
    fake.corral.cache.get_or_load("first", lambda: 1, ttl=60)
    fake.away()
    fake.corral.cache.get_or_load("second", lambda: 1, ttl=60)
    fake.away(False)
    asked = server.counts["CACHE.FETCH"]
    fake.corral.cache.get_or_load("third", lambda: 1, ttl=60)
    assert server.counts["CACHE.FETCH"] == asked
    eventually(
        lambda: fake.corral.cache.get_or_load(f"key:{time.monotonic()}", lambda: 1, ttl=60)
        and server.counts["CACHE.FETCH"] > asked,
        "the server is asked again",
    )


def test_full_memory_is_an_outage_for_loads(own_server: Server) -> None:
    corral = Corral.from_url(own_server.url, redis_timeout=60)
    own_server.client.config_set("maxmemory", "1")
    assert corral.cache.get_or_load("cold", lambda: 2, ttl=60) == 2
    with pytest.raises(ReplyError, match="OOM"):
        corral.cache.get_or_load("colder", lambda: 2, ttl=60, fail_open=False)
    with pytest.raises(ReplyError, match="OOM"), corral.lock("name"):
        pass


def test_a_wrong_type_is_no_outage(corral: Corral, server: Server) -> None:
    server.client.rpush("list", "x")
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        corral.cache.get_or_load("list", lambda: 1, ttl=60)


def test_asyncio_goes_on_without_the_server(own_server: Server) -> None:
    async def main() -> None:
        corral = corral_asyncio.Corral.from_url(own_server.url, redis_timeout="200ms")

        async def load() -> int:
            return 1

        assert await corral.cache.get_or_load("warm", load, ttl=60) == 1
        os.kill(own_server.process.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(0.2 + SLACK_S):
                assert await corral.cache.get_or_load("cold", load, ttl=60) == 1
        finally:
            os.kill(own_server.process.pid, signal.SIGCONT)
        own_server.kill()
        results: list[Any] = await asyncio.gather(
            *(corral.cache.get_or_load(f"key:{n}", load, ttl=60) for n in range(50)), return_exceptions=True
        )
        assert all(result == 1 or isinstance(result, LoadRejected) for result in results)
        await corral.close()

    asyncio.run(main())


def test_a_waiting_caller_goes_on_when_the_server_dies(own_server: Server) -> None:
    loader, waiter = Corral.from_url(own_server.url, redis_timeout=60), Corral.from_url(own_server.url, redis_timeout=60)
    entered, go, values = threading.Event(), threading.Event(), []

    def slow() -> str:
        entered.set()
        assert go.wait(60)
        return "first"

    first = threading.Thread(target=lambda: values.append(loader.cache.get_or_load("key", slow, ttl=60)))
    first.start()
    assert entered.wait(60)
    second = threading.Thread(target=lambda: values.append(waiter.cache.get_or_load("key", lambda: "second", ttl=60)))
    second.start()
    eventually(lambda: int(own_server.client.info("clients")["blocked_clients"]) == 1, "it waits")
    own_server.kill()
    second.join()
    assert values == ["second"]
    go.set()
    first.join()
    assert values == ["second", "first"]


def test_a_last_value_is_used_for_five_seconds() -> None:
    last = LastValues()
    last.put("key", b"1", 100.0)
    assert last.get("key", 105.0) == b"1" and last.get("key", 105.1) is None
    last.put("big", bytes(LAST_BYTES), 100.0)
    assert last.get("big", 100.0) is None, "no value may displace all others"
    for number in range(5000):
        last.put(f"key:{number}", bytes(10_000), 100.0)
    assert last.get("key:0", 100.0) is None and last.get("key:4999", 100.0) is not None
    assert last._bytes <= LAST_BYTES and len(last._values) <= LAST_COUNT


def test_using_a_last_value_does_not_make_it_younger() -> None:
    with memory() as fake:
        cache, loads = fake.corral.cache, []

        def call() -> int:
            return int(cache.get_or_load("key", lambda: loads.append(1) or len(loads), ttl=60))

        assert call() == 1
        fake.away()
        (value, at), = cache._last._values.values()
        assert call() == 1
        assert list(cache._last._values.values()) == [(value, at)]
        cache._last.put("key", value, at - 6)
        assert call() == 2
