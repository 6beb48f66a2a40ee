"""Servers and pools that fork after the program has used its Corral."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, Server, eventually
from corral_client.pytest_plugin import free_port

PACKAGE = Path(__file__).parents[1]

SITE = """
import json, os
from corral_client import Corral, Task

corral = Corral.from_url(os.environ["CORRAL_URL"], redis_timeout=60)
queue = corral.queue("work")

@queue.task()
def work(task: Task, pid: int) -> None: ...

@corral.cached("number", ttl="1h")
def number() -> int:
    return os.getpid()

parent = number()

def app(environ, start_response):
    with corral.lock("child", wait="60s") as mine:
        work.publish(pid=os.getpid())
        body = {"pid": os.getpid(), "number": number(), "fence": mine.fence, "parent": parent}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]
"""

PRELOADED = """
from site_ import app, corral

# Before the fork: the parent has connections, and a lock that its thread renews.
lease = corral.lock("parent", ttl="10s").__enter__()
"""

POOL = """
import multiprocessing, os, sys
import site_

def call(index):
    with site_.corral.lock("child", wait="60s"):
        site_.work.publish(pid=os.getpid())
    return site_.number()

if __name__ == "__main__":
    with site_.corral.lock("parent", ttl="10s"), multiprocessing.get_context(sys.argv[1]).Pool(3) as pool:
        numbers = set(pool.map(call, range(30), chunksize=1))
    assert numbers == {site_.parent}, numbers
"""


def environment(server: Server, directory: Path) -> dict[str, str]:
    (directory / "site_.py").write_text(SITE)
    (directory / "preloaded.py").write_text(PRELOADED)
    (directory / "pool.py").write_text(POOL)
    path = os.pathsep.join([str(PACKAGE), str(directory), os.environ.get("PYTHONPATH", "")])
    return os.environ | {
        "CORRAL_URL": server.url, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(directory),
    }


def test_gunicorn_that_loads_the_program_before_it_forks(server: Server, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "3", "--bind", f"127.0.0.1:{port}", "preloaded:app"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(server, tmp_path), stdout=log, stderr=log)

    def ask() -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S) as reply:
                return json.loads(reply.read())
        except OSError:
            return None

    try:
        replies = [eventually(ask, "it answers")]
        # The workers wait for each other's lock, so the requests reach all of them.
        with ThreadPoolExecutor(12) as pool:
            while len({reply["pid"] for reply in replies}) < 2:
                replies += pool.map(lambda _: ask(), range(24))
        assert {reply["number"] for reply in replies} == {replies[0]["parent"]} == {process.pid}
        assert process.pid not in {reply["pid"] for reply in replies}
        assert len({reply["fence"] for reply in replies}) == len(replies)
        assert server.client.xlen("work") == len(replies)
        assert server.client.exists("lock:{parent}"), "the parent still renews its lock"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_pool_of_processes(server: Server, tmp_path: Path, method: str) -> None:
    done = subprocess.run(
        [sys.executable, "pool.py", method], cwd=tmp_path, env=environment(server, tmp_path), capture_output=True,
        text=True, timeout=PATIENCE_S * 2,
    )
    assert done.returncode == 0, done.stderr
    assert server.client.xlen("work") == 30
