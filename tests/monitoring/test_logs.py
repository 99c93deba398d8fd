"""Repeated events are logged at once, then once a minute, and no count is lost."""

from __future__ import annotations

import logging

import pytest

from proxy.monitoring.logs import MAX_KEYS, OncePerMinute, log_overdue, request_id
from tests.support.fakes import FakeClock

LOG = logging.getLogger("tests.logs")


@pytest.fixture
def repeated(clock: FakeClock) -> OncePerMinute:
    return OncePerMinute(LOG, "it failed", clock)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    return [(record.which, record.times) for record in caplog.records if record.msg == "it failed"]  # type: ignore[attr-defined]


def test_note__many_times__logged_at_once_and_the_rest_after_a_minute(
    repeated: OncePerMinute, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(500):
        repeated.note("a", which="a")
    repeated.note("b", which="b")
    clock.advance(59)
    log_overdue()
    assert logged(caplog) == [("a", 1), ("b", 1)]
    clock.advance(1)
    log_overdue()
    assert logged(caplog)[2:] == [("a", 499)]
    clock.advance(3600)
    log_overdue()
    repeated.note("a", which="a")
    assert logged(caplog)[3:] == [("a", 1)]


def test_note__for_three_minutes__logged_once_a_minute(
    repeated: OncePerMinute, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(181):
        repeated.note("a", which="a", times=2)
        log_overdue()
        clock.advance(1)
    assert logged(caplog) == [("a", 2), ("a", 120), ("a", 120), ("a", 120)]


def test_note__more_keys_than_allowed__the_dropped_key_is_logged(
    repeated: OncePerMinute, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ["first", "first", "first", *map(str, range(MAX_KEYS))]
    for key in keys:
        repeated.note(key, which=key)
    assert logged(caplog)[-2:] == [("first", 2), (keys[-1], 1)]


def test_log_overdue__count__has_level_and_request_id_of_the_latest(
    repeated: OncePerMinute, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for id in ("first", "second", "third"):
        token = request_id.set(id)
        repeated.note("a", which="a", level=logging.ERROR)
        request_id.reset(token)
    clock.advance(60)
    log_overdue()
    lines = [vars(record) for record in caplog.records if record.name == LOG.name]
    assert [(line["levelname"], line["request_id"]) for line in lines] == [("ERROR", "first"), ("ERROR", "third")]
