"""Log lines in both formats, also with values that JSON or a line cannot hold."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from proxy.monitoring.log_format import LogFormat, SafeFormatter, json_line, text_line

TIME = datetime(2026, 11, 28, 17, 44, 1, 5, UTC)
FIELDS = {"level": "INFO", "logger": "a.b", "event": "request", "route": "/v1/x", "cache": "hit; ttl=9", "time": TIME}


def test_json_line__fields__compact_object_in_order() -> None:
    expected = (
        b'{"level":"INFO","logger":"a.b","event":"request","route":"/v1/x","cache":"hit; ttl=9",'
        b'"time":"2026-11-28T17:44:01.000005+00:00"}\n'
    )
    assert json_line(FIELDS) == expected


@pytest.mark.parametrize("value", [2**70, "\ud800", {"a": 2**70}, ["\ud800"]])
def test_json_line__value_beyond_orjson__exact_with_the_same_time(value: object) -> None:
    line = json.loads(json_line({"value": value, "time": TIME}))
    assert line == {"value": value, "time": TIME.isoformat()}


def test_json_line__value_that_json_does_not_have__text() -> None:
    assert json.loads(json_line({"value": ValueError("x")})) == {"value": "x"}


def test_text_line__fields__time_level_logger_event_and_pairs() -> None:
    expected = b'2026-11-28T17:44:01.000005+00:00 INFO a.b request route=/v1/x cache="hit; ttl=9"\n'
    assert text_line(FIELDS) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("two\nlines", r'"two\nlines"'),
        ("a b", '"a b"'),
        ('"', r'"\""'),
        ("", ""),
        (None, "null"),
        ({"a": 1}, '{"a": 1}'),
    ],
)
def test_text_line__any_value__one_line_without_ambiguity(value: object, expected: str) -> None:
    assert text_line({"event": "a\nb", "x": value}) == f"a\\nb x={expected}\n".encode()


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_formatter__exception__type_and_source_lines_without_its_text(log_format: LogFormat) -> None:
    try:
        raise ValueError("user-1")
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, "", 0, "it_failed", (), sys.exc_info())
    line = SafeFormatter(log_format).format(record)
    assert "ValueError < " in line
    assert "it_failed" in line
    assert "user-1" not in line
    assert "\n" not in line
