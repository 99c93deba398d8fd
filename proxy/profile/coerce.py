"""Type conversion of values from Amplitude."""

from __future__ import annotations

import json
import re
from typing import Any

_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?\Z")

_MAX_DIGITS = 15  # what a double holds exactly, so that no digit is made up or lost


def number(value: Any) -> Any:
    """Return a canonical decimal as a number, so that Liquid can compare it; anything else as it is.

    Amplitude sends computed values as text. "3" becomes 3 and "1.10" 1.1; "02134", "+1", "-0", "1e5" and
    what has more than 15 digits, or what Python would write with an exponent, stay text.
    """
    if not isinstance(value, str) or not _DECIMAL.match(value) or sum(map(str.isdigit, value)) > _MAX_DIGITS:
        return value
    converted = float(value) if "." in value else int(value)
    if "e" in repr(converted) or (converted == 0 and value.startswith("-")):
        return value
    return converted


def text(value: Any) -> str | None:
    """Return a JSON string as it is and a number as written; None for anything else, booleans too."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    return None


def text_list(value: Any) -> list[str]:
    entries: list[Any] = value if isinstance(value, list) else []
    if set(map(type, entries)) <= {str}:  # as Amplitude documents it
        return entries
    return [entry for entry in map(text, entries) if entry is not None]


def whole_number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
