"""Cached values, in memory and on servers."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import Any

import pytest
from canceling import canceled_at
from conftest import Backend, Server, eventually, eventually_async
from corral_client import Corral, LoadFailed
from corral_client import asyncio as corral_asyncio


class Source:
    """A data source that counts. `value` may be an exception."""

    def __init__(self, value: Any = "value", seconds: float = 0.0) -> None:
        self.value, self.seconds, self.loads = value, seconds, 0
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()

    def load(self) -> Any:
        self.loads += 1
        self.entered.set()
        assert self.go.wait(60)
        time.sleep(self.seconds)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    async def load_async(self) -> Any:
        self.loads += 1
        await asyncio.sleep(self.seconds)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_a_function_is_called_once_per_key(backend: Backend) -> None:
    calls: list[int] = []

    @backend.corral.cached("user:{user_id}", ttl="5m")
    def user(user_id: int, /) -> dict[str, int]:
        "Docs."
        calls.append(user_id)
        return {"id": user_id}

    assert [user(7), user(7), user(8)] == [{"id": 7}, {"id": 7}, {"id": 8}]
    assert calls == [7, 8]
    assert user.key(7) == "user:7"
    assert user.uncached(7) == {"id": 7} and calls == [7, 8, 7]
    assert user.invalidate(7) is True and user.invalidate(7) is False
    assert user(7) == {"id": 7} and calls == [7, 8, 7, 7]
    assert user.refresh(7) == {"id": 7} and calls == [7, 8, 7, 7, 7]
    assert user(7) == {"id": 7} and len(calls) == 5
    assert user.__doc__ == "Docs." and list(inspect.signature(user).parameters) == ["user_id"]


def test_a_method_is_cached_without_its_object(backend: Backend) -> None:
    class Shop:
        @backend.corral.cached("price:{article}", ttl=60)
        def price(self, article: str) -> str:
            return f"{article} of {type(self).__name__}"

        @staticmethod
        @backend.corral.cached("tax:{country}", ttl=60)
        def tax(country: str) -> int:
            return len(country)

    assert Shop.tax("de") == 2 and Shop().tax("de") == 2
    assert Shop().price("a:b") == "a:b of Shop"
    assert Shop().price.key("a:b") == "price:a%3Ab"
    assert Shop().price.invalidate("a:b")
    with pytest.raises(TypeError, match="method"):
        Shop.price.key("a")


def test_none_is_a_value_with_a_time_of_its_own(backend: Backend) -> None:
    source = Source(None)
    for _ in range(2):
        assert backend.corral.cache.get_or_load("absent", source.load, ttl=60, none_ttl="300ms") is None
    assert source.loads == 1
    backend.advance(0.35)
    assert backend.corral.cache.get_or_load("absent", source.load, ttl=60, none_ttl="300ms") is None
    assert source.loads == 2


def test_the_first_caller_gets_what_later_ones_get(backend: Backend) -> None:
    source = Source({1: (1, 2)})
    values = [backend.corral.cache.get_or_load("tuple", source.load, ttl=60) for _ in range(2)]
    assert values == [{"1": [1, 2]}] * 2


def test_what_json_cannot_hold_is_a_type_error_that_names_the_serializer(backend: Backend) -> None:
    source = Source({1, 2})
    with pytest.raises(TypeError, match="serializer="):
        backend.corral.cache.get_or_load("set", source.load, ttl=60, backoff=0)
    source.value = 7
    assert backend.corral.cache.get_or_load("set", source.load, ttl=60) == 7


def test_a_serializer_of_the_user_is_used(backend: Backend) -> None:
    class Upper:
        content_type = "text/x-upper"

        def dumps(self, value: Any) -> bytes:
            return str(value).upper().encode()

        def loads(self, data: bytes) -> Any:
            return data.decode()

    source = Source("abc")
    for _ in range(2):
        assert backend.corral.cache.get_or_load("upper", source.load, ttl=60, serializer=Upper()) == "ABC"


def test_a_stored_value_that_does_not_decode_is_loaded_anew(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    backend.corral.call("CACHE.SET", "broken", b"\xff{", 60_000)
    source = Source(7)
    assert [backend.corral.cache.get_or_load("broken", source.load, ttl=60) for _ in range(2)] == [7, 7]
    assert source.loads == 1 and "does not decode" in caplog.text


def test_threads_share_one_load_and_each_gets_a_value_of_its_own(backend: Backend) -> None:
    source, values = Source({"a": []}, 0.2), []

    def call() -> None:
        values.append(backend.corral.cache.get_or_load("shared", source.load, ttl=60))

    threads = [threading.Thread(target=call) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.loads == 1 and values == [{"a": []}] * 50
    assert len({id(value) for value in values}) == 50


def test_a_failure_is_each_callers_own_exception_and_backs_off(backend: Backend) -> None:
    source, errors = Source(RuntimeError("database down"), 0.2), []

    def call() -> None:
        try:
            backend.corral.cache.get_or_load("failing", source.load, ttl=60, backoff="10m")
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.loads == 1 and [str(error) for error in errors] == ["database down"] * 10
    assert len({id(error) for error in errors}) == 10
    with pytest.raises(LoadFailed, match="RuntimeError: database down"):
        backend.corral.cache.get_or_load("failing", source.load, ttl=60)
    assert backend.corral.cache.invalidate("failing") in (True, False)
    source.value = 7
    assert backend.corral.cache.get_or_load("failing", source.load, ttl=60) == 7


def test_another_process_waits_for_the_load(backend: Backend) -> None:
    other = Corral(backend.corral._hubs.driver, redis_timeout=60)
    source, never, values = Source("from the first"), Source(RuntimeError("a second load")), []
    source.go.clear()
    first = threading.Thread(target=lambda: values.append(backend.corral.cache.get_or_load("slow", source.load, ttl=60)))
    first.start()
    assert source.entered.wait(60)
    second = threading.Thread(target=lambda: values.append(other.cache.get_or_load("slow", never.load, ttl=60)))
    second.start()
    time.sleep(0.1)
    source.go.set()
    first.join()
    second.join()
    assert values == ["from the first"] * 2 and never.loads == 0
    other.close()


def test_the_lease_of_a_slow_load_is_renewed(server: Server, corral: Corral) -> None:
    other, values = Corral.from_url(server.url, redis_timeout=60), []
    source, never = Source("slow", 4.0), Source(RuntimeError("a second load"))
    first = threading.Thread(
        target=lambda: values.append(corral.cache.get_or_load("slow", source.load, ttl=60, lease="1500ms"))
    )
    first.start()
    assert source.entered.wait(60)
    values.append(other.cache.get_or_load("slow", never.load, ttl=60, lease="1500ms"))
    first.join()
    assert values == ["slow"] * 2
    other.close()


def test_a_stale_value_is_refreshed_by_one_and_used_if_that_fails(backend: Backend) -> None:
    source = Source("old")

    def call() -> Any:
        return backend.corral.cache.get_or_load("page", source.load, ttl="200ms", stale="10m", backoff=0)

    assert call() == "old"
    backend.advance(0.3)
    source.value = RuntimeError("database down")
    assert call() == "old" and source.loads == 2
    source.value = "new"
    assert call() == "new" and source.loads == 3


def test_a_refresh_in_the_background_answers_with_the_stale_value(backend: Backend) -> None:
    source = Source("old")

    def call() -> Any:
        return backend.corral.cache.get_or_load("page", source.load, ttl="5s", stale="10m", refresh="background")

    assert call() == "old"
    backend.corral.cache.invalidate("page", stale="10m")
    source.value = "new"
    assert call() == "old"
    eventually(lambda: call() == "new", "the refresh")
    assert source.loads == 2


def test_an_invalidation_voids_a_load_that_began_before(backend: Backend) -> None:
    source, values = Source("before"), []
    source.go.clear()
    thread = threading.Thread(target=lambda: values.append(backend.corral.cache.get_or_load("row", source.load, ttl=60)))
    thread.start()
    assert source.entered.wait(60)
    backend.corral.cache.invalidate("row")
    source.go.set()
    thread.join()
    assert values == ["before"]
    source.value = "after"
    assert backend.corral.cache.get_or_load("row", source.load, ttl=60) == "after"


def test_a_loader_that_asks_for_its_own_key_is_an_error(backend: Backend) -> None:
    cache = backend.corral.cache

    def load() -> Any:
        return cache.get_or_load("self", load, ttl=60)

    with pytest.raises(RuntimeError, match="itself"):
        cache.get_or_load("self", load, ttl=60)


def test_what_is_no_option_is_rejected_before_anything_is_sent(backend: Backend) -> None:
    get, never = backend.corral.cache.get_or_load, Source()
    for options in (
        {"ttl": 0}, {"ttl": -1}, {"ttl": "5 minutes"}, {"ttl": float("nan")}, {"ttl": 1, "stale": -1},
        {"ttl": 1, "refresh": "never"}, {"ttl": 1, "jitter": 101}, {"ttl": 2**60},
    ):
        with pytest.raises(ValueError):
            get("key", never.load, **options)
    with pytest.raises(TypeError):
        get("key", never.load, ttl=True)
    with pytest.raises(ValueError):
        get("", never.load, ttl=1)
    assert never.loads == 0


def test_the_clock_and_the_set_and_get_of_a_key(backend: Backend) -> None:
    cache = backend.corral.cache
    assert cache.get("direct") is None
    cache.set("direct", [1], ttl="200ms")
    assert cache.get("direct") == [1]
    backend.advance(0.3)
    assert cache.get("direct") is None


def test_coroutines_share_one_load(backend: Backend) -> None:
    source = Source({"a": []}, 0.1)

    async def main() -> list[Any]:
        get = backend.asyncio.cache.get_or_load
        values = await asyncio.gather(*(get("shared", source.load_async, ttl=60) for _ in range(1000)))
        await backend.asyncio.close()
        return values

    values = asyncio.run(main())
    assert source.loads == 1 and len({id(value) for value in values}) == 1000
    if backend.fake is not None:
        assert backend.fake.server.counts["CACHE.FETCH"] == 1


def test_asyncio_answers_with_the_stale_value_and_refreshes_in_the_background(backend: Backend) -> None:
    async def main() -> None:
        @backend.asyncio.cached("page:{n}", ttl="5s", stale="10m")
        async def page(n: int) -> str:
            return await source.load_async()

        assert await page(1) == "old"
        await backend.asyncio.cache.invalidate("page:1", stale="10m")
        source.value = "new"
        assert await page(1) == "old"
        await backend.asyncio.close()
        assert await page(1) == "new"
        await backend.asyncio.close()

    source = Source("old")
    asyncio.run(main())
    assert source.loads == 2


def test_a_caller_that_is_canceled_cancels_nobody_else(backend: Backend) -> None:
    async def main() -> None:
        get = backend.asyncio.cache.get_or_load
        calls = [asyncio.create_task(get("key", source.load_async, ttl=60)) for _ in range(3)]
        await asyncio.sleep(0.1)
        calls[0].cancel()
        assert await asyncio.gather(*calls[1:]) == ["value"] * 2
        assert source.loads == 1
        await backend.asyncio.close()

    source = Source(seconds=0.4)
    asyncio.run(main())


def test_the_last_caller_that_leaves_cancels_the_load_and_the_next_one_loads_at_once(backend: Backend) -> None:
    async def main() -> None:
        get = backend.asyncio.cache.get_or_load
        calls = [asyncio.create_task(get("key", slow.load_async, ttl=60, lease="10m")) for _ in range(3)]
        await eventually_async(lambda: slow.loads, "the load has begun")
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        async with asyncio.timeout(30):
            assert await get("key", fast.load_async, ttl=60) == "fast"
        await backend.asyncio.close()

    slow, fast = Source("slow", 600), Source("fast")
    asyncio.run(main())


def test_a_load_that_is_canceled_at_any_step_leaves_no_lease(backend: Backend) -> None:
    """The next caller loads at once, or finds the value; it never waits for the lease of ten minutes."""
    driver = backend.corral._hubs.driver
    for step in range(1, 200):

        async def work(step: int = step) -> None:
            corral = corral_asyncio.Corral(driver, redis_timeout=60)
            try:
                await corral.cache.get_or_load(f"key:{step}", Source(seconds=0.001).load_async, ttl=60, lease="10m")
            finally:
                await corral.close()

        again = canceled_at(step, work)
        assert backend.corral.cache.get_or_load(f"key:{step}", Source().load, ttl=60, wait="60s") == "value"
        if not again:
            assert step > 2
            return
    raise AssertionError("it never ended")
