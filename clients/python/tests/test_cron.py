"""Schedules, with the clock in memory, and on servers."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

from conftest import Backend, Server, eventually
from corral_client import Corral, Task, Worker, asyncio as corral_asyncio
from corral_client._sync.hub import Hub
from corral_client._worker.timetable import Timetable
from corral_client.testing import memory


def test_each_run_happens_once_and_a_late_one_once() -> None:
    with memory() as fake:
        runs: list[Any] = []
        queue = fake.corral.queue("work")

        @queue.cron("0 2 * * *", tz="Europe/Berlin")
        def nightly(task: Task) -> None:
            runs.append(datetime.fromtimestamp(task.scheduled or 0).timestamp())

        fake.run()
        for _ in range(48):
            fake.advance("1h")
            fake.run()
        assert len(runs) == 2 and runs[1] - runs[0] == 86_400
        fake.advance("5d")
        fake.run()
        assert len(runs) == 3, "all workers were away: once"
        fake.advance("1d")
        fake.run()
        assert len(runs) == 4


def test_a_schedule_of_a_queue_with_another_serializer() -> None:
    """A run has no arguments, so its payload is that of every worker."""

    class Backwards:
        content_type = "text/x-backwards"

        def dumps(self, value: Any) -> bytes:
            return json.dumps(value).encode()[::-1]

        def loads(self, data: bytes) -> Any:
            return json.loads(data[::-1])

    with memory() as fake:
        runs: list[Any] = []
        queue = fake.corral.queue("work", serializer=Backwards())

        @queue.cron("0 2 * * *")
        def nightly(task: Task, **arguments: Any) -> None:
            runs.append(arguments)

        @queue.task()
        def other(task: Task, to: str) -> None:
            runs.append(to)

        other.publish(to="ann")
        fake.run()
        fake.advance("1d")
        fake.run()
        assert runs == ["ann", {}]


def test_a_missed_run_is_skipped_if_that_is_the_rule() -> None:
    with memory() as fake:
        runs: list[Any] = []
        queue = fake.corral.queue("work")

        @queue.cron("0 2 * * *", misfire="skip")
        def nightly(task: Task) -> None:
            runs.append(task.scheduled)

        fake.run()
        fake.advance("3d")
        assert fake.run() == [] and runs == []
        fake.advance(17 * 3600 + 59 * 60)
        while not runs:
            fake.advance("30s")
            fake.run()


def test_a_schedule_that_has_changed_or_gone_is_not_run() -> None:
    with memory() as fake:
        old = Corral(fake.corral._hubs.driver)

        @old.queue("work").cron("0 2 * * *", name="changed")
        def changed(task: Task) -> None: ...

        @old.queue("work").cron("0 2 * * *", name="gone")
        def gone(task: Task) -> None: ...

        Timetable(Hub(fake.corral._hubs.driver), [old.queue("work")]).plan()

        @fake.corral.queue("work").cron("0 3 * * *", name="changed")
        def now(task: Task) -> None: ...

        fake.run()
        fake.advance("1d")
        ran = fake.run()
        assert [run.task for run in ran] == ["changed"]
        assert fake.tasks("work")[0]["cron"] and len(fake.tasks("work")) == 1


def test_many_workers_publish_a_run_once(server: Server) -> None:
    corrals = [Corral.from_url(server.url) for _ in range(5)]
    runs: list[int | None] = []
    for corral in corrals:
        queue = corral.queue("work")

        @queue.cron("* * * * *", name="each_minute")
        def each_minute(task: Task) -> None:
            runs.append(task.scheduled)

        Timetable(Hub(corral._hubs.driver), [queue]).plan()
    assert queue.info()["delayed"] == 1
    assert 0 < queue.info()["next_due_ms"] <= 60_000


def test_a_clock_that_is_wrong_does_not_matter(backend: Backend, monkeypatch: Any) -> None:
    queue = backend.corral.queue("work")

    @queue.cron("0 0 1 1 *")
    def yearly(task: Task) -> None: ...

    real = time.time
    for wrong in (-40_000_000, 40_000_000):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: real() + wrong)
        Timetable(Hub(backend.corral._hubs.driver), [queue]).plan()
    assert queue.info()["delayed"] == 1


def test_a_run_that_is_due_is_delivered_to_a_worker_and_runs_do_not_overlap(backend: Backend) -> None:
    """Two runs that are due at the same time: the second is skipped while the first runs."""
    queue, runs, go = backend.corral.queue("work"), [], []

    @queue.cron("* * * * *", name="each_minute")
    def each_minute(task: Task) -> None:
        runs.append(task.scheduled)
        eventually(lambda: go, "go")

    at = int(backend.fake.server.now_ms / 1000 if backend.fake else time.time()) // 60 * 60
    options = {"headers": {}}
    worker = Worker([queue], concurrency=2)
    with worker:
        for run in (at, at - 60):
            queue.publish("each_minute", {}, at=run, cron=run, **options)
        eventually(lambda: runs, "the first runs")
        eventually(lambda: queue.info()["length"] == 1, "the second is acknowledged")
        go.append(1)
        eventually(lambda: queue.info()["length"] == 0, "done")
    assert runs == [at]
