"""A server in the memory of this process, for tests: the commands of Corral that the package sends, and a clock.

The clock stands still until `advance`. A command that waits ends when its turn comes, when the clock reaches its
deadline, or after as much real time, so that nothing hangs. The package runs unchanged on top of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ReplyError

#: The reply of a command that has to wait.
WAITING = object()


class Options:
    """The words behind the fixed arguments of a command."""

    def __init__(self, words: list[bytes]) -> None:
        self._words = words

    def take(self, *, flags: str = "", values: str = "") -> dict[str, Any]:
        """Options by their names: `flags` alone, `values` with one number or text each."""
        found: dict[str, Any] = {}
        words, known_flags, known_values = self._words, flags.split(), values.split()
        while words:
            name = words.pop(0).decode("utf-8", "replace").upper()
            if name in found:
                raise ReplyError("ERR syntax error")
            if name in known_flags:
                found[name] = True
            elif name in known_values and words:
                found[name] = words.pop(0)
            elif name in ("FIELDS", "THEN") and f"*{name}" in known_values and words:
                count = number(words.pop(0), 1) * (2 if name == "FIELDS" else 1)
                if len(words) < count:
                    raise ReplyError("ERR syntax error")
                found[name], words[:count] = words[:count], []
            elif name == "ID" and "*ID" in known_values and words:
                found[name], words[:] = words[:], []
            else:
                raise ReplyError("ERR syntax error")
        return found


def number(word: bytes, least: int = 0) -> int:
    text = word.decode("utf-8", "replace")
    if not text.removeprefix("-").isdigit() or str(int(text)) != text:
        raise ReplyError("ERR value is not an integer or out of range")
    if int(text) < least:
        raise ReplyError("ERR value is out of range")
    return int(text)


class Call:
    """A command that is being run. `ticket` identifies it among those that wait."""

    def __init__(self, server: MemoryServer, words: list[bytes], client: int) -> None:
        self.server, self.words, self.client = server, words, client
        self.name = words[0].decode().upper()
        self.ticket = object()
        self.began_ms, self.began = server.now_ms, time.monotonic()
        self.unblocked = False
        self._polled = False

    def block_ms(self) -> int | None:
        """The time that it may wait, or None."""
        upper = [word.upper() for word in self.words]
        if b"BLOCK" in upper[3:]:
            return number(self.words[upper.index(b"BLOCK", 3) + 1])
        return None

    def poll(self) -> Any:
        """The reply, or WAITING."""
        server = self.server
        with server.changed:
            if server.away:
                raise ConnectionError("the server is away")
            server.counts[self.name] = server.counts.get(self.name, 0) + 1 if not self._polled else server.counts[self.name]
            self._polled = True
            block = self.block_ms()
            try:
                reply = server.run(self)
            except ReplyError as error:
                return error
            if reply is not WAITING:
                server.changed.notify_all()
                return reply
            waited = max(server.now_ms - self.began_ms, (time.monotonic() - self.began) * 1000)
            if block is None or self.unblocked or (block and waited >= block):
                return server.leave(self)
            return WAITING


class MemoryServer:
    def __init__(self, start: float = 1_800_000_000.0) -> None:
        from .strings import Strings
        from .tasks import Tasks

        self.changed = threading.Condition(threading.RLock())
        self.now_ms = int(start * 1000)
        #: Set to True, every command fails as if there were no connection.
        self.away = False
        #: How often each command was sent.
        self.counts: dict[str, int] = {}
        self._strings, self._tasks = Strings(self), Tasks(self)
        self._commands: dict[str, Callable[[Call], Any]] = self._strings.commands() | self._tasks.commands()
        self._blocked: dict[int, Call] = {}

    @property
    def tasks(self) -> Any:
        return self._tasks

    def advance(self, ms: int) -> None:
        """Moves the clock. What becomes due in between becomes due."""
        with self.changed:
            self.now_ms += ms
            self.changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until something has changed, or for so long."""
        with self.changed:
            self.changed.wait(seconds)

    def begin(self, command: Sequence[Any], client: int) -> Call:
        words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
        call = Call(self, words, client)
        self._blocked[client] = call
        return call

    def run(self, call: Call) -> Any:
        words = call.words
        if call.name in self._commands:
            if len(words) < 2 or not words[1]:
                raise ReplyError("ERR the name must not be empty")
            return self._commands[call.name](call)
        if call.name == "PING":
            return b"PONG"
        if call.name == "TIME":
            return [str(self.now_ms // 1000).encode(), str(self.now_ms % 1000 * 1000).encode()]
        if call.name == "COMMAND":
            return ReplyError("ERR unknown")
        if call.name == "CLIENT" and words[1].upper() == b"ID":
            return call.client
        if call.name == "CLIENT" and words[1].upper() == b"UNBLOCK":
            waiting = self._blocked.get(number(words[2]))
            if waiting is not None:
                waiting.unblocked = True
            return int(waiting is not None)
        raise ReplyError(f"ERR unknown command '{call.name}'")

    def leave(self, call: Call) -> Any:
        """The reply of a wait that timed out."""
        return self._strings.leave(call) if call.name != "TASK.CONSUME" else self._tasks.leave(call)

    def transaction(self, commands: Sequence[Sequence[Any]], client: int) -> list[Any]:
        """The replies of commands that are sent together and do not wait."""
        replies: list[Any] = []
        queued: list[Any] | None = None
        with self.changed:
            for command in commands:
                name = str(command[0]).upper()
                if name == "MULTI":
                    queued = []
                    replies.append(b"OK")
                elif name == "EXEC" and queued is not None:
                    replies.append([self.begin(each, client).poll() for each in queued])
                    queued = None
                elif queued is not None:
                    queued.append(command)
                    replies.append(b"QUEUED")
                else:
                    replies.append(self.begin(command, client).poll())
        return replies
