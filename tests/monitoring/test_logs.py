"""What is said of what happens again and again: at once, then once a minute, and no count is lost."""

from __future__ import annotations

import logging

import pytest

from proxy.monitoring.logs import OncePerMinute, request_id, tell_overdue
from tests.support.fakes import FakeClock

LOG = logging.getLogger("tests.telemetry")


@pytest.fixture
def often(clock: FakeClock) -> OncePerMinute:
    return OncePerMinute(LOG, "it failed", clock, max_keys=2)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    return [(record.which, record.times) for record in caplog.records if record.msg == "it failed"]  # type: ignore[attr-defined]


def test_the_first_is_told_at_once_and_the_rest_when_a_minute_has_passed_though_nothing_follows(
    often: OncePerMinute, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(500):
        often.note("a", which="a")
    often.note("b", which="b")
    clock.advance(59)
    tell_overdue()
    assert told(caplog) == [("a", 1), ("b", 1)]
    clock.advance(1)
    tell_overdue()
    assert told(caplog)[2:] == [("a", 499)]
    clock.advance(3600)
    tell_overdue()
    often.note("a", which="a")
    assert told(caplog)[3:] == [("a", 1)]


def test_what_lasts_is_told_once_a_minute(
    often: OncePerMinute, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(181):
        often.note("a", which="a", times=2)
        tell_overdue()
        clock.advance(1)
    assert told(caplog) == [("a", 2), ("a", 120), ("a", 120), ("a", 120)]


def test_a_key_that_makes_room_for_another_is_told_first(
    often: OncePerMinute, caplog: pytest.LogCaptureFixture
) -> None:
    for key in "aaabc":
        often.note(key, which=key)
    assert told(caplog) == [("a", 1), ("b", 1), ("a", 2), ("c", 1)]


def test_a_count_has_level_and_request_of_the_latest(
    often: OncePerMinute, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for id in ("first", "second", "third"):
        token = request_id.set(id)
        often.note("a", which="a", level=logging.ERROR)
        request_id.reset(token)
    clock.advance(60)
    tell_overdue()
    assert [(record.levelname, record.request_id) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("ERROR", "first"),
        ("ERROR", "third"),
    ]
