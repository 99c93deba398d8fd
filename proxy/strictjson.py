"""JSON read so that it can be written again, and written so that any parser takes it. Pure."""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Any


def write(value: Any) -> bytes:
    """Return `value` as compact JSON in UTF-8. A lone surrogate, which UTF-8 cannot hold, becomes "?"."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


def write_text(text: str | None) -> bytes:
    """Return the same for a text or null, in a fifth of the time."""
    return b"null" if text is None else encode_basestring(text).encode("utf-8", "replace")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def read(body: bytes) -> Any:
    """Return the document in `body`. ValueError when it is not JSON, or nests too deeply to be passed on.

    Python would read `NaN`, and turn 1e999 into an infinity that it writes as `Infinity`, which no JSON
    parser at the other end takes: the first is refused, the second kept as it was written.
    """

    def refuse(_: str) -> None:
        raise ValueError("NaN and Infinity are not JSON")

    def finite(text: str) -> float | str:
        return number if abs(number := float(text)) != float("inf") else text

    def whole(text: str) -> int | str:
        return int(text) if len(text) <= _MAX_DIGITS else text

    try:
        document = json.loads(body.decode("utf-8"), parse_constant=refuse, parse_float=finite, parse_int=whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _deeper_than(document, _MAX_DEPTH):
        raise ValueError("nested too deeply")
    return document


_MAX_DIGITS = 4_000  # Python refuses to read, and to write, integers of more than 4,300
_MAX_DEPTH = 100  # far from Python's recursion limit, whatever the stack of the thread that writes it


def _deeper_than(document: Any, limit: int) -> bool:
    level = [document]
    for _ in range(limit):
        level = [
            below
            for value in level
            if isinstance(value, dict | list)
            for below in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True
