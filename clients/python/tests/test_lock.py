"""Locks, in memory and on servers."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from canceling import canceled_at
from conftest import Backend, Server, eventually, eventually_async
from corral_client import Corral, LockLost, LockNotAcquired
from corral_client import asyncio as corral_asyncio


def test_one_holds_and_the_others_are_refused(backend: Backend) -> None:
    with backend.corral.lock("nightly", ttl="30s") as lease:
        assert lease.fence and not lease.lost and 0 < lease.remaining <= 30
        with pytest.raises(LockNotAcquired), backend.corral.lock("nightly"):
            pass
        with pytest.raises(TimeoutError), backend.corral.lock("nightly", wait="50ms"):
            pass
    with backend.corral.lock("nightly") as again:
        assert again.fence and again.fence > lease.fence


def test_waiting_threads_hold_one_after_the_other(backend: Backend) -> None:
    inside, most, fences = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        with backend.corral.lock("name", ttl="1m", wait="10m") as lease:
            inside += 1
            most = max(most, inside)
            fences.append(lease.fence)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and len(set(fences)) == 20 and fences == sorted(fences)


def test_shared_holders_and_a_limit(backend: Backend) -> None:
    lock = backend.corral.lock
    with lock("book", shared=True) as one, lock("book", shared=True):
        assert one.fence is None
        with pytest.raises(LockNotAcquired), lock("book"):
            pass
    with lock("seats", limit=2), lock("seats", limit=2), pytest.raises(LockNotAcquired), lock("seats", limit=2):
        pass


@pytest.mark.parametrize(
    "options", [{"ttl": 0}, {"ttl": "x"}, {"wait": -1}, {"limit": 0}, {"limit": 1, "shared": True}, {"limit": True}]
)
def test_what_is_no_option_is_rejected(backend: Backend, options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        backend.corral.lock("name", **options)
    with pytest.raises(ValueError):
        backend.corral.lock("")


def test_a_lease_is_renewed_while_the_body_runs(corral: Corral, server: Server) -> None:
    with corral.lock("name", ttl="1500ms") as lease:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert not lease.lost
            time.sleep(0.02)
        lease.check()
        assert server.client.get("lock:{name}")
    assert server.client.get("lock:{name}") is None


def test_a_lost_lease_is_noticed_and_the_body_cannot_end_as_if_nothing_happened(corral: Corral, server: Server) -> None:
    with pytest.raises(LockLost), corral.lock("name", ttl="300ms") as lease:
        server.client.set("lock:{name}", "another")
        eventually(lambda: lease.lost, "the loss")
        with pytest.raises(LockLost):
            lease.check()
    assert server.client.get("lock:{name}") == b"another"
    with pytest.raises(ZeroDivisionError), corral.lock("other", ttl="300ms") as lease:
        server.client.delete("lock:{other}")
        eventually(lambda: lease.lost, "the loss")
        raise ZeroDivisionError


def test_a_lease_ends_by_itself_when_the_server_is_away(own_server: Server) -> None:
    corral = Corral.from_url(own_server.url)
    with pytest.raises(LockLost), corral.lock("name", ttl="500ms") as lease:
        own_server.kill()
        eventually(lambda: lease.lost, "the loss")


def test_the_body_of_a_coroutine_is_canceled_when_the_lease_is_lost(server: Server) -> None:
    async def main() -> None:
        corral = corral_asyncio.Corral.from_url(server.url)
        try:
            async with corral.lock("name", ttl="300ms"):
                server.client.delete("lock:{name}")
                await asyncio.sleep(600)
        except LockLost:
            task = asyncio.current_task()
            assert task is not None and task.cancelling() == 0
        else:
            raise AssertionError("the body went on")
        await asyncio.sleep(0)
        await corral.close()

    asyncio.run(main())


def test_a_cancellation_from_outside_stays_one(server: Server) -> None:
    async def main() -> None:
        corral = corral_asyncio.Corral.from_url(server.url)
        entered = asyncio.Event()

        async def work() -> None:
            async with corral.lock("name", ttl="30s"):
                entered.set()
                await asyncio.sleep(600)

        task = asyncio.create_task(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with corral.lock("name"):
            pass
        await corral.close()

    asyncio.run(main())


def test_a_lock_is_free_after_a_cancellation_at_any_step(server: Server) -> None:
    """With and without a wait: nothing is held, and nothing waits."""

    async def work(corral: corral_asyncio.Corral, wait: str | None) -> None:
        async with corral.lock("name", ttl="10m", wait=wait):
            await asyncio.sleep(0)

    for wait in (None, "10m"):
        for step in range(1, 200):

            async def run(wait: str | None = wait) -> None:
                corral = corral_asyncio.Corral.from_url(server.url)
                try:
                    await work(corral, wait)
                finally:
                    await corral.close()

            again = canceled_at(step, run)
            eventually(lambda: server.client.get("lock:{name}") is None, f"the lock is free after step {step}")
            if not again:
                assert step > 3
                break
        else:
            raise AssertionError("it never ended")


def test_a_request_that_waits_leaves_the_line_when_it_is_canceled(server: Server) -> None:
    async def main() -> None:
        corral = corral_asyncio.Corral.from_url(server.url)
        async with corral.lock("name", ttl="10m"):

            async def second() -> None:
                async with corral.lock("name", wait="10m"):
                    raise AssertionError("granted")

            waiting = asyncio.create_task(second())
            await eventually_async(lambda: server.client.info("clients")["blocked_clients"], "it waits")
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await eventually_async(lambda: not server.client.info("clients")["blocked_clients"], "it has left")
        async with corral.lock("name"):
            pass
        await corral.close()

    asyncio.run(main())


def test_many_coroutines_wait_without_stopping_the_others(server: Server) -> None:
    """The connections that wait are not those of the other commands."""

    async def main() -> None:
        corral = corral_asyncio.Corral.from_url(server.url)
        order: list[int] = []

        async def work(number: int) -> None:
            async with corral.lock("name", ttl="1m", wait="10m"):
                order.append(number)

        async with corral.lock("name", ttl="1m"):
            tasks = [asyncio.create_task(work(number)) for number in range(120)]
            await eventually_async(lambda: server.client.info("clients")["blocked_clients"] == 120, "all wait")
            async with asyncio.timeout(30):
                assert await corral.cache.get_or_load("key", lambda: 1, ttl=60) == 1
        await asyncio.gather(*tasks)
        assert sorted(order) == list(range(120))
        await corral.close()

    asyncio.run(main())
