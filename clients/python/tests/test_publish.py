"""Publishing, in memory and on servers."""

from __future__ import annotations

import socket
import subprocess
import threading
from typing import Any

import pytest
from canceling import canceled_at
from conftest import Backend, Server, eventually, idle
from corral_client import Corral, PublishUnknown, QueueFull, ServerUnreachable, Task, Unique, Worker
from corral_client import asyncio as corral_asyncio


def define(corral: Corral, seen: list[Any] | None = None) -> Any:
    mail = corral.queue("mail")

    @mail.task(tries=5)
    def welcome(task: Task, to: str) -> None:
        if seen is not None:
            seen.append((to, task.id))

    return welcome


def info(backend: Backend) -> dict[str, Any]:
    return backend.corral.queue("mail").info()


def test_options_of_a_task(backend: Backend) -> None:
    welcome = define(backend.corral)
    welcome.options(delay="5m").publish(to="ann")
    assert info(backend)["delayed"] == 1
    welcome.options(priority=9).publish(to="bob")
    assert info(backend)["length"] == 1
    one, two = (welcome.options(unique=Unique("welcome:7", "1h")).publish(to="eve") for _ in range(2))
    assert one == two and info(backend)["length"] == 2
    queue = backend.corral.queue("mail")
    state = queue.state(one)
    assert state is not None and state["state"] == "ready"
    assert queue.cancel(one) == 1 and queue.state(one) is None


def test_unique_until_done_ends_with_the_task(backend: Backend) -> None:
    welcome = define(backend.corral)
    unique = welcome.options(unique=Unique("welcome:7", "1h", until="done"))
    first = unique.publish(to="ann")
    assert unique.publish(to="ann") == first
    with Worker([backend.corral.queue("mail")]):
        eventually(lambda: info(backend)["length"] == 0, "done")
    assert unique.publish(to="ann") != first


def test_the_last_of_several_counts(backend: Backend) -> None:
    seen: list[Any] = []
    welcome = define(backend.corral, seen)
    last = welcome.options(unique=Unique("welcome:7", "1h", until="start", last=True))
    for to in ("ann", "bob", "eve"):
        last.publish(to=to)
    with Worker([backend.corral.queue("mail")]):
        eventually(lambda: info(backend)["length"] == 0, "done")
    assert [to for to, _ in seen] == ["eve"]


def test_the_last_one_that_is_published_while_the_task_runs_is_held_until_it_is_done(backend: Backend) -> None:
    mail, seen, go, begun = backend.corral.queue("mail"), [], threading.Event(), threading.Event()

    @mail.task()
    def index(task: Task, version: int) -> None:
        seen.append(version)
        begun.set()
        assert go.wait(60)

    latest = index.options(unique=Unique("index", "1h", until="done", last=True))
    first = latest.publish(version=1)
    with Worker([mail], concurrency=4):
        assert begun.wait(60)
        held = [latest.publish(version=version) for version in (2, 3, 4)]
        assert len({first, *held}) == 2
        state = mail.state(held[-1])
        assert state is not None and state["state"] == "held"
        assert index.options(unique=Unique("index", "1h", until="done")).publish(version=5) == held[-1]
        assert seen == [1]
        go.set()
        eventually(lambda: idle(backend.corral, "mail"), "done")
    assert seen == [1, 4]
    assert latest.publish(version=5) not in (first, *held), "the window has ended with the task"


def test_one_that_is_published_last_after_the_task_has_ended_is_a_new_one(backend: Backend) -> None:
    seen: list[Any] = []
    last = define(backend.corral, seen).options(unique=Unique("welcome:7", "1h", last=True))
    with Worker([backend.corral.queue("mail")]):
        ids = []
        for to in ("ann", "bob"):
            ids.append(last.publish(to=to))
            eventually(lambda: idle(backend.corral, "mail"), "done")
    assert len(set(ids)) == 2 and [to for to, _ in seen] == ["ann", "bob"]


def test_the_window_of_a_unique_task_outlives_it(backend: Backend) -> None:
    seen: list[Any] = []
    once = define(backend.corral, seen).options(unique=Unique("welcome:7", "400ms"))
    first = once.publish(to="ann")
    with Worker([backend.corral.queue("mail")]):
        eventually(lambda: idle(backend.corral, "mail"), "done")
        assert once.publish(to="ann") == first
        backend.advance(0.5)
        assert once.publish(to="bob") != first
        eventually(lambda: idle(backend.corral, "mail"), "done")
    assert [to for to, _ in seen] == ["ann", "bob"]


def test_a_task_that_has_expired_is_not_run(backend: Backend) -> None:
    seen: list[Any] = []
    welcome = define(backend.corral, seen)
    welcome.options(expire="50ms").publish(to="ann")
    backend.advance(0.2)
    with Worker([backend.corral.queue("mail")]):
        eventually(lambda: info(backend)["dead"] == 1, "it is dead")
    assert seen == []


def test_many_tasks_in_one_step_and_a_full_queue(backend: Backend) -> None:
    welcome = define(backend.corral)
    mail = backend.corral.queue("mail")
    assert mail.publish_many([]) == []
    assert len(set(mail.publish_many([welcome.message(to=str(n)) for n in range(100)]))) == 100
    backend.corral.call("TASK.POLICY", "mail", "LIMIT", 102)
    with pytest.raises(QueueFull) as caught:
        mail.publish_many([welcome.message(to=str(n)) for n in range(5)])
    assert len(caught.value.ids) == 2
    with pytest.raises(QueueFull):
        welcome.publish(to="x")
    assert info(backend)["length"] == 102


def test_dead_letters_are_redriven(backend: Backend) -> None:
    mail = backend.corral.queue("mail")
    ids = [mail.publish("default", {}) for _ in range(3)]

    @mail.task(name="default", tries=1)
    def default(task: Task) -> None:
        raise ValueError("broken")

    with Worker([mail]):
        eventually(lambda: info(backend)["dead"] == 3, "all are dead")
    assert mail.redrive(ids[1]) == 1
    assert mail.redrive() == 2
    assert info(backend)["dead"] == 0 and info(backend)["length"] == 3


class Silent:
    """Between a client and a server: it forwards everything, and from some moment on no reply."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.silent = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._copy, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        try:
            while data := source.recv(65536):
                if replies and self.silent:
                    break
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def test_a_lost_reply_is_an_unknown_outcome_and_is_not_repeated(server: Server) -> None:
    proxy = Silent(server.port)
    corral = Corral.from_url(f"redis://127.0.0.1:{proxy.port}")
    welcome = define(corral)
    welcome.publish(to="ann")
    proxy.silent = True
    with pytest.raises(PublishUnknown):
        welcome.publish(to="bob")
    eventually(lambda: server.client.xlen("mail") == 2, "it was added")
    # With an id it is repeated, and added once.
    proxy.silent = True
    for options in ({"retry": True}, {"unique": Unique("eve", "1h")}):
        before = server.client.xlen("mail")
        proxy.silent = True
        threading.Timer(0.15, lambda: setattr(proxy, "silent", False)).start()
        assert welcome.options(**options).publish(to="eve")
        assert server.client.xlen("mail") == before + 1


def test_a_publish_that_is_canceled_at_any_step_leaves_no_reply_for_the_next_command(server: Server) -> None:
    """And it has published its task once, or not at all."""

    async def work() -> None:
        corral = corral_asyncio.Corral.from_url(server.url)
        queue = corral.queue("mail")
        try:
            await queue.publish("welcome", {"to": "ann"})
        finally:
            # On the same event loop, with the connections that the canceled call has left.
            info = await queue.info()
            assert info["length"] == server.client.xlen("mail")
            assert await corral.cache.get_or_load("key", lambda: 1, ttl=60) == 1
            await corral.close()

    steps, before = 0, {client["id"] for client in server.clients()}
    while canceled_at(steps + 1, work):
        steps += 1
    assert steps > 4
    assert server.client.xlen("mail") <= steps + 1
    eventually(lambda: {client["id"] for client in server.clients()} <= before, "no connection is left")


def test_what_was_not_sent_was_certainly_not_published(own_server: Server) -> None:
    corral = Corral.from_url(own_server.url)
    welcome = define(corral)
    welcome.publish(to="ann")
    own_server.kill()
    with pytest.raises(ServerUnreachable) as caught:
        welcome.publish(to="bob")
    assert not isinstance(caught.value, PublishUnknown)


def test_an_idle_connection_that_the_server_closed_is_no_error(server: Server) -> None:
    corral = Corral.from_url(server.url)
    welcome = define(corral)
    welcome.publish(to="ann")
    server.client.client_kill_filter(_type="normal", skipme=True)
    welcome.publish(to="bob")
    assert server.client.xlen("mail") == 2


def cli(server: Server, *words: str) -> str:
    command = ["redis-cli", "-p", str(server.port), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_redis_cli_publishes_for_a_worker_and_reads_what_was_published(server: Server, corral: Corral) -> None:
    seen: list[Any] = []
    welcome = define(corral, seen)
    id = cli(server, "TASK.PUBLISH", "mail", '{"to": "ann"}', "FIELDS", "1", "task", "welcome")
    with Worker([corral.queue("mail")]):
        eventually(lambda: seen, "it runs")
    assert seen == [("ann", id)]
    welcome.options(headers={"tenant": "blue"}).publish(to="größe")
    entry = cli(server, "--raw", "TASK.CONSUME", "workers", "me", "mail", "META").splitlines()
    assert '{"to":"größe"}' in entry
    assert entry[entry.index("task") + 1] == "welcome" and entry[entry.index("tenant") + 1] == "blue"
    corral.cache.set("page:1", {"title": "größe"}, ttl=60)
    assert cli(server, "--raw", "GET", "page:1") == '{"title":"größe"}'
    cli(server, "SET", "page:2", "[1]", "EX", "60")
    assert corral.cache.get_or_load("page:2", lambda: 1, ttl=60) == [1]
    with corral.lock("name", ttl="10s") as lease:
        assert cli(server, "GET", "lock:{name}") == lease.identifier
