"""Several processes before one Redis: quota, records, leases. A process here is a set of services of its own."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
import trustme

from proxy.amplitude import rate_limiter_redis
from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.executor import CallExecutor
from proxy.amplitude.rate_limiter import LocalRateLimiter, RateLimiter
from proxy.amplitude.rate_limiter_fallback import FallbackRateLimiter
from proxy.amplitude.rate_limiter_redis import RedisRateLimiter
from proxy.amplitude.sliding_window import Reservation
from proxy.fetch.backlog import Backlog
from proxy.fetch.forget import ForgetService, Forgot
from proxy.fetch.scheduler import FetchScheduler
from proxy.fetch.service import ProfileResult, ProfileService
from proxy.profile.errors import UpstreamUnavailable
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Part, computations, prediction, recommendation
from proxy.profile.record import EMPTY, CachedPart, Record, merge
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.profiles import RedisProfiles
from proxy.storage.tiered import TieredStore
from tests.support.fakes import FakeClock, FakeSource
from tests.support.redis_server import RedisServer, program

USER = Identity("u", None)
LIFETIMES = FreshnessPolicy(fresh=900, negative=60, stale_while_revalidate=100, stale_if_error=5000)
LONGEST = 8.0


@pytest.fixture(params=["valkey", "redis"])
def running(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """Start a server that keeps its data. Reservations are possible almost at once, as there is nothing to report."""
    monkeypatch.setattr(rate_limiter_redis, "SETTLE_SECONDS", 0.05)
    binary = program() if request.param == "valkey" else shutil.which("redis-server")
    if binary is None:
        pytest.skip("Redis itself is not installed: apt-get install redis-server")
    with RedisServer(binary=binary) as server:
        yield server


@pytest.fixture
def valkey() -> Iterator[RedisServer]:
    """Start a server that may lose its data. Reservations are possible once all had the time to report."""
    with RedisServer() as server:
        yield server


class Process:
    """The rooms below the web, as one worker process has them."""

    started: ClassVar[list[RedisClient]] = []

    def __init__(
        self,
        url: str,
        *,
        per_minute: int = 600,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = RedisClient(url, monotonic=monotonic)
        self.started.append(self.server)
        self.records = RedisProfiles(self.server, b"test:", LIFETIMES, longest=LONGEST)
        self.local_limiter = LocalRateLimiter(per_minute, monotonic=monotonic)
        self.redis_limiter = RedisRateLimiter(
            self.server, b"test:", self.local_limiter, monotonic=monotonic, longest=LONGEST
        )
        self.quota = FallbackRateLimiter(self.redis_limiter, self.local_limiter, monotonic=monotonic)
        self.store = TieredStore(max_bytes=1_000_000, policy=LIFETIMES, now=now, shared=self.records)
        self.source = FakeSource(FakeClock(time.time()))
        outage = CircuitBreaker(monotonic)
        self.executor = CallExecutor(self.source.fetch, self.quota, outage, monotonic=monotonic)
        self.backlog = backlog = Backlog(max_users=100, max_age=600, monotonic=monotonic)
        self.forget_service = ForgetService(self.store, backlog, self.records)
        self.server.register_by(self.register)
        self.scheduler = FetchScheduler(
            self.executor, self.store, self.quota, outage, backlog, LIFETIMES, along=(), threads=20, now=now
        )
        self.profiles = ProfileService(self.store, self.scheduler, LIFETIMES, now=now, monotonic=monotonic)

    def register(self) -> None:
        self.redis_limiter.register()
        self.forget_service.catch_up()

    def get(self, *parts: Part, patience: float = 1.4, identity: Identity = USER) -> ProfileResult:
        return self.profiles.get(identity, parts, until=time.monotonic() + patience)


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    """Let no process of one test try its Redis during another."""
    yield
    while Process.started:
        Process.started.pop().stop()


def settled(*processes: Process) -> None:
    """Return when all are registered and reservations are possible."""
    for process in processes:
        process.server.start()
    wait_until(lambda: all(process.redis_limiter.epoch for process in processes))
    for process in processes:
        process.server.register_soon()  # the first one does not know the others yet
    wait_until(lambda: all(process.quota.processes == len(processes) for process in processes))
    wait_until(lambda: not any(process.local_limiter.paused_for for process in processes))


def wait_until(holds: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        threading.Event().wait(0.005)


def reserve_all(quota: RateLimiter, latest: float = 0.0) -> list[Reservation]:
    """Reserve until no slot is free before `latest`."""
    reservations = []
    while reservation := quota.reserve(latest):
        reservations.append(reservation)
    return reservations


@pytest.mark.contract("4 redis")
def test_the_burst_and_the_pace_are_shared(running: RedisServer) -> None:
    one, other = Process(running.url), Process(running.url)
    settled(one, other)
    began = time.monotonic()
    pools = ThreadPoolExecutor(8)
    halves = list(pools.map(lambda number: reserve_all((one, other)[number % 2].quota, began + 1.5), range(8)))
    done = time.monotonic()
    bursts = [reservation.at for half in halves for reservation in half if not reservation.even]
    assert len(bursts) == 59
    assert max(bursts) <= done, "at once"
    moments = sorted(reservation.at for half in halves for reservation in half if reservation.even)
    assert moments[0] <= done, "one goes beside the burst"
    assert len(moments) > 9
    steps = [later - earlier for earlier, later in pairwise(moments)]
    assert all(0.05 < step < 0.17 for step in steps), "evenly at 9 a second, whichever process reserves"


@pytest.mark.contract("4 redis")
def test_no_minute_holds_more_than_the_quota_whichever_process_reserves(running: RedisServer) -> None:
    processes = [Process(running.url, per_minute=20) for _ in range(4)]
    settled(*processes)
    places = []
    for _ in range(10):
        for process in processes:
            places += reserve_all(process.quota, time.monotonic() + 59.9)
    assert 19 <= len(places) <= 20
    assert not reserve_all(processes[0].quota, time.monotonic() + 60), "nor while the first of them may be on its way"
    for place in places[:5]:
        processes[0].quota.complete(place)
    following: list[Reservation] = []

    def another() -> bool:
        following[:] = reserve_all(processes[1].quota, time.monotonic() + 64)
        return bool(following)

    wait_until(another)
    assert following[0].at >= time.monotonic() + 59


def test_a_cancelled_place_is_free_for_the_others(running: RedisServer) -> None:
    one, other = Process(running.url, per_minute=10), Process(running.url, per_minute=10)
    settled(one, other)
    place = one.quota.reserve(0)
    assert place is not None
    assert other.quota.reserve(0) is None
    one.quota.cancel(place)
    wait_until(lambda: other.quota.reserve(0))


@pytest.mark.contract("4 redis")
def test_a_429_makes_everybody_stand_back(running: RedisServer) -> None:
    one, other = Process(running.url), Process(running.url)
    settled(one, other)
    one.quota.pause(30)
    assert other.quota.reserve(time.monotonic() + 29) is None
    assert other.quota.paused
    assert other.quota.wait() == pytest.approx(30, abs=1)


@pytest.mark.contract("4 redis faults")
def test_while_redis_is_gone_nothing_is_sent_for_a_window_and_then_each_process_s_share(
    valkey: RedisServer, clock: FakeClock
) -> None:
    processes = [Process(valkey.url, per_minute=90, monotonic=clock) for _ in range(3)]
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
                process.quota.complete(reservation)
                sent += 1
        clock.advance(0.599)
    assert 75 < sent <= 90, "in a minute the three together send what one may"


@pytest.mark.contract("4 redis faults")
def test_what_was_sent_is_written_back_into_a_redis_that_returns_empty(valkey: RedisServer) -> None:
    one, other = Process(valkey.url, per_minute=10), Process(valkey.url, per_minute=10)
    settled(one, other)
    places = [*reserve_all(one.quota, time.monotonic() + 59), *reserve_all(other.quota, time.monotonic() + 59)]
    assert len(places) == 10
    valkey.stop()
    wait_until(lambda: one.server.gone_since and other.server.gone_since)
    valkey.start()
    wait_until(lambda: one.server.gone_since is None and other.server.gone_since is None)
    settled(one, other)
    assert one.quota.reserve(time.monotonic() + 50) is None
    assert other.quota.reserve(time.monotonic() + 50) is None


@pytest.mark.contract("4 redis faults")
@pytest.mark.parametrize("lost", [b"quota:places", b"quota:bursts", b"quota:pace"])
def test_a_part_of_the_book_that_redis_lost_is_written_back_before_anything_is_booked(
    valkey: RedisServer, lost: bytes
) -> None:
    one, other = Process(valkey.url, per_minute=10), Process(valkey.url, per_minute=10)
    settled(one, other)
    assert len([*reserve_all(one.quota, time.monotonic() + 59), *reserve_all(other.quota, time.monotonic() + 59)]) == 10
    old = one.redis_limiter.epoch
    with redis.Redis.from_url(valkey.url) as operator:
        operator.delete(b"test:" + lost)

    def known() -> bool:
        assert not reserve_all(one.quota, time.monotonic() + 50)
        assert not reserve_all(other.quota, time.monotonic() + 50)
        return old not in (one.redis_limiter.epoch, other.redis_limiter.epoch)

    wait_until(known)
    settled(one, other)
    assert not reserve_all(one.quota, time.monotonic() + 50)
    assert not reserve_all(other.quota, time.monotonic() + 50)


@pytest.mark.contract("4 redis faults")
def test_the_number_of_processes_is_not_forgotten_with_an_empty_redis(valkey: RedisServer) -> None:
    one, other = Process(valkey.url), Process(valkey.url)
    settled(one, other)
    other.server.stop()
    wait_until(lambda: sum(thread.name == "redis" for thread in threading.enumerate()) == 1)
    with redis.Redis.from_url(valkey.url) as operator:
        operator.flushall()
    one.quota.register()
    assert one.quota.processes == 2


@pytest.mark.contract("4 redis faults")
def test_what_is_no_record_of_ours_is_as_good_as_not_there_and_spoils_it_for_nobody_else(running: RedisServer) -> None:
    process = Process(running.url)
    settled(process)
    process.get(COHORTS)
    key = process.records._keys(USER)[0]
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
    other = Process(running.url)
    settled(process, fresh, damaged, third, other)
    assert other.get(COHORTS).error is None
    assert other.server.gone_since is None


@pytest.mark.contract("4 redis faults")
def test_going_and_coming_back_is_one_line_each(valkey: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    process = Process(valkey.url)
    settled(process)
    with caplog.at_level(logging.INFO, "proxy"):
        valkey.stop()
        wait_until(lambda: process.server.gone_since)
        for _ in range(20):
            process.store.get(USER)
            process.quota.reserve(0)
        valkey.start()
        wait_until(lambda: len(caplog.records) > 1)  # it is back a moment before it says so
    assert [line.getMessage() for line in caplog.records] == [
        "Redis is gone: each process goes on with what it has",
        "Redis is back",
    ]


@pytest.mark.contract("4 redis faults")
@pytest.mark.parametrize(
    "command",
    [
        ("CONFIG", "SET", "maxmemory", "1"),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("CLIENT", "PAUSE", "5000", "ALL"),
    ],
    ids=["full", "read-only", "slow"],
)
def test_a_redis_that_cannot_be_used_is_as_good_as_gone_and_used_again_afterwards(
    valkey: RedisServer, command: tuple[str, ...]
) -> None:
    process = Process(valkey.url)
    settled(process)
    process.get(COHORTS)
    with redis.Redis.from_url(valkey.url) as operator:
        operator.execute_command(*command)
        wait_until(lambda: process.server.gone_since)
        assert process.get(COHORTS).forwarded is None, "what the process has is still served"
        if command[0] == "CONFIG":
            operator.execute_command("CONFIG", "SET", "maxmemory", "0")
        if command[0] == "REPLICAOF":
            operator.execute_command("REPLICAOF", "NO", "ONE")
    wait_until(lambda: process.server.gone_since is None)


@pytest.mark.contract("4 redis faults")
def test_one_late_answer_is_no_reason_to_do_without_redis(valkey: RedisServer) -> None:
    process = Process(valkey.url)
    settled(process)
    process.server.stop()
    with redis.Redis.from_url(valkey.url) as operator:
        operator.execute_command("CLIENT", "PAUSE", "500", "ALL")
    with pytest.raises(RedisUnavailable):
        process.server.hash(b"nothing")
    assert process.server.gone_since is None
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

    def kept(*said: tuple[Part, float]) -> Record:
        return Record({part: CachedPart(str(at).encode(), now + at) for part, at in said}, None, "u")

    words = [
        kept((COHORTS, 0)),
        kept((COHORTS, 2), (PROPERTIES, 2)),
        kept((COHORTS, 1)),
        Record(unknown_at=now + 1.5),
        Record(unknown_at=now + 3),
        kept((PROPERTIES, 2.5)),
        kept((PROPERTIES, 4)),
    ]
    here = EMPTY
    for word in words:
        here = merge(here, word)
        process.records.save(USER, word, [], now)
        there = process.records.read(USER).record
        assert (there.parts, there.unknown_at) == (here.parts, here.unknown_at)


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
    process = Process(running.url)
    settled(process)
    process.records._policy = FreshnessPolicy(fresh=900, negative=60, warm=86_400)
    now = time.time()
    key = process.records._keys(USER)[0]
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
    one, other = Process(running.url), Process(running.url)
    settled(one, other)
    one.source.open.clear()
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(one.get, COHORTS)
        one.source.wait_for_call()
        second = callers.submit(other.get, COHORTS)
        wait_until(lambda: (found := other.scheduler.pending(USER).get(COHORTS)) and found.remote)
        one.source.open.set()
        assert first.result(10).error is None
        answer = second.result(10)
    assert (answer.error, answer.calls, answer.opened) == (None, 1, False)
    assert answer.record.has(COHORTS)
    assert not other.source.calls


def test_a_failure_is_shared_with_the_other_process_too(running: RedisServer) -> None:
    one, other = Process(running.url), Process(running.url)
    settled(one, other)
    one.source.open.clear()
    one.source.fault = UpstreamUnavailable()
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(one.get, COHORTS)
        one.source.wait_for_call()
        second = callers.submit(other.get, COHORTS)
        wait_until(lambda: (found := other.scheduler.pending(USER).get(COHORTS)) and found.remote)
        one.source.open.set()
        words = [answer.result(10).error.word for answer in (first, second)]  # type: ignore[union-attr]
    assert words == ["upstream_unavailable"] * 2
    assert not other.source.calls


def test_the_call_of_a_process_that_died_is_taken_over(valkey: RedisServer) -> None:
    dead, other = Process(valkey.url), Process(valkey.url)
    settled(dead, other)
    dead.records._lease = 300  # milliseconds
    assert dead.store.lease(USER, [COHORTS]).granted == {COHORTS}
    answer = other.get(COHORTS)
    assert (answer.error, len(other.source.calls)) == (None, 1)


@pytest.mark.contract("4 redis")
def test_what_one_process_fetched_is_a_hit_in_the_other_by_one_round_trip_and_then_by_none(
    running: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Process(running.url), Process(running.url)
    settled(one, other)
    one.get(COHORTS, PROPERTIES, recommendation("a"))
    trips = []
    asked = other.server._asked

    def counted(ask: Callable[[], Any]) -> Any:
        if not other.server._trying():
            trips.append(ask)
        return asked(ask)

    monkeypatch.setattr(other.server, "_asked", counted)
    first = other.get(COHORTS, PROPERTIES, recommendation("a"))
    assert (first.forwarded, first.calls, len(trips)) == (None, 0, 1)
    assert other.get(COHORTS, PROPERTIES, recommendation("a")).forwarded is None
    assert len(trips) == 1
    assert not other.source.calls


def left_of(url: str, *ids: str) -> list[bytes]:
    """Return the keys of records, and whatever else in this Redis says one of the ids."""
    with redis.Redis.from_url(url) as client:
        left = []
        for key in client.scan_iter():
            kept = client.dump(key)
            if b":user3:" in key or any(id.encode() in kept or id.encode() in key for id in ids):
                left.append(key)
        return left


@pytest.mark.contract("3 forget")
def test_who_is_forgotten_is_gone_from_every_process_and_from_redis_within_a_second(running: RedisServer) -> None:
    one, other = Process(running.url), Process(running.url)
    settled(one, other)
    pairs = [
        Identity("forget-me", None),
        Identity("forget-me", "phone"),
        Identity("forget-me", "tablet"),
        Identity(None, "laptop"),
    ]
    for process in (one, other):
        process.source.user_data = {"user_id": "forget-me", "device_id": "laptop", "cohort_ids": ["c"]}
        for pair in pairs:
            process.get(COHORTS, identity=pair)
        other.backlog.add(pairs[1], {PROPERTIES: time.monotonic()})
    one.source.user_data = {"user_id": "somebody-else", "device_id": "x"}
    bystander = Identity("somebody-else", None)
    one.get(COHORTS, identity=bystander)
    began = time.monotonic()
    assert one.forget_service.forget(Identity("forget-me", None)) == Forgot(records=4, waiting=0)
    assert not any(one.store.read(pair).parts for pair in pairs)
    wait_until(lambda: not any(other.store.read(pair).parts for pair in pairs), seconds=1)
    wait_until(lambda: not len(other.backlog), seconds=1)
    assert time.monotonic() - began < 1
    assert [key for key in left_of(running.url, "forget-me") if one.records._keys(bystander)[0] != key] == []
    assert one.store.get(bystander).parts.keys() == {COHORTS}
    assert one.forget_service.forget(Identity("forget-me", None)).records == 0


def test_a_device_is_forgotten_with_all_who_were_seen_on_it(running: RedisServer) -> None:
    one = Process(running.url)
    settled(one)
    one.source.user_data = {"user_id": "u", "device_id": "phone"}
    one.get(COHORTS)
    one.source.user_data = {"user_id": "v", "device_id": "v-s"}
    one.get(COHORTS, identity=Identity("v", "phone"))
    one.get(COHORTS, identity=Identity("v", None))
    assert one.forget_service.forget(Identity(None, "phone")).records == 2
    assert len(left_of(running.url)) == 1


@pytest.mark.contract("3 forget")
def test_what_is_on_its_way_anywhere_when_a_user_is_forgotten_is_not_kept(running: RedisServer) -> None:
    one, other = Process(running.url), Process(running.url)
    settled(one, other)
    other.source.user_data = {"user_id": "u", "cohort_ids": ["c"]}
    other.source.open.clear()
    with ThreadPoolExecutor(1) as callers:
        asked = callers.submit(other.get, COHORTS, patience=5)
        other.source.wait_for_call()
        one.forget_service.forget(USER)
        other.source.open.set()
        assert asked.result(10).record.has(COHORTS), "who waits for it is answered"
    assert left_of(running.url) == []
    assert one.store.get(USER) == EMPTY
    wait_until(lambda: other.store.generation > 0 and other.store.read(USER) == EMPTY, seconds=1)
    # And when the process has heard of it before the answer lands.
    other.source.open.clear()
    with ThreadPoolExecutor(1) as callers:
        asked = callers.submit(other.get, PROPERTIES, patience=5)
        other.source.wait_for_call()
        heard = other.store.generation
        one.forget_service.forget(USER)
        wait_until(lambda: other.store.generation > heard, seconds=1)
        other.source.open.set()
        asked.result(10)
    assert other.store.read(USER) == EMPTY
    assert left_of(running.url) == []


def test_who_is_asked_anew_after_being_forgotten_is_kept_again(running: RedisServer) -> None:
    one = Process(running.url)
    settled(one)
    one.get(COHORTS)
    one.forget_service.forget(USER)
    assert one.get(COHORTS).forwarded == "miss"
    assert one.get(COHORTS).forwarded is None
    with redis.Redis.from_url(running.url) as client:
        marks = list(client.scan_iter(b"*:pairs:*"))
        assert all(0 < client.pttl(generation) <= 20_000 for generation in marks), (
            "it is barred in Redis only for a moment"
        )
        client.delete(*marks)
    assert one.get(PROPERTIES).forwarded == "miss"
    assert one.records.read(USER).record.parts.keys() == {PROPERTIES}


@pytest.mark.contract("3 forget")
def test_forgetting_while_redis_is_gone_is_done_here_and_said_to_be_incomplete(valkey: RedisServer) -> None:
    one = Process(valkey.url)
    settled(one)
    one.get(COHORTS)
    valkey.stop()
    with pytest.raises(RedisUnavailable):
        one.forget_service.forget(USER)
    assert one.store.read(USER) == EMPTY


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
