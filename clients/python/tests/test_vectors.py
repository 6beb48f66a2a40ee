"""The cases of clients/vectors.json, which every package runs: docs/wire.md in examples."""

from __future__ import annotations

import json
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from corral_client import _cron, _wire
from corral_client._keys import CallKeys, KeyTemplate, key_part
from corral_client.errors import Fatal, Later

VECTORS = json.loads((Path(__file__).parents[2] / "vectors.json").read_text())
CRON = VECTORS["cron"]


def titled(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case.get("title")) for case in cases]


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def argument(value: Any) -> Any:
    if isinstance(value, dict):
        if "date" in value:
            return date.fromisoformat(value["date"])
        if "uuid" in value:
            return UUID(value["uuid"])
    return value


@pytest.mark.parametrize("case", VECTORS["keys"]["templates"])
def test_a_key_is_written_from_its_template(case: dict[str, Any]) -> None:
    arguments = {name: argument(value) for name, value in case["arguments"].items()}
    assert KeyTemplate(case["template"]).key(arguments) == case["key"]


@pytest.mark.parametrize("case", VECTORS["keys"]["rejected"])
def test_a_value_without_a_single_written_form_is_no_part_of_a_key(case: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="part of a key"):
        KeyTemplate(case["template"]).key(case["arguments"])


def test_enumerations_are_written_as_their_value_and_a_datetime_is_rejected() -> None:
    class Color(Enum):
        RED = "r:ed"

    assert key_part(Color.RED, "color") == "r%3Aed"
    with pytest.raises(TypeError):
        key_part(datetime(2026, 11, 29), "at")


def test_every_argument_is_in_the_template_or_ignored() -> None:
    def load(db: object, user_id: int, /, region: str = "eu") -> None: ...

    with pytest.raises(TypeError, match=r"\['db', 'region'\] are not in"):
        CallKeys("user:{user_id}", load, (), False)
    with pytest.raises(TypeError, match="no arguments"):
        CallKeys("user:{usr_id}", load, (), False)
    keys = CallKeys("user:{region}:{user_id}", load, ("db",), False)
    assert keys.key((object(), 7), {}) == "user:eu:7"
    with pytest.raises(TypeError):
        keys.key((object(),), {})


@pytest.mark.parametrize("template", ["", "user:{}", "user:{0}", "user:{id.x}", "user:{id!r}", "user:{id:>3}", "a{"])
def test_a_template_with_anything_but_names_is_rejected(template: str) -> None:
    with pytest.raises(ValueError, match="template|empty"):
        KeyTemplate(template)


@pytest.mark.parametrize("case", VECTORS["cached"])
def test_a_cached_value_is_its_json_text(case: dict[str, Any]) -> None:
    serializer = _wire.json_serializer
    assert serializer.dumps(case["value"]).decode() == case["text"]
    assert serializer.loads(case["text"].encode()) == case["value"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, 2}, "\ud800"])
def test_what_json_cannot_hold_names_the_serializer(value: object) -> None:
    with pytest.raises(TypeError, match="serializer="):
        _wire.json_serializer.dumps(value)


def with_payload(payload: bytes, kind: str | None = None) -> _wire.Delivery:
    fields = {"payload": payload} | ({"content-type": kind.encode()} if kind else {})
    return _wire.Delivery("mail", "1-0", fields, 1)


@pytest.mark.parametrize("case", VECTORS["payloads"]["valid"])
def test_a_payload_is_the_arguments_of_the_handler(case: dict[str, Any]) -> None:
    task = with_payload(case["payload"].encode())
    assert _wire.arguments(task, _wire.json_serializer) == case["arguments"]


@pytest.mark.parametrize("case", VECTORS["payloads"]["invalid"])
def test_a_payload_that_does_not_decode_is_fatal(case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["payload_hex"]) if "payload_hex" in case else case["payload"].encode()
    with pytest.raises(_wire.BadPayload) as caught:
        _wire.arguments(with_payload(payload, case.get("content_type")), _wire.json_serializer)
    assert _wire.outcome(caught.value, 1, 5).mode == "FATAL"


@pytest.mark.parametrize("case", titled(VECTORS["deliveries"]))
def test_the_fields_of_a_task_say_what_it_is(case: dict[str, Any]) -> None:
    pairs = [text.encode() for pair in case["fields"] for text in pair]
    task = _wire.delivery([case["id"].encode(), pairs, 0, case["deliveries"]], "mail")
    assert (task.task, task.original_id, task.attempt) == (case["task"], case["original_id"], case["attempt"])
    assert task.headers == case["headers"]
    assert task.cron == case.get("cron")


ENDINGS = {
    "error": lambda case: RuntimeError(case["message"]),
    "fatal": lambda case: Fatal(case["message"]),
    "later": lambda case: Later(case["delay_ms"] / 1000),
    "bad payload": lambda case: _wire.BadPayload("no JSON"),
    "return": lambda case: None,
}


@pytest.mark.parametrize("case", titled(VECTORS["outcomes"]))
def test_what_becomes_of_a_task(case: dict[str, Any]) -> None:
    task = with_payload(b"{}")
    if case["ends"] == "unknown":
        what = _wire.Outcome("SILENT", _wire.UNKNOWN_DELAY_MS)
    else:
        what = _wire.outcome(ENDINGS[case["ends"]](case), case["attempt"], case["tries"])
    if what.mode == "ACK":
        command: list[Any] = ["TASK.ACK", "mail", _wire.GROUP, "1-0"]
    else:
        command = _wire.nack_command(task, "w1", what)
    command = [part.decode() if isinstance(part, bytes) else part for part in command]
    expected = case["command"]
    if expected[-2] == "REASON":
        assert command[-1].endswith(expected[-1].removeprefix("…"))
        command, expected = command[:-1], expected[:-1]
    assert command == expected


def test_a_reason_is_cut_at_1024_bytes_without_a_broken_character() -> None:
    text = _wire.reason(RuntimeError("ü" * 2000))
    assert len(text.encode()) in (1023, 1024)
    assert text.endswith("ü")


@pytest.mark.parametrize("case", titled(CRON["next"]))
def test_the_next_runs_of_a_schedule(case: dict[str, Any]) -> None:
    schedule = _cron.Schedule(case["expression"], case["tz"])
    at, runs = unix(case["after"]), []
    for _ in case["next"]:
        at = schedule.next_run(at)
        assert schedule.has_run(at)
        runs.append(at)
    assert runs == [unix(run) for run in case["next"]]


@pytest.mark.parametrize("case", titled(CRON["delivered"]))
def test_what_becomes_of_a_run_that_is_delivered(case: dict[str, Any]) -> None:
    schedule = _cron.Schedule(case["expression"], case["tz"], case["misfire"])
    scheduled, now = unix(case["scheduled"]), unix(case["now"])
    assert schedule.decide(scheduled, now, case["attempt"]) == case["becomes"]
    assert (_cron.drop_reason(schedule, scheduled, now, case["attempt"]) is None) == (case["becomes"] == "run")


@pytest.mark.parametrize("case", titled(CRON["invalid"]))
def test_what_is_no_schedule(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        _cron.Schedule(case["expression"], case["tz"])


@pytest.mark.parametrize("case", CRON["runs"])
def test_the_id_and_the_window_of_a_run(case: dict[str, Any]) -> None:
    at, now = unix(case["at"]), unix(case["now"])
    assert _cron.run_id(case["task"], at) == case["unique"]
    assert _cron.mark_ms(at, now * 1000) == case["window_ms"]


def test_there_are_60_cases_of_schedules() -> None:
    assert sum(len(cases) for cases in CRON.values()) >= 60
