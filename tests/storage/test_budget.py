"""The budget: how much is in use at once, who waits, and that everything is given back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.storage.budget import Budget, Busy

LONG = 10.0


def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_hold__amount_is_free__held_at_once() -> None:
    budget = Budget(10, wait_seconds=0)
    with budget.hold(4), budget.hold(6), pytest.raises(Busy), budget.hold(1):
        pass
    with budget.hold(10):
        pass


def test_hold__more_than_the_limit__busy_and_nothing_is_lost() -> None:
    budget = Budget(10, wait_seconds=0)
    with pytest.raises(Busy), budget.hold(11):
        pass
    with budget.hold(10):
        pass


def test_hold__given_back_in_time__held() -> None:
    budget = Budget(10, wait_seconds=LONG)

    def hold() -> None:
        with budget.hold(10):
            pass

    with ThreadPoolExecutor(1) as pool:
        with budget.hold(10):
            waiting = pool.submit(hold)
            until(lambda: budget.waiting == 1)
        waiting.result(LONG)


def test_hold__a_larger_one_waits__does_not_overtake() -> None:
    budget = Budget(10, wait_seconds=LONG)
    order: list[int] = []

    def hold(amount: int) -> None:
        with budget.hold(amount):
            order.append(amount)

    with ThreadPoolExecutor(2) as pool:
        with budget.hold(8):
            requests = [pool.submit(hold, 10)]
            until(lambda: budget.waiting == 1)
            requests.append(pool.submit(hold, 1))
            until(lambda: budget.waiting == 2)
        for request in requests:
            request.result(LONG)
    assert order == [10, 1]


def test_hold__the_first_in_line_gives_up__the_next_is_served() -> None:
    budget = Budget(10, wait_seconds=0.05)

    def hold(amount: int) -> bool:
        try:
            with budget.hold(amount):
                return True
        except Busy:
            return False

    with ThreadPoolExecutor(2) as pool, budget.hold(8):
        large = pool.submit(hold, 10)
        until(lambda: budget.waiting == 1)
        time.sleep(0.03)  # so that the second one still waits when the first one gives up
        small = pool.submit(hold, 2)
        assert not large.result(LONG)
        assert small.result(LONG)
    assert budget.waiting == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_hold__block_ends_with_an_error__given_back(error: type[BaseException]) -> None:
    budget = Budget(10, wait_seconds=0)
    with pytest.raises(error), budget.hold(10):
        raise error
    with budget.hold(10):
        pass


@given(st.lists(st.integers(0, 12), max_size=20))
def test_hold__any_amounts__never_more_than_the_limit(amounts: list[int]) -> None:
    budget, held = Budget(10, wait_seconds=0), 0
    with ExitStack() as stack:
        for amount in amounts:
            try:
                stack.enter_context(budget.hold(amount))
            except Busy:
                assert held + amount > 10
            else:
                held += amount
        assert held <= 10
    with budget.hold(10):
        pass
