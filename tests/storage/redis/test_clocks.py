"""Machines whose clocks differ by an hour and share one Redis, and a clock that is set back."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable

import pytest
import redis

from proxy.monitoring.clock import Clock
from proxy.profile.parts import COHORTS, PROPERTIES, Identity
from proxy.profile.query import ProfileQuery
from proxy.profile.record import CachedPart, Record
from proxy.profile.updates import membership
from proxy.storage.id_digests import UNKEYED
from tests.storage.redis.test_processes import USER, Process, running, settled, shared_server, stopped
from tests.support.fakes import FakeClock
from tests.support.redis_server import RedisServer

__all__ = ["running", "shared_server", "stopped"]  # fixtures

HOUR = 3600.0
COHORTS_ONLY = ProfileQuery(("cohorts",))
C1 = ProfileQuery(("cohorts",), cohort_ids=("c1",))


class WallClock(FakeClock):
    """A clock that runs, and that is ahead of the clock of Redis. `advance` increases the lead."""

    def __call__(self) -> float:
        return time.time() + super().__call__()


class Machine(Process):
    """A process whose wall clock differs from the clock of Redis by `lead` seconds."""

    def __init__(self, url: str, lead: float = 0.0) -> None:
        self.wall = WallClock(lead)
        super().__init__(url, clock=Clock(now=self.wall))
        self.source.clock = self.wall

    def answers(self, cohort: str) -> None:
        """Let Amplitude answer with this cohort."""
        self.source.user_data = {"user_id": "u", "cohort_ids": [cohort]}

    def cohorts(self, max_age: float | None = None, query: ProfileQuery = COHORTS_ONLY) -> tuple[bytes, int]:
        """Return the cohorts in the answer to a caller, and the number of calls."""
        result = self.profiles.get(USER, [COHORTS], until=lambda: time.monotonic() + 1.4, max_age=max_age, query=query)
        assert result.freshness is not None
        return result.record.parts[COHORTS].value, result.calls


@pytest.fixture
def machines(running: RedisServer) -> Callable[..., list[Machine]]:
    """Return a function that starts machines whose clocks are ahead by `leads`."""

    def started(*leads: float) -> list[Machine]:
        processes = [Machine(running.url, lead) for lead in leads]
        settled(*processes)
        return processes

    return started


def write_future_copy(url: str, key: bytes, at: float) -> None:
    """Write a record with the cohort `old`, as the previous version did with a clock that was ahead."""
    moment = struct.pack(">d", at)
    value = moment + b'["old"]'
    with redis.Redis.from_url(url) as operator:
        fields = {b"m": moment + b'["u",null,400]', b"c\0": value + struct.pack(">I", zlib.crc32(value))}
        operator.hset(key, mapping=fields)
        operator.pexpire(key, 10_000_000)


def test_save__clock_of_the_process_is_ahead__stored_with_the_time_of_redis(
    machines: Callable[..., list[Machine]], caplog: pytest.LogCaptureFixture
) -> None:
    (ahead,) = machines(HOUR)
    ahead.answers("old")
    assert ahead.cohorts() == (b'["old"]', 1)
    stored = ahead.records.read(USER).record
    assert stored.fetched_at(COHORTS) == pytest.approx(time.time(), abs=5)
    (line,) = [line for line in caplog.records if line.message == "clock_ahead_of_redis"]
    assert vars(line)["seconds"] == pytest.approx(HOUR, abs=5)
    assert ahead.cohorts() == (b'["old"]', 0)


@pytest.mark.parametrize("previous_version", [False, True])
def test_no_cache__copy_of_a_machine_ahead__new_copy_for_every_machine(
    machines: Callable[..., list[Machine]], previous_version: bool
) -> None:
    ahead, machine, third = machines(HOUR, 0, 0)
    ahead.answers("old")
    ahead.cohorts()
    if previous_version:
        write_future_copy(ahead.url, ahead.records.record_key(USER), time.time() + HOUR)
    machine.answers("new")
    assert machine.cohorts() == (b'["old"]', 0)
    assert machine.cohorts(max_age=0) == (b'["new"]', 1)
    assert machine.cohorts() == (b'["new"]', 0)
    assert third.cohorts() == (b'["new"]', 0)
    assert machine.store.get(USER).parts[COHORTS].value == b'["new"]'


def test_no_cache__first_request_finds_a_future_copy__call(machines: Callable[..., list[Machine]]) -> None:
    (machine,) = machines(0)
    write_future_copy(machine.url, machine.records.record_key(USER), time.time() + HOUR)
    machine.answers("new")
    assert machine.cohorts(max_age=0) == (b'["new"]', 1)


def test_freshness__future_copy__ages_from_its_first_use(machines: Callable[..., list[Machine]]) -> None:
    (machine,) = machines(0)
    write_future_copy(machine.url, machine.records.record_key(USER), time.time() + HOUR)
    machine.answers("new")
    assert machine.cohorts() == (b'["old"]', 0)
    machine.wall.advance(1100)
    assert machine.cohorts() == (b'["new"]', 1)
    machine.wall.advance(10)
    assert machine.store.get(USER).parts[COHORTS].value == b'["new"]'


@pytest.mark.parametrize("previous_version", [False, True])
def test_push__later_than_the_copy_of_a_machine_ahead__overrides_the_copy(
    machines: Callable[..., list[Machine]], previous_version: bool
) -> None:
    ahead, machine = machines(HOUR, 0)
    ahead.answers("old")
    ahead.cohorts()
    if previous_version:
        write_future_copy(ahead.url, ahead.records.record_key(USER), time.time() + HOUR)
    assert machine.cohorts() == (b'["old"]', 0)
    machine.store.memory.push([("u", membership("c1", True, machine.wall(), machine.wall()))], 0)
    assert machine.cohorts(query=C1) == (b'["c1"]', 0)


def test_clock_behind__copies_of_others__served_but_not_for_no_cache(machines: Callable[..., list[Machine]]) -> None:
    behind, machine = machines(-HOUR, 0)
    machine.answers("old")
    machine.cohorts()
    behind.answers("new")
    assert behind.cohorts() == (b'["old"]', 0)
    assert behind.cohorts(max_age=0) == (b'["new"]', 1)
    assert behind.store.get(USER).parts[COHORTS].value == b'["new"]'
    assert behind.cohorts() == (b'["new"]', 0)


def test_update_in_the_future__counts_as_now__later_fetch_wins(machines: Callable[..., list[Machine]]) -> None:
    (machine,) = machines(0)
    machine.answers("fetched")
    machine.store.memory.push([("u", membership("c1", True, machine.wall() + HOUR))], 0)
    assert machine.cohorts(query=C1) == (b'["c1"]', 0)
    machine.wall.advance(1)
    assert machine.cohorts(max_age=0, query=C1) == (b'["fetched"]', 1)
    machine.wall.advance(100)
    machine.store.memory.push([("u", membership("c2", True, machine.wall()))], 0)
    assert machine.cohorts(query=C1) == (b'["fetched","c2"]', 0), "the update of c1 is older than the fetch"


def test_forget__copy_of_a_machine_ahead__removed_everywhere_and_later_pushes_are_kept(
    machines: Callable[..., list[Machine]],
) -> None:
    ahead, machine = machines(HOUR, 0)
    ahead.answers("old")
    ahead.cohorts()
    assert machine.cohorts() == (b'["old"]', 0)
    ahead.forget_service.forget(USER)
    machine.forget_service.catch_up()
    machine.wall.advance(5)
    generation = machine.store.memory.generation
    assert not machine.store.memory.push([("u", membership("c1", True, machine.wall()))], generation)
    machine.answers("new")
    assert machine.cohorts() == (b'["new"]', 1)


def test_lease__clock_of_redis_was_set_back__lease_has_ended(machines: Callable[..., list[Machine]]) -> None:
    (machine,) = machines(0)
    with redis.Redis.from_url(machine.url) as operator:
        later = int(1000 * (time.time() + 300))
        operator.hset(b"test:lease:" + UNKEYED.pair(USER), b"c\0", f"{later} !upstream_timeout".encode())
    machine.answers("new")
    assert machine.cohorts() == (b'["new"]', 1)


def test_own_clock__set_back_by_an_hour__copies_age_from_then_on(machines: Callable[..., list[Machine]]) -> None:
    (machine,) = machines(0)
    memory = machine.store.memory
    query = ProfileQuery(("cohorts", "properties"))
    identity = Identity("v", None)
    record = Record({COHORTS: CachedPart(b"[]", machine.wall()), PROPERTIES: CachedPart(b"{}", machine.wall())})
    memory.merge(identity, record)
    memory.push([("v", membership("c1", True, machine.wall()))], 0)
    for _ in range(2):
        assert memory.fresh(identity, query)
    memory.keep_ready(identity, query, memory.with_updates(identity, record, query), b"body", "etag")
    hit = memory.fresh(identity, query)
    assert hit
    assert hit.ready
    machine.wall.advance(-HOUR)
    assert not memory.fresh(identity, query)
    result = machine.profiles.get(identity, query.parts, until=lambda: time.monotonic() + 1, query=query)
    assert (result.forwarded, result.record.parts[COHORTS].value) == (None, b'["c1"]')
    machine.wall.advance(1)
    again = memory.fresh(identity, query)
    assert again
    assert again.ready is None
    machine.wall.advance(900)
    assert not memory.fresh(identity, query)
