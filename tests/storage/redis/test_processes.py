"""Several processes that share one Redis: quota, records, leases. A process is simulated by a set of services."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
import redis
import trustme

from proxy.amplitude import rate_limiter_redis
from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.executor import CallExecutor
from proxy.amplitude.rate_limiter import RateLimiter, Reservation
from proxy.amplitude.rate_limiter_fallback import FallbackRateLimiter
from proxy.fetch.backlog import Backlog, PartRequest
from proxy.fetch.forget import ForgetResult, ForgetService
from proxy.fetch.scheduler import FetchScheduler
from proxy.fetch.service import ProfileResult, ProfileService
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.errors import UpstreamUnavailable
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Part, computations, prediction, recommendation
from proxy.profile.record import EMPTY, CachedPart, Record, merge
from proxy.storage.redis import Lease, RedisUnavailable, StoredProfile
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.profiles import RedisProfiles
from proxy.storage.tiered import TieredStore
from tests.support.fakes import FakeClock, FakeSource
from tests.support.redis_server import RedisServer, program

USER = Identity("u", None)
POLICY = FreshnessPolicy(fresh=900, negative=60, stale_while_revalidate=100, stale_if_error=5000)
LONGEST = 8.0


@pytest.fixture(scope="module", params=["valkey", "redis"])
def shared_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    binary = program() if request.param == "valkey" else shutil.which("redis-server")
    if binary is None:
        pytest.skip("Redis itself is not installed: apt-get install redis-server")
    with RedisServer(binary=binary) as server:
        yield server


@pytest.fixture
def running(shared_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """An empty server that loses nothing: a new epoch begins as soon as all processes know it."""
    monkeypatch.setattr(rate_limiter_redis, "SETTLE_SECONDS", 0.05)
    with redis.Redis.from_url(shared_server.url) as operator:
        operator.flushall()
    return shared_server


@pytest.fixture
def valkey(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A server that may be stopped or emptied. A new epoch begins at once."""
    monkeypatch.setattr(rate_limiter_redis, "SETTLE_SECONDS", 0.05)
    with RedisServer() as server:
        yield server


@pytest.fixture
def settling_valkey() -> Iterator[RedisServer]:
    """A server that may be stopped or emptied. A new epoch begins when all had time to write back their calls."""
    with RedisServer() as server:
        yield server


class CountingProfiles(RedisProfiles):
    """Counts its leases, so that a test can wait until a process has found a part leased by another."""

    leases = 0

    def lease(self, identity: Identity, parts: Collection[Part]) -> tuple[StoredProfile, Lease]:
        result = super().lease(identity, parts)
        self.leases += 1
        return result


class Process:
    """The services of one worker process, without the web."""

    started: ClassVar[list[Process]] = []

    def __init__(
        self,
        url: str,
        *,
        per_minute: int = 600,
        policy: FreshnessPolicy = POLICY,
        lease_seconds: float = LONGEST,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.url = url
        self.server = RedisClient(url, clock=clock)
        self.started.append(self)
        self.records = CountingProfiles(self.server, b"test:", policy, longest=lease_seconds)
        self.quota = FallbackRateLimiter(self.server, b"test:", per_minute, clock=clock, longest=LONGEST)
        self.store = TieredStore(max_bytes=1_000_000, policy=policy, clock=clock, shared=self.records)
        self.source = FakeSource(FakeClock(time.time()))
        outage = CircuitBreaker(clock)
        self.executor = CallExecutor(self.source.fetch, self.quota, outage, clock=clock)
        self.backlog = backlog = Backlog(max_users=100, max_age=600, clock=clock)
        self.forget_service = ForgetService(self.store, backlog, self.records)
        self.server.register_by(self.register)
        self.scheduler = FetchScheduler(
            self.executor, self.store, self.quota, outage, backlog, policy, extra_parts=(), threads=20, clock=clock
        )
        self.profiles = ProfileService(self.store, self.scheduler, policy, clock=clock)

    def register(self) -> None:
        self.quota.register()
        self.forget_service.catch_up()

    def get(self, *parts: Part, patience: float = 1.4, identity: Identity = USER) -> ProfileResult:
        return self.profiles.get(identity, parts, until=time.monotonic() + patience)


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    """End the threads of all processes, so that none uses its Redis during another test."""
    yield
    processes, Process.started[:] = Process.started[:], []
    for process in processes:
        process.server.stop()
        process.scheduler.drain(10)
    wait_until(lambda: not any(process.server.stats().registers for process in processes))


def settled(*processes: Process) -> None:
    """Return when all are registered and calls may be reserved."""
    for process in processes:
        process.server.start()
    wait_until(lambda: all(process.quota.epoch for process in processes))
    for process in processes:
        process.server.register_soon()  # the first does not know the others yet
    wait_until(lambda: all(process.quota.processes == len(processes) for process in processes))
    wait_until(lambda: not any(process.quota.paused_for for process in processes))


def wait_until(holds: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        threading.Event().wait(0.005)


def reserve_all(quota: RateLimiter, latest: float = 0.0) -> list[Reservation]:
    """Reserve until nothing is free by `latest` (monotonic seconds)."""
    reservations = []
    while reservation := quota.reserve(latest):
        reservations.append(reservation)
    return reservations


@pytest.mark.contract("4 redis")
def test_the_burst_and_the_pace_are_shared(running: RedisServer) -> None:
    process_a, process_b = Process(running.url), Process(running.url)
    settled(process_a, process_b)
    began = time.monotonic()
    pools = ThreadPoolExecutor(8)
    halves = list(
        pools.map(lambda number: reserve_all((process_a, process_b)[number % 2].quota, began + 1.5), range(8))
    )
    done = time.monotonic()
    bursts = [reservation.at for half in halves for reservation in half if not reservation.even]
    assert len(bursts) == 59
    assert max(bursts) <= done, "at once"
    moments = sorted(reservation.at for half in halves for reservation in half if reservation.even)
    assert moments[0] <= done, "one goes beside the burst"
    assert len(moments) > 9
    steps = [later - earlier for earlier, later in pairwise(moments)]
    assert all(0.05 < step < 0.17 for step in steps), "one after the other at 9 a second, whoever books"


@pytest.mark.contract("4 redis")
def test_no_minute_holds_more_than_the_quota_whoever_books(running: RedisServer) -> None:
    processes = [Process(running.url, per_minute=20) for _ in range(4)]
    settled(*processes)
    places = []
    for _ in range(10):
        for process in processes:
            places += reserve_all(process.quota, time.monotonic() + 59.9)
    assert 19 <= len(places) <= 20
    assert not reserve_all(processes[0].quota, time.monotonic() + 60), "nor while the first of them may be on its way"
    for place in places[:5]:
        place.complete()
    following: list[Reservation] = []

    def another() -> bool:
        following[:] = reserve_all(processes[1].quota, time.monotonic() + 64)
        return bool(following)

    wait_until(another)
    assert following[0].at >= time.monotonic() + 59


def test_a_cancelled_place_is_free_for_the_others(running: RedisServer) -> None:
    process_a, process_b = Process(running.url, per_minute=10), Process(running.url, per_minute=10)
    settled(process_a, process_b)
    place = process_a.quota.reserve(0)
    assert place is not None
    assert process_b.quota.reserve(0) is None
    place.cancel()
    wait_until(lambda: process_b.quota.reserve(0))


@pytest.mark.contract("4 redis")
def test_a_429_makes_everybody_stand_back(running: RedisServer) -> None:
    process_a, process_b = Process(running.url), Process(running.url)
    settled(process_a, process_b)
    process_a.quota.pause(30)
    assert process_b.quota.reserve(time.monotonic() + 29) is None
    assert process_b.quota.paused
    assert process_b.quota.wait() == pytest.approx(30, abs=1)


@pytest.mark.contract("4 redis faults")
def test_while_redis_is_gone_nothing_is_sent_for_a_window_and_then_each_process_s_share(
    valkey: RedisServer, clock: FakeClock
) -> None:
    processes = [Process(valkey.url, per_minute=90, clock=Clock(monotonic=clock)) for _ in range(3)]
    for process in processes:
        process.server.start()
    wait_until(lambda: all(process.quota.processes == 3 for process in processes))
    valkey.stop()
    for process in processes:
        assert process.quota.reserve(clock()) is None
    clock.advance(60 + LONGEST - 0.1)
    assert not any(reserve_all(process.quota) for process in processes)
    clock.advance(0.1)
    sent = 0
    for _ in range(100):
        for process in processes:
            for reservation in reserve_all(process.quota):
                reservation.complete()
                sent += 1
        clock.advance(0.599)
    assert 75 < sent <= 90, "in a minute the three together send what one may"


@pytest.mark.contract("4 redis faults")
def test_what_was_sent_is_written_back_into_a_redis_that_returns_empty(settling_valkey: RedisServer) -> None:
    process_a, process_b = Process(settling_valkey.url, per_minute=10), Process(settling_valkey.url, per_minute=10)
    settled(process_a, process_b)
    places = [
        *reserve_all(process_a.quota, time.monotonic() + 59),
        *reserve_all(process_b.quota, time.monotonic() + 59),
    ]
    assert len(places) == 10
    settling_valkey.stop()
    wait_until(lambda: process_a.server.unavailable_since and process_b.server.unavailable_since)
    settling_valkey.start()
    wait_until(lambda: process_a.server.unavailable_since is None and process_b.server.unavailable_since is None)
    settled(process_a, process_b)
    assert process_a.quota.reserve(time.monotonic() + 50) is None
    assert process_b.quota.reserve(time.monotonic() + 50) is None


@pytest.mark.contract("4 redis faults")
@pytest.mark.parametrize("lost", [b"quota:places", b"quota:bursts", b"quota:pace"])
def test_a_part_of_the_book_that_redis_lost_is_written_back_before_anything_is_booked(
    settling_valkey: RedisServer, lost: bytes
) -> None:
    process_a, process_b = Process(settling_valkey.url, per_minute=10), Process(settling_valkey.url, per_minute=10)
    settled(process_a, process_b)
    assert (
        len(
            [*reserve_all(process_a.quota, time.monotonic() + 59), *reserve_all(process_b.quota, time.monotonic() + 59)]
        )
        == 10
    )
    with redis.Redis.from_url(settling_valkey.url) as operator:
        old = operator.hget(b"test:quota:pace", b"epoch")
        operator.delete(b"test:" + lost)

        def new_epoch_began() -> bool:
            assert not reserve_all(process_a.quota, time.monotonic() + 50)
            assert not reserve_all(process_b.quota, time.monotonic() + 50)
            return operator.hget(b"test:quota:pace", b"epoch") not in (None, old)

        wait_until(new_epoch_began)
    for process in (process_a, process_b):
        process.quota.register()
    settled(process_a, process_b)
    assert not reserve_all(process_a.quota, time.monotonic() + 50)
    assert not reserve_all(process_b.quota, time.monotonic() + 50)


@pytest.mark.contract("4 redis faults")
def test_the_number_of_processes_is_not_forgotten_with_an_empty_redis(valkey: RedisServer) -> None:
    process_a, process_b = Process(valkey.url), Process(valkey.url)
    settled(process_a, process_b)
    process_b.server.stop()
    wait_until(lambda: not process_b.server.stats().registers)
    with redis.Redis.from_url(valkey.url) as operator:
        operator.flushall()
    process_a.quota.register()
    assert process_a.quota.processes == 2


def test_completed_calls__a_minute_later__leave_the_local_window_while_redis_keeps_the_quota(
    valkey: RedisServer, clock: FakeClock
) -> None:
    process = Process(valkey.url, clock=Clock(monotonic=clock))
    process.server.start()
    wait_until(lambda: process.quota.epoch)

    def reserve() -> Reservation | None:
        clock.advance(1)
        return process.quota.reserve(clock())

    for _ in range(3):
        reservation: Reservation | None = None
        while reservation is None:
            reservation = reserve()
        reservation.complete()
        clock.advance(61)
    assert process.quota.recorded == 1


@pytest.mark.contract("4 redis faults")
def test_what_is_no_record_of_ours_is_as_good_as_not_there_and_spoils_it_for_nobody_else(running: RedisServer) -> None:
    process = Process(running.url)
    settled(process)
    process.get(COHORTS)
    key = process.records.record_key(USER)
    fresh = Process(running.url)
    settled(process, fresh)
    with redis.Redis.from_url(running.url) as operator:
        operator.hset(key, mapping={b"w\0new": b"12345678[]", b"p\0": b"short"})
        assert fresh.get(COHORTS).forwarded is None
        whole = operator.hget(key, b"c\0")
        operator.hset(key, b"c\0", whole[:10] + bytes([whole[10] ^ 1]) + whole[11:])
        damaged = Process(running.url)
        settled(process, fresh, damaged)
        assert not damaged.store.get(USER).has(COHORTS)
        operator.hset(key, b"c\0", whole)
        operator.hset(key, b"m", b"garbage, and more of it")
        third = Process(running.url)
        settled(process, fresh, damaged, third)
        assert third.store.get(USER) == EMPTY
        operator.delete(key)
        operator.set(key, "no hash")
    last = Process(running.url)
    settled(process, fresh, damaged, third, last)
    assert last.get(COHORTS).error is None
    assert last.server.unavailable_since is None


@pytest.mark.contract("4 redis faults")
def test_going_and_coming_back_is_one_line_each(valkey: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    process = Process(valkey.url)
    settled(process)
    with caplog.at_level(logging.INFO, "proxy"):
        valkey.stop()
        wait_until(lambda: process.server.unavailable_since)
        for _ in range(20):
            process.store.get(USER)
            process.quota.reserve(0)
        valkey.start()
        wait_until(lambda: len(caplog.records) > 1)  # it is back a moment before it says so
    assert [line.getMessage() for line in caplog.records] == [
        "redis_unavailable",
        "redis_available",
    ]


@pytest.mark.contract("4 redis faults")
@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CLIENT PAUSE 60000 WRITE", "CLIENT UNPAUSE"),
    ],
    ids=["full", "read-only", "slow"],
)
def test_redis__cannot_be_used__counts_as_unavailable_until_it_can(valkey: RedisServer, begin: str, end: str) -> None:
    process = Process(valkey.url)
    settled(process)
    process.get(COHORTS)
    with redis.Redis.from_url(valkey.url) as operator:
        operator.execute_command(*begin.split())
        wait_until(lambda: process.server.unavailable_since)
        assert process.get(COHORTS).forwarded is None, "what the process has is still served"
        operator.execute_command(*end.split())
    wait_until(lambda: process.server.unavailable_since is None)


@pytest.mark.contract("4 redis faults")
def test_one_late_answer_is_no_reason_to_do_without_redis(valkey: RedisServer) -> None:
    process = Process(valkey.url)
    settled(process)
    process.server.stop()
    with redis.Redis.from_url(valkey.url) as operator:
        operator.execute_command("CLIENT", "PAUSE", "500", "ALL")
    with pytest.raises(RedisUnavailable):
        process.server.hash(b"nothing")
    assert process.server.unavailable_since is None
    wait_until(lambda: process.quota.reserve(0))


def test_any_record_comes_back_as_it_was(running: RedisServer) -> None:
    process = Process(running.url)
    now = time.time()
    parts = {
        PROPERTIES: CachedPart(b'{"a":"' + b"x" * 3000 + b'"}', now),
        COHORTS: CachedPart(b"[]", now + 0.25),
        recommendation("r", "model"): CachedPart(b"null", now),
        recommendation("r"): CachedPart(b"{}", now),
        computations(["b", "a"]): CachedPart(b'{"x":"1"}', now),
        computations(): CachedPart(b"{}", now),
        prediction("p", "pct"): CachedPart(b"3", now),
        prediction("p"): CachedPart(b"3", now, True),
        recommendation("long"): CachedPart(b'"' + b"x" * 3000 + b'"', now, True),
    }
    record = Record(parts, None, "Jürgen", "d")
    process.records.save(USER, record, [], now)
    assert process.records.read(USER).record == record
    assert process.records.read(Identity("u", "d")).record == EMPTY
    unknown = Record(unknown_at=now + 1, unknown_status=404)
    process.records.save(USER, unknown, [], now)
    assert process.records.read(USER).record == unknown


@pytest.mark.contract("4 redis")
def test_merging_in_redis_is_merging_here(running: RedisServer) -> None:
    process = Process(running.url)
    now = time.time()

    def fetched(*parts: tuple[Part, float]) -> Record:
        return Record({part: CachedPart(str(at).encode(), now + at) for part, at in parts}, None, "u")

    records = [
        fetched((COHORTS, 0)),
        fetched((COHORTS, 2), (PROPERTIES, 2)),
        fetched((COHORTS, 1)),
        Record(unknown_at=now + 1.5),
        Record(unknown_at=now + 3),
        fetched((PROPERTIES, 2.5)),
        fetched((PROPERTIES, 4)),
    ]
    merged = EMPTY
    for record in records:
        merged = merge(merged, record)
        process.records.save(USER, record, [], now)
        stored = process.records.read(USER).record
        assert (stored.parts, stored.unknown_at) == (merged.parts, merged.unknown_at)


def test_every_key_expires_and_what_may_not_be_served_any_more_does_not_pile_up(running: RedisServer) -> None:
    process = Process(running.url)
    settled(process)
    process.get(COHORTS)
    now = time.time()
    old = Record({PROPERTIES: CachedPart(b"1", now - 10_000)})
    process.records.save(USER, old, [], now)
    process.records.save(USER, Record({COHORTS: CachedPart(b"[]", now + 1)}), [], now)
    assert process.records.read(USER).record.parts.keys() == {COHORTS}
    with redis.Redis.from_url(running.url) as client:
        ages = {key: client.pttl(key) for key in client.scan_iter()}
    assert len(ages) >= 4
    assert all(age > 0 for age in ages.values()), ages
    assert not any(key.rpartition(b":")[2] == b"u" for key in ages), "keys hold no ids"


@pytest.mark.contract("4 warm freshness")
def test_what_was_warmed_is_kept_in_redis_for_as_long_as_it_is_of_use(running: RedisServer) -> None:
    process = Process(running.url, policy=FreshnessPolicy(fresh=900, negative=60, warm=86_400))
    settled(process)
    now = time.time()
    key = process.records.record_key(USER)
    with redis.Redis.from_url(running.url) as client:
        process.records.save(USER, Record({COHORTS: CachedPart(b"[]", now)}), [], now)
        assert 890_000 < client.pttl(key) <= 900_000
        process.records.save(USER, Record({COHORTS: CachedPart(b"[]", now)}).warm(), [], now)
        process.records.save(USER, Record({PROPERTIES: CachedPart(b"{}", now)}), [], now)
        assert 86_300_000 < client.pttl(key) <= 86_400_000
        process.records.save(USER, Record(unknown_at=now + 1), [], now)
        assert client.pttl(key) <= 60_000


@pytest.mark.contract("4 redis")
def test_one_user_asked_of_two_processes_at_once_costs_one_call(running: RedisServer) -> None:
    process_a, process_b = Process(running.url), Process(running.url)
    settled(process_a, process_b)
    process_a.source.open.clear()
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(process_a.get, COHORTS)
        process_a.source.wait_for_call()
        second = callers.submit(process_b.get, COHORTS)
        wait_until(lambda: (part := process_b.scheduler.pending(USER).get(COHORTS)) and part.remote)
        process_a.source.open.set()
        assert first.result(10).error is None
        answer = second.result(10)
    assert (answer.error, answer.calls, answer.opened) == (None, 1, False)
    assert answer.record.has(COHORTS)
    assert not process_b.source.calls


def test_a_failure_is_shared_with_the_other_process_too(running: RedisServer) -> None:
    process_a, process_b = Process(running.url), Process(running.url)
    settled(process_a, process_b)
    process_a.source.open.clear()
    process_a.source.fault = UpstreamUnavailable()
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(process_a.get, COHORTS)
        process_a.source.wait_for_call()
        second = callers.submit(process_b.get, COHORTS)
        wait_until(lambda: (part := process_b.scheduler.pending(USER).get(COHORTS)) and part.remote)
        process_a.source.open.set()
        words = [answer.result(10).error.word for answer in (first, second)]  # type: ignore[union-attr]
    assert words == ["upstream_unavailable"] * 2
    assert not process_b.source.calls


def test_the_call_of_a_process_that_died_is_taken_over(valkey: RedisServer) -> None:
    dead, survivor = Process(valkey.url, lease_seconds=0.3), Process(valkey.url)
    settled(dead, survivor)
    assert dead.store.lease(USER, [COHORTS]).granted == {COHORTS}
    answer = survivor.get(COHORTS)
    assert (answer.error, len(survivor.source.calls)) == (None, 1)


@pytest.mark.contract("4 redis")
def test_what_one_process_fetched_is_a_hit_in_the_other_by_one_round_trip_and_then_by_none(
    running: RedisServer,
) -> None:
    process_a, process_b = Process(running.url), Process(running.url)
    settled(process_a, process_b)
    process_a.get(COHORTS, PROPERTIES, recommendation("a"))
    before = process_b.server.stats().round_trips
    first = process_b.get(COHORTS, PROPERTIES, recommendation("a"))
    assert (first.forwarded, first.calls) == (None, 0)
    assert process_b.server.stats().round_trips - before == 1
    assert process_b.get(COHORTS, PROPERTIES, recommendation("a")).forwarded is None
    assert process_b.server.stats().round_trips - before == 1
    assert not process_b.source.calls


def left_of(url: str, *ids: str) -> list[bytes]:
    """Return the keys of records, and all other keys that contain one of the ids in their name or value."""
    with redis.Redis.from_url(url) as client:
        keys = []
        for key in client.scan_iter():
            value = client.dump(key)
            if b":user3:" in key or any(id.encode() in value or id.encode() in key for id in ids):
                keys.append(key)
        return keys


@pytest.mark.contract("3 forget")
def test_who_is_forgotten_is_gone_from_every_process_and_from_redis_within_a_second(running: RedisServer) -> None:
    process_a, process_b = Process(running.url), Process(running.url)
    settled(process_a, process_b)
    pairs = [
        Identity("forget-me", None),
        Identity("forget-me", "phone"),
        Identity("forget-me", "tablet"),
        Identity(None, "laptop"),
    ]
    for process in (process_a, process_b):
        process.source.user_data = {"user_id": "forget-me", "device_id": "laptop", "cohort_ids": ["c"]}
        for pair in pairs:
            process.get(COHORTS, identity=pair)
        process_b.backlog.add(pairs[1], {PROPERTIES: PartRequest(time.monotonic(), False)})
    process_a.source.user_data = {"user_id": "somebody-else", "device_id": "x"}
    bystander = Identity("somebody-else", None)
    process_a.get(COHORTS, identity=bystander)
    began = time.monotonic()
    assert process_a.forget_service.forget(Identity("forget-me", None)) == ForgetResult(records=4, waiting=0)
    assert not any(process_a.store.memory.read(pair).parts for pair in pairs)
    wait_until(lambda: not any(process_b.store.memory.read(pair).parts for pair in pairs), seconds=1)
    wait_until(lambda: not len(process_b.backlog), seconds=1)
    assert time.monotonic() - began < 1
    assert [key for key in left_of(running.url, "forget-me") if process_a.records.record_key(bystander) != key] == []
    assert process_a.store.get(bystander).parts.keys() == {COHORTS}
    assert process_a.forget_service.forget(Identity("forget-me", None)).records == 0


def test_a_device_is_forgotten_with_all_who_were_seen_on_it(running: RedisServer) -> None:
    process_a = Process(running.url)
    settled(process_a)
    process_a.source.user_data = {"user_id": "u", "device_id": "phone"}
    process_a.get(COHORTS)
    process_a.source.user_data = {"user_id": "v", "device_id": "v-s"}
    process_a.get(COHORTS, identity=Identity("v", "phone"))
    process_a.get(COHORTS, identity=Identity("v", None))
    assert process_a.forget_service.forget(Identity(None, "phone")).records == 2
    assert len(left_of(running.url)) == 1


@pytest.mark.contract("3 forget")
def test_what_is_on_its_way_anywhere_when_a_user_is_forgotten_is_not_kept(running: RedisServer) -> None:
    process_a, process_b = Process(running.url), Process(running.url)
    settled(process_a, process_b)
    process_b.source.user_data = {"user_id": "u", "cohort_ids": ["c"]}
    process_b.source.open.clear()
    with ThreadPoolExecutor(1) as callers:
        request = callers.submit(process_b.get, COHORTS, patience=5)
        process_b.source.wait_for_call()
        process_a.forget_service.forget(USER)
        process_b.source.open.set()
        assert request.result(10).record.has(COHORTS), "who waits for it is answered"
    assert left_of(running.url) == []
    assert process_a.store.get(USER) == EMPTY
    wait_until(lambda: process_b.store.memory.generation > 0 and process_b.store.memory.read(USER) == EMPTY, seconds=1)
    # And when the process has heard of it before the answer lands.
    process_b.source.open.clear()
    with ThreadPoolExecutor(1) as callers:
        request = callers.submit(process_b.get, PROPERTIES, patience=5)
        process_b.source.wait_for_call()
        generation = process_b.store.memory.generation
        process_a.forget_service.forget(USER)
        wait_until(lambda: process_b.store.memory.generation > generation, seconds=1)
        process_b.source.open.set()
        request.result(10)
    assert process_b.store.memory.read(USER) == EMPTY
    assert left_of(running.url) == []


def test_who_is_asked_anew_after_being_forgotten_is_kept_again(running: RedisServer) -> None:
    process_a = Process(running.url)
    settled(process_a)
    process_a.get(COHORTS)
    process_a.forget_service.forget(USER)
    assert process_a.get(COHORTS).forwarded == "miss"
    assert process_a.get(COHORTS).forwarded is None
    with redis.Redis.from_url(running.url) as client:
        tombstones = list(client.scan_iter(b"*:pairs:*"))
        assert all(0 < client.pttl(tombstone) <= 20_000 for tombstone in tombstones), (
            "it is barred in Redis only for a moment"
        )
        client.delete(*tombstones)
    assert process_a.get(PROPERTIES).forwarded == "miss"
    assert process_a.records.read(USER).record.parts.keys() == {PROPERTIES}


@pytest.mark.contract("3 forget")
def test_forgetting_while_redis_is_gone_is_done_here_and_said_to_be_incomplete(valkey: RedisServer) -> None:
    process_a = Process(valkey.url)
    settled(process_a)
    process_a.get(COHORTS)
    valkey.stop()
    with pytest.raises(RedisUnavailable):
        process_a.forget_service.forget(USER)
    assert process_a.store.memory.read(USER) == EMPTY


@pytest.mark.contract("4 redis")
@pytest.mark.parametrize("verify", [True, False])
def test_rediss_is_verified_or_not(tmp_path: Path, verify: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("a Redis with TLS is not installed: apt-get install redis-server")
    plain = RedisServer(binary=binary)
    files = {"cert-file": "cert.pem", "key-file": "key.pem", "ca-cert-file": "ca.pem"}
    tls = {f"tls-{name}": f"{tmp_path / file}" for name, file in files.items()}
    with RedisServer({"tls-port": f"{plain.port}", "tls-auth-clients": "no", **tls}, binary=binary):
        url = f"rediss://127.0.0.1:{plain.port}/0"
        server = RedisClient(url, verify=verify)
        ready = not verify
        server.register_by(lambda: None)
        if ready:
            assert server.hash(b"nothing") == {}
        else:
            with pytest.raises(RedisUnavailable):
                server.hash(b"nothing")
            monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path / 'ca.pem'}")
            assert RedisClient(url, verify=True).hash(b"nothing") == {}
