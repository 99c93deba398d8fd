"""The rate limiter of one process."""

import itertools
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.amplitude.rate_limiter import RateLimiter, Reservation
from proxy.monitoring.clock import Clock
from tests.support.fakes import FakeClock

FOREVER = float("inf")


def test_reserve__many_calls__a_tenth_of_the_quota_at_once_and_the_rest_evenly(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(600, clock=clock)
    times = [
        reservation.at - clock() for reservation in (rate_limiter.reserve(FOREVER) for _ in range(70)) if reservation
    ]
    assert times[:60] == [0] * 60
    steps = [later - earlier for earlier, later in pairwise(times[59:])]
    assert steps == pytest.approx([60 / 541] * 10)


def test_reserve__no_slot_in_time__refused_and_no_quota_used(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(10, clock=clock)
    assert rate_limiter.reserve(clock()) is not None
    assert rate_limiter.reserve(clock() + 5.9) is None
    assert rate_limiter.wait() == pytest.approx(6.0)
    assert rate_limiter.reserve(clock() + 6.1) is not None


def test_reserve__deadline_is_now_and_the_clock_moves_on__not_too_late() -> None:
    ticks = itertools.count(1000)
    rate_limiter = RateLimiter(600, clock=Clock(monotonic=lambda: float(next(ticks))))
    for _ in range(30):
        reservation = rate_limiter.reserve(float(next(ticks)))
        assert reservation is not None
        reservation.complete()
    assert rate_limiter.reserve(0.0) is not None


def test_cancel__whole_burst_was_reserved__slots_are_free_again(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(600, clock=clock)
    reservations = [rate_limiter.reserve(clock()) for _ in range(60)]
    assert rate_limiter.reserve(clock()) is None
    for reservation in reservations:
        assert reservation is not None
        reservation.cancel()
    assert all(rate_limiter.reserve(clock()) for _ in range(60))


def test_complete__long_call__slot_is_taken_until_a_minute_after_its_end(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(1, clock=clock)
    reservation = rate_limiter.reserve(clock())
    assert reservation is not None
    clock.advance(100)
    assert rate_limiter.reserve(FOREVER) is None, "a call in flight may still arrive"
    assert rate_limiter.wait() is None
    reservation.complete()
    reservation.complete()
    next_reservation = rate_limiter.reserve(FOREVER)
    assert next_reservation is not None
    assert next_reservation.at == clock() + 60


def test_complete__call_may_arrive_for_5_seconds__slot_is_taken_for_65_seconds(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(1, clock=clock)
    reservation = rate_limiter.reserve(clock())
    assert reservation is not None
    reservation.complete(may_arrive_for=5)
    assert rate_limiter.wait() == pytest.approx(65)


def test_pause__second_pause_is_shorter__no_call_until_the_longer_one_ends(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(600, clock=clock)
    rate_limiter.pause(60)
    rate_limiter.pause(5)
    paused = [rate_limiter.paused]
    assert rate_limiter.reserve(clock() + 59) is None
    clock.advance(60)
    paused.append(rate_limiter.paused)
    assert paused == [True, False]
    assert rate_limiter.reserve(clock()) is not None


event_lists = st.lists(
    st.tuples(st.floats(0, 3), st.floats(0, 9), st.sampled_from(["call", "call", "call", "cancel"])),
    min_size=1,
    max_size=120,
)


@pytest.mark.contract("4 quota")
@given(st.integers(1, 30), event_lists, st.floats(0, 4))
def test_reserve__any_calls__no_60_seconds_contain_more_than_the_quota(
    per_minute: int, events: list[tuple[float, float, str]], patience: float
) -> None:
    clock = FakeClock(0)
    rate_limiter = RateLimiter(per_minute, clock=clock)
    running: list[tuple[float, float, Reservation]] = []  # ends, began
    calls: list[tuple[float, float]] = []

    def advance(to: float) -> None:
        for end, began, reservation in sorted(running, key=lambda call: call[0]):
            if end <= to:
                clock.advance(max(0.0, end - clock()))
                reservation.complete()
                calls.append((began, end))
                running.remove((end, began, reservation))
        clock.advance(max(0.0, to - clock()))

    for gap, duration, action in events:
        advance(clock() + gap)
        reservation = rate_limiter.reserve(clock() + patience)
        if reservation is None:
            continue
        assert clock() <= reservation.at <= clock() + patience
        if action == "cancel":
            reservation.cancel()
        else:
            running.append((reservation.at + duration, reservation.at, reservation))
    advance(clock() + 100)

    for _, start in calls:  # the fullest window begins when a call arrives, at the latest at the end of that call
        in_window = sum(1 for began, end in calls if end >= start and began < start + 60)
        assert in_window <= per_minute


def test_reserve__constant_demand__98_percent_of_the_quota_and_no_long_gaps(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(600, clock=clock)
    start = clock()
    ends: list[tuple[float, Reservation]] = []
    times = []
    while clock() < start + 600:
        while ends and ends[0][0] <= clock():
            ends.pop(0)[1].complete()
        if reservation := rate_limiter.reserve(clock() + 1):
            times.append(reservation.at)
            ends.append((reservation.at + 0.5, reservation))
            ends.sort(key=lambda call: call[0])
        else:
            clock.advance(0.05)
    assert len(times) >= 0.98 * 600 * 10
    times.sort()
    assert max(later - earlier for earlier, later in pairwise(times)) < 1.5


def test_reservation__block_left_without_complete__slot_is_free_again(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(10, clock=clock)
    with pytest.raises(ZeroDivisionError), rate_limiter.reserve(clock()) or pytest.fail("no slot"):
        raise ZeroDivisionError
    assert rate_limiter.reserve(clock()) is not None


def test_reservation__completed_in_its_block__slot_is_taken_for_a_minute(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(1, clock=clock)
    reservation = rate_limiter.reserve(clock())
    assert reservation is not None
    with reservation:
        reservation.complete(may_arrive_for=5)
    assert rate_limiter.wait() == 65


def test_reservation__ended_twice__only_the_first_time_counts(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(10, clock=clock)
    reservation = rate_limiter.reserve(clock())
    assert reservation is not None
    assert reservation.cancel()
    assert not reservation.cancel()
    assert not reservation.complete()
    assert rate_limiter.used == 0


def test_cancel__burst_call_older_than_a_minute__frees_the_slot(clock: FakeClock) -> None:
    rate_limiter = RateLimiter(600, clock=clock)
    reservations = [rate_limiter.reserve(clock()) for _ in range(2)]
    clock.advance(61)
    assert rate_limiter.used == 2
    for reservation in reservations:
        assert reservation is not None
        reservation.cancel()
    assert rate_limiter.used == 0
