"""TASK.* in memory, for queues with one consumer group."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ReplyError
from .server import WAITING, Call, Options, number

if TYPE_CHECKING:
    from .server import MemoryServer

_BASE_PRIORITY = 10**17


@dataclass
class Entry:
    id: bytes
    fields: dict[bytes, bytes]
    priority: int = 0
    due: int = 0
    tries: int | None = None
    expires: int | None = None
    consumer: bytes | None = None
    leased_at: int = 0
    deliveries: int = 0
    unique: bytes | None = None
    until: bytes | None = None

    @property
    def original(self) -> bytes:
        return self.fields.get(b"original_id", self.id)

    @property
    def retries(self) -> int:
        return int(self.fields.get(b"retry_count", b"0"))


@dataclass
class Stream:
    ready: list[Entry] = field(default_factory=list)
    leased: dict[bytes, Entry] = field(default_factory=dict)
    delayed: list[Entry] = field(default_factory=list)
    dead: list[Entry] = field(default_factory=list)
    marks: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    held: dict[bytes, Entry] = field(default_factory=dict)
    policy: dict[str, int] = field(
        default_factory=lambda: {"LEASE": 300_000, "TRIES": 20, "LIMIT": 0, "KEEP": 0, "PAUSED": 0, "BASE": 1000, "MAX": 600_000}
    )
    group: bytes | None = None


class Tasks:
    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._streams: dict[bytes, Stream] = {}
        self._sequence = 0

    def commands(self) -> dict[str, Callable[[Call], Any]]:
        return {
            "TASK.PUBLISH": self._publish, "TASK.CONSUME": self._consume, "TASK.ACK": self._ack,
            "TASK.EXTEND": self._extend, "TASK.NACK": self._nack, "TASK.CANCEL": self._cancel,
            "TASK.REDRIVE": self._redrive, "TASK.POLICY": self._policy, "TASK.INFO": self._info,
            "TASK.STATE": self._state,
        }

    def leave(self, call: Call) -> Any:
        return []

    def stream(self, name: bytes) -> Stream:
        return self._streams.setdefault(name, Stream())

    def _new_id(self, priority: int = 0, due: int | None = None) -> bytes:
        self._sequence += 1
        if due is not None:
            return b"%d-%d" % (due, 10 * _BASE_PRIORITY + self._server.now_ms * 1000 + self._sequence % 1000)
        return b"%d-%d" % (self._server.now_ms, priority * _BASE_PRIORITY + self._sequence)

    def _publish(self, call: Call) -> Any:
        now, stream = self._server.now_ms, self.stream(call.words[1])
        found = self._options(call.words[3:])
        due = number(found["AT"]) if "AT" in found else now + number(found.get("DELAY", b"0"))
        priority = number(found.get("PRIORITY", b"0"))
        entry = Entry(b"", {b"payload": call.words[2], b"timestamp": b"%d" % (now // 1000), b"retry_count": b"0"}, priority, due)
        words = found.get("FIELDS", [])
        entry.fields |= dict(zip(words[::2], words[1::2], strict=True))
        entry.tries = number(found["TRIES"]) if "TRIES" in found else None
        entry.expires = now + number(found["EXPIRE"], 1) if "EXPIRE" in found else None
        if "UNIQUE" in found:
            before = self._duplicate(stream, entry, found)
            if before is not None:
                return before
        limit = stream.policy["LIMIT"]
        if limit and len(stream.ready) + len(stream.leased) + len(stream.delayed) >= limit:
            raise ReplyError("TASKFULL the queue holds as many tasks as its policy allows")
        self._add(stream, entry)
        if "UNIQUE" in found:
            entry.unique, entry.until = found["UNIQUE"], found.get("UNTIL", b"").upper() or None
            stream.marks[found["UNIQUE"]] = (entry.original, now + number(found["WINDOW"], 1))
        return entry.id

    @staticmethod
    def _options(words: list[bytes]) -> dict[str, Any]:
        upper, unique = [word.upper() for word in words], {}
        if b"UNIQUE" in upper:
            at = upper.index(b"UNIQUE")
            unique = {"UNIQUE": words[at + 1], "WINDOW": words[at + 2]}
            words = words[:at] + words[at + 3 :]
        return Options(words).take(values="DELAY AT PRIORITY EXPIRE TRIES UNTIL *FIELDS", flags="LAST") | unique

    def _duplicate(self, stream: Stream, entry: Entry, found: dict[str, Any]) -> bytes | None:
        """The id of the task that has this mark already. With LAST, it gets what the new one says."""
        mark = stream.marks.get(found["UNIQUE"])
        if mark is None or mark[1] < self._server.now_ms:
            return None
        if "LAST" not in found:
            return mark[0]
        for place in (stream.ready, stream.delayed):
            for old in list(place):
                if old.original == mark[0]:
                    place.remove(old)
                    kept = {b"original_id": mark[0]} if place is stream.ready or old.id != mark[0] else {}
                    entry.fields |= kept or {b"original_id": mark[0]}
                    entry.unique, entry.until = old.unique, old.until
                    self._add(stream, entry)
                    return mark[0]
        for predecessor, old in stream.held.items():
            if old.id == mark[0]:
                entry.id, entry.unique, entry.until = old.id, old.unique, old.until
                stream.held[predecessor] = entry
                return entry.id
        for old in stream.leased.values():
            if old.original == mark[0]:
                entry.id, entry.unique, entry.until = self._new_id(entry.priority), old.unique, old.until
                stream.held[mark[0]] = entry
                # From now on, the window is that of the successor.
                stream.marks[found["UNIQUE"]] = (entry.id, mark[1])
                return entry.id
        return None

    def _add(self, stream: Stream, entry: Entry) -> None:
        """Into the queue, or among the delayed tasks."""
        entry.consumer, entry.deliveries = None, 0
        if entry.due > self._server.now_ms:
            entry.id = self._new_id(entry.priority, entry.due)
            stream.delayed.append(entry)
            stream.delayed.sort(key=lambda each: each.due)
        else:
            entry.id = self._new_id(entry.priority)
            stream.ready.append(entry)
            stream.ready.sort(key=lambda each: -each.priority)

    def settle(self, stream: Stream) -> None:
        """What is due enters the queue; what has expired, or was tried too often, is a dead letter."""
        now, policy = self._server.now_ms, stream.policy
        while stream.delayed and stream.delayed[0].due <= now:
            entry = stream.delayed.pop(0)
            entry.fields.setdefault(b"original_id", entry.id)
            self._add(stream, entry)
        for entry in list(stream.leased.values()):
            if policy["LEASE"] and now - entry.leased_at > policy["LEASE"]:
                tries = entry.tries if entry.tries is not None else policy["TRIES"]
                if tries and entry.retries + entry.deliveries >= tries:
                    self._bury(stream, entry, b"lease expired")
        for entry in list(stream.ready):
            if entry.expires is not None and entry.expires < now and not entry.retries:
                stream.ready.remove(entry)
                self._bury(stream, entry, b"expired")

    def _consume(self, call: Call) -> Any:
        names = [call.words[3]]
        options = Options(call.words[4:]).take(values="COUNT BLOCK *THEN", flags="META TIED")
        if "META" not in options and "THEN" not in options:
            raise ReplyError("ERR this server in memory knows META only")
        names += options.get("THEN", [])
        count = number(options.get("COUNT", b"1"), 1)
        found: list[list[Any]] = []
        for name in names:
            stream = self.stream(name)
            stream.group = stream.group or call.words[1]
            if stream.group != call.words[1]:
                raise ReplyError("TASKGROUPS a queue in memory has one consumer group")
            self.settle(stream)
            if stream.policy["PAUSED"]:
                continue
            for entry in self._next(stream, count - len(found)):
                idle = self._server.now_ms - entry.leased_at if entry.deliveries else 0
                entry.consumer, entry.leased_at = call.words[2], self._server.now_ms
                entry.deliveries += 1
                if entry.until == b"START" and entry.unique is not None:
                    stream.marks.pop(entry.unique, None)
                pairs = [word for pair in entry.fields.items() for word in pair]
                reply = [entry.id, pairs, idle, entry.deliveries]
                found.append([*reply, name] if "THEN" in options else reply)
        return found or (WAITING if "BLOCK" in options else [])

    def _next(self, stream: Stream, count: int) -> list[Entry]:
        now, lease = self._server.now_ms, stream.policy["LEASE"]
        found = [entry for entry in stream.leased.values() if lease and now - entry.leased_at > lease][:count]
        while stream.ready and len(found) < count:
            entry = stream.ready.pop(0)
            stream.leased[entry.id] = entry
            found.append(entry)
        return found

    def _finish(self, stream: Stream, entry: Entry) -> None:
        """The task is done or dead."""
        if entry.until is not None and entry.unique is not None and stream.marks.get(entry.unique, (b"",))[0] == entry.original:
            del stream.marks[entry.unique]
        successor = stream.held.pop(entry.original, None)
        if successor is not None:
            id = successor.id
            self._add(stream, successor)
            successor.fields.setdefault(b"original_id", id)

    def _ack(self, call: Call) -> Any:
        stream, done = self.stream(call.words[1]), 0
        for id in call.words[3:]:
            entry = stream.leased.pop(id, None)
            if entry is not None:
                done += 1
                self._finish(stream, entry)
        return done

    def _extend(self, call: Call) -> Any:
        stream, replies = self.stream(call.words[1]), []
        for id in call.words[4:]:
            entry = stream.leased.get(id)
            held = entry is not None and entry.consumer == call.words[3]
            if entry is not None and held:
                entry.leased_at = self._server.now_ms
            replies.append(int(held))
        return replies if len(replies) > 1 else replies[0]

    def _nack(self, call: Call) -> Any:
        stream = self.stream(call.words[1])
        mode, id = call.words[4].upper(), call.words[5]
        options = Options(call.words[6:]).take(values="DELAY REASON PAYLOAD")
        entry = stream.leased.get(id)
        if entry is None or entry.consumer != call.words[3]:
            return 0
        count = entry.retries + entry.deliveries - (mode == b"SILENT")
        tries = entry.tries if entry.tries is not None else stream.policy["TRIES"]
        if "PAYLOAD" in options:
            entry.fields[b"payload"] = options["PAYLOAD"]
        if mode == b"FATAL" or (mode == b"FAIL" and tries and count >= tries):
            self._bury(stream, entry, options.get("REASON", b"failed" if mode == b"FAIL" else b"fatal"))
            return 2
        del stream.leased[id]
        limit = min(stream.policy["BASE"] * 2 ** max(count - 1, 0), stream.policy["MAX"])
        delay = number(options["DELAY"]) if "DELAY" in options else 0 if mode == b"SILENT" else random.randint(0, limit)
        entry.fields |= {b"retry_count": b"%d" % count, b"original_id": entry.original}
        entry.due = self._server.now_ms + delay
        self._add(stream, entry)
        return 1

    def _bury(self, stream: Stream, entry: Entry, reason: bytes) -> None:
        stream.leased.pop(entry.id, None)
        entry.fields |= {b"original_id": entry.original, b"reason": reason, b"deliveries": b"%d" % entry.deliveries}
        entry.fields[b"retry_count"] = b"%d" % (entry.retries + entry.deliveries)
        stream.dead.append(entry)
        self._finish(stream, entry)

    def _cancel(self, call: Call) -> Any:
        stream, count = self.stream(call.words[1]), 0
        for id in call.words[2:]:
            for place in (stream.ready, stream.delayed):
                for entry in list(place):
                    if id in (entry.id, entry.original):
                        place.remove(entry)
                        self._finish(stream, entry)
                        count += 1
        return count

    def _redrive(self, call: Call) -> Any:
        stream = self.stream(call.words[2])
        options = Options(call.words[3:]).take(values="COUNT *ID")
        ids = options.get("ID")
        chosen = [entry for entry in stream.dead if ids is None or entry.id in ids or entry.original in ids]
        for entry in chosen[: number(options.get("COUNT", b"1000"), 1)]:
            stream.dead.remove(entry)
            for name in (b"reason", b"deliveries"):
                entry.fields.pop(name, None)
            entry.fields[b"retry_count"], entry.due, entry.expires = b"0", 0, None
            self._add(stream, entry)
        return len(chosen)

    def _policy(self, call: Call) -> Any:
        words = list(call.words[2:])
        upper = [word.upper() for word in words]
        stream = self.stream(call.words[1])
        if b"BACKOFF" in upper:
            at = upper.index(b"BACKOFF")
            stream.policy |= {"BASE": number(words[at + 1]), "MAX": number(words[at + 2])}
            del words[at : at + 3]
        options = Options(words).take(values="LEASE TRIES LIMIT KEEP PAUSED")
        stream.policy |= {name: number(value) for name, value in options.items()}
        return b"OK"

    def _state(self, call: Call) -> Any:
        stream = self.stream(call.words[1])
        self.settle(stream)
        places = [(b"ready", stream.ready), (b"delayed", stream.delayed), (b"leased", list(stream.leased.values())),
                  (b"held", list(stream.held.values()))]
        for state, entries in places:
            for entry in entries:
                if call.words[2] in (entry.id, entry.original):
                    return [b"state", state, b"id", entry.id, b"retry_count", entry.retries, b"deliveries", entry.deliveries]
        return None

    def _info(self, call: Call) -> Any:
        stream = self.stream(call.words[1])
        self.settle(stream)
        next_due = stream.delayed[0].due - self._server.now_ms if stream.delayed else -1
        groups = [[b"name", stream.group, b"ready", len(stream.ready), b"leased", len(stream.leased), b"consumers", 1,
                   b"oldest_leased_ms", 0]] if stream.group else []
        policy = stream.policy
        return [
            b"length", len(stream.ready) + len(stream.leased), b"delayed", len(stream.delayed), b"dead", len(stream.dead),
            b"oldest_ready_ms", 0, b"next_due_ms", next_due, b"priorities", [], b"waiting_consumers", 0, b"groups", groups,
            b"policy", [b"lease_ms", policy["LEASE"], b"tries", policy["TRIES"], b"backoff_base_ms", policy["BASE"],
                        b"backoff_max_ms", policy["MAX"], b"limit", policy["LIMIT"], b"keep", policy["KEEP"],
                        b"paused", policy["PAUSED"]],
        ]
