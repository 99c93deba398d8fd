"""The memory store: records, updates and ready bodies."""

import random
import struct
import tracemalloc
from weakref import ref

import pytest

from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, recommendation
from proxy.profile.query import ProfileQuery
from proxy.profile.record import EMPTY, CachedPart, Record
from proxy.profile.updates import membership, pack, unpack
from proxy.storage.id_digests import UNKEYED
from proxy.storage.memory import MemoryStore
from proxy.storage.ready_bodies import ReadyBody
from tests.support.fakes import FakeClock

POLICY = FreshnessPolicy(fresh=900, negative=60)
QUERY = ProfileQuery(("cohorts",))
OTHER_QUERY = ProfileQuery(("cohorts",), cohort_ids=("a",))
USER = Identity("u", None)


def new_store(clock: FakeClock, max_bytes: int = 1_000_000) -> MemoryStore:
    return MemoryStore(max_bytes=max_bytes, policy=POLICY, clock=clock)


def new_record(clock: FakeClock, size: int = 10) -> Record:
    return Record({COHORTS: CachedPart(bytes(size), clock())})


def answer(
    store: MemoryStore,
    *,
    body: bytes = b"{}",
    times: int = 2,
    identity: Identity = USER,
) -> None:
    """Answer the query as the web layer does, which keeps a body that it writes a second time."""
    for _ in range(times):
        hit = store.fresh(identity, QUERY)
        if hit and hit.repeated and hit.ready is None:
            store.keep_ready(identity, QUERY, hit.record, body, "etag")


def ready(store: MemoryStore, identity: Identity = USER, query: ProfileQuery = QUERY) -> ReadyBody | None:
    hit = store.fresh(identity, query)
    return hit.ready if hit else None


@pytest.mark.contract("1 identity")
def test_merge__parts_of_one_identity__one_record(clock: FakeClock) -> None:
    store = new_store(clock)
    store.merge(USER, new_record(clock))
    store.merge(USER, Record({PROPERTIES: CachedPart(b"{}", clock())}))
    assert store.read(USER).parts.keys() == {COHORTS, PROPERTIES}
    assert store.read(Identity("u", "d")) == EMPTY
    assert store.read(Identity(None, "u")) == EMPTY


def test_merge__older_parts_expired__dropped(clock: FakeClock) -> None:
    store = new_store(clock)
    for number in range(50):
        store.merge(USER, Record({recommendation(str(number)): CachedPart(b"{}", clock())}))
        clock.advance(100)
    assert len(store.read(USER).parts) <= 9


def test_merge__cache_is_full__least_recently_used_is_evicted(clock: FakeClock) -> None:
    store = new_store(clock, max_bytes=20_000)
    store.merge(Identity("first", None), new_record(clock, 1000))
    for number in range(100):
        store.read(Identity("first", None))
        store.merge(Identity(str(number), None), new_record(clock, 1000))
        assert store.size <= 20_000
    assert store.read(Identity("first", None)) != EMPTY
    assert store.read(Identity("0", None)) == EMPTY
    assert store.read(Identity("99", None)) != EMPTY


def test_merge__record_exceeds_the_cache__not_kept_and_old_record_dropped(clock: FakeClock) -> None:
    store = new_store(clock, max_bytes=20_000)
    store.merge(USER, new_record(clock))
    clock.advance(1)
    store.merge(USER, new_record(clock, 30_000))
    assert store.records == 0
    assert store.size == 0


def test_size__records__within_15_percent_of_the_memory_in_use(clock: FakeClock) -> None:
    store = new_store(clock, max_bytes=1 << 30)

    def fill(prefix: str, count: int) -> None:
        for number in range(count):
            identity = Identity(f"{prefix}-{number:06}", f"device-{number:06}")
            at = clock() + number / 7
            parts = {
                PROPERTIES: CachedPart(bytes(2000 + number % 50), at),
                COHORTS: CachedPart(bytes(100 + number % 50), at),
                recommendation(f"rec-{number}"): CachedPart(bytes(700), at),
            }
            store.merge(identity, Record(parts, None, str(number), f"returned-{number}"))

    fill("warm", 2000)
    tracemalloc.start()
    before = store.size
    fill("user", 4000)
    used_memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.9 < (store.size - before) / used_memory < 1.15


def test_fresh__same_query_twice__ready_body_until_stale(clock: FakeClock) -> None:
    store = new_store(clock)
    store.merge(USER, new_record(clock))
    answer(store, times=1)
    answer(store, times=1)
    clock.advance(100)
    hit = store.fresh(USER, QUERY)
    assert hit is not None
    assert hit.ready is not None
    assert (hit.ready.body, hit.ready.etag, hit.freshness.age) == (b"{}", "etag", 100)
    assert ready(store, Identity("v", None)) is None
    clock.advance(hit.freshness.ttl)
    assert store.fresh(USER, QUERY) is None


def test_fresh__queries_alternate__no_ready_body(clock: FakeClock) -> None:
    store = new_store(clock)
    store.merge(USER, new_record(clock))
    for query in (QUERY, OTHER_QUERY, QUERY, OTHER_QUERY):
        hit = store.fresh(USER, query)
        assert hit is not None
        assert (hit.record, hit.ready, hit.repeated) == (store.read(USER), None, False)
    answer(store)
    assert ready(store)
    assert ready(store, query=OTHER_QUERY) is None


def test_fresh__body_of_another_query_is_ready__not_used(clock: FakeClock) -> None:
    store = new_store(clock)
    store.merge(USER, new_record(clock))
    answer(store)
    for query in (OTHER_QUERY, OTHER_QUERY, QUERY):
        assert ready(store, query=query) is None
    assert ready(store), "the body is still ready for its own query"


def test_fresh__query_is_dropped_by_its_caller__not_kept_alive(clock: FakeClock) -> None:
    store = new_store(clock)
    store.merge(USER, new_record(clock))
    query = ProfileQuery(("cohorts",), cohort_ids=("a", "b, c"))
    assert query.cohorts
    for _ in range(2):
        assert store.fresh(USER, query)
    store.keep_ready(USER, query, store.read(USER), b"{}", "etag")
    assert ready(store, query=query)
    alive = ref(query)
    del query
    assert alive() is None


def test_fresh__clock_was_set_back__age_is_zero(clock: FakeClock) -> None:
    store = new_store(clock)
    store.merge(USER, new_record(clock))
    answer(store)
    clock.advance(-5)
    hit = store.fresh(USER, QUERY)
    assert hit is not None
    assert hit.ready
    assert hit.freshness.age == 0


def test_fresh__newer_record_was_merged__ready_body_is_dropped(clock: FakeClock) -> None:
    store = new_store(clock)
    store.merge(USER, new_record(clock))
    answer(store)
    old = store.read(USER)
    clock.advance(1)
    store.merge(USER, new_record(clock))
    assert ready(store) is None
    store.keep_ready(USER, QUERY, old, b"{}", "etag")  # by a slower request
    assert ready(store) is None


def test_forget__ready_body__nothing_is_left(clock: FakeClock) -> None:
    store = new_store(clock)
    store.merge(USER, new_record(clock))
    answer(store)
    assert ready(store)
    store.forget(UNKEYED.ids(USER))
    assert store.fresh(USER, QUERY) is None
    assert store.size == 0


def test_forget__record_of_a_ready_body_was_evicted__body_is_dropped(clock: FakeClock) -> None:
    store = new_store(clock, max_bytes=64_000)
    store.merge(USER, new_record(clock))
    answer(store, body=bytes(2000))
    for number in range(20):
        store.merge(Identity(str(number), None), new_record(clock, 5000))
    assert store.read(USER) == EMPTY
    before = store.size
    store.forget(UNKEYED.ids(Identity("returned-u", None)))
    assert store.size < before - 2000


def test_forget__many_records__yields_before_each_500(clock: FakeClock) -> None:
    store = new_store(clock)
    for number in range(1500):
        store.push([(str(number), membership("vip", True, clock()))], store.generation)
    records_at_checkpoint: list[int] = []
    store.forget(UNKEYED.ids(Identity("1499", None)), checkpoint=lambda: records_at_checkpoint.append(store.records))
    assert records_at_checkpoint == [1500] * 3
    assert store.records == 1499


def test_size__ready_bodies__within_max_bytes(clock: FakeClock) -> None:
    store = new_store(clock, max_bytes=160_000)
    before = store.size
    for number in range(100):
        identity = Identity(str(number), None)
        store.merge(identity, new_record(clock))
        answer(store, body=bytes(1000), identity=identity)
        assert store.size <= 160_000
    ready_users = [number for number in range(100) if ready(store, Identity(str(number), None))]
    assert 1000 * len(ready_users) <= 10_000
    assert store.size > before + 1000 * len(ready_users)


def test_ready_bodies__more_than_fit__most_stay_and_a_frequent_user_gets_a_place(clock: FakeClock) -> None:
    random.seed(1)
    store = new_store(clock, max_bytes=160_000)
    users = [Identity(str(number), None) for number in range(100)]
    for user in users:
        store.merge(user, new_record(clock))

    def ready_users() -> set[Identity]:
        return {user for user in users if ready(store, user)}

    assert ready_users() == set()  # from now on, each query is a repeated query
    for user in users[:50]:
        answer(store, body=bytes(1000), identity=user, times=1)
    before = ready_users()
    for user in users[50:66]:
        answer(store, body=bytes(1000), identity=user, times=1)
    after = ready_users()
    assert len(before) == len(after) > 3
    assert 1 <= len(after - before) <= 3
    answer(store, body=bytes(1000), identity=users[99], times=100)
    assert ready(store, users[99])


def test_size__ready_bodies__within_15_percent_of_the_memory_in_use(clock: FakeClock) -> None:
    store = new_store(clock, max_bytes=1 << 30)

    def fill(prefix: str, count: int) -> None:
        for number in range(count):
            identity = Identity(f"{prefix}-{number:06}", None)
            store.merge(identity, Record({COHORTS: CachedPart(b"[]", clock() + number / 7)}))
            store.keep_ready(identity, QUERY, store.read(identity), bytes(2000 + number % 50), f"{number:032}")

    fill("warm", 2000)
    tracemalloc.start()
    before = store.size
    fill("user", 4000)
    used_memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.9 < (store.size - before) / used_memory < 1.15


def test_push__properties_of_the_previous_version_grow_too_large__skipped_and_user_is_answered(
    clock: FakeClock,
) -> None:
    moment = struct.pack(">d", clock())
    fields = {b"p" + b"%05d" % number: moment + b"1" * 40 for number in range(1000)}
    new = unpack(pack(fields))
    store = new_store(clock)
    assert store.push([("u", new)], 0) == {"too_large": 1}
    assert store.with_updates(USER, EMPTY, QUERY) is EMPTY
    assert store.updates("u") == {}


def test_push__clock_was_set_back_after_the_user_was_forgotten__later_update_is_kept(clock: FakeClock) -> None:
    store = new_store(clock)
    store.forget(UNKEYED.ids(USER))
    clock.advance(-3600)
    assert store.push([("u", membership("c1", True, clock()))], store.generation) == {"forgotten": 1}
    clock.advance(1)
    assert not store.push([("u", membership("c1", True, clock()))], store.generation)


def test_ready_bodies__full_and_user_changes_the_query__new_body_replaces_the_old_one(clock: FakeClock) -> None:
    store = new_store(clock, max_bytes=160_000)
    users = [Identity(str(number), None) for number in range(50)]
    for user in users:
        store.merge(user, new_record(clock))
        answer(store, body=bytes(1000), identity=user)
    ready_users = [user for user in users if ready(store, user)]
    assert 3 < len(ready_users) < len(users)
    for user in ready_users:
        store.fresh(user, OTHER_QUERY)
        hit = store.fresh(user, OTHER_QUERY)
        assert hit
        store.keep_ready(user, OTHER_QUERY, hit.record, bytes(1000), "etag")
    assert [user for user in users if ready(store, user, OTHER_QUERY)] == ready_users


@pytest.mark.parametrize("first", [1, 2])
def test_ready_bodies__full_and_offers_alternate__frequent_user_gets_a_place(clock: FakeClock, first: int) -> None:
    store = new_store(clock, max_bytes=1_600_000)
    frequent, *others = [Identity(str(number), None) for number in range(600)]
    for user in (frequent, *others):
        store.merge(user, new_record(clock))
        store.fresh(user, QUERY)  # from now on, each query is a repeated query
    for user in others[first:100]:
        answer(store, body=bytes(1000), identity=user, times=1)
    for user in others[100:]:
        answer(store, body=bytes(1000), identity=user, times=1)
        answer(store, body=bytes(1000), identity=frequent, times=1)
    assert ready(store, frequent)
