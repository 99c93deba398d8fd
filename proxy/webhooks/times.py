"""Reads the times of users and events in a webhook."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from proxy.webhooks.skipped_user import SkippedUser

AHEAD_SECONDS = 600.0
"""Seconds by which Amplitude's clock may be ahead. A later time would override all later updates."""
RETRIED_SECONDS = 4 * 3600.0
"""Seconds for which Amplitude retries. An update without a time may be this old, and must not override newer
updates."""
_MILLISECONDS, _MICROSECONDS = 1e11, 1e14  # a number of seconds stays below the first until the year 5138
TIMES = ("event_time", "server_received_time", "server_upload_time", "time", "client_event_time")
"""In order of preference: Amplitude's own times first, then the times of the user's device."""
_RECEIVED_TIMES = ("server_received_time", "server_upload_time")
"""The times at which Amplitude received an event. The event cannot be later, even if the clock of the device is
ahead."""
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?\Z")


def read_time(user: Mapping[str, Any], now: float) -> float:
    """Return the time of the user's update in Unix seconds. Raises SkippedUser.

    An update without a time gets the earliest time that a retry can have.
    """
    value = next((user[name] for name in TIMES if user.get(name) not in (None, "")), None)
    if value is None:
        return now - RETRIED_SECONDS
    at = parse_time(value)
    if at is None:
        raise SkippedUser("unreadable_time")
    at = min([at, *(received for name in _RECEIVED_TIMES if (received := parse_time(user.get(name))) is not None)])
    if at > now + AHEAD_SECONDS:
        raise SkippedUser("time_ahead")
    return at


def parse_time(value: Any) -> float | None:
    """Return Unix seconds for a time in seconds, milliseconds, microseconds (as number or text) or ISO 8601."""
    if isinstance(value, str):
        value = value.strip()
        if not _NUMBER.match(value):
            try:
                moment = datetime.fromisoformat(value)
                at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError):
                return None
            return at if at > 0 else None
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e18:
        return None
    return value / (1e6 if value >= _MICROSECONDS else 1e3 if value >= _MILLISECONDS else 1.0)
