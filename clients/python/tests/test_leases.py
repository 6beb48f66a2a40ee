"""What a worker does under strain: leases, stalls, lost connections, restarts."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from conftest import Seen, Server, eventually, idle
from corral_client import Corral, Later, Task, Worker
from corral_client import asyncio as corral_asyncio


def test_no_more_tasks_are_fetched_than_start_at_once(server: Server, corral: Corral) -> None:
    queue, go = corral.queue("work"), threading.Event()

    @queue.task()
    def work(task: Task) -> None:
        assert go.wait(60)

    queue.publish_many([work.message() for _ in range(20)])
    workers = [Worker([queue], concurrency=3) for _ in range(2)]
    for worker in workers:
        worker.start()
    eventually(lambda: all(worker.health()["running"] == 3 for worker in workers), "all places are taken")
    assert queue.info()["groups"][0]["leased"] == 6
    go.set()
    eventually(lambda: idle(corral, "work"), "all done")
    for worker in workers:
        worker.stop()


def test_a_worker_asks_for_a_part_of_its_places_at_a_time(corral: Corral) -> None:
    """So that a backlog is spread over several workers: scripts/python.sh bars measures it."""

    def size(concurrency: int, coroutine: bool, batch: int | None = None) -> int:
        queue = Corral(corral._hubs.driver).queue("work")

        async def on_a_loop(task: Task) -> None: ...

        def in_a_thread(task: Task) -> None: ...

        queue.task(name="work")(on_a_loop if coroutine else in_a_thread)
        return corral_asyncio.Worker([queue], concurrency=concurrency, batch=batch)._batch_size()

    assert [size(concurrency, True) for concurrency in (1, 8, 50, 1000)] == [1, 2, 12, 16]
    assert [size(concurrency, False) for concurrency in (1, 8, 50)] == [1, 1, 1]
    assert size(8, False, batch=3) == 3


def test_a_task_that_is_back_before_the_reply_of_its_nack_runs_at_once(
    server: Server, corral: Corral, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, seen = corral.queue("work"), Seen()

    @queue.task()
    def twice(task: Task) -> None:
        seen(task.id)
        if len(seen.runs) == 1:
            raise Later(0)

    worker = Worker([queue], concurrency=2)
    with worker:
        assert worker._engine is not None
        hub = worker._engine.finisher._hub
        run = hub.run

        def reply_late(commands: list[list[Any]], **options: Any) -> list[Any]:
            replies = run(commands, **options)
            if commands[0][0] == "TASK.NACK":
                eventually(lambda: len(seen.runs) == 2, "it runs again")
            return replies

        monkeypatch.setattr(hub, "run", reply_late)
        id = twice.publish()
        eventually(lambda: idle(corral, "work"), "done")
    assert seen.runs == [id, id]


def test_a_lease_is_renewed_while_a_handler_runs(server: Server, corral: Corral) -> None:
    queue, seen = corral.queue("work"), Seen()
    corral.call("TASK.POLICY", "work", "LEASE", 1500)

    @queue.task()
    def slow(task: Task) -> None:
        time.sleep(4)
        seen((task.attempt, task.lost))

    slow.publish()
    with Worker([queue]), Worker([queue]):
        eventually(lambda: idle(corral, "work"), "done")
    assert seen.runs == [(1, False)]


def test_a_worker_that_gets_its_own_task_again_does_not_start_it_again(server: Server, corral: Corral) -> None:
    """As after a stall that was longer than the lease."""
    queue, seen, go = corral.queue("work"), Seen(), threading.Event()

    @queue.task()
    def slow(task: Task) -> None:
        seen(task.attempt)
        assert go.wait(60)
        assert not task.lost

    corral.call("TASK.POLICY", "work", "LEASE", 300)
    slow.publish()
    worker = Worker([queue], concurrency=2)
    with worker:
        engine = worker._engine
        assert engine is not None
        engine.heartbeat._round = lambda: None  # type: ignore[method-assign]
        eventually(lambda: seen.runs, "it runs")
        eventually(
            lambda: server.client.xpending_range("work", "workers", "-", "+", 1)[0]["times_delivered"] > 1,
            "it is delivered again",
        )
        go.set()
        eventually(lambda: idle(corral, "work"), "done")
        assert worker.health()["started"] == 1
    assert seen.runs == [1] and worker.health() == {"ok": False, "running": 0}


def test_a_task_that_another_worker_took_is_lost(server: Server, corral: Corral) -> None:
    queue, seen = corral.queue("work"), Seen()
    corral.call("TASK.POLICY", "work", "LEASE", 3000)

    @queue.task()
    def slow(task: Task) -> None:
        seen("start")
        eventually(lambda: task.lost, "the loss")
        seen("lost")
        task.check()

    id = slow.publish()
    worker = Worker([queue], concurrency=1)
    with worker:
        eventually(lambda: seen.runs, "it runs")
        server.client.execute_command("XCLAIM", "work", "workers", "another", 0, id)
        server.client.execute_command("TASK.POLICY", "work", "PAUSED", 1)
        eventually(lambda: "lost" in seen.runs, "it is noticed")
        eventually(lambda: worker.health()["running"] == 0, "it has ended")
        assert server.client.xpending_range("work", "workers", "-", "+", 1)[0]["consumer"] == b"another"
        assert worker.health()["lost"] == 1


def test_a_coroutine_is_canceled_when_it_runs_too_long_and_is_tried_again(server: Server) -> None:
    async def main() -> None:
        corral = corral_asyncio.Corral.from_url(server.url)
        await corral.call("TASK.POLICY", "work", "BACKOFF", 1, 1)
        queue, attempts = corral.queue("work"), []

        @queue.task(tries=2, max_runtime="200ms")
        async def slow(task: Task) -> None:
            attempts.append(task.attempt)
            await asyncio.sleep(600)

        async with corral_asyncio.Worker([queue]):
            await slow.publish()
            async with asyncio.timeout(60):
                while not (await queue.info())["dead"]:
                    await asyncio.sleep(0.02)
        assert attempts == [1, 2]
        (_, letter), = server.client.xrange("dead:{work}")
        assert letter[b"reason"] == b"TimeoutError: it ran longer than 0.2 s"
        await corral.close()

    asyncio.run(main())


def test_a_blocked_event_loop_keeps_its_leases(server: Server) -> None:
    async def main() -> None:
        corral = corral_asyncio.Corral.from_url(server.url)
        await corral.call("TASK.POLICY", "work", "LEASE", 1500)
        queue, attempts = corral.queue("work"), []

        @queue.task()
        async def blocks(task: Task) -> None:
            attempts.append(task.attempt)
            time.sleep(4)

        async with corral_asyncio.Worker([queue]) as worker:
            await blocks.publish()
            async with asyncio.timeout(60):
                while not worker.health()["acked"]:
                    await asyncio.sleep(0.02)
        assert attempts == [1]
        await corral.close()

    asyncio.run(main())


@pytest.mark.parametrize("which", ["tasks", "all"])
def test_connections_that_are_killed_are_made_anew_and_nothing_runs_twice(
    server: Server, corral: Corral, which: str
) -> None:
    queue, seen = corral.queue("work"), Seen()

    @queue.task()
    def work(task: Task, number: int) -> None:
        time.sleep(0.002)
        seen(number)

    worker = Worker([queue], concurrency=4)
    with worker:
        for number in range(300):
            work.publish(number=number)
            if number % 50 == 25:
                for client in server.clients(user="default"):
                    blocked = "b" in client["flags"]
                    if client["cmd"] != "client|list" and (which == "all" and client["cmd"] != "task.publish" or blocked):
                        server.client.execute_command("CLIENT", "KILL", "ID", client["id"])
        eventually(lambda: idle(corral, "work"), "all done")
    assert sorted(seen.runs) == list(range(300))


def test_a_worker_goes_on_after_a_restart_of_the_server(own_server: Server) -> None:
    corral = Corral.from_url(own_server.url)
    queue, seen = corral.queue("work"), Seen()

    @queue.task()
    def work(task: Task) -> None:
        seen(task.id)

    worker = Worker([queue])
    with worker:
        work.publish()
        eventually(lambda: len(seen.runs) == 1, "the first")
        own_server.kill()
        own_server.restart()
        work.publish()
        eventually(lambda: len(seen.runs) == 2, "the second")
        eventually(lambda: worker.health()["ok"], "healthy")


def test_entries_of_any_content_do_not_stop_a_worker(server: Server, corral: Corral) -> None:
    queue, seen = corral.queue("work"), Seen()

    @queue.cron("0 0 1 1 *")
    def yearly(task: Task) -> None:
        seen("yearly")

    @queue.task()
    def work(task: Task) -> None:
        seen("work")

    @queue.task(name="default")
    def default(task: Task, **payload: Any) -> None:
        seen("default")

    huge = b"9" * 5000
    entries: list[dict[str | bytes, str | bytes]] = [
        {"payload": "{}", "task": "yearly", "cron": huge},
        {"payload": "{}", "task": "yearly", "cron": b"999999999999"},
        {"payload": "{}", "task": "yearly", "cron": b"-1"},
        {"payload": "{}", "task": "work", "retry_count": huge},
        {"payload": b"\xff", "task": b"\xff\x00"},
        {"payload": b"[" * 100_000, "task": "work"},
        {"task": "work", "content-type": b"\xff"},
        {b"\xff": b"\xff"},
        {"payload": "{}", "task": "work", "original_id": b"\xff"},
        {"payload": "{}", "task": "work", "original_id": b""},
        {"payload": '{"to": 1}', "task": "work"},
    ]
    for fields in entries:
        server.client.xadd("work", fields)
    last = work.publish()
    with Worker([queue], concurrency=2):
        eventually(lambda: queue.info()["groups"] and queue.info()["groups"][0]["leased"] == 0, "all are answered")
        eventually(lambda: server.client.xrange("work", last, last) == [], "the last one has run")
    assert server.client.xpending("work", "workers")["pending"] == 0
    assert seen.runs.count("work") >= 3 and "default" not in seen.runs
