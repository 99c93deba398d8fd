"""Several processes that share one Redis: quota, records and leases. A set of services simulates a process."""

from __future__ import annotations

import logging
import shutil
import struct
import threading
import time
import zlib
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
from tests.support.redis_server import RedisServer, SteppedRedisServer, faketime, program

USER = Identity("u", None)
POLICY = FreshnessPolicy(fresh=900, negative=60, stale_while_revalidate=100, stale_if_error=5000)
LONGEST = 8.0


@pytest.fixture(scope="module", params=["valkey", "redis"])
def shared_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    binary = program() if request.param == "valkey" else shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed; run apt-get install redis-server")
    with RedisServer(binary=binary) as server:
        yield server


@pytest.fixture
def running(shared_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """Return an empty server that keeps its data for the whole test. A new epoch of the quota begins after 0.05 s."""
    monkeypatch.setattr(rate_limiter_redis, "SETTLE_SECONDS", 0.05)
    with redis.Redis.from_url(shared_server.url) as operator:
        operator.flushall()
    return shared_server


@pytest.fixture
def valkey(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """Yield a server that the test may stop or empty. A new epoch of the quota begins after 0.05 s."""
    monkeypatch.setattr(rate_limiter_redis, "SETTLE_SECONDS", 0.05)
    with RedisServer() as server:
        yield server


@pytest.fixture
def settling_valkey() -> Iterator[RedisServer]:
    """Yield a server that the test may stop or empty. A new epoch begins after all processes had time to report."""
    with RedisServer() as server:
        yield server


class CountingProfiles(RedisProfiles):
    """Counts leases, so that a test can wait until a process has found a part that another process leased."""

    leases = 0

    def lease(self, identity: Identity, parts: Collection[Part]) -> tuple[StoredProfile, Lease]:
        result = super().lease(identity, parts)
        self.leases += 1
        return result


class Process:
    """The services of one worker process, without the web layer."""

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
        circuit_breaker = CircuitBreaker(clock)
        self.executor = CallExecutor(self.source.fetch, self.quota, circuit_breaker, clock=clock)
        self.backlog = backlog = Backlog(max_users=100, max_age=600, clock=clock)
        self.forget_service = ForgetService(self.store, backlog, self.records)
        self.server.set_registration(self.register)
        self.scheduler = FetchScheduler(
            self.executor,
            self.store,
            self.quota,
            circuit_breaker,
            backlog,
            policy,
            extra_parts=(),
            threads=20,
            clock=clock,
        )
        self.profiles = ProfileService(self.store, self.scheduler, policy, clock=clock)

    def register(self) -> None:
        self.quota.register()
        self.forget_service.catch_up()

    def get(self, *parts: Part, patience: float = 1.4, identity: Identity = USER) -> ProfileResult:
        return self.profiles.get(identity, parts, until=lambda: time.monotonic() + patience)


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    """End the threads of all processes, so that none uses its Redis during another test."""
    yield
    processes, Process.started[:] = Process.started[:], []
    for process in processes:
        process.server.stop()
        process.scheduler.drain(10)
    wait_until(lambda: not any(process.server.stats().registers for process in processes))


def registered(*processes: Process) -> None:
    """Wait until all processes are registered and know each other."""
    for process in processes:
        process.server.start()
    wait_until(lambda: all(process.quota.epoch for process in processes))
    for process in processes:
        process.server.register_soon()  # the first process does not know the others yet
    wait_until(lambda: all(process.quota.processes == len(processes) for process in processes))


def settled(*processes: Process) -> None:
    """Wait until all processes are registered and can reserve calls."""
    registered(*processes)
    wait_until(lambda: not any(process.quota.paused_for for process in processes))


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never became true"
        threading.Event().wait(0.005)


def reserve_all(quota: RateLimiter, latest: float = 0.0) -> list[Reservation]:
    """Reserve calls until no slot is free by `latest` (monotonic seconds)."""
    reservations = []
    while reservation := quota.reserve(latest):
        reservations.append(reservation)
    return reservations


@pytest.mark.contract("4 redis")
def test_reserve__two_processes__share_the_burst_and_the_even_slots(running: RedisServer) -> None:
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
    assert max(bursts) <= done, "the burst is sent at once"
    times = sorted(reservation.at for half in halves for reservation in half if reservation.even)
    assert times[0] <= done, "one even call is sent with the burst"
    assert len(times) > 9
    steps = [later - earlier for earlier, later in pairwise(times)]
    assert all(0.05 < step < 0.17 for step in steps), "both processes together send 9 even calls a second"


@pytest.mark.contract("4 redis")
def test_reserve__four_processes__no_minute_contains_more_than_the_quota(running: RedisServer) -> None:
    processes = [Process(running.url, per_minute=20) for _ in range(4)]
    settled(*processes)
    reservations = []
    for _ in range(10):
        for process in processes:
            reservations += reserve_all(process.quota, time.monotonic() + 59.9)
    assert 19 <= len(reservations) <= 20
    assert not reserve_all(processes[0].quota, time.monotonic() + 60), (
        "no slot is free while the first calls may be in flight"
    )
    for reservation in reservations[:5]:
        reservation.complete()
    next_reservations: list[Reservation] = []

    def reserve_next() -> bool:
        next_reservations[:] = reserve_all(processes[1].quota, time.monotonic() + 64)
        return bool(next_reservations)

    wait_until(reserve_next)
    assert next_reservations[0].at >= time.monotonic() + 59


def test_cancel__slot_of_one_process__free_for_the_others(running: RedisServer) -> None:
    process_a, process_b = Process(running.url, per_minute=10), Process(running.url, per_minute=10)
    settled(process_a, process_b)
    reservation = process_a.quota.reserve(0)
    assert reservation is not None
    assert process_b.quota.reserve(0) is None
    reservation.cancel()
    wait_until(lambda: process_b.quota.reserve(0))


@pytest.mark.contract("4 redis")
def test_pause__one_process_got_429__all_processes_pause(running: RedisServer) -> None:
    process_a, process_b = Process(running.url), Process(running.url)
    settled(process_a, process_b)
    process_a.quota.pause(30)
    assert process_b.quota.reserve(time.monotonic() + 29) is None
    assert process_b.quota.paused
    assert process_b.quota.wait() == pytest.approx(30, abs=1)


def test_used_and_left__calls_of_two_processes__same_numbers_in_both(running: RedisServer) -> None:
    process_a, process_b = Process(running.url), Process(running.url)
    settled(process_a, process_b)
    for process, number in ((process_a, 5), (process_b, 2)):
        for _ in range(number):
            reservation = process.quota.reserve(0)
            assert reservation is not None
            reservation.complete()
    assert process_a.quota.used >= 5, "calls of this process count at once"
    numbers = [(7, 593)] * 2
    wait_until(lambda: [(quota.used, quota.left) for quota in (process_a.quota, process_b.quota)] == numbers)


@pytest.mark.contract("4 redis faults")
def test_left__redis_unavailable__0_until_the_share_may_be_used(valkey: RedisServer, clock: FakeClock) -> None:
    processes = [Process(valkey.url, per_minute=90, clock=Clock(monotonic=clock)) for _ in range(2)]
    quota = processes[0].quota
    registered(*processes)
    clock.advance(10)
    states = [(quota.left, quota.spent)]
    valkey.stop()
    wait_until(lambda: processes[0].server.unavailable_since)
    states.append((quota.left, quota.spent))
    clock.advance(60 + LONGEST)
    states.append((quota.left, quota.spent))
    assert quota.reserve(clock()) is not None
    states.append((quota.left, quota.spent))
    assert states == [(90, False), (0, True), (90, False), (88, False)]
    assert quota.used == 2, "an estimate: every process sends as many calls"


def test_spent__another_process_refuses_calls__true_in_both(running: RedisServer) -> None:
    process_a, process_b = Process(running.url, per_minute=30), Process(running.url, per_minute=30)
    settled(process_a, process_b)
    assert not process_b.quota.spent
    reserve_all(process_a.quota)
    wait_until(lambda: process_b.quota.spent)


@pytest.mark.contract("4 redis faults")
def test_reserve__redis_unavailable__no_call_for_a_minute_and_then_the_share_of_each_process(
    valkey: RedisServer,
) -> None:
    skipped = 0.0
    # Time runs, because a clock that stands still looks like a step of the clock of Redis.
    clock = Clock(monotonic=lambda: time.monotonic() + skipped)
    processes = [Process(valkey.url, per_minute=90, clock=clock) for _ in range(3)]
    registered(*processes)
    valkey.stop()
    for process in processes:
        assert process.quota.reserve(clock.monotonic()) is None
    skipped += 60 + LONGEST - 5
    assert not any(reserve_all(process.quota) for process in processes)
    skipped += 5
    sent = 0
    for _ in range(100):
        for process in processes:
            for reservation in reserve_all(process.quota):
                reservation.complete()
                sent += 1
        skipped += 0.55  # 55 seconds in all, and up to 5 seconds for the loop itself
    assert 70 < sent <= 90, "the three shares add up to the quota"


@pytest.mark.contract("4 redis faults")
def test_reserve__redis_returns_empty__earlier_calls_still_count(settling_valkey: RedisServer) -> None:
    process_a, process_b = Process(settling_valkey.url, per_minute=10), Process(settling_valkey.url, per_minute=10)
    settled(process_a, process_b)
    reservations = [
        *reserve_all(process_a.quota, time.monotonic() + 59),
        *reserve_all(process_b.quota, time.monotonic() + 59),
    ]
    assert len(reservations) == 10
    settling_valkey.stop()
    wait_until(lambda: process_a.server.unavailable_since and process_b.server.unavailable_since)
    settling_valkey.start()
    wait_until(lambda: process_a.server.unavailable_since is None and process_b.server.unavailable_since is None)
    settled(process_a, process_b)
    assert process_a.quota.reserve(time.monotonic() + 50) is None
    assert process_b.quota.reserve(time.monotonic() + 50) is None


@pytest.mark.contract("4 redis faults")
@pytest.mark.parametrize("lost", [b"quota:places", b"quota:bursts", b"quota:pace"])
def test_reserve__redis_lost_a_key_of_the_quota__earlier_calls_still_count(
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
def test_register__redis_was_emptied__number_of_processes_is_kept(valkey: RedisServer) -> None:
    process_a, process_b = Process(valkey.url), Process(valkey.url)
    settled(process_a, process_b)
    process_b.server.stop()
    wait_until(lambda: not process_b.server.stats().registers)
    with redis.Redis.from_url(valkey.url) as operator:
        operator.flushall()
    process_a.quota.register()
    assert process_a.quota.processes == 2


@pytest.mark.contract("4 redis faults")
def test_records__foreign_or_damaged_values__ignored_and_redis_stays_available(running: RedisServer) -> None:
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
        for moment in (float("nan"), float("-inf")):
            content = struct.pack(">d", moment) + whole[8:-4]
            operator.hset(key, b"c\0", content + struct.pack(">I", zlib.crc32(content)))
            assert not process.records.read(USER).record.has(COHORTS)
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
def test_log__redis_stops_and_returns__one_line_each(valkey: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    process = Process(valkey.url)
    settled(process)
    with caplog.at_level(logging.INFO, "proxy"):
        valkey.stop()
        wait_until(lambda: process.server.unavailable_since)
        for _ in range(20):
            process.store.get(USER)
            process.quota.reserve(0)
        valkey.start()
        wait_until(lambda: len(caplog.records) > 1)  # the state changes shortly before the log line
    assert [line.getMessage() for line in caplog.records] == [
        "redis_unavailable",
        "redis_available",
    ]


@pytest.mark.contract("4 redis faults")
@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CLIENT PAUSE 60000 WRITE", "CLIENT UNPAUSE"),
    ],
    ids=["read-only", "slow"],
)
def test_redis__cannot_be_used__counts_as_unavailable_until_it_can(valkey: RedisServer, begin: str, end: str) -> None:
    process = Process(valkey.url)
    settled(process)
    process.get(COHORTS)
    with redis.Redis.from_url(valkey.url) as operator:
        operator.execute_command(*begin.split())
        wait_until(lambda: process.server.unavailable_since)
        assert process.get(COHORTS).forwarded is None, "cached data is still served"
        operator.execute_command(*end.split())
    wait_until(lambda: process.server.unavailable_since is None)


@pytest.mark.contract("4 redis faults")
def test_redis__one_late_answer__still_counts_as_available(valkey: RedisServer) -> None:
    process = Process(valkey.url)
    settled(process)
    process.server.stop()
    with redis.Redis.from_url(valkey.url) as operator:
        operator.execute_command("CLIENT", "PAUSE", "500", "ALL")
    with pytest.raises(RedisUnavailable):
        process.server.hash(b"nothing")
    assert process.server.unavailable_since is None
    wait_until(lambda: process.quota.reserve(0))


def test_records__saved_and_read__unchanged(running: RedisServer) -> None:
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
def test_records__merged_in_redis__same_as_merged_in_python(running: RedisServer) -> None:
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


def test_records__saved__every_key_expires_and_expired_parts_are_dropped(running: RedisServer) -> None:
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
    assert not any(key.rpartition(b":")[2] == b"u" for key in ages), "keys contain no ids"


@pytest.mark.contract("4 warm freshness")
def test_records__warmed_part__key_expires_with_the_warm_lifetime(running: RedisServer) -> None:
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
def test_get__same_user_in_two_processes_at_once__one_call(running: RedisServer) -> None:
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
    assert (answer.error, answer.calls, answer.started_fetch) == (None, 1, False)
    assert answer.record.has(COHORTS)
    assert not process_b.source.calls


def test_get__call_of_another_process_fails__same_error_without_a_call(running: RedisServer) -> None:
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


def test_get__process_with_the_lease_died__another_process_makes_the_call(valkey: RedisServer) -> None:
    dead, survivor = Process(valkey.url, lease_seconds=0.3), Process(valkey.url)
    settled(dead, survivor)
    assert dead.store.lease(USER, [COHORTS]).granted == {COHORTS}
    answer = survivor.get(COHORTS)
    assert (answer.error, len(survivor.source.calls)) == (None, 1)


@pytest.mark.contract("4 redis")
def test_get__cached_by_another_process__one_round_trip_and_then_none(
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
def test_forget__two_processes__removed_from_both_and_from_redis_within_a_second(running: RedisServer) -> None:
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
    process_a.source.user_data = {"user_id": "another-user", "device_id": "x"}
    bystander = Identity("another-user", None)
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


def test_forget__device_id__every_record_with_the_device_is_removed(running: RedisServer) -> None:
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
def test_forget__call_in_flight_in_another_process__answered_but_not_cached(running: RedisServer) -> None:
    process_a, process_b = Process(running.url), Process(running.url)
    settled(process_a, process_b)
    process_b.source.user_data = {"user_id": "u", "cohort_ids": ["c"]}
    process_b.source.open.clear()
    with ThreadPoolExecutor(1) as callers:
        request = callers.submit(process_b.get, COHORTS, patience=5)
        process_b.source.wait_for_call()
        process_a.forget_service.forget(USER)
        process_b.source.open.set()
        assert request.result(10).record.has(COHORTS), "the waiting request is answered"
    assert left_of(running.url) == []
    assert process_a.store.get(USER) == EMPTY
    wait_until(lambda: process_b.store.memory.generation > 0 and process_b.store.memory.read(USER) == EMPTY, seconds=1)
    # The same if the process has forgotten the user before the answer arrives.
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


def test_forget__user_is_requested_again__cached_again(running: RedisServer) -> None:
    process_a = Process(running.url)
    settled(process_a)
    process_a.get(COHORTS)
    process_a.forget_service.forget(USER)
    assert process_a.get(COHORTS).forwarded == "miss"
    assert process_a.get(COHORTS).forwarded is None
    with redis.Redis.from_url(running.url) as client:
        tombstones = list(client.scan_iter(b"*:pairs:*"))
        assert all(0 < client.pttl(tombstone) <= 20_000 for tombstone in tombstones), (
            "tombstones expire in Redis after at most 20 seconds"
        )
        client.delete(*tombstones)
    assert process_a.get(PROPERTIES).forwarded == "miss"
    assert process_a.records.read(USER).record.parts.keys() == {PROPERTIES}


@pytest.mark.contract("3 forget")
def test_forget__redis_unavailable__removed_from_memory_and_error_raised(valkey: RedisServer) -> None:
    process_a = Process(valkey.url)
    settled(process_a)
    process_a.get(COHORTS)
    valkey.stop()
    with pytest.raises(RedisUnavailable):
        process_a.forget_service.forget(USER)
    assert process_a.store.memory.read(USER) == EMPTY


@pytest.mark.contract("4 redis")
@pytest.mark.parametrize("verify", [True, False])
def test_rediss__verification_on_or_off__unknown_certificate_is_refused_or_accepted(
    tmp_path: Path, verify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server, which supports TLS, is not installed; run apt-get install redis-server")
    plain = RedisServer(binary=binary)
    files = {"cert-file": "cert.pem", "key-file": "key.pem", "ca-cert-file": "ca.pem"}
    tls = {f"tls-{name}": f"{tmp_path / file}" for name, file in files.items()}
    with RedisServer({"tls-port": f"{plain.port}", "tls-auth-clients": "no", **tls}, binary=binary):
        url = f"rediss://127.0.0.1:{plain.port}/0"
        server = RedisClient(url, verify=verify)
        ready = not verify
        server.set_registration(lambda: None)
        if ready:
            assert server.hash(b"nothing") == {}
        else:
            with pytest.raises(RedisUnavailable):
                server.hash(b"nothing")
            monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path / 'ca.pem'}")
            assert RedisClient(url, verify=True).hash(b"nothing") == {}


@pytest.fixture
def stepped() -> Iterator[SteppedRedisServer]:
    if faketime() is None:
        pytest.skip("libfaketime is not installed; run apt-get install faketime")
    with SteppedRedisServer() as server:
        yield server


@pytest.mark.contract("4 redis faults")
@pytest.mark.parametrize("seconds", [70, 0.6, -0.6, -300])
def test_reserve__clock_of_redis_stepped__earlier_calls_still_count_and_new_calls_go_on(
    stepped: SteppedRedisServer, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    processes = [Process(stepped.url, per_minute=120) for _ in range(3)]
    settled(*processes)
    ended, *running = processes
    for number in range(12):
        reservation = processes[number % 3].quota.reserve(0)
        assert reservation is not None
        reservation.complete()
    ended.server.stop()
    wait_until(lambda: not ended.server.stats().registers)
    epoch = running[0].quota.epoch
    stepped.set_clock(seconds)
    assert all(reservation.even for process in running for reservation in reserve_all(process.quota)), "burst is used"
    wait_until(lambda: all(process.quota.epoch != epoch for process in running))
    wait_until(lambda: running[0].quota.reserve(0))
    with redis.Redis.from_url(stepped.url) as operator:
        moments = [moment for member, moment in operator.zrange(b"test:quota:places", 0, -1, withscores=True)][:12]
        (now, microseconds) = operator.time()
    left = [moment - now - microseconds / 1e6 for moment in moments]
    assert len(left) == 12
    assert all(45 < seconds_left <= 62 for seconds_left in left), "each call counts until a minute after its end"
    assert "redis_clock_stepped" in [record.getMessage() for record in caplog.records]


@pytest.mark.contract("4 redis faults")
def test_lease__clock_of_redis_set_back__ends_as_usual(stepped: SteppedRedisServer) -> None:
    dead, survivor = Process(stepped.url), Process(stepped.url)
    settled(dead, survivor)
    assert dead.store.lease(USER, [COHORTS]).granted == {COHORTS}
    assert survivor.store.lease(USER, [COHORTS]).granted == set()
    stepped.set_clock(-300)
    assert survivor.store.lease(USER, [COHORTS]).granted == {COHORTS}


@pytest.mark.contract("4 redis faults")
def test_complete__clock_of_redis_was_set_back__no_pause(stepped: SteppedRedisServer) -> None:
    process = Process(stepped.url)
    settled(process)
    reservation = process.quota.reserve(0)
    assert reservation is not None
    process.server.stop()
    wait_until(lambda: not process.server.stats().registers)
    stepped.set_clock(-300)
    reservation.complete()  # before the process detects the step
    assert process.quota.paused_for == 0
    process.quota.register()
    assert process.quota.paused_for < 1, "only until all processes have reported their calls"


@pytest.mark.contract("4 redis faults")
def test_register__clock_of_redis_was_set_back_while_no_process_ran__no_pause(stepped: SteppedRedisServer) -> None:
    former = Process(stepped.url)
    settled(former)
    former.server.stop()
    wait_until(lambda: not former.server.stats().registers)
    stepped.set_clock(-300)
    started = Process(stepped.url)
    started.quota.register()
    assert started.quota.paused_for < 1


@pytest.mark.contract("4 redis faults")
def test_pause__end_in_redis_is_infinite__finite_wait(running: RedisServer) -> None:
    process = Process(running.url)
    settled(process)
    with redis.Redis.from_url(running.url) as operator:
        operator.hset("test:quota:pace", "closed_until", "inf")
        wait_until(lambda: process.quota.paused)
    assert process.quota.wait() == pytest.approx(1_000_000, abs=10)


@pytest.mark.contract("4 redis faults")
@pytest.mark.parametrize("name", ["places", "bursts", "pace", "processes"])
def test_quota__key_has_another_type__redis_counts_as_unavailable_until_the_key_is_deleted(
    running: RedisServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(running.url)
    settled(process)
    with redis.Redis.from_url(running.url) as operator:
        operator.delete(f"test:quota:{name}")
        operator.set(f"test:quota:{name}", "not of the quota")
        # The line is written after `unavailable_since` is set.
        wait_until(lambda: any(line.getMessage() == "redis_unavailable" for line in caplog.records))
        (reason,) = (vars(line)["why"] for line in caplog.records if line.getMessage() == "redis_unavailable")
        assert reason == "Redis has damaged keys; delete the keys ccp2:*:quota:*"
        assert process.server.unavailable_since
        operator.delete(f"test:quota:{name}")
    wait_until(lambda: process.server.unavailable_since is None)
    wait_until(lambda: process.quota.reserve(0))
