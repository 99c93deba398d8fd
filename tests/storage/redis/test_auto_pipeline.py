"""Asks that meet go together."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Semaphore

import pytest

from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.auto_pipeline import MOST, TRIPS, AutoPipeline


class Trips:
    """Trips that are held until they may go on, and what was asked in each."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.begun = Semaphore(0)
        self.go_on = Event()
        self.fault: BaseException | None = None

    def __call__(self, asks: Sequence[int]) -> list[int]:
        self.asked.append(list(asks))
        self.begun.release()
        assert self.go_on.wait(10)
        if self.fault:
            raise self.fault
        return [-one for one in asks]


@pytest.fixture
def trips() -> Trips:
    return Trips()


@pytest.fixture
def gathered(trips: Trips) -> AutoPipeline[int, int]:
    return AutoPipeline(trips, patience=10, on_late=pytest.fail)


def held(trips: Trips, gathered: AutoPipeline[int, int], more: int) -> list[Future[int]]:
    """Ask as often as trips may be under way at once, and by `more` others meanwhile; let them all go on."""
    with ThreadPoolExecutor(TRIPS + more) as threads:
        asked = [threads.submit(gathered.ask, number) for number in range(TRIPS)]
        for _ in range(TRIPS):
            assert trips.begun.acquire(timeout=10)
        asked += [threads.submit(gathered.ask, number) for number in range(TRIPS, TRIPS + more)]
        while len(gathered._waiting) < more:
            pass
        trips.go_on.set()
    return asked


def test_who_finds_a_trip_free_goes_alone_and_at_once(trips: Trips, gathered: AutoPipeline[int, int]) -> None:
    asked = held(trips, gathered, 0)
    assert [one.result() for one in asked] == [-number for number in range(TRIPS)]
    assert sorted(trips.asked) == [[number] for number in range(TRIPS)]


def test_all_who_come_meanwhile_go_on_the_next_and_each_is_told_its_own(
    trips: Trips, gathered: AutoPipeline[int, int]
) -> None:
    asked = held(trips, gathered, 20)
    assert [one.result() for one in asked] == [-number for number in range(TRIPS + 20)]
    assert sorted(map(len, trips.asked)) == [1] * TRIPS + [20]


def test_a_trip_takes_no_more_than_can_be_read_at_once(trips: Trips, gathered: AutoPipeline[int, int]) -> None:
    asked = held(trips, gathered, MOST + 1)
    assert [one.result() for one in asked] == [-number for number in range(TRIPS + MOST + 1)]
    assert sorted(map(len, trips.asked)) == [1] * (TRIPS + 1) + [MOST]


def test_a_trip_that_fails_is_over_and_the_next_is_made(trips: Trips, gathered: AutoPipeline[int, int]) -> None:
    trips.fault = RedisUnavailable()
    asked = held(trips, gathered, 3)
    assert all(isinstance(one.exception(), RedisUnavailable) for one in asked)
    trips.fault = None
    assert held(trips, gathered, 0)[0].result() == 0
    assert gathered._free == TRIPS


def test_who_is_stopped_on_a_trip_lets_the_others_go(trips: Trips, gathered: AutoPipeline[int, int]) -> None:
    trips.fault = SystemExit()
    asked = held(trips, gathered, 2)
    assert [type(one.exception()) for one in asked[: TRIPS + 1]] == [SystemExit] * (TRIPS + 1)
    assert isinstance(asked[-1].exception(), RedisUnavailable)  # whose answer the last leader would have brought
    assert gathered._free == TRIPS


def test_who_cannot_go_in_time_is_told_so_and_keeps_nobody(trips: Trips) -> None:
    late: list[None] = []
    gathered = AutoPipeline(trips, patience=0.01, on_late=lambda: late.append(None))
    with ThreadPoolExecutor(TRIPS) as threads:
        asked = [threads.submit(gathered.ask, number) for number in range(TRIPS)]
        for _ in range(TRIPS):
            assert trips.begun.acquire(timeout=10)
        with pytest.raises(RedisUnavailable):
            gathered.ask(9)
        assert len(late) == 1
        trips.go_on.set()
    assert [one.result() for one in asked] == [-number for number in range(TRIPS)]
    assert [9] not in trips.asked
    assert gathered.ask(10) == -10
