"""The shop of examples/python, while its workers and its server are killed again and again.

It takes CORRAL_KILLS_S seconds (default 15), and prints what it has counted: `pytest -s`.
"""

from __future__ import annotations

import importlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, SERVERS, Server, eventually
from conftest import _name as name_of
from corral_client import CorralError
from corral_client.testing import on_server
from programs import EXAMPLES, Programs

SECONDS = float(os.environ.get("CORRAL_KILLS_S", "15"))
#: An acknowledged write survives a kill of the server.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
#: Reminders wait for a second, so there always are some.
BACKLOG = 300
ITEMS = ("tea", "milk", "bread")


@pytest.fixture(params=SERVERS, ids=name_of)
def durable_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param, options=DURABLE).start()
    yield server
    server.remove()


@pytest.fixture
def shop(durable_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, as the web page uses it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("SHOP_DELAY", "1s")
    shop = importlib.import_module("shop")
    with on_server(shop.corral, durable_server.url):
        yield shop
    del sys.modules["shop"]


class Customers:
    """Visit the shop, several at a time. A call that fails is repeated, as a customer would do."""

    def __init__(self, shop: Any, at_a_time: int = 4) -> None:
        self._shop, self._stop, self._numbers = shop, threading.Event(), itertools.count()
        self.failures = 0
        #: Reminders whose publish was repeated, or may have been by the package: the server was away.
        self.repeated: set[tuple[str, str]] = set()
        self.last: dict[str, str] = {}
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(at_a_time)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while not self._stop.wait(0.01):
            # No more than the workers can do: the urgent queue comes first, and the other one would grow.
            if not 0 <= _left(self._shop) < BACKLOG:
                continue
            address = f"{next(self._numbers)}@example.org"
            for _ in range(2):
                self._until_it_works(self._shop.sign_up, address)
            self._until_it_works(self._shop.forgotten, address)
            for item in ITEMS:
                if self._until_it_works(self._shop.add_to_cart, address, item):
                    self.repeated.add((address, item))
                self.last[address] = item

    def _until_it_works(self, call: Any, *arguments: str) -> bool:
        """Whether the call may have been sent more than once."""
        began = time.monotonic()
        while True:
            try:
                call(*arguments)
                # The package pauses before it sends a call again.
                return time.monotonic() - began > 0.09
            except CorralError:
                self.failures += 1
                time.sleep(0.05)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_each_mail_is_sent_and_no_unique_one_twice(durable_server: Server, shop: Any, tmp_path: Path) -> None:
    server, programs = durable_server, Programs(durable_server, tmp_path)
    random.seed(seed := time.time_ns())
    shop.database = str(programs.database)
    shop.execute("CREATE TABLE attempts (address, text)")
    # A task that runs again finds its mail in the outbox. This counts how often that happens.
    shop.execute(
        "CREATE TRIGGER attempt BEFORE INSERT ON outbox BEGIN INSERT INTO attempts VALUES (NEW.address, NEW.text); END"
    )
    for queue in shop.mail, shop.urgent:
        server.client.execute_command("TASK.POLICY", queue.name, "LEASE", 2000)
    kills: Counter[str] = Counter()
    workers = [programs.worker("shop:worker") for _ in range(2)]
    customers = Customers(shop)
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(random.uniform(0.3, 1.5))
            victim = random.choice(["server", "worker", "worker"])
            kills[victim] += 1
            workers = [alive(worker, programs) for worker in workers]
            if victim == "server":
                server.kill()
                time.sleep(random.choice([0, 0, 0.5]))
                server.restart()
            else:
                workers[0].kill()
                workers[0].wait()
                workers = [*workers[1:], programs.worker("shop:worker")]
        customers.stop()
        workers = [alive(worker, programs) for worker in workers]
        # The next run of the report is what remains.
        eventually(lambda: _left(shop) == 1, "all done")
        running = [worker for worker in workers if worker.poll() is None]
        assert running
        for worker in running:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=PATIENCE_S) == 0
    finally:
        customers.stop()
        programs.stop()
    sent = Counter(shop.execute("SELECT address, text FROM outbox"))
    attempts = shop.execute("SELECT count(*) FROM attempts")[0][0]
    print(
        f"\nseed {seed}, {SECONDS:g} s, kills: {dict(kills)}; {len(customers.last)} customers, {customers.failures} failed calls;"
        f" {sent.total()} mails, {attempts - sent.total()} runs of a task whose mail was sent already;"
        f" {len(customers.repeated)} repeated reminders"
    )
    assert customers.last
    assert shop.mail.info()["dead"] == shop.urgent.info()["dead"] == 0
    for address, last in customers.last.items():
        assert sent[address, "Welcome"] == 1, address
        # A customer who got an error has asked again, which is another mail.
        assert sent[address, "Your new password"] >= 1, address
        reminders = {item: sent[address, f"Your cart is waiting, with {item}"] for item in ITEMS}
        assert reminders[last] >= 1, (address, reminders)
        for item, times in reminders.items():
            assert times <= 1 or (address, item) in customers.repeated, (address, reminders)


def alive(worker: subprocess.Popen[bytes], programs: Programs) -> subprocess.Popen[bytes]:
    """As a supervisor does: a worker that found no server when it started has ended, and is started again."""
    return worker if worker.poll() is None else programs.worker("shop:worker")


def _left(shop: Any) -> int:
    try:
        states = [queue.info() for queue in (shop.mail, shop.urgent)]
    except CorralError:
        return -1
    return sum(state["length"] + state["delayed"] for state in states)
