"""Snapshots in the memory of a process, and in several processes that share one Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from redis import Redis

from proxy.fetch.backlog import Backlog
from proxy.fetch.forget import ForgetService
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile import encoding
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity
from proxy.profile.query import ProfileQuery
from proxy.profile.record import EMPTY, CachedPart, Record
from proxy.profile.snapshot import Snapshot, SnapshotBuilder
from proxy.profile.updates import membership
from proxy.storage.id_digests import UNKEYED
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.profiles import RedisProfiles
from proxy.storage.redis.snapshots import RedisSnapshots
from proxy.storage.redis.updates import RedisUpdates
from proxy.storage.shared_snapshots import SharedSnapshots
from proxy.storage.tiered import TieredStore
from tests.support.fakes import FakeClock
from tests.support.redis_server import RedisServer

POLICY = FreshnessPolicy(fresh=900, negative=60, stale_if_error=5000, pushed=86400)
AVA, BEN = Identity("ava", None), Identity("ben", None)
C31 = ProfileQuery(("cohorts",), cohort_ids=("c31",))


def snapshot_of(*user_ids: str, as_of: float) -> Snapshot:
    builder = SnapshotBuilder()
    for user_id in user_ids:
        builder.add(UNKEYED.member(user_id))
    return builder.build(as_of)


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(max_bytes=1_000_000, policy=POLICY, clock=clock)


def cohorts_of(store: MemoryStore, identity: Identity, query: ProfileQuery = C31, record: Record = EMPTY) -> object:
    """Return the stored cohorts for `query`, or None if a call is needed."""
    return encoding.part_value(store.with_updates(identity, record, query), COHORTS)


def fetched(cohorts: list[str], at: float) -> Record:
    return Record({COHORTS: CachedPart(encoding.write(cohorts), at)}, None, "ava", None)


def test_snapshot__members_and_others__both_are_answered(store: MemoryStore, clock: FakeClock) -> None:
    store.install_snapshot("c31", snapshot_of("ava", as_of=clock.now()))
    member, other = (store.with_updates(identity, EMPTY, C31) for identity in (AVA, BEN))
    assert (encoding.part_value(member, COHORTS), member.found) == (["c31"], True)
    assert (encoding.part_value(other, COHORTS), other.found) == ([], False)
    assert member.fetched_at(COHORTS) == clock.now()


@pytest.mark.parametrize(
    ("identity", "query"),
    [
        pytest.param(AVA, ProfileQuery(("cohorts",), cohort_ids=("c31", "c7")), id="another cohort too"),
        pytest.param(AVA, ProfileQuery(("cohorts",)), id="all cohorts"),
        pytest.param(Identity(None, "device"), C31, id="no user id"),
        pytest.param(AVA, ProfileQuery(("properties",)), id="no cohorts"),
    ],
)
def test_snapshot__request_for_more__not_answered_from_the_snapshot(
    store: MemoryStore, clock: FakeClock, identity: Identity, query: ProfileQuery
) -> None:
    store.install_snapshot("c31", snapshot_of("ava", as_of=clock.now()))
    assert store.with_updates(identity, EMPTY, query).has(COHORTS) is False


def test_snapshot__list_was_fetched_later__snapshot_wins(store: MemoryStore, clock: FakeClock) -> None:
    store.install_snapshot("c31", snapshot_of("ava", as_of=clock.now() - 60))
    later = fetched(["c7"], clock.now())
    assert cohorts_of(store, AVA, C31, later) == ["c31"]
    assert cohorts_of(store, AVA, ProfileQuery(("cohorts",)), later) == ["c7", "c31"]


def test_snapshot__older_than_cache_pushed_seconds__fetched_list_wins(store: MemoryStore, clock: FakeClock) -> None:
    store.install_snapshot("c31", snapshot_of("ava", as_of=clock.now()))
    clock.advance(POLICY.pushed)
    assert cohorts_of(store, AVA, C31, fetched(["c7"], clock.now())) == ["c7"]
    assert store.snapshots.installed()[0].expires_at == clock.now()
    clock.advance(POLICY.stale_if_error)
    assert store.snapshots.installed() == []
    assert cohorts_of(store, AVA) is None


@pytest.mark.parametrize(("seconds_later", "expected"), [(1, []), (-1, ["c31"]), (0, ["c31"])])
def test_snapshot__webhook__later_one_wins(
    store: MemoryStore, clock: FakeClock, seconds_later: int, expected: list[str]
) -> None:
    at = clock.now()
    store.install_snapshot("c31", snapshot_of("ava", as_of=at))
    store.push([("ava", membership("c31", False, at + seconds_later))], store.generation)
    assert cohorts_of(store, AVA) == expected


def test_snapshot__user_is_unknown_to_amplitude__other_parts_stay_unknown(store: MemoryStore, clock: FakeClock) -> None:
    store.install_snapshot("c31", snapshot_of("ava", as_of=clock.now()))
    unknown = Record({}, clock.now())
    assert store.with_updates(AVA, unknown, C31).unknown_at is None
    both = ProfileQuery(("cohorts", "properties"), cohort_ids=("c31",))
    member = store.with_updates(AVA, unknown, both)
    assert (member.found, list(member.parts), member.unknown_at) == (True, [COHORTS], clock.now())
    assert store.with_updates(BEN, unknown, both) == unknown


def test_install__older_than_the_installed_snapshot__refused(store: MemoryStore, clock: FakeClock) -> None:
    assert store.install_snapshot("c31", snapshot_of("ava", as_of=clock.now()))
    assert not store.install_snapshot("c31", snapshot_of("ben", as_of=clock.now() - 1))
    assert store.install_snapshot("c31", snapshot_of("ben", as_of=clock.now()))
    assert cohorts_of(store, AVA) == []


def test_install__ready_body__replaced(store: MemoryStore, clock: FakeClock) -> None:
    store.merge(AVA, fetched([], clock.now()))
    for _ in range(2):
        hit = store.fresh(AVA, C31)
    assert hit is not None
    store.install_snapshot("c31", snapshot_of("ava", as_of=clock.now()))
    store.keep_ready(AVA, C31, hit.record, b"not a member", "etag")
    after = store.fresh(AVA, C31)
    assert after is not None
    assert after.ready is None
    store.keep_ready(AVA, C31, after.record, b"member", "etag")
    again = store.fresh(AVA, C31)
    assert again is not None
    assert again.ready is not None
    store.remove_snapshot("c31")
    last = store.fresh(AVA, C31)
    assert last is not None
    assert last.ready is None


@pytest.mark.parametrize("query", [C31, ProfileQuery(("cohorts",))], ids=["this cohort", "all cohorts"])
def test_fresh__body_is_ready_and_the_snapshot_expires__fetched_list_wins(
    clock: FakeClock, query: ProfileQuery
) -> None:
    policy = FreshnessPolicy(fresh=900, negative=60, pushed=300)
    store = MemoryStore(max_bytes=1_000_000, policy=policy, clock=clock)
    store.install_snapshot("c31", snapshot_of("ava", as_of=clock.now()))
    store.merge(AVA, fetched([], clock.now()))
    for _ in range(2):
        hit = store.fresh(AVA, query)
    assert hit is not None
    store.keep_ready(AVA, query, hit.record, b"member", "etag")
    clock.advance(policy.pushed - 1)
    ready = store.fresh(AVA, query)
    assert ready is not None
    assert ready.ready is not None
    clock.advance(1)
    after = store.fresh(AVA, query)
    assert after is not None
    assert after.ready is None
    assert encoding.part_value(after.record, COHORTS) == []


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            lambda store, now: store.install_snapshot("c31", snapshot_of("ben", as_of=now)),
            [],
            id="install without her",
        ),
        pytest.param(lambda store, now: store.remove_snapshot("c31"), ["c7"], id="remove"),
        pytest.param(
            lambda store, now: store.push([("ava", membership("c31", False, now + 1))], store.generation), [], id="push"
        ),
        pytest.param(lambda store, now: store.forget({UNKEYED.user_id("ava")}), None, id="forget"),
    ],
)
def test_fresh__change_after_an_answer_from_a_snapshot__next_answer_has_the_change(
    store: MemoryStore,
    clock: FakeClock,
    ready: bool,
    change: Callable[[MemoryStore, float], object],
    expected: list[str] | None,
) -> None:
    store.install_snapshot("c31", snapshot_of("ava", as_of=clock.now()))
    store.merge(AVA, fetched(["c7"], clock.now()))
    for _ in range(2):
        hit = store.fresh(AVA, C31)
    assert hit is not None
    assert encoding.part_value(hit.record, COHORTS) == ["c31"]
    if ready:
        store.keep_ready(AVA, C31, hit.record, b"member", "etag")
    change(store, clock.now())
    after = store.fresh(AVA, C31)
    assert (after and after.ready) is None
    assert (after and encoding.part_value(after.record, COHORTS)) == expected


def test_forget__member__not_in_this_and_not_in_an_older_snapshot(store: MemoryStore, clock: FakeClock) -> None:
    store.install_snapshot("c31", snapshot_of("ava", "ben", as_of=clock.now()))
    clock.advance(1)
    store.forget({UNKEYED.user_id("ava")})
    assert cohorts_of(store, AVA) == []
    store.install_snapshot("c31", snapshot_of("ava", "ben", as_of=clock.now() - 0.5))
    assert cohorts_of(store, AVA) == []
    assert cohorts_of(store, BEN) == ["c31"]
    store.install_snapshot("c31", snapshot_of("ava", as_of=clock.now() + 0.5))
    assert cohorts_of(store, AVA) == ["c31"]


class Process:
    """The stores of one process that uses Redis. Snapshots are loaded without a thread."""

    def __init__(self, server: RedisServer, *, clock: Clock = SYSTEM_CLOCK, client: type[RedisClient] = RedisClient):
        self.redis = client(server.url)
        self.records = RedisProfiles(self.redis, b"test:", POLICY, longest=8)
        self.shared = RedisSnapshots(
            self.redis, b"test:", forgotten_key=self.records.forgotten_key, usable_for=POLICY.updates_usable_for
        )
        self.store = TieredStore(max_bytes=1_000_000, policy=POLICY, clock=clock, shared=self.records)
        self.snapshots = SharedSnapshots(self.store.memory, self.shared, clock=clock, start=lambda load: load())
        self.forget_service = ForgetService(
            self.store, Backlog(max_users=10, max_age=60, clock=clock), self.records, self.shared
        )

    def answer(self, identity: Identity) -> object:
        """Return the stored membership of c31 after changes of other processes; None if a call is needed."""
        self.forget_service.catch_up()
        self.snapshots.catch_up()
        return cohorts_of(self.store.memory, identity)

    def in_redis(self, cohort_id: str) -> Snapshot | None:
        return self.shared.read(self.shared.published(SYSTEM_CLOCK.now())[cohort_id], lambda: None)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    """Return a connection to the empty Redis of the processes."""
    with Redis.from_url(server.url) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def start(server: RedisServer, redis: Redis) -> Iterator[Callable[..., Process]]:
    """Return a function that starts a process. All processes are stopped after the test."""
    processes: list[Process] = []

    def start(**options: Any) -> Process:
        processes.append(Process(server, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.redis.stop()


@pytest.fixture
def processes(start: Callable[..., Process]) -> tuple[Process, Process]:
    return start(), start()


NOW = SYSTEM_CLOCK.now()


def test_shared__installed_by_one_process__answered_by_the_other(processes: tuple[Process, Process]) -> None:
    first, second = processes
    assert first.snapshots.install("c31", snapshot_of("ava", as_of=NOW))
    assert second.answer(AVA) == ["c31"]
    assert second.answer(BEN) == []
    assert not second.snapshots.install("c31", snapshot_of("ben", as_of=NOW - 1))
    assert second.snapshots.remove("c31")
    assert first.answer(AVA) is None
    assert not first.snapshots.remove("c31")


def test_shared__removed_cohort__older_download_is_accepted(processes: tuple[Process, Process]) -> None:
    first, second = processes
    first.snapshots.install("c31", snapshot_of("ava", as_of=NOW))
    first.snapshots.remove("c31")
    assert second.snapshots.install("c31", snapshot_of("ben", as_of=NOW - 60))
    assert first.answer(BEN) == ["c31"]


def test_shared__replaced_while_the_other_process_loads__next_call_loads_the_new_one(
    processes: tuple[Process, Process],
) -> None:
    first, second = processes
    first.snapshots.install("c31", snapshot_of("ava", as_of=NOW - 1))
    old = first.shared.published(NOW)["c31"]
    first.snapshots.install("c31", snapshot_of("ben", as_of=NOW))
    assert second.shared.read(old, lambda: None) is None
    assert second.answer(BEN) == ["c31"]
    assert second.store.memory.snapshots.installed() == first.store.memory.snapshots.installed()


def test_shared__user_is_forgotten__removed_in_redis_and_in_older_uploads(processes: tuple[Process, Process]) -> None:
    first, second = processes
    ids = [f"user-{number}" for number in range(2000)]
    first.snapshots.install("c31", snapshot_of(*ids, as_of=NOW - 60))
    first.forget_service.forget(Identity("user-7", None))
    expected = snapshot_of(*(user_id for user_id in ids if user_id != "user-7"), as_of=NOW - 60)
    assert second.in_redis("c31") == expected
    assert second.answer(Identity("user-7", None)) == []
    assert second.snapshots.install("c7", snapshot_of(*ids, as_of=NOW - 60)) == expected
    assert first.in_redis("c7") == expected


class Interrupted(RedisClient):
    """Runs a function in the middle of an upload."""

    def put_fields(self, key: bytes, fields: Mapping[str, bytes], seconds: float) -> None:
        super().put_fields(key, fields, seconds)
        if "128" in fields:
            self.interrupt()

    interrupt: Callable[[], None]


def test_publish__user_is_forgotten_during_the_upload__removed(start: Callable[..., Process]) -> None:
    first, second = start(client=Interrupted), start()
    forget = second.forget_service.forget
    first.redis.interrupt = lambda: forget(AVA)  # type: ignore[attr-defined]
    first.snapshots.install("c31", snapshot_of("ava", "ben", as_of=NOW))
    assert second.in_redis("c31") == snapshot_of("ben", as_of=NOW)
    assert first.answer(AVA) == []


def test_publish__redis_loses_its_data_during_the_upload__old_snapshot_stays(
    start: Callable[..., Process], redis: Redis
) -> None:
    first, second = start(client=Interrupted), start()
    first.redis.interrupt = lambda: None  # type: ignore[attr-defined]
    first.snapshots.install("c31", snapshot_of("ava", as_of=NOW - 1))
    assert second.answer(AVA) == ["c31"]
    first.redis.interrupt = redis.flushall  # type: ignore[attr-defined]
    with pytest.raises(RedisUnavailable):
        first.snapshots.install("c31", snapshot_of("ben", as_of=NOW))
    assert redis.keys() == []
    first.redis.interrupt = lambda: None  # type: ignore[attr-defined]
    assert first.answer(AVA) == ["c31"]
    assert second.in_redis("c31") == snapshot_of("ava", as_of=NOW - 1)


def test_publish__redis_is_full__partial_upload_is_deleted_and_the_old_snapshot_stays(
    start: Callable[..., Process], redis: Redis
) -> None:
    first = start(client=Interrupted)
    first.redis.interrupt = lambda: None  # type: ignore[attr-defined]
    first.snapshots.install("c31", snapshot_of("ava", as_of=NOW - 1))
    keys = set(redis.keys())
    first.redis.interrupt = lambda: redis.config_set("maxmemory", "1")  # type: ignore[attr-defined]
    try:
        with pytest.raises(RedisUnavailable):
            first.snapshots.install("c31", snapshot_of("ben", as_of=NOW))
        assert set(redis.keys()) == keys
        first.forget_service.forget(AVA)  # works while Redis is full
        assert first.in_redis("c31") == snapshot_of(as_of=NOW - 1)
        assert first.snapshots.remove("c31")
    finally:
        redis.config_set("maxmemory", "0")


def test_redis_loses_its_data__snapshots_stay_and_reach_a_process_that_starts_later(
    processes: tuple[Process, Process], start: Callable[..., Process], redis: Redis
) -> None:
    first, second = processes
    first.snapshots.install("c31", snapshot_of("ava", as_of=NOW))
    first.snapshots.install("removed", snapshot_of("ava", as_of=NOW))
    second.snapshots.catch_up()
    first.snapshots.remove("removed")
    second.snapshots.catch_up()
    redis.flushall()
    for process in (first, second, start(), first):
        assert process.answer(AVA) == ["c31"]
    assert list(first.shared.published(NOW)) == ["c31"]
    assert second.snapshots.remove("c31")
    assert first.answer(AVA) is None


def test_redis_evicts_a_snapshot__reaches_a_process_that_starts_later(
    processes: tuple[Process, Process], start: Callable[..., Process], redis: Redis
) -> None:
    first, second = processes
    first.snapshots.install("c31", snapshot_of("ava", as_of=NOW))
    assert second.answer(AVA) == ["c31"]
    redis.delete(*redis.keys("test:snapshot:*"))
    third = start()
    assert third.answer(AVA) is None
    for process in (second, first, third):
        assert process.answer(AVA) == ["c31"]
    assert third.in_redis("c31") == snapshot_of("ava", as_of=NOW)


def test_redis_evicts_a_snapshot_that_no_process_has__older_snapshot_is_published(
    processes: tuple[Process, Process], redis: Redis
) -> None:
    first, second = processes
    first.snapshots.install("c31", snapshot_of("ava", as_of=NOW - 1))
    assert second.answer(AVA) == ["c31"]
    redis.hset("test:snapshots", "c31", f"{NOW} evicted")
    for _ in range(2):
        assert (first.answer(AVA), second.answer(AVA)) == (["c31"], ["c31"])
    assert first.in_redis("c31") == snapshot_of("ava", as_of=NOW - 1)


def test_shared__snapshot_is_too_old__removed_everywhere(start: Callable[..., Process], redis: Redis) -> None:
    clock = FakeClock(NOW)
    process = start(clock=clock)
    oldest = NOW - POLICY.updates_usable_for
    process.snapshots.install("c31", snapshot_of("ava", as_of=oldest + 1000))
    (key,) = redis.keys("test:snapshot:*")
    assert 0 < redis.ttl(key) <= 1000
    clock.advance(1001)
    assert process.answer(AVA) is None
    assert not process.store.memory.snapshots
    redis.hset("test:snapshots", "c7", f"{oldest - 1} suffix")
    process.snapshots.install("c1", snapshot_of("ava", as_of=NOW))
    assert b"c7" not in redis.hkeys("test:snapshots")


def test_publish__current_time_is_in_the_future__replaced(processes: tuple[Process, Process], redis: Redis) -> None:
    first, second = processes
    first.snapshots.install("c31", snapshot_of("ava", as_of=NOW))
    suffix = first.shared.published(NOW)["c31"].key
    redis.hset("test:snapshots", "c31", f"{NOW + 3600} {suffix}")  # the clock of Redis was ahead
    assert first.answer(AVA) == ["c31"]
    member = first.store.memory.with_updates(AVA, EMPTY, C31)
    assert member.fetched_at(COHORTS) <= SYSTEM_CLOCK.now()
    assert second.snapshots.install("c31", snapshot_of("ben", as_of=NOW))
    assert first.answer(BEN) == ["c31"]


def test_get__user_has_a_later_update_only_in_redis__update_wins(processes: tuple[Process, Process]) -> None:
    first, second = processes
    updates = [RedisUpdates(process.redis, b"test:", kept_for=POLICY.updates_usable_for) for process in processes]
    first.snapshots.install("c31", snapshot_of("ava", as_of=NOW))
    second.snapshots.catch_up()
    updates[0].save([("ava", membership("c31", False, NOW + 1))], NOW + 1)
    assert second.store.knows_updates(AVA) is False
    second.store.get(AVA)
    assert second.store.knows_updates(AVA) is True
    assert cohorts_of(second.store.memory, AVA) == []
    second.store.get(BEN)
    assert second.store.knows_updates(BEN) is True
    assert PROPERTIES not in second.store.memory.read(BEN).parts
