"""Clusters, Sentinel, and the clients of users."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.cluster
import redis.sentinel
from conftest import MODULE, PATIENCE_S, SERVERS, Server, eventually, eventually_async, idle
from corral_client import Corral, Task, Worker
from corral_client import asyncio as corral_asyncio
from corral_client._driver import slot_of
from corral_client.pytest_plugin import free_port


def seen_by(corral: Corral, name: str = "work") -> tuple[Any, list[Any]]:
    seen: list[Any] = []
    queue = corral.queue(name)

    @queue.task(name="work")
    def work(task: Task, number: int) -> None:
        seen.append(number)

    return work, seen


def use(corral: Corral) -> None:
    """Each family once."""
    assert corral.cache.get_or_load("key", lambda: 1, ttl=60) == 1
    with corral.lock("name"):
        pass
    work, seen = seen_by(corral)
    work.publish(number=7)
    with Worker([corral.queue("work")]):
        eventually(lambda: seen == [7], "it runs")
        eventually(lambda: idle(corral, "work"), "done")
    corral.close()


def test_a_client_of_redis_py_is_used_for_its_options_and_not_changed(server: Server) -> None:
    client = redis.Redis(port=server.port, decode_responses=True, client_name="shop")
    options = dict(client.connection_pool.connection_kwargs)
    use(Corral(client))
    assert client.connection_pool.connection_kwargs == options
    assert client.get("key") == "1"
    with pytest.raises(TypeError, match="asyncio"):
        Corral(redis.asyncio.Redis(port=server.port))
    with pytest.raises(TypeError, match="threads"):
        corral_asyncio.Corral(client)
    with pytest.raises(TypeError):
        Corral(7)
    with pytest.raises(ValueError):
        Corral.from_url("http://localhost")


def test_a_client_of_asyncio_is_used_for_its_options(server: Server) -> None:
    async def main() -> None:
        corral = corral_asyncio.Corral(redis.asyncio.Redis(port=server.port, client_name="shop"))
        assert await corral.cache.get_or_load("key", lambda: 1, ttl=60) == 1
        queue, seen = corral.queue("work"), []

        @queue.task()
        async def work(task: Task) -> None:
            seen.append(task.id)

        async with corral_asyncio.Worker([queue]):
            id = await work.publish()
            await eventually_async(lambda: seen, "it runs")
        assert seen == [id]
        await corral.close()

    asyncio.run(main())


def test_valkey_py_works_as_well(server: Server) -> None:
    valkey = pytest.importorskip("valkey")
    use(Corral(valkey.Valkey(port=server.port)))


def test_a_password_a_database_and_a_socket(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "socket"
    own = Server(server.program, options=("--requirepass", "secret", "--unixsocket", str(path)))
    process = subprocess.Popen(
        [own.program, "--port", "0", "--save", "", "--dir", str(tmp_path), *own.options, "--loadmodule", os.path.abspath(MODULE)],
        stdout=subprocess.DEVNULL,
    )
    try:
        eventually(path.exists, "the server listens")
        use(Corral.from_url(f"unix://:secret@{path}?db=3"))
        with redis.Redis(unix_socket_path=str(path), password="secret", db=3) as client:
            assert client.get("key") == b"1"
        with pytest.raises(ConnectionError):
            Corral.from_url(f"unix://{path}").queue("work").info()
    finally:
        process.kill()
        process.wait()


def test_the_slot_of_a_key() -> None:
    for key in ("a", "{a}b", "x{}y", "{tasks}:mail", "größe"):
        assert slot_of(key.encode()) == redis.cluster.key_slot(key.encode())


@pytest.fixture(scope="module", params=SERVERS[:1])
def cluster(request: pytest.FixtureRequest) -> Iterator[list[Server]]:
    """Three masters."""
    if not MODULE:
        pytest.skip("CORRAL_MODULE does not name the module")
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
    nodes = [Server(request.param, options=options).start() for _ in range(3)]
    addresses = [f"127.0.0.1:{node.port}" for node in nodes]
    create = ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL, timeout=120)
    eventually(lambda: all(b"cluster_state:ok" in node.client.execute_command("CLUSTER", "INFO") for node in nodes) or
               all(node.client.cluster("info").get("cluster_state") == "ok" for node in nodes), "the cluster is ok")
    yield nodes
    for node in nodes:
        node.remove()


def test_a_cluster(cluster: list[Server]) -> None:
    client = redis.cluster.RedisCluster(host="127.0.0.1", port=cluster[0].port)
    corral = Corral(client)
    for number in range(30):
        assert corral.cache.get_or_load(f"key:{number}", lambda number=number: number, ttl=60) == number
        with corral.lock(f"lock:{number}"):
            pass
    use(Corral(client))
    with pytest.raises(ValueError, match=r"\{work\}:one"):
        Worker([corral.queue("one"), corral.queue("two")], tied=False).start()
    work, seen = seen_by(corral, "{shop}:mail")
    other = corral.queue("{shop}:urgent")
    other._definitions = corral.queue("{shop}:mail")._definitions
    with Worker([other, corral.queue("{shop}:mail")]):
        ids = corral.queue("{shop}:mail").publish_many([work.message(number=number) for number in range(20)])
        other.publish("work", {"number": 20})
        eventually(lambda: sorted(seen) == list(range(21)), "all have run")
    assert len(set(ids)) == 20
    corral.close()


def test_a_slot_that_moves(cluster: list[Server]) -> None:
    """While its keys move one by one, tasks are published and run; then the known node answers MOVED."""
    corral = Corral(redis.cluster.RedisCluster(host="127.0.0.1", port=cluster[0].port))
    work, seen = seen_by(corral, "moving")
    slot = slot_of(b"moving")
    source = next(node for node in cluster if any(
        first <= slot <= last and address[1] == node.port
        for first, last, address, *_ in node.client.execute_command("CLUSTER", "SLOTS")
    ))
    target = next(node for node in cluster if node is not source)
    ids = {node.port: node.client.execute_command("CLUSTER", "MYID").decode() for node in cluster}
    published, moved, errors = [0], threading.Event(), []

    def publish() -> None:
        try:
            while not moved.is_set() or published[0] < 200:
                work.options(retry=True).publish(number=published[0])
                published[0] += 1
        except Exception as error:
            errors.append(error)

    worker = Worker([corral.queue("moving")])
    with worker:
        publisher = threading.Thread(target=publish, daemon=True)
        publisher.start()
        eventually(lambda: len(seen) > 20, "before")
        target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        while keys := source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *cluster):
            node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
        moved.set()
        publisher.join(PATIENCE_S)
        assert not errors and not publisher.is_alive(), errors
        eventually(lambda: set(seen) == set(range(published[0])), "all have run")
    assert not target.client.exists("dead:{moving}")
    corral.close()


@pytest.fixture
def sentinel(tmp_path: Path, own_server: Server) -> Iterator[tuple[redis.sentinel.Sentinel, Server, Server]]:
    """A master, a replica, and one sentinel."""
    replica = Server(own_server.program, options=("--replicaof", "127.0.0.1", str(own_server.port))).start()
    eventually(lambda: replica.client.info("replication")["master_link_status"] == "up", "the replica follows")
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nsentinel monitor shop 127.0.0.1 {own_server.port} 1\n"
        "sentinel down-after-milliseconds shop 500\nsentinel failover-timeout shop 2000\n"
    )
    process = subprocess.Popen([own_server.program, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    found = redis.sentinel.Sentinel([("127.0.0.1", free_port()), ("127.0.0.1", port)], socket_timeout=2)

    def knows_the_replica() -> bool:
        try:
            return len(found.discover_slaves("shop")) == 1
        except redis.RedisError:
            return False

    eventually(knows_the_replica, "the sentinel knows the replica")
    yield found, own_server, replica
    process.kill()
    process.wait()
    replica.remove()


def test_a_failover_by_sentinel(sentinel: tuple[redis.sentinel.Sentinel, Server, Server]) -> None:
    found, master, replica = sentinel
    corral = Corral(found.master_for("shop"))
    work, seen = seen_by(corral)
    assert corral.cache.get_or_load("key", lambda: 1, ttl=60) == 1
    with Worker([corral.queue("work")]):
        work.publish(number=1)
        eventually(lambda: seen == [1], "before")
        eventually(lambda: replica.client.xlen("work") == 0 and replica.client.exists("work"), "the replica has it")
        master.kill()

        def published() -> bool:
            try:
                return bool(work.options(retry=True).publish(number=2))
            except Exception:
                time.sleep(0.1)
                return False

        eventually(published, "the new master takes tasks")
        eventually(lambda: 2 in seen, "after")
    with corral.lock("name", wait="10s"):
        pass


def test_a_user_with_few_permissions(server: Server) -> None:
    """As operations.md recommends: neither COMMAND nor CLIENT nor TIME nor TASK.INFO."""
    server.client.execute_command(
        "ACL", "SETUSER", "worker", "on", ">secret", "~work", "+task.consume", "+task.ack", "+task.extend", "+task.nack",
        "+task.publish",
    )
    corral = Corral.from_url(f"redis://worker:secret@127.0.0.1:{server.port}")
    work, seen = seen_by(corral)
    worker = Worker([corral.queue("work")])
    try:
        with worker:
            work.publish(number=7)
            eventually(lambda: seen == [7], "it runs")
            eventually(lambda: worker.health()["acked"] == 1, "acknowledged")
    finally:
        server.client.execute_command("ACL", "DELUSER", "worker")
        corral.close()


