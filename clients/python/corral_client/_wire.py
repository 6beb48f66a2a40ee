"""What stands in the fields of a task and in a cached value: docs/wire.md, which every package follows.

Pure functions. A payload is a JSON object, a cached value any JSON text. Bytes come from the server and go to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import Fatal, Later

GROUP = b"workers"
JSON_TYPE = "application/json"
#: The name of a task without the field `task`.
DEFAULT_TASK = "default"
#: A task with an unknown name comes back after this time.
UNKNOWN_DELAY_MS = 10_000
REASON_BYTES = 1024
#: The fields that mean something to the server or to the packages. All others are headers.
RESERVED = frozenset(
    "payload timestamp retry_count original_id group priority reason deliveries key tries expire_unix_ms task"
    " content-type cron ack".split()
)


class Serializer(Protocol):
    """How values become bytes: `json_serializer`, or an object of the user with these names."""

    content_type: str

    def dumps(self, value: Any) -> bytes: ...
    def loads(self, data: bytes) -> Any: ...


class JsonSerializer:
    content_type = JSON_TYPE

    def dumps(self, value: Any) -> bytes:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return text.encode()
        except (TypeError, ValueError) as error:
            raise TypeError(f"the value is no JSON ({error}); convert it, or pass a serializer=") from error

    def loads(self, data: bytes) -> Any:
        return json.loads(data.decode())


json_serializer = JsonSerializer()


def check_name(name: str, what: str) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a {what} must be a text that is not empty")
    return name


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str) or not name:
            raise TypeError("headers are texts: name and value")
        if name in RESERVED:
            raise ValueError(f"the header {name!r} has a meaning of its own")
    return headers


def _number(text: str) -> int | None:
    """Digits of a reasonable number: anybody can write anything into a stream."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


@dataclass(slots=True)
class Delivery:
    """A task as it was delivered."""

    stream: str
    id: str
    fields: dict[str, bytes]
    deliveries: int

    def text(self, name: str, default: str = "") -> str:
        value = self.fields.get(name)
        return default if value is None else value.decode("utf-8", "replace")

    @property
    def task(self) -> str:
        return self.text("task") or DEFAULT_TASK

    @property
    def original_id(self) -> str:
        return self.text("original_id") or self.id

    @property
    def attempt(self) -> int:
        """1 for the first try. Each delivery counts, except those that were given back SILENT."""
        return (_number(self.text("retry_count")) or 0) + self.deliveries

    @property
    def cron(self) -> int | None:
        return _number(self.text("cron"))

    @property
    def headers(self) -> dict[str, str]:
        return {name: self.text(name) for name in self.fields if name not in RESERVED}


def delivery(entry: list[Any], stream: str) -> Delivery:
    """From an element of the reply of TASK.CONSUME … META; with THEN its fifth element names the stream."""
    pairs = entry[1]
    fields = {pairs[i].decode("utf-8", "replace"): pairs[i + 1] for i in range(0, len(pairs) - 1, 2)}
    if len(entry) > 4:
        stream = entry[4].decode()
    return Delivery(stream, entry[0].decode(), fields, int(entry[3]))


class BadPayload(Exception):
    """The payload cannot be decoded, now or later."""


def arguments(task: Delivery, serializer: Serializer) -> dict[str, Any]:
    """The arguments of the handler."""
    kind = task.text("content-type", JSON_TYPE)
    if kind != JSON_TYPE:
        if kind != serializer.content_type:
            raise BadPayload(f"content-type {kind} is not supported")
    else:
        serializer = json_serializer
    try:
        payload = serializer.loads(task.fields.get("payload", b""))
    except Exception as error:
        raise BadPayload(f"the payload does not decode: {error}") from error
    if not isinstance(payload, dict):
        raise BadPayload("the payload is not a JSON object")
    return payload


@dataclass(slots=True, frozen=True)
class Outcome:
    """What becomes of a task: `ack`, or a mode of TASK.NACK."""

    mode: str
    delay_ms: int | None = None
    reason: str = ""


def outcome(error: BaseException | None, attempt: int, tries: int | None) -> Outcome:
    """The outcome of a run that ended with `error`. `tries` is the limit of the handler, beside that of the queue."""
    if error is None:
        return Outcome("ACK")
    if isinstance(error, Later):
        return Outcome("SILENT", error.delay_ms)
    if isinstance(error, Fatal):
        return Outcome("FATAL", reason=reason(error))
    if isinstance(error, BadPayload):
        return Outcome("FATAL", reason=str(error))
    if tries is not None and attempt >= tries:
        return Outcome("FATAL", reason=reason(error))
    return Outcome("FAIL", reason=reason(error))


def reason(error: BaseException) -> str:
    """The name of the error and its text, at most 1024 bytes of UTF-8."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore")


def nack_command(task: Delivery, consumer: str, what: Outcome, payload: bytes | None = None) -> list[Any]:
    command: list[Any] = ["TASK.NACK", task.stream, GROUP, consumer, what.mode, task.id]
    if what.delay_ms is not None:
        command += ["DELAY", what.delay_ms]
    if what.reason:
        command += ["REASON", what.reason]
    if payload is not None:
        command += ["PAYLOAD", payload]
    return command
