"""JSON read so that it can be written again, and written so that any parser takes it. Pure."""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Any


class TooDeep(ValueError):
    """Nested too deeply to be passed on."""


def write_json(value: Any) -> bytes:
    """Return `value` as compact JSON in UTF-8. A lone surrogate, which UTF-8 cannot hold, becomes "?"."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


def write_json_text(text: str | None) -> bytes:
    """Return the same for a text or null, in a fifth of the time."""
    return b"null" if text is None else encode_basestring(text).encode("utf-8", "replace")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def read_json(body: bytes) -> Any:
    """Return the document in `body`. ValueError when it is not JSON, or nests too deeply to be passed on.

    Python would read `NaN`, and turn 1e999 into an infinity that it writes as `Infinity`, which no JSON
    parser at the other end takes: the first is refused, the second kept as it was written.
    """
    try:
        return _shallow(_DECODER.decode(body.decode("utf-8")))
    except RecursionError:
        raise TooDeep("nested too deeply") from None


def read_json_at(text: str, at: int) -> tuple[Any, int, int]:
    """Return the value that begins at `at`, read in the same way, where it ends, and how many values that are."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except RecursionError:
        raise TooDeep("nested too deeply") from None
    return value, end, _values(value)


def _refuse(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _finite(text: str) -> float | str:
    return number if abs(number := float(text)) != float("inf") else text


def _whole(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_DIGITS else text


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
_MAX_DIGITS = 4_000  # Python refuses to read, and to write, integers of more than 4,300
_MAX_DEPTH = 100  # far from Python's recursion limit, whatever the stack of the thread that writes it


def _shallow(document: Any) -> Any:
    _values(document)
    return document


def _values(document: Any) -> int:
    """Return how many values there are within each other. Raises TooDeep."""
    level, count = [document], 1
    for _ in range(_MAX_DEPTH):
        level = [
            below
            for value in level
            if isinstance(value, dict | list)
            for below in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return count
        count += len(level)
    raise TooDeep("nested too deeply")
