"""`corral doctor`: what is wrong with a server and its queues, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ._features import OPTIONS
from ._sync.corral import Corral
from ._wire import GROUP
from .errors import CorralError, ReplyError, ServerUnreachable

_EVICTING = ("allkeys-lru", "allkeys-lfu", "allkeys-random", "allkeys-lrm", "volatile-lru", "volatile-lfu",
             "volatile-random", "volatile-ttl", "volatile-lrm")

# Options that a module may still be without.
_LATER = ("KEY", "UNTIL", "LAST")


def examine(corral: Corral, queues: list[str]) -> list[str]:
    """The problems that were found."""
    try:
        corral._hubs.get().features()
    except CorralError as error:
        return [str(error)]
    problems = list(_server(corral))
    for name in queues:
        problems += _queue(corral, name)
    return problems


def _server(corral: Corral) -> Iterator[str]:
    features = corral._hubs.get().features()
    missing = [f"{command} … {option}" for command, options in OPTIONS.items() for option in options
               if option not in _LATER and not features.has(command, option)]
    if missing:
        yield f"the module is older than this package: it lacks {', '.join(missing)}"
    policy = _config(corral, "maxmemory-policy")
    if policy in _EVICTING and _config(corral, "maxmemory") not in (None, "0"):
        yield (f"maxmemory-policy is {policy}: when memory is full, locks and tasks are evicted as well. "
               "Keep them on a server with noeviction")
    if _config(corral, "appendonly") == "no" and not _config(corral, "save"):
        yield "nothing is written to disk: a restart of the server loses all tasks"
    role = _ask(corral, "ROLE")
    if isinstance(role, list) and role and role[0] != b"master":
        yield "this server is a replica: connect to the master"


def _config(corral: Corral, name: str) -> str | None:
    reply = _ask(corral, "CONFIG", "GET", name)
    return reply[1].decode() if isinstance(reply, list) and len(reply) == 2 else None


def _ask(corral: Corral, *command: Any) -> Any:
    try:
        return corral._hubs.get().call(*command, key="")
    except (ReplyError, ServerUnreachable):
        return None


def _queue(corral: Corral, name: str) -> Iterator[str]:
    try:
        info = corral.queue(name).info()
    except CorralError as error:
        yield f"{name}: {error}"
        return
    groups = {group["name"]: group for group in info["groups"] or []}
    others = [group for group in groups if group != GROUP.decode()]
    if others:
        yield (f"{name}: beside workers there are the consumer groups {', '.join(others)}, which get every task as well and "
               f"keep it in memory. If one was a mistake: XGROUP DESTROY {name} {others[0]}")
    if info["policy"]["paused"]:
        yield f"{name}: it is paused. TASK.POLICY {name} PAUSED 0 ends that"
    if info["policy"]["lease_ms"] == 0:
        yield f"{name}: leases never end, so the tasks of a worker that died stay with it"
    if info["dead"]:
        yield f"{name}: there are {info['dead']} dead letters. `corral redrive {name}` moves them back"
    group = groups.get(GROUP.decode())
    ready = group["ready"] if group else info["length"]
    if ready and not (group and group["leased"]) and not info["policy"]["paused"]:
        yield f"{name}: {ready} tasks are ready and no worker takes them, the oldest for {info['oldest_ready_ms'] / 1000:g} s"
