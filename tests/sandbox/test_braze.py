"""The emulated Braze keeps to what Braze documents."""

from __future__ import annotations

import asyncio

import pytest

from tests.bench.braze import PARTS, TRIES, Health, Sender, recipients
from tests.support.fakes import FakeClock

TAGS = ("recommendations", "properties", "cohorts")


def quiet(number: int) -> None:
    """Show no progress."""


def test_over_3000_failures_that_are_over_90_percent_of_a_minute_halt_the_host_for_a_minute() -> None:
    clock = FakeClock()
    health = Health(clock)
    for _ in range(3000):
        health.note(503)
    assert health.halts == 0

    health.note(429)

    assert health.halts == 1
    halted = [health.halted]
    for seconds in (59.9, 0.2):
        clock.advance(seconds)
        halted.append(health.halted)
    assert halted == [True, True, False]


def test_a_tenth_of_answers_keeps_a_host_healthy() -> None:
    health = Health(FakeClock())
    for _ in range(1000):
        health.note(200)
        for _ in range(9):
            health.note(503)

    assert not health.halted


def test_only_the_calls_of_the_last_minute_count() -> None:
    clock = FakeClock()
    health = Health(clock)
    for _ in range(1000):
        health.note(200)
    clock.advance(61)
    for _ in range(3001):
        health.note(503)

    assert health.halted


def test_a_500_never_counts_against_a_host() -> None:
    health = Health(FakeClock())
    for _ in range(5000):
        health.note(500)

    assert not health.halted


@pytest.mark.parametrize("fails", [0, 1, TRIES - 1, TRIES])
def test_a_message_is_tried_once_and_five_times_more(fails: int) -> None:
    kinds = []

    async def ask(user: str, tag: str) -> int:
        kinds.append(tag)
        return 500 if len(kinds) <= fails else 200

    executor = Sender(ask, TAGS)
    asyncio.run(executor.send(recipients(1, 0.0, 0.0001, 1), 0.0, quiet))

    assert len(executor.tally.first) == (fails == 0)
    assert len(executor.tally.retried) == (0 < fails < TRIES)
    assert len(executor.tally.lost) == (fails == TRIES)
    if fails == TRIES:
        assert kinds == ["recommendations"] * TRIES
    else:
        assert kinds[fails : fails + 3] == list(TAGS)
        assert fails + len(TAGS) <= len(kinds) <= fails + PARTS * len(TAGS)
