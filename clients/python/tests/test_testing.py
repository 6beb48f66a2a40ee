"""What users test with: the server in memory, the fixtures, and traces."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import MODULE, Backend, eventually, idle
from corral_client import Corral, ServerUnreachable, Task, Worker
from corral_client import asyncio as corral_asyncio
from corral_client.testing import memory, on_server

PACKAGE = Path(__file__).parents[1]


def test_a_corral_of_the_application_gets_its_server_back() -> None:
    corral = Corral.from_url("redis://127.0.0.1:1")
    with memory(corral) as fake:
        assert corral.cache.get_or_load("key", lambda: 1, ttl=60) == 1
        assert fake.corral is corral
    with pytest.raises(ServerUnreachable):
        corral.cache.get_or_load("key", lambda: 1, ttl=60, fail_open=False)


def test_the_clock_stands_still_until_it_is_moved() -> None:
    with memory() as fake:
        before = fake.now
        fake.corral.cache.set("key", 1, ttl="1h")
        fake.advance("59m")
        assert fake.corral.cache.get("key") == 1
        fake.advance(61)
        assert fake.corral.cache.get("key") is None
        assert fake.now - before == timedelta(minutes=59, seconds=61)


def test_run_runs_what_is_due_and_what_that_publishes() -> None:
    with memory() as fake:
        queue = fake.corral.queue("work")

        @queue.task()
        def first(task: Task, left: int) -> None:
            if left:
                first.publish(left=left - 1)

        @queue.task()
        async def other(task: Task) -> None:
            await asyncio.sleep(0)

        first.publish(left=2)
        other.options(delay="1h").publish()
        assert [run.task for run in fake.run()] == ["first"] * 3
        assert len(fake.tasks("work")) == 1
        fake.advance("1h")
        assert [run.task for run in fake.run()] == ["other"]


def test_a_corral_of_the_application_uses_another_server_for_a_while(server: Server) -> None:
    with memory() as fake:
        corral = fake.corral
        assert corral.cache.get_or_load("key", lambda: 1, ttl=60) == 1
        with on_server(corral, server.url):
            assert corral.cache.get_or_load("key", lambda: 2, ttl=60) == 2
            assert server.client.get("key") == b"2"
        assert corral.cache.get_or_load("key", lambda: 3, ttl=60) == 1


def test_run_on_an_event_loop() -> None:
    async def main() -> None:
        corral = corral_asyncio.Corral.from_url("redis://127.0.0.1:1")
        with memory(corral) as fake:
            queue, seen = corral.queue("work"), []

            @queue.task()
            async def work(task: Task) -> None:
                seen.append(task.id)

            id = await work.publish()
            assert [run.id for run in await fake.run_async()] == [id] == seen

    asyncio.run(main())


def test_an_outage_of_the_server_in_memory() -> None:
    with memory() as fake:
        fake.away()
        with pytest.raises(ConnectionError):
            fake.corral.queue("work").publish("welcome")
        fake.away(False)
        assert fake.corral.queue("work").publish("welcome")


def test_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(
        "import redis\n"
        "from corral_client import Corral\n"
        "def test_memory(corral_memory):\n"
        "    assert corral_memory.corral.cache.get_or_load('key', lambda: 1, ttl=60) == 1\n"
        "def test_server(corral_server):\n"
        "    with Corral.from_url(corral_server) as corral:\n"
        "        assert corral.cache.get_or_load('key', lambda: 1, ttl=60) == 1\n"
        "    assert redis.Redis.from_url(corral_server).get('key') == b'1'\n"
    )
    path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")} | {"PYTHONPATH": path}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "corral_client.pytest_plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert ("2 passed" if MODULE else "1 passed, 1 skipped") in done.stdout


def test_a_trace_goes_from_the_publisher_to_the_handler(backend: Backend) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    from corral_client import _tasks, otel
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    queue, headers = backend.corral.queue("work"), []

    @queue.task()
    def work(task: Task) -> None:
        headers.append(dict(task.headers))

    worker = Worker([queue])
    otel.instrument(worker, tracer)
    otel.propagate()
    try:
        with worker:
            with tracer.start_as_current_span("request"):
                id = work.publish()
            eventually(lambda: idle(backend.corral, "work"), "done")
    finally:
        _tasks.trace_headers.clear()
    spans: dict[str, Any] = {span.name: span for span in exporter.get_finished_spans()}
    request, process = spans["request"].context, spans["process work"]
    assert [link.context.trace_id for link in process.links] == [request.trace_id]
    assert process.attributes["messaging.message.id"] == id
    assert headers[0]["traceparent"].split("-")[1] == f"{request.trace_id:032x}"
