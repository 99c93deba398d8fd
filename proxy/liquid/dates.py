"""The filter `date`, as in Ruby's Liquid. The time zone is UTC, as in Braze."""

from __future__ import annotations

import re
import time

from proxy.liquid.date_text import moment_of
from proxy.liquid.moment import Moment
from proxy.liquid.ruby import text

_MAX_TEXT = 200
"""Characters of a date. Some patterns take quadratic time."""


def date(value: object, form: object) -> object:
    """Format a date. A value that is not a date, or too long for a date, is unchanged."""
    pattern = text(form)
    if not pattern:
        return value
    time = moment(value)
    return value if time is None else time.strftime(pattern)


def moment(value: object) -> Moment | None:
    """Return the moment of a value: a Unix time as a number or text, `now`, or a date in text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Moment(value)
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT:
        return None
    lower = value.lower()
    if lower in ("now", "today"):
        now = time.time_ns()
        return Moment(now // 10**9, now % 10**9)
    if re.fullmatch(r"[0-9]+", value):
        return Moment(int(value))
    return moment_of(lower, time.time())
