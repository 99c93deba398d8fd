"""Converts the types of values from Amplitude."""

from __future__ import annotations

import json
import re
from typing import Any

_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?\Z")

_MAX_DIGITS = 15  # a double represents this many digits exactly


def number(value: Any) -> Any:
    """Return a canonical decimal as a number, so that Liquid can compare it. Return any other value unchanged.

    Amplitude sends computed values as text. "3" becomes 3, and "1.10" becomes 1.1. These stay text: "02134", "+1",
    "-0", "1e5", more than 15 digits, and numbers that Python would write with an exponent.
    """
    if not isinstance(value, str) or not _DECIMAL.match(value) or sum(map(str.isdigit, value)) > _MAX_DIGITS:
        return value
    converted = float(value) if "." in value else int(value)
    if "e" in repr(converted) or (converted == 0 and value.startswith("-")):
        return value
    return converted


def text(value: Any) -> str | None:
    """Return a string unchanged and a number as text; None for any other value, including booleans."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    return None


def text_list(value: Any) -> list[str]:
    """Return the texts and numbers of a list as texts; an empty list for any other value."""
    entries: list[Any] = value if isinstance(value, list) else []
    if set(map(type, entries)) <= {str}:  # the documented type
        return entries
    return [entry for entry in map(text, entries) if entry is not None]


def whole_number(value: Any) -> int | None:
    """Return an integer, also from a float without fraction or from up to 15 digits; None for any other value."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
