"""Workers, in memory and on servers."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from conftest import Backend, Server, eventually
from corral_client import Corral, Fatal, Later, Task, Worker
from corral_client import asyncio as corral_asyncio


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


def test_tasks_are_run_with_their_arguments_and_acknowledged(backend: Backend) -> None:
    mail, seen = backend.corral.queue("mail"), Seen()

    @mail.task()
    def welcome(task: Task, to: str, copies: int = 1) -> None:
        seen((task.id, task.name, task.queue, task.attempt, to, copies, dict(task.headers)))

    with Worker([mail], concurrency=2):
        one = welcome.publish("ann")
        two = welcome.options(headers={"tenant": "blue"}).publish(to="bob", copies=2)
        eventually(lambda: idle(backend.corral, "mail"), "all done")
    assert sorted(seen.runs) == sorted([
        (one, "welcome", "mail", 1, "ann", 1, {}),
        (two, "welcome", "mail", 1, "bob", 2, {"tenant": "blue"}),
    ])


def test_a_call_that_the_handler_would_not_accept_is_not_published(backend: Backend) -> None:
    mail = backend.corral.queue("mail")

    @mail.task()
    def welcome(task: Task, to: str) -> None: ...

    for call in (lambda: welcome.publish(), lambda: welcome.publish(form="ann"), lambda: welcome.publish("a", "b")):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError, match="serializer="):
        welcome.publish(to=object())
    for options in ({"delay": -1}, {"delay": 1, "at": 2}, {"priority": 10}, {"headers": {"payload": "x"}}, {"expire": 0}):
        with pytest.raises(ValueError):
            welcome.options(**options).publish(to="ann")
    assert idle(backend.corral, "mail")
    assert welcome(None, to="ann") is None  # type: ignore[arg-type]


def test_what_becomes_of_a_task(backend: Backend) -> None:
    work, seen = backend.corral.queue("work"), Seen()
    backend.corral.call("TASK.POLICY", "work", "BACKOFF", 1, 1)

    @work.task(tries=3)
    def fails(task: Task) -> None:
        seen(("fails", task.attempt))
        raise ValueError("broken")

    @work.task()
    def fatal(task: Task) -> None:
        seen("fatal")
        raise Fatal("no such address")

    @work.task()
    def later(task: Task, step: int = 0) -> None:
        seen(("later", task.attempt, step))
        if step < 2:
            task.checkpoint({"step": step + 1})
            raise Later(0)

    @work.task()
    def default(task: Task, **payload: Any) -> None:
        raise AssertionError("its payload does not decode")

    ids = {function.publish(): name for name, function in (("fails", fails), ("fatal", fatal), ("later", later))}
    backend.corral.call("TASK.PUBLISH", "work", "no json")
    with Worker([work], concurrency=3):
        def done() -> bool:
            backend.advance(0.02)
            return idle(backend.corral, "work")
        eventually(done, "all done")
    if backend.fake is not None:
        dead = backend.fake.dead_letters("work")
    else:
        assert backend.server is not None
        dead = [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in backend.server.client.xrange("dead:{work}")]
    assert {ids.get(letter["original_id"], "foreign"): letter["reason"] for letter in dead} == {
        "fails": "ValueError: broken",
        "fatal": "Fatal: no such address",
        "foreign": "the payload does not decode: Expecting value: line 1 column 1 (char 0)",
    }
    assert [run for run in seen.runs if run[0] == "fails"] == [("fails", 1), ("fails", 2), ("fails", 3)]
    assert [run for run in seen.runs if run[0] == "later"] == [("later", 1, 0), ("later", 1, 1), ("later", 1, 2)]


def test_an_unknown_task_is_given_back_and_does_not_count(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    queue, other = backend.corral.queue("work"), Corral(backend.corral._hubs.driver).queue("work")

    @other.task()
    def unknown(task: Task) -> None: ...

    @queue.task()
    def known(task: Task) -> None: ...

    unknown.publish()
    worker = Worker([queue])
    with worker:
        eventually(lambda: worker.health()["unknown"] == 1, "it is noticed")
        eventually(lambda: queue.info()["delayed"] == 1, "it is given back")
    assert "is unknown" in caplog.text


def test_handlers_may_be_coroutines_beside_plain_ones(backend: Backend) -> None:
    queue, seen = backend.corral.queue("work"), Seen()

    @queue.task()
    async def one(task: Task) -> None:
        await asyncio.sleep(0.01)
        seen("one")

    @queue.task()
    def two(task: Task) -> None:
        seen("two")

    with Worker([queue], concurrency=2):
        one.publish()
        two.publish()
        eventually(lambda: idle(backend.corral, "work"), "all done")
    assert sorted(seen.runs) == ["one", "two"]


def test_middleware_is_called_from_the_first_inwards(backend: Backend) -> None:
    queue, seen = backend.corral.queue("work"), Seen()

    @queue.task()
    def plain(task: Task) -> None:
        seen("plain")

    @queue.task()
    async def coroutine(task: Task) -> None:
        seen("coroutine")

    worker = Worker([queue], concurrency=1)

    @worker.middleware
    def first(task: Task, call: Any) -> Any:
        seen(f"first {task.name}")
        return call()

    @worker.middleware
    def second(task: Task, call: Any) -> Any:
        seen("second")
        try:
            return call()
        finally:
            seen("after")

    @worker.middleware
    async def around_coroutines(task: Task, call: Any) -> Any:
        seen("around")
        return await call()

    with worker:
        plain.publish()
        eventually(lambda: idle(backend.corral, "work"), "all done")
        coroutine.publish()
        eventually(lambda: idle(backend.corral, "work"), "all done")
    assert seen.runs == ["first plain", "second", "plain", "after", "around", "coroutine"]


def test_a_worker_on_asyncio_runs_handlers_on_its_loop(backend: Backend) -> None:
    async def main() -> None:
        queue = backend.asyncio.queue("work")
        loop, seen = asyncio.get_running_loop(), Seen()

        @queue.task()
        async def work(task: Task, number: int) -> None:
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0.001)
            seen(number)

        worker = corral_asyncio.Worker([queue], concurrency=50)
        async with worker:
            ids = await queue.publish_many([work.message(number=number) for number in range(200)])
            assert len(set(ids)) == 200
            async with asyncio.timeout(60):
                while worker.health()["acked"] < 200:
                    await asyncio.sleep(0.01)
        assert sorted(seen.runs) == list(range(200))
        await backend.asyncio.close()

    asyncio.run(main())


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


def test_a_backlog_is_spread_over_the_workers(server: Server) -> None:
    """Within a factor of two, for workers on event loops, which fetch several tasks at a time."""

    async def main() -> None:
        corrals = [corral_asyncio.Corral.from_url(server.url) for _ in range(4)]
        counts = [0] * 4
        workers = []
        for index, corral in enumerate(corrals):
            queue = corral.queue("work")

            @queue.task(name="work")
            async def work(task: Task, index: int = index) -> None:
                counts[index] += 1
                await asyncio.sleep(0.2)

            workers.append(corral_asyncio.Worker([queue], concurrency=50))
        await asyncio.gather(*(worker.start() for worker in workers))
        while (await queue.info())["waiting_consumers"] < 4:
            await asyncio.sleep(0.01)
        await queue.publish_many([work.message() for _ in range(50)])
        async with asyncio.timeout(60):
            while sum(worker.health()["acked"] for worker in workers) < 50:
                await asyncio.sleep(0.01)
        await asyncio.gather(*(worker.stop() for worker in workers))
        assert sum(counts) == 50 and max(counts) <= 30, counts

    asyncio.run(main())


def test_a_lease_is_renewed_while_a_handler_runs(server: Server, corral: Corral) -> None:
    queue, seen = corral.queue("work"), Seen()
    corral.call("TASK.POLICY", "work", "LEASE", 300)

    @queue.task()
    def slow(task: Task) -> None:
        time.sleep(1.2)
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
    corral.call("TASK.POLICY", "work", "LEASE", 600)

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
        await corral.call("TASK.POLICY", "work", "LEASE", 400)
        queue, attempts = corral.queue("work"), []

        @queue.task()
        async def blocks(task: Task) -> None:
            attempts.append(task.attempt)
            time.sleep(1.5)

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


def test_a_worker_warns_of_other_groups(server: Server, corral: Corral, caplog: pytest.LogCaptureFixture) -> None:
    queue = corral.queue("work")

    @queue.task()
    def work(task: Task) -> None: ...

    server.client.xgroup_create("work", "audit", mkstream=True)
    with Worker([queue]):
        pass
    assert "audit" in caplog.text


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"batch": 0}, {"shutdown_timeout": -1}])
def test_what_is_no_option_of_a_worker(corral: Corral, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Worker([corral.queue("work")], **options)
    with pytest.raises(TypeError):
        Worker(["work"])  # type: ignore[list-item]
    with pytest.raises(ValueError):
        Worker([corral.queue("work"), corral.queue("work")])


def test_definitions_are_checked(corral: Corral) -> None:
    queue = corral.queue("definitions")
    with pytest.raises(TypeError, match="first argument"):
        queue.task()(lambda: None)  # type: ignore[misc,arg-type]
    with pytest.raises(ValueError):
        queue.task(tries=0)(lambda task: None)
    with pytest.raises(ValueError):
        queue.cron("* * *")

    @queue.task()
    def twice(task: Task) -> None: ...

    with pytest.raises(ValueError, match="already"):
        @queue.task(name="twice")
        def another(task: Task) -> None: ...
