"""Asks that meet go together."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from proxy.shared import Gone
from proxy.shared.gathered import MOST, Gathered


class Trips:
    """Trips that are held until they may go on, and what was asked in each."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.on_its_way = Event()
        self.go_on = Event()
        self.fault: BaseException | None = None

    def __call__(self, asks: Sequence[int]) -> list[int]:
        self.asked.append(list(asks))
        self.on_its_way.set()
        assert self.go_on.wait(10)
        if self.fault:
            raise self.fault
        return [-one for one in asks]


@pytest.fixture
def trips() -> Trips:
    return Trips()


def held(trips: Trips, gathered: Gathered[int, int], ask: Callable[[int], int], more: int) -> list[Future[int]]:
    """Ask for 0, and for `more` others while that is on its way; let them all go on."""
    with ThreadPoolExecutor(more + 1) as threads:
        asked = [threads.submit(ask, 0)]
        assert trips.on_its_way.wait(10)
        asked += [threads.submit(ask, number) for number in range(1, more + 1)]
        while len(gathered._waiting) < more:
            pass
        trips.go_on.set()
    return asked


def test_who_asks_alone_goes_at_once(trips: Trips) -> None:
    trips.go_on.set()
    assert Gathered(trips).ask(7) == -7
    assert trips.asked == [[7]]


def test_all_who_come_during_a_trip_go_on_the_next_and_each_is_told_its_own(trips: Trips) -> None:
    gathered = Gathered(trips)
    asked = held(trips, gathered, gathered.ask, 20)
    assert [one.result() for one in asked] == [-number for number in range(21)]
    assert [len(together) for together in trips.asked] == [1, 20]


def test_a_trip_takes_no_more_than_can_be_read_at_once(trips: Trips) -> None:
    gathered = Gathered(trips)
    asked = held(trips, gathered, gathered.ask, MOST + 1)
    assert [one.result() for one in asked] == [-number for number in range(MOST + 2)]
    assert [len(together) for together in trips.asked] == [1, MOST, 1]


def test_who_waited_for_a_trip_that_failed_is_not_kept_for_another(trips: Trips) -> None:
    gathered, trips.fault = Gathered(trips), Gone()
    asked = held(trips, gathered, gathered.ask, 3)
    assert all(isinstance(one.exception(), Gone) for one in asked)
    assert trips.asked == [[0]]
    trips.fault = None
    assert gathered.ask(5) == -5


def test_who_is_stopped_on_a_trip_takes_nobody_along(trips: Trips) -> None:
    gathered, trips.fault = Gathered(trips), SystemExit()
    first, second = held(trips, gathered, gathered.ask, 1)
    assert isinstance(first.exception(), SystemExit)
    assert isinstance(second.exception(), Gone)
