"""Repeated tasks: which run is next, and what becomes of a run that is delivered.

A run has the id `cron:<task>:<unix s>`. Every worker publishes the next run ahead of time, with UNIQUE and AT, so one
of them is enough and all of them together add one task. Pure functions of a given time; docs/wire.md has the rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

#: A run that is delivered later than this was missed.
GRACE_S = 60
#: How long the mark of a run is kept after it is due.
MARK_MS = 3_600_000
_ITEM = r"(\*|(\d+|[A-Za-z]{3})(-(\d+|[A-Za-z]{3}))?)(/\d+)?"
_FIELD = re.compile(f"{_ITEM}(,{_ITEM})*")

Misfire = Literal["once", "skip"]


@dataclass(frozen=True)
class Schedule:
    """Five fields, a time zone, and the rules for late and overlapping runs."""

    expression: str
    tz: str = "UTC"
    misfire: Misfire = "once"
    overlap: bool = False

    def __post_init__(self) -> None:
        fields = self.expression.split()
        if len(fields) != 5 or not all(_FIELD.fullmatch(field) for field in fields):
            raise ValueError(f"{self.expression!r} is not a schedule of five fields: minute, hour, day, month, weekday")
        if self.misfire not in ("once", "skip"):
            raise ValueError(f"misfire is 'once' or 'skip', not {self.misfire!r}")
        self.next_run(0)

    def next_run(self, after: int) -> int:
        """The first run later than the unix time `after`, in unix seconds."""
        try:
            start = datetime.fromtimestamp(after, UTC).astimezone(ZoneInfo(self.tz))
            # In the hour that a change of the clocks repeats, the iterator begins in the first pass.
            return next(at for run in CronSim(self.expression, start) if (at := int(run.timestamp())) > after)
        except (CronSimError, StopIteration, ValueError, OverflowError, ZoneInfoNotFoundError) as error:
            raise ValueError(f"the schedule {self.expression!r} has no next run: {error}") from None

    def has_run(self, at: int) -> bool:
        try:
            return self.next_run(at - 1) == at
        except ValueError:  # A time in the year 30000.
            return False

    def decide(self, scheduled: int, now: int, attempt: int = 1) -> Literal["run", "drop"]:
        """Whether a delivered run is run, or acknowledged without being run."""
        if not self.has_run(scheduled):
            return "drop"
        if self.misfire == "skip" and attempt == 1 and now - scheduled > GRACE_S:
            return "drop"
        return "run"


def run_id(task: str, at: int) -> str:
    return f"cron:{task}:{at}"


def mark_ms(at: int, now_ms: int) -> int:
    """The window of UNIQUE for a run at `at`: until an hour after it."""
    return max(at * 1000 - now_ms, 0) + MARK_MS


def drop_reason(schedule: Schedule | None, scheduled: int, now: int, attempt: int = 1) -> str | None:
    """Why a delivered run is acknowledged without being run, or None."""
    if schedule is None:
        return "this worker has no such schedule"
    if schedule.decide(scheduled, now, attempt) == "run":
        return None
    return "the schedule has changed" if not schedule.has_run(scheduled) else "the run was missed"

