"""The quota of one process."""

import itertools
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.amplitude.sliding_window import Reservation
from tests.support.fakes import FakeClock

FOREVER = float("inf")


def test_a_tenth_may_go_at_once_and_the_rest_goes_evenly(clock: FakeClock) -> None:
    quota = RateLimiter(600, monotonic=clock)
    moments = [booking.at - clock() for booking in (quota.book(FOREVER) for _ in range(70)) if booking]
    assert moments[:60] == [0] * 60
    steps = [later - earlier for earlier, later in pairwise(moments[59:])]
    assert steps == pytest.approx([60 / 541] * 10)


def test_who_cannot_be_helped_in_time_is_told_at_once_and_spends_nothing(clock: FakeClock) -> None:
    quota = RateLimiter(10, monotonic=clock)
    assert quota.book(clock()) is not None
    assert quota.book(clock() + 5.9) is None
    assert quota.wait() == pytest.approx(6.0)
    assert quota.book(clock() + 6.1) is not None


def test_now_is_never_too_late_though_the_clock_moves_on_while_we_ask() -> None:
    ticks = itertools.count(1000)
    quota = RateLimiter(600, monotonic=lambda: float(next(ticks)))
    for _ in range(30):
        booking = quota.book(float(next(ticks)))
        assert booking is not None
        quota.ended(booking)
    assert quota.book(0.0) is not None


def test_a_cancelled_place_is_free_again(clock: FakeClock) -> None:
    quota = RateLimiter(600, monotonic=clock)
    bookings = [quota.book(clock()) for _ in range(60)]
    assert quota.book(clock()) is None
    for booking in bookings:
        assert booking is not None
        quota.cancel(booking)
    assert all(quota.book(clock()) for _ in range(60))


def test_a_place_is_taken_until_a_minute_after_the_call_has_ended(clock: FakeClock) -> None:
    quota = RateLimiter(1, monotonic=clock)
    booking = quota.book(clock())
    assert booking is not None
    clock.advance(100)
    assert quota.book(FOREVER) is None, "a call on the way may still arrive"
    assert quota.wait() is None
    quota.ended(booking)
    quota.ended(booking)
    following = quota.book(FOREVER)
    assert following is not None
    assert following.at == clock() + 60


def test_a_call_that_was_given_up_may_still_arrive(clock: FakeClock) -> None:
    quota = RateLimiter(1, monotonic=clock)
    booking = quota.book(clock())
    assert booking is not None
    quota.ended(booking, may_arrive_for=5)
    assert quota.wait() == pytest.approx(65)


def test_after_amplitude_s_429_nothing_is_sent_until_the_stand_back_is_over(clock: FakeClock) -> None:
    quota = RateLimiter(600, monotonic=clock)
    quota.stand_back(60)
    quota.stand_back(5)
    closed = quota.closed
    assert closed
    assert quota.book(clock() + 59) is None
    clock.advance(60)
    assert quota.closed != closed
    assert quota.book(clock()) is not None


events = st.lists(
    st.tuples(st.floats(0, 3), st.floats(0, 9), st.sampled_from(["call", "call", "call", "cancel"])),
    min_size=1,
    max_size=120,
)


@pytest.mark.contract("4 quota")
@given(st.integers(1, 30), events, st.floats(0, 4))
def test_no_60_seconds_hold_more_calls_than_the_quota_wherever_they_arrived(
    per_minute: int, happenings: list[tuple[float, float, str]], patience: float
) -> None:
    clock = FakeClock(0)
    quota = RateLimiter(per_minute, monotonic=clock)
    on_the_way: list[tuple[float, float, Reservation]] = []  # ends, began
    calls: list[tuple[float, float]] = []

    def advance(to: float) -> None:
        for end, began, booking in sorted(on_the_way, key=lambda one: one[0]):
            if end <= to:
                clock.advance(max(0.0, end - clock()))
                quota.ended(booking)
                calls.append((began, end))
                on_the_way.remove((end, began, booking))
        clock.advance(max(0.0, to - clock()))

    for gap, duration, what in happenings:
        advance(clock() + gap)
        booking = quota.book(clock() + patience)
        if booking is None:
            continue
        assert clock() <= booking.at <= clock() + patience
        if what == "cancel":
            quota.cancel(booking)
        else:
            on_the_way.append((booking.at + duration, booking.at, booking))
    advance(clock() + 100)

    for _, start in calls:  # the worst window begins just as some call arrives, and that may be at its end
        in_window = sum(1 for began, end in calls if end >= start and began < start + 60)
        assert in_window <= per_minute


def test_a_minute_under_pressure_is_used_whole_and_never_starves(clock: FakeClock) -> None:
    quota = RateLimiter(600, monotonic=clock)
    start = clock()
    ends: list[tuple[float, Reservation]] = []
    moments = []
    while clock() < start + 600:
        while ends and ends[0][0] <= clock():
            quota.ended(ends.pop(0)[1])
        if booking := quota.book(clock() + 1):
            moments.append(booking.at)
            ends.append((booking.at + 0.5, booking))
            ends.sort(key=lambda one: one[0])
        else:
            clock.advance(0.05)
    assert len(moments) >= 0.98 * 600 * 10
    moments.sort()
    assert max(later - earlier for earlier, later in pairwise(moments)) < 1.5
