"""The weighted semaphore: its limit, the order of waiting callers, and the release of every amount."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.storage.weighted_semaphore import Busy, WeightedSemaphore

LONG = 10.0


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_hold__amount_is_free__held_at_once() -> None:
    semaphore = WeightedSemaphore(10, wait_seconds=0)
    with semaphore.hold(4), semaphore.hold(6), pytest.raises(Busy), semaphore.hold(1):
        pass
    with semaphore.hold(10):
        pass


def test_hold__more_than_the_limit__busy_and_nothing_is_lost() -> None:
    semaphore = WeightedSemaphore(10, wait_seconds=0)
    with pytest.raises(Busy), semaphore.hold(11):
        pass
    with semaphore.hold(10):
        pass


def test_hold__released_in_time__held() -> None:
    semaphore = WeightedSemaphore(10, wait_seconds=LONG)

    def hold() -> None:
        with semaphore.hold(10):
            pass

    with ThreadPoolExecutor(1) as pool:
        with semaphore.hold(10):
            waiting = pool.submit(hold)
            until(lambda: semaphore.waiting == 1)
        waiting.result(LONG)


def test_hold__larger_amount_waits__smaller_amount_does_not_overtake() -> None:
    semaphore = WeightedSemaphore(10, wait_seconds=LONG)
    order: list[int] = []

    def hold(amount: int) -> None:
        with semaphore.hold(amount):
            order.append(amount)

    with ThreadPoolExecutor(2) as pool:
        with semaphore.hold(8):
            requests = [pool.submit(hold, 10)]
            until(lambda: semaphore.waiting == 1)
            requests.append(pool.submit(hold, 1))
            until(lambda: semaphore.waiting == 2)
        for request in requests:
            request.result(LONG)
    assert order == [10, 1]


def test_hold__first_waiter_times_out__next_waiter_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    time_is_up = Event()

    class ControlledEvent(Event):
        """Waits for `time_is_up` and ignores the timeout."""

        def wait(self, timeout: float | None = None) -> bool:
            return time_is_up.wait(LONG) and self.is_set()

    semaphore = WeightedSemaphore(10, wait_seconds=LONG)

    def hold(amount: int) -> bool:
        try:
            with semaphore.hold(amount):
                return True
        except Busy:
            return False

    with ThreadPoolExecutor(2) as pool, semaphore.hold(8):
        with monkeypatch.context() as patch:
            patch.setattr("proxy.storage.weighted_semaphore.Event", ControlledEvent)
            large = pool.submit(hold, 10)
            until(lambda: semaphore.waiting == 1)
        small = pool.submit(hold, 2)
        until(lambda: semaphore.waiting == 2)
        time_is_up.set()
        assert not large.result(LONG)
        assert small.result(LONG)
    assert semaphore.waiting == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_hold__block_ends_with_an_error__released(error: type[BaseException]) -> None:
    semaphore = WeightedSemaphore(10, wait_seconds=0)
    with pytest.raises(error), semaphore.hold(10):
        raise error
    with semaphore.hold(10):
        pass


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), max_size=20))
def test_hold__any_amounts__never_more_than_the_limit(amounts: list[int]) -> None:
    semaphore, held = WeightedSemaphore(10, wait_seconds=0), 0
    with ExitStack() as stack:
        for amount in amounts:
            try:
                stack.enter_context(semaphore.hold(amount))
            except Busy:
                assert held + amount > 10
            else:
                held += amount
        assert held <= 10
    with semaphore.hold(10):
        pass
