"""What `corral doctor` says."""

from __future__ import annotations

from conftest import Server
from corral_client import Corral
from corral_client.doctor import examine


def test_a_server_and_its_queues_are_examined(own_server: Server) -> None:
    corral, client = Corral.from_url(own_server.url), own_server.client
    client.config_set("appendonly", "yes")
    assert examine(corral, ["work"]) == []
    client.config_set("appendonly", "no")
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.execute_command("TASK.PUBLISH", "work", "{}")
    client.xgroup_create("work", "wrokers", id="0")
    client.execute_command("TASK.POLICY", "work", "LEASE", 0)
    client.xadd("dead:{work}", {"payload": "{}"})
    client.set("foreign", "x")
    said = "\n".join(examine(corral, ["work", "foreign"]))
    for expected in (
        "maxmemory-policy is allkeys-lru",
        "nothing is written to disk",
        "XGROUP DESTROY work wrokers",
        "leases never end",
        "1 dead letters",
        "1 tasks are ready and no worker takes them",
        "foreign: WRONGTYPE",
    ):
        assert expected in said
    client.execute_command("TASK.POLICY", "work", "PAUSED", 1)
    assert "it is paused" in "\n".join(examine(corral, ["work"]))


def test_a_server_that_is_away_is_said_to_be(own_server: Server) -> None:
    own_server.kill()
    (problem,) = examine(Corral.from_url(own_server.url), ["work"])
    assert "Connection refused" in problem or "connect" in problem.lower()
