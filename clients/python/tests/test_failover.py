"""A planned failover, FAILOVER, and memory that is full: what callers see, and that everything goes on afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from conftest import PATIENCE_S, Server, eventually, idle
from corral_client import Corral, CorralError, LockNotAcquired, ReplyError, Task, Worker


@pytest.fixture
def pair(own_server: Server) -> Iterator[tuple[Server, Server]]:
    """A master and its replica."""
    replica = Server(own_server.program, options=("--replicaof", "127.0.0.1", str(own_server.port))).start()
    follows(replica, own_server)
    yield own_server, replica
    replica.remove()


def follows(replica: Server, master: Server) -> None:
    def linked() -> bool:
        info = replica.client.info("replication")
        return info["role"] == "slave" and info["master_link_status"] == "up" and info["master_port"] == master.port

    eventually(linked, "the replica follows")


def switch(master: Server, replica: Server) -> None:
    master.client.execute_command("FAILOVER", "TO", "127.0.0.1", replica.port)
    eventually(lambda: replica.client.info("replication")["role"] == "master", "the replica is the master")
    follows(master, replica)


def test_a_worker_and_waiting_clients_go_on_after_a_failover_and_back(pair: tuple[Server, Server]) -> None:
    """The client knows one address. While that is a replica, nothing is lost and nothing hangs."""
    master, replica = pair
    corral, seen = Corral.from_url(master.url), []
    queue = corral.queue("work")

    @queue.task()
    def work(task: Task, number: int) -> None:
        seen.append(number)

    granted = threading.Event()

    def wait_for_the_lock() -> None:
        # Before the failover it waits; on a replica its request is an error; then it asks again.
        while not granted.is_set():
            try:
                with corral.lock("held", wait=PATIENCE_S):
                    granted.set()
            except (CorralError, LockNotAcquired):
                granted.wait(0.05)

    master.client.execute_command("LOCK.ACQUIRE", "held", "other", 600_000)
    waiting = threading.Thread(target=wait_for_the_lock, daemon=True)
    with Worker([queue]):
        work.publish(number=1)
        eventually(lambda: seen == [1] and idle(corral, "work"), "before")
        waiting.start()
        eventually(lambda: master.client.info("clients")["blocked_clients"] == 2, "both wait")
        switch(master, replica)
        with pytest.raises(ReplyError, match="READONLY"):
            work.publish(number=2)
        assert corral.cache.get_or_load("key", lambda: 1, ttl=60) == 1, "the cache goes on without the server"
        replica.client.execute_command("LOCK.RELEASE", "held", "other")
        with Corral.from_url(replica.url) as other:
            other.queue("work").publish("work", {"number": 3})
        switch(replica, master)
        eventually(lambda: 3 in seen, "what the other master got is run")
        work.publish(number=4)
        eventually(lambda: 4 in seen and idle(corral, "work"), "after")
        waiting.join(PATIENCE_S)
        assert granted.is_set()
    assert sorted(seen) == [1, 3, 4]
    corral.close()


def test_full_memory_refuses_a_publish_and_lets_workers_finish(own_server: Server) -> None:
    corral, seen = Corral.from_url(own_server.url), []
    queue = corral.queue("work")
    own_server.client.execute_command("TASK.POLICY", "work", "BACKOFF", 1, 1)

    @queue.task(tries=2)
    def work(task: Task, number: int) -> None:
        seen.append(number)
        if number == 1:
            raise ValueError("one")

    # A worker has been here before: its group exists, which full memory would not let it create.
    with Worker([queue]):
        work.publish(number=-1)
        eventually(lambda: seen and idle(corral, "work"), "before")
    seen.clear()
    ids = [work.publish(number=number) for number in range(20)]
    own_server.client.config_set("maxmemory-policy", "noeviction")
    own_server.client.config_set("maxmemory", 1)
    with pytest.raises(ReplyError) as refused:
        work.options(retry=True).publish(number=20)
    assert refused.value.code == "OOM"
    with pytest.raises(ReplyError, match="OOM"), corral.lock("name"):
        raise AssertionError("the lock was granted")
    with Worker([queue]):
        eventually(lambda: idle(corral, "work"), "what is there is finished")
    assert sorted(seen) == sorted([*range(20), 1]) and len(set(ids)) == 20
    assert queue.info()["dead"] == 1
    own_server.client.config_set("maxmemory", 0)
    assert work.publish(number=20)
    with corral.lock("name"):
        pass
    corral.close()
