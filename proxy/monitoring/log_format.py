"""The format of a log line: JSON, or text for people. Takes no lock, so that gunicorn's master can import it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal

import orjson
from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["json", "text"]

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def json_line(fields: Mapping[str, Any]) -> bytes:
    """Return the fields as a JSON object with a line break."""
    try:
        return orjson.dumps(fields, default=_text) + b"\n"
    except orjson.JSONEncodeError:  # an integer beyond 64 bits, or a lone surrogate
        return json.dumps(fields, default=_text).encode() + b"\n"


def text_line(fields: Mapping[str, Any]) -> bytes:
    """Return time, level, logger and event, and then each other field as name=value, with a line break."""
    first = ("time", "level", "logger", "event")
    words = [_text(fields[name]) for name in first if name in fields]
    words += [f"{name}={_value(value)}" for name, value in fields.items() if name not in first]
    return " ".join(words).replace("\n", "\\n").encode("utf-8", "backslashreplace") + b"\n"


LINES = {"json": json_line, "text": text_line}
"""The function that writes a line, by format."""


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _value(value: object) -> str:
    """Return text without spaces as it is, and everything else as JSON."""
    if isinstance(value, str) and value.isprintable() and not any(sign in value for sign in ' "='):
        return value
    return json.dumps(value, default=_text, ensure_ascii=False)


class SafeFormatter(JsonFormatter):
    """Formats log records. Of an exception, logs only the type and the source lines: the text may contain an id."""

    def __init__(self, log_format: LogFormat) -> None:
        line = LINES[log_format]
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "message": "event"},
            timestamp="time",
            json_serializer=lambda fields, **_: line(fields).decode().removesuffix("\n"),
        )

    def formatException(self, ei: ExceptionInfo) -> str:
        kind, _, trace = ei
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]
        return " < ".join([kind.__name__ if kind else "?", *reversed(places)])
