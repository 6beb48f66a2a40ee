"""Workers, in memory and on servers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Backend, Seen, Server, eventually, idle
from corral_client import Corral, Fatal, Later, Task, Worker
from corral_client import asyncio as corral_asyncio


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
