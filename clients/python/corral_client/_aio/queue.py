"""Queues: tasks are defined on them, and published to them.

Publishing is never repeated by itself, because a second TASK.PUBLISH is a second task. With UNIQUE it is the same task,
so then it may be sent again.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec

from .._cron import Misfire, Schedule
from .._tasks import Definition, Message, Options, Task, Unique
from .._time import Duration, milliseconds
from .._wire import Serializer, check_name
from ..errors import PublishUnknown, QueueFull, ServerUnreachable
from .hub import Hub, Hubs
from .io import pause

P = ParamSpec("P")
#: A publish that may be repeated is repeated this often.
_REPEATS = 4
_RETRY_WINDOW_MS = 600_000


class Queue:
    """A queue, by the name of its stream."""

    def __init__(self, hubs: Hubs, name: str, serializer: Serializer) -> None:
        self.name = check_name(name, "queue")
        self._hubs, self._serializer = hubs, serializer
        self._definitions: dict[str, Definition] = {}

    def task(
        self, *, name: str | None = None, tries: int | None = None, max_runtime: Duration | None = None
    ) -> Callable[[Callable[Concatenate[Task, P], Any]], TaskFunction[P]]:
        """Defines a task of this queue by its handler, whose first argument is the task."""

        def decorate(function: Callable[Concatenate[Task, P], Any]) -> TaskFunction[P]:
            return TaskFunction(self, self._define(function, name, tries, max_runtime, None), Options())

        return decorate

    def cron(
        self,
        expression: str,
        *,
        tz: str = "UTC",
        misfire: Misfire = "once",
        overlap: bool = False,
        name: str | None = None,
        tries: int | None = None,
        max_runtime: Duration | None = None,
    ) -> Callable[[Callable[[Task], Any]], TaskFunction[[]]]:
        """Defines a task that runs at the times of a schedule of five fields."""
        schedule = Schedule(expression, tz, misfire, overlap)

        def decorate(function: Callable[[Task], Any]) -> TaskFunction[[]]:
            return TaskFunction(self, self._define(function, name, tries, max_runtime, schedule), Options())

        return decorate

    def _define(
        self,
        function: Callable[..., Any],
        name: str | None,
        tries: int | None,
        max_runtime: Duration | None,
        schedule: Schedule | None,
    ) -> Definition:
        runtime = None if max_runtime is None else milliseconds(max_runtime, "max_runtime")
        definition = Definition(name or function.__name__, function, tries, runtime, schedule)
        before = self._definitions.get(definition.name)
        if before is not None and before.function.__qualname__ != function.__qualname__:
            raise ValueError(f"the queue {self.name!r} has a task {definition.name!r} already: give one of them a name=")
        self._definitions[definition.name] = definition
        return definition

    async def publish(self, task: str, payload: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Publishes a task by its name, which this process need not know. Returns its id."""
        check_name(task, "task")
        definition = self._definitions.get(task) or Definition(task, _somewhere_else, None, None)
        (id,) = await self._publish([Message(definition, payload or {}, Options(**options))])
        return id

    async def publish_many(self, messages: Sequence[Message]) -> list[str]:
        """Publishes tasks in one MULTI. QueueFull says that the queue took only the first of them, see `ids`."""
        return await self._publish(messages) if messages else []

    async def _publish(self, messages: Sequence[Message]) -> list[str]:
        hub = self._hubs.get()
        features = await hub.features()
        messages = [_repeatable(message) for message in messages]
        content_type = None if self._serializer.content_type == "application/json" else self._serializer.content_type
        commands = [
            message.options.command(
                self.name,
                message.definition.name,
                self._serializer.dumps(dict(message.payload)),
                content_type,
                message.definition.tries,
                features,
            )
            for message in messages
        ]
        if len(commands) > 1:
            commands = [["MULTI"], *commands, ["EXEC"]]
        repeats = _REPEATS if all(message.options.unique is not None for message in messages) else 0
        replies = await self._send(hub, commands, repeats)
        if len(commands) > 1:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            replies = replies[-1]
        return _ids(replies)

    async def _send(self, hub: Hub, commands: list[list[Any]], repeats: int) -> list[Any]:
        sent = False
        for attempt in range(repeats + 1):
            try:
                return await hub.run(commands, key=self.name)
            except ServerUnreachable as error:
                sent = sent or error.sent
                if attempt == repeats:
                    if sent:
                        raise PublishUnknown(f"whether the task was added is unknown: {error}", True) from error
                    raise
            await pause(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    async def info(self) -> dict[str, Any]:
        """The reply of TASK.INFO."""
        reply: dict[str, Any] = as_map(await self._hubs.get().call("TASK.INFO", self.name))
        return reply

    async def state(self, id: str) -> dict[str, Any] | None:
        """Where a task is: the reply of TASK.STATE, or None if it is done or unknown."""
        hub = self._hubs.get()
        (await hub.features()).require("TASK.STATE")
        reply = await hub.call("TASK.STATE", self.name, id)
        return None if reply is None else as_map(reply)

    async def cancel(self, *ids: str) -> int:
        """Removes tasks that no worker has. Returns how many were removed."""
        return int(await self._hubs.get().call("TASK.CANCEL", self.name, *ids)) if ids else 0

    async def redrive(self, *ids: str, count: int = 1000) -> int:
        """Moves dead letters back to the queue: those with these ids, or the oldest. Returns how many were moved."""
        hub = self._hubs.get()
        if ids:
            (await hub.features()).require("TASK.REDRIVE", "ID")
        options = ["ID", *ids] if ids else ["COUNT", count]
        return int(await hub.call("TASK.REDRIVE", dead_letters(self.name), self.name, *options))


class TaskFunction(Generic[P]):
    """A task that is defined in this process. A call runs its handler here, as a plain function."""

    def __init__(self, queue: Queue, definition: Definition, options: Options) -> None:
        functools.update_wrapper(self, definition.function)
        self._queue, self._definition, self._options = queue, definition, options

    def __call__(self, task: Task, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self._definition.function(task, *args, **kwargs)

    def options(self, **options: Any) -> TaskFunction[P]:
        """The same task, published with these options: delay, at, priority, unique, key, expire, headers, retry."""
        return TaskFunction(self._queue, self._definition, dataclasses.replace(self._options, **options))

    def message(self, *args: P.args, **kwargs: P.kwargs) -> Message:
        """For `publish_many`."""
        return Message(self._definition, self._definition.payload(args, kwargs), self._options)

    async def publish(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Publishes the task with the arguments of its handler. Returns its id."""
        (id,) = await self._queue._publish([self.message(*args, **kwargs)])
        return id


def _repeatable(message: Message) -> Message:
    """With `retry`, an id that makes repeating safe."""
    options = message.options
    if not options.retry or options.unique is not None:
        return message
    unique = Unique(uuid.uuid4().hex, _RETRY_WINDOW_MS / 1000)
    return dataclasses.replace(message, options=dataclasses.replace(options, unique=unique))


def _ids(replies: Sequence[Any]) -> list[str]:
    ids = [None if isinstance(reply, Exception) else reply.decode() for reply in replies]
    for reply in replies:
        if isinstance(reply, QueueFull) or (isinstance(reply, Exception) and "TASKFULL" in str(reply)):
            full = QueueFull("TASKFULL the queue holds as many tasks as its policy allows")
            full.ids = [id for id in ids if id is not None]
            raise full
        if isinstance(reply, Exception):
            raise reply
    return [id for id in ids if id is not None]


def _somewhere_else(task: Task, **payload: Any) -> None:
    raise RuntimeError("this process does not know the task")


def dead_letters(name: str) -> str:
    """The stream of the dead letters of a queue."""
    start = name.find("{")
    end = name.find("}", start + 1)
    if start >= 0 and end > start + 1:
        return f"dead::{name}"
    return f"dead:{{{name}}}" if "}" not in name else f"dead:{name}"


def as_map(reply: Any) -> Any:
    """A map of RESP2, a flat array, as a dict with texts."""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    if isinstance(reply, list):
        if len(reply) % 2 == 0 and reply and all(isinstance(key, bytes) for key in reply[::2]):
            return {key.decode(): as_map(value) for key, value in zip(reply[::2], reply[1::2], strict=True)}
        return [as_map(item) for item in reply]
    return reply
