"""Durations and points in time.

A user writes seconds as a number, "5m", or a timedelta; the server takes integers in milliseconds. Everything that is
not a finite time of at least `least` milliseconds is rejected here, before anything is sent.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

Duration = float | str | timedelta

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
# Times of the server end before 2^53 ms since 1970.
_LIMIT = 2**53 - 1


def milliseconds(value: Duration, name: str, least: int = 1) -> int:
    """A duration in milliseconds; `name` is the option that an error mentions."""
    if isinstance(value, timedelta):
        ms = value / timedelta(milliseconds=1)
    elif isinstance(value, str):
        found = _TEXT.fullmatch(value)
        if found is None:
            raise ValueError(f'{name}: {value!r} is not a duration such as "500ms", "5m" or "1h"')
        ms = float(found[1]) * _UNITS[found[2]]
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: seconds, a text such as '5m' or a timedelta are expected, not {type(value).__name__}")
    else:
        ms = value * 1000.0
    if not math.isfinite(ms) or not least <= round(ms) <= _LIMIT:
        raise ValueError(f"{name}: {value!r} is not a duration of at least {least} ms")
    return round(ms)


def unix_ms(value: datetime | float, name: str) -> int:
    """A point in time in unix milliseconds: a datetime with a time zone, or unix seconds."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{name}: the datetime needs a time zone")
        seconds = value.timestamp()
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: a datetime or unix seconds are expected, not {type(value).__name__}")
    else:
        seconds = value
    if not math.isfinite(seconds) or not 0 <= seconds * 1000 <= _LIMIT:
        raise ValueError(f"{name}: {value!r} is not a time since 1970")
    return round(seconds * 1000)
