"""Workers as processes: how they end, what a kill costs, forks, and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, Server, eventually
from corral_client import Corral
from corral_client.pytest_plugin import free_port

HERE = Path(__file__).parent
KINDS = ["worker", "aworker"]
#: Beyond what the rules allow: what a busy machine may add.
SLACK_S = 10.0


class App:
    """Starts processes of tests/app.py, and reads what their handlers noted."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server, self.runs_file = server, directory / "runs"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log = directory / "log"

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
        return os.environ | {"CORRAL_URL": self.server.url, "RUNS": str(self.runs_file), "PYTHONPATH": path} | more

    def start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "corral_client.cli", "worker", f"app:{name}", *arguments]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(command, env=self.environment(**environment), cwd=HERE, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "corral_client.cli", *arguments]
        return subprocess.run(command, env=self.environment(), cwd=HERE, capture_output=True, text=True, timeout=PATIENCE_S)

    def runs(self) -> list[str]:
        return self.runs_file.read_text().splitlines() if self.runs_file.exists() else []

    def workers(self) -> list[dict[str, str]]:
        """The connections that wait for tasks."""
        return [client for client in self.server.clients() if "task.consume" in client["cmd"]]

    def await_waiting(self, count: int = 1) -> None:
        eventually(lambda: self.server.client.info("clients")["blocked_clients"] >= count, "the worker waits")

    def pending(self) -> int:
        try:
            return int(self.server.client.xpending("work", "workers")["pending"])
        except Exception:
            return 0


@pytest.fixture
def app(server: Server, tmp_path: Path) -> Iterator[App]:
    app = App(server, tmp_path)
    yield app
    for process in app.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def ended(process: subprocess.Popen[bytes], within: float) -> float:
    began = time.monotonic()
    code = process.wait(timeout=PATIENCE_S)
    took = time.monotonic() - began
    assert code == 0
    assert took < within + SLACK_S
    return took


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", KINDS)
def test_an_idle_worker_ends_by_itself_after_a_signal(app: App, kind: str, number: signal.Signals) -> None:
    process = app.start(kind)
    app.await_waiting()
    process.send_signal(number)
    ended(process, 1)
    assert app.pending() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_finishes_its_tasks_and_takes_no_more(app: App, kind: str) -> None:
    queue = Corral.from_url(app.server.url).queue("work")
    process = app.start(kind, CONCURRENCY="2")
    app.await_waiting()
    for _ in range(6):
        queue.publish("slow", {"seconds": 1})
    eventually(lambda: len(app.runs()) == 2, "two have started")
    process.send_signal(signal.SIGTERM)
    ended(process, 2)
    assert sorted(app.runs()) == ["end 1"] * 2 + ["start 1"] * 2
    assert app.pending() == 0 and queue.info()["length"] == 4


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_end_in_time_is_given_back_and_not_counted(app: App, kind: str) -> None:
    queue = Corral.from_url(app.server.url).queue("work")
    process = app.start(kind, SHUTDOWN_TIMEOUT="0.3")
    app.await_waiting()
    queue.publish("slow", {"seconds": 600})
    eventually(app.runs, "it has started")
    process.send_signal(signal.SIGTERM)
    ended(process, 0.3 + 2 + 1)
    assert app.runs() == (["start 1"] if kind == "worker" else ["start 1", "canceled"])
    assert app.pending() == 0 and queue.info()["length"] == 1
    second = app.start(kind, SHUTDOWN_TIMEOUT="0")
    eventually(lambda: app.runs()[-1] == "start 1" and len(app.runs()) > 1 + (kind == "aworker"), "again, as the first try")
    second.send_signal(signal.SIGTERM)
    ended(second, 2 + 1)


def test_a_second_signal_does_not_wait(app: App) -> None:
    queue = Corral.from_url(app.server.url).queue("work")
    process = app.start("worker")
    app.await_waiting()
    queue.publish("slow", {"seconds": 600})
    eventually(app.runs, "it has started")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    ended(process, 1)
    assert app.pending() == 0 and queue.info()["length"] == 1


def test_a_handler_sees_that_the_worker_stops(app: App) -> None:
    queue = Corral.from_url(app.server.url).queue("work")
    process = app.start("worker")
    app.await_waiting()
    queue.publish("polite")
    eventually(app.runs, "it has started")
    process.send_signal(signal.SIGTERM)
    ended(process, 1)
    assert app.runs() == ["start", "later"] and queue.info()["length"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_repeats_few_tasks_and_loses_none(app: App, kind: str) -> None:
    corral = Corral.from_url(app.server.url)
    queue, count, concurrency = corral.queue("work"), 3000, 8
    corral.call("TASK.POLICY", "work", "LEASE", 10_000)
    for start in range(0, count, 500):
        with_numbers(queue, range(start, start + 500))
    first = app.start(kind, CONCURRENCY=str(concurrency))
    eventually(lambda: len(app.runs()) > 500, "it is at work")
    first.kill()
    first.wait()
    app.start(kind, CONCURRENCY=str(concurrency))
    eventually(lambda: queue.info()["length"] == 0, "all done")
    runs = [int(run) for run in app.runs()]
    assert set(runs) == set(range(count))
    assert len(runs) - count <= 64 + concurrency


def with_numbers(queue: Any, numbers: range) -> None:
    from corral_client import Task

    if "quick" not in queue._definitions:
        @queue.task(name="quick")
        def quick(task: Task, number: int) -> None: ...

        queue.quick = quick
    queue.publish_many([queue.quick.message(number=number) for number in numbers])


def test_a_killed_worker_gives_its_task_back_at_once(app: App) -> None:
    """TIED: not after the lease of five minutes."""
    corral = Corral.from_url(app.server.url)
    first = app.start("worker")
    app.await_waiting()
    corral.queue("work").publish("slow", {"seconds": 3})
    eventually(app.runs, "it has started")
    app.start("worker")
    app.await_waiting()
    first.kill()
    eventually(lambda: app.runs()[-1:] == ["end 2"], "another worker has done it")
    assert app.runs() == ["start 1", "start 2", "end 2"]


def test_a_stopped_process_does_not_run_its_own_task_twice(app: App) -> None:
    """As a machine that is suspended: the lease expires, and the waiting request of the same process gets the task."""
    corral = Corral.from_url(app.server.url)
    corral.call("TASK.POLICY", "work", "LEASE", 1500)
    process = app.start("worker", CONCURRENCY="2")
    app.await_waiting()
    corral.queue("work").publish("slow", {"seconds": 6})
    eventually(app.runs, "it has started")
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    eventually(lambda: corral.queue("work").info()["length"] == 0, "done")
    assert app.runs() == ["start 1", "end 1"]


def test_a_forked_child_holds_no_connection_of_its_parent(app: App) -> None:
    """With fork in the middle of everything: a cache, a lock and a worker in use."""
    program = """
import os, sys, time, threading
sys.path.insert(0, ".")
from app import corral, queue, worker, note
from corral_client import Task
with worker, corral.lock("held", ttl="10m") as lease:
    corral.cache.get_or_load("key", lambda: 1, ttl=60)
    before = set(os.listdir("/proc/self/fd"))
    child = os.fork()
    if child == 0:
        sockets = [os.readlink(f"/proc/self/fd/{fd}") for fd in before if os.path.exists(f"/proc/self/fd/{fd}")]
        assert not any(name.startswith("socket:") for name in sockets), sockets
        assert corral.cache.get_or_load("key", lambda: 2, ttl=60) == 1
        with corral.lock("other", ttl="10m"):
            pass
        queue.publish("quick", {"number": 7})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    end = time.monotonic() + 60
    while not os.path.exists(os.environ["RUNS"]):
        assert time.monotonic() < end
        time.sleep(0.01)
    lease.check()
"""
    done = subprocess.run([sys.executable, "-c", program], env=app.environment(), cwd=HERE, timeout=PATIENCE_S * 2)
    assert done.returncode == 0 and app.runs() == ["7"]


def test_a_forked_child_of_a_program_on_asyncio_holds_no_connection(app: App) -> None:
    program = """
import asyncio, os, sys
sys.path.insert(0, ".")
from app import aqueue
from corral_client import asyncio as corral_asyncio
corral = corral_asyncio.Corral.from_url(os.environ["CORRAL_URL"])
def mine():
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    return sum(name.startswith("socket:") for name in names)
async def get(value):
    return await corral.cache.get_or_load("key", lambda: value, ttl=60)
async def main():
    async with corral.lock("held", ttl="10m") as lease:
        before = mine()
        assert await get(1) == 1
        child = os.fork()
        if child == 0:
            # What is left is the loop's own pair.
            assert mine() == 2, mine()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        lease.check()
        assert await get(2) == 1
    await corral.close()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], env=app.environment(), cwd=HERE, timeout=PATIENCE_S)
    assert done.returncode == 0


def test_signals_are_as_before_after_run_and_untouched_by_with(app: App) -> None:
    program = """
import os, signal, sys, threading, time
sys.path.insert(0, ".")
from app import worker
def mine(number, frame): pass
# A shell that starts a program in the background has it ignore SIGINT.
interrupt = signal.getsignal(signal.SIGINT)
signal.signal(signal.SIGTERM, mine)
with worker:
    assert signal.getsignal(signal.SIGTERM) is mine
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
worker.run()
assert signal.getsignal(signal.SIGTERM) is mine and signal.getsignal(signal.SIGINT) is interrupt
assert not [thread for thread in threading.enumerate() if "tasks" in thread.name]
"""
    done = subprocess.run([sys.executable, "-c", program], env=app.environment(), cwd=HERE, timeout=PATIENCE_S)
    assert done.returncode == 0


def get(port: int) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except OSError:
        return 0, None


def test_several_processes_are_started_again_and_end_together(app: App) -> None:
    port = free_port()
    parent = app.start("worker", "--processes", "2", "--concurrency", "1", "--health", f"127.0.0.1:{port}")
    app.await_waiting(2)
    status, state = eventually(lambda: ok(lambda: get(port)), "healthy")
    assert status == 200 and len(state["processes"]) == 2
    victim = state["processes"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: any_other(get(port), victim), "another process took its place")
    parent.send_signal(signal.SIGTERM)
    ended(parent, 1)
    eventually(lambda: not app.workers(), "no worker is left")


def test_a_stop_while_the_processes_still_start_is_no_failure(app: App) -> None:
    port = free_port()
    parent = app.start("worker", "--processes", "2", "--health", f"127.0.0.1:{port}")
    eventually(lambda: get(port)[0], "the children were started")
    parent.send_signal(signal.SIGTERM)
    ended(parent, 1)


def ok(ask: Callable[[], tuple[int, Any]]) -> Any:
    reply = ask()
    return reply if reply[0] == 200 else None


def any_other(reply: tuple[int, Any], victim: int) -> bool:
    return reply[0] == 200 and all(process["pid"] != victim for process in reply[1]["processes"])


def test_children_end_when_their_parent_is_killed(app: App) -> None:
    parent = app.start("worker", "--processes", "2")
    app.await_waiting(2)
    parent.kill()
    parent.wait()
    eventually(lambda: app.server.client.info("clients")["blocked_clients"] == 0, "the children have ended")


def test_the_health_of_one_process(app: App) -> None:
    port = free_port()
    process = app.start("worker", "--health", f"127.0.0.1:{port}")
    app.await_waiting()
    status, state = eventually(lambda: ok(lambda: get(port)), "healthy")
    assert state["running"] == 0 and state["free"] == 4
    process.send_signal(signal.SIGTERM)
    ended(process, 1)


def test_the_command_line(app: App) -> None:
    url = ("--url", app.server.url)
    id = app.cli(*url, "publish", "work", "quick", '{"number": 1}').stdout.strip()
    assert "-" in id
    assert json.loads(app.cli(*url, "state", "work").stdout)["length"] == 1
    assert app.cli(*url, "state", "work", id).returncode == 0
    assert app.cli(*url, "state", "work", "1-1").returncode == 1
    assert app.cli(*url, "redrive", "work").stdout.strip() == "0"
    doctor = app.cli(*url, "doctor", "work")
    assert doctor.returncode == 1 and "1 tasks are ready and no worker takes them" in doctor.stdout
    for wrong in (("publish", "work", "quick", "[1]"), ("worker", "app"), ("worker", "app:queue"), ("worker", "nowhere:x")):
        failed = app.cli(*url, *wrong)
        assert failed.returncode == 1 and failed.stderr.startswith("corral: ")
    away = app.cli("--url", f"redis://127.0.0.1:{free_port()}", "doctor")
    assert away.returncode == 1 and "Traceback" not in away.stderr + away.stdout


def test_a_server_without_the_module_is_named(tmp_path: Path, server: Server) -> None:
    from corral_client import ModuleMissing

    port = free_port()
    process = subprocess.Popen(
        [server.program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        corral = Corral.from_url(f"redis://127.0.0.1:{port}")

        def ask() -> bool:
            try:
                corral.queue("work").publish("x")
            except ModuleMissing:
                return True
            except ConnectionError:
                return False
            raise AssertionError("published")

        eventually(ask, "the error")
        with pytest.raises(ModuleMissing, match=r"libcorral.so.*127.0.0.1"):
            corral.cache.get_or_load("key", lambda: 1, ttl=60)
    finally:
        process.kill()
        process.wait()
