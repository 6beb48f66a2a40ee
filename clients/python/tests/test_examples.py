"""The programs of examples/python, started as their first lines say."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, Server, eventually
from corral_client.pytest_plugin import free_port

PACKAGE = Path(__file__).parents[1]
EXAMPLES = PACKAGE.parents[1] / "examples" / "python"


class Programs:
    def __init__(self, server: Server, directory: Path) -> None:
        self.server, self.directory = server, directory
        self.database = directory / "shop.db"
        self._running: list[subprocess.Popen[bytes]] = []

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
        more = {"CORRAL_URL": self.server.url, "SHOP_DATABASE": str(self.database), "PYTHONPATH": path}
        return os.environ | more | {"PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with open(self.directory / "log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, *words], env=self.environment(), cwd=EXAMPLES, stdout=log, stderr=log
            )
        self._running.append(process)
        return process

    def worker(self, place: str) -> subprocess.Popen[bytes]:
        return self.start("-m", "corral_client.cli", "worker", place)

    def run(self, *words: str) -> None:
        """In the test's own directory, to its end."""
        with open(self.directory / "log", "ab") as log:
            done = subprocess.run(
                [sys.executable, *words], env=self.environment(), cwd=self.directory, stdout=log, stderr=log, timeout=120
            )
        assert done.returncode == 0, (self.directory / "log").read_text()

    def rows(self, statement: str) -> list[Any]:
        try:
            with sqlite3.connect(self.database, timeout=30) as connection:
                return connection.execute(statement).fetchall()
        except sqlite3.OperationalError:
            return []

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def programs(server: Server, tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(server, tmp_path)
    yield programs
    programs.stop()


def ask(port: int, path: str, method: str = "GET") -> Any:
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def test_the_worker_sends_each_mail_and_survives_kills(programs: Programs) -> None:
    sys.path.insert(0, str(EXAMPLES))
    from corral_client import Corral, Unique

    corral = Corral.from_url(programs.server.url)
    mail, urgent = corral.queue("{shop}:mail"), corral.queue("{shop}:urgent")
    worker = programs.worker("mailer:worker")
    for number in range(60):
        unique = Unique(f"welcome:{number}", "1h")
        for _ in range(2):
            mail.publish("welcome", {"to": f"{number}@example.org"}, unique=unique)
        urgent.publish("reset_password", {"to": f"{number}@example.org"})
        if number % 20 == 10:
            eventually(lambda number=number: len(programs.rows("SELECT * FROM outbox")) > number, "it is at work")
            worker.kill()
            worker.wait()
            worker = programs.worker("mailer:worker")
    urgent.publish("reset_password", {"to": "nobody"})
    # The reminders, and the next report.
    eventually(lambda: not urgent.info()["length"] and not mail.info()["length"] and mail.info()["delayed"] == 61, "all done")
    sent = programs.rows("SELECT text, count(*), count(DISTINCT address) FROM outbox GROUP BY text ORDER BY text")
    assert sent == [("Welcome", 60, 60), ("Your new password", 60, 60)]
    assert urgent.info()["dead"] == 1
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=PATIENCE_S) == 0
    corral.close()


def test_fastapi(programs: Programs) -> None:
    port = free_port()
    web = programs.start("-m", "uvicorn", "web:app", "--port", str(port))
    eventually(lambda: ask(port, "/articles/7") == {"id": 7, "title": "Article 7"}, "the web server answers")
    assert programs.server.client.get("article:7") == b'{"id":7,"title":"Article 7"}'
    assert ask(port, "/articles/5000") is None
    assert programs.server.client.get("article:5000") == b"null"
    assert "-" in ask(port, "/articles/7", "POST")["task"]
    eventually(lambda: ask(port, "/thumbnails") == ["7.png"], "the task has run")
    web.send_signal(signal.SIGTERM)
    began = time.monotonic()
    web.wait(timeout=PATIENCE_S)
    assert time.monotonic() - began < 1 + 10
    eventually(lambda: programs.server.client.info("clients")["blocked_clients"] == 0, "nothing waits")


def test_django(programs: Programs) -> None:
    port = free_port()
    programs.start("orders.py", "runserver", "--noreload", str(port))
    programs.worker("orders:worker")
    eventually(lambda: ask(port, "/create/1") == {"order": 1}, "the web server answers")
    assert ask(port, "/create/2?fail=1") == 500
    eventually(lambda: ask(port, "/show/1") == {"state": [["confirmed"]]}, "the task has run")
    assert ask(port, "/show/2") == {"state": []}
    assert programs.server.client.exists("unique6:{orders}:confirm:1")
    assert not programs.server.client.exists("unique6:{orders}:confirm:2")


def test_the_tests_of_the_example_pass(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mailer.py"]
    done = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=PATIENCE_S * 2)
    assert done.returncode == 0, done.stdout
    assert re.search(r"4 passed", done.stdout)


def test_the_examples_are_short_and_without_plumbing() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 80


def test_the_code_of_the_readme_runs(programs: Programs) -> None:
    """Each block is a file."""
    text = (PACKAGE / "README.md").read_text()
    blocks = re.findall(r"^```python (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(re.findall(r"^```python", text, re.MULTILINE)) == 3
    for name, block in blocks:
        (programs.directory / name).write_text(block.replace("redis://localhost:6379", programs.server.url))
    log = programs.directory / "log"
    programs.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py")
    programs.run("-u", "web.py")
    assert "Article 7\nthumbnail of 7\n" in log.read_text()
    with open(log, "ab") as file:
        worker = subprocess.Popen(
            [sys.executable, "-um", "corral_client.cli", "worker", "shop:worker"],
            env=programs.environment(), cwd=programs.directory, stdout=file, stderr=file,
        )
    try:
        programs.run("-c", "import shop; shop.sign_up(7)")
        eventually(lambda: "welcome, ann" in log.read_text(), "the task has run")
    finally:
        worker.kill()
        worker.wait()
