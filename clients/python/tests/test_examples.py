"""The programs of examples/python, started as their first lines say, and the code of the README."""

from __future__ import annotations

import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, Server, eventually
from corral_client import Corral
from corral_client.pytest_plugin import free_port
from programs import EXAMPLES, PACKAGE, Programs


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


class _MailServer(socketserver.StreamRequestHandler):
    """As much of SMTP as a client that sends a mail needs."""

    mails: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline().upper():
            if line.startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                self.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
            self.wfile.write(b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 OK\r\n")


def test_a_plain_worker(server: Server, tmp_path: Path) -> None:
    port, _MailServer.mails = free_port(), []
    programs = Programs(server, tmp_path, SMTP_PORT=str(port), SMTP_HOST="127.0.0.1")
    try:
        worker = programs.worker("mailer:worker")
        programs.run("-m", "corral_client.cli", "publish", "mail", "welcome", '{"to": "ann@example.org"}')
        eventually(lambda: server.client.zcard("delayed:{mail}") == 1, "it comes back, for the mail server is away")
        ((member, due),) = server.client.zrange("delayed:{mail}", 0, -1, withscores=True)
        assert 0 < due / 1000 - time.time() < 31
        with socketserver.ThreadingTCPServer(("127.0.0.1", port), _MailServer) as mails:
            threading.Thread(target=mails.serve_forever, daemon=True).start()
            server.client.zadd("delayed:{mail}", {member: 1})
            eventually(lambda: _MailServer.mails, "it is sent")
            eventually(lambda: not server.client.xlen("mail"), "it is acknowledged")
            mails.shutdown()
        assert len(_MailServer.mails) == 1 and "Welcome" in _MailServer.mails[0]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=PATIENCE_S) == 0
    finally:
        programs.stop()


def test_the_shop(programs: Programs) -> None:
    port = free_port()
    programs.start("-m", "uvicorn", "shop:app", "--port", str(port))
    eventually(lambda: ask(port, "/") == {"mails": 0}, "the page answers")
    task = ask(port, "/customers/ann@example.org", "POST")
    assert task == ask(port, "/customers/ann@example.org", "POST")
    ask(port, "/passwords/ann@example.org", "POST")
    assert ask(port, "/carts/ann@example.org/tea", "POST") == ask(port, "/carts/ann@example.org/milk", "POST")
    worker = programs.start("-m", "corral_client.cli", "worker", "shop:worker", "--processes", "2")
    sent = "SELECT text FROM outbox ORDER BY text"
    eventually(lambda: programs.rows(sent) == [("Welcome",), ("Your new password",)], "the mails are sent")
    # The reminder about the last item, and the next report.
    with Corral.from_url(programs.server.url) as corral:
        eventually(lambda: corral.queue("{shop}:mail").info()["delayed"] == 2, "two tasks wait")
    eventually(lambda: ask(port, "/") == {"mails": 2}, "the cached number is loaded again")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=PATIENCE_S) == 0


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


def test_uvicorn_stops_while_tasks_run(programs: Programs) -> None:
    """Those that run are finished, the others are left to the next process, and none is left with this one."""
    port = free_port()
    web = programs.start("-m", "uvicorn", "web:app", "--port", str(port))
    eventually(lambda: ask(port, "/thumbnails") == [], "the web server answers")
    with Corral.from_url(programs.server.url) as corral:
        queue = corral.queue("thumbnails")
        for number in range(500):
            queue.publish("thumbnail", {"article_id": number})
        eventually(lambda: ask(port, "/thumbnails"), "tasks run")
        web.send_signal(signal.SIGTERM)
        assert web.wait(timeout=PATIENCE_S) in (0, -signal.SIGTERM)
        info = queue.info()
        assert 0 < info["length"] < 500 and info["delayed"] == info["dead"] == 0
        assert programs.server.client.xpending("thumbnails", "workers")["pending"] == 0
        # What was given back was no try.
        assert all(fields[b"retry_count"] == b"0" for _, fields in programs.server.client.xrange("thumbnails"))


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
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    done = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=PATIENCE_S * 2)
    assert done.returncode == 0, done.stdout
    assert re.search(r"5 passed", done.stdout)


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
