"""Tasks, apart from sending and running them: what a handler gets, what a queue knows, what a publisher asks for."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ._cron import Schedule
from ._features import Features
from ._time import Duration, milliseconds, unix_ms
from ._wire import Delivery, Serializer, check_headers, check_name
from .errors import CorralError

log = logging.getLogger("corral_client")
# Set by corral_client.otel: the headers that carry the trace of the publisher.
trace_headers: list[Callable[[], Mapping[str, str]]] = []


class Task:
    """What a handler gets as its first argument."""

    def __init__(self, delivery: Delivery, serializer: Serializer, features: Features | None = None) -> None:
        self._features = features
        self.name, self.queue = delivery.task, delivery.stream
        #: The id that the publisher got: the same in all tries, and unique in its queue.
        self.id = delivery.original_id
        #: 1 for the first try.
        self.attempt = delivery.attempt
        self.headers: Mapping[str, str] = delivery.headers
        #: Seconds since 1970 at which a run of a schedule was due, else None.
        self.scheduled = delivery.cron
        self._serializer = serializer
        self._lost = threading.Event()
        self._stopping = threading.Event()
        self._checkpoint: bytes | None = None
        self._arguments: dict[str, Any] = {}

    @property
    def lost(self) -> bool:
        """Whether the task is no longer leased to this worker, or has run for too long: its result does not count."""
        return self._lost.is_set()

    @property
    def stopping(self) -> bool:
        """Whether the worker is shutting down: a long task returns soon, or raises Later."""
        return self._stopping.is_set()

    def check(self) -> None:
        """Raises TaskLost if the task is lost."""
        if self.lost:
            raise TaskLost(f"the task {self.id} is no longer leased to this worker")

    def checkpoint(self, changes: Mapping[str, Any]) -> None:
        """If this try does not finish, the next one gets these arguments instead of the present ones."""
        if self._features is not None:
            self._features.require("TASK.NACK", "PAYLOAD")
        self._checkpoint = self._serializer.dumps(self._arguments | dict(changes))


class TaskLost(CorralError):
    """The lease of a task ended while it ran. Nothing is reported to the server."""


@dataclass(frozen=True)
class Unique:
    """For a time, tasks with this id are added once.

    `until`: the time also ends at the "start" of the task, or when it is "done". `last`: the last one published counts.
    """

    id: str
    window: Duration
    until: Literal["start", "done"] | None = None
    last: bool = False

    def __post_init__(self) -> None:
        check_name(self.id, "unique task")
        milliseconds(self.window, "window")
        if self.until not in (None, "start", "done"):
            raise ValueError(f"until is 'start' or 'done', not {self.until!r}")

    def words(self, features: Features) -> list[Any]:
        words: list[Any] = ["UNIQUE", self.id, milliseconds(self.window, "window")]
        if self.until is not None:
            features.require("TASK.PUBLISH", "UNTIL")
            words += ["UNTIL", self.until.upper()]
        if self.last:
            features.require("TASK.PUBLISH", "LAST")
            words.append("LAST")
        return words


@dataclass(frozen=True)
class Options:
    """How a task is published."""

    delay: Duration | None = None
    at: datetime | float | None = None
    priority: int = 0
    unique: Unique | None = None
    key: str | None = None
    expire: Duration | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    retry: bool = False
    cron: int | None = None

    def __post_init__(self) -> None:
        if self.delay is not None and self.at is not None:
            raise ValueError("a task has a delay or a time, not both")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int) or not 0 <= self.priority <= 9:
            raise ValueError("priority is a number from 0 to 9")
        check_headers(self.headers)
        self._times()

    def _times(self) -> list[Any]:
        words: list[Any] = []
        if self.delay is not None:
            words += ["DELAY", milliseconds(self.delay, "delay", 0)]
        if self.at is not None:
            words += ["AT", unix_ms(self.at, "at")]
        if self.expire is not None:
            words += ["EXPIRE", milliseconds(self.expire, "expire")]
        return words

    def command(
        self, stream: str, task: str, payload: bytes, content_type: str | None, tries: int | None, features: Features
    ) -> list[Any]:
        """The command TASK.PUBLISH."""
        command: list[Any] = ["TASK.PUBLISH", stream, payload, *self._times()]
        if self.expire is not None:
            features.require("TASK.PUBLISH", "EXPIRE")
        if self.priority:
            command += ["PRIORITY", self.priority]
        if self.unique is not None:
            command += self.unique.words(features)
        if self.key is not None:
            features.require("TASK.PUBLISH", "KEY")
            command += ["KEY", self.key]
        if tries is not None and features.has("TASK.PUBLISH", "TRIES"):
            command += ["TRIES", tries]
        features.require("TASK.PUBLISH", "FIELDS")
        fields = self._fields(task, content_type)
        return [*command, "FIELDS", len(fields), *(text for pair in fields.items() for text in pair)]

    def _fields(self, task: str, content_type: str | None) -> dict[str, str]:
        fields = {"task": task}
        if content_type is not None:
            fields["content-type"] = content_type
        if self.cron is not None:
            fields["cron"] = str(self.cron)
        if self.key is not None or (self.unique is not None and self.unique.until == "done"):
            fields["ack"] = "now"
        for headers in trace_headers:
            fields |= headers()
        return fields | dict(self.headers)


@dataclass(eq=False)
class Definition:
    """A task that this process knows: its handler and its rules."""

    name: str
    function: Callable[..., Any]
    tries: int | None
    max_runtime_ms: int | None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "task")
        if self.tries is not None and (isinstance(self.tries, bool) or self.tries < 1):
            raise ValueError("tries is at least 1")
        parameters = list(inspect.signature(self.function).parameters.values())
        if not parameters or parameters[0].kind not in (
            inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
        ):
            raise TypeError(f"the handler of {self.name!r} takes the task as its first argument")
        self._signature = inspect.signature(self.function).replace(parameters=parameters[1:])
        self.is_async = inspect.iscoroutinefunction(self.function)

    def payload(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name; TypeError if the handler would not accept them."""
        bound = self._signature.bind(*args, **kwargs)
        payload: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                payload |= value
            elif kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
                raise TypeError(f"the argument {name!r} of {self.name!r} has no name in a payload")
            else:
                payload[name] = value
        return payload


@dataclass(frozen=True)
class Message:
    """A task to publish, made by `welcome.message(...)`."""

    definition: Definition
    payload: Mapping[str, Any]
    options: Options
