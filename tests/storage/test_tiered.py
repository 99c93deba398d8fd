"""Records in memory."""

import tracemalloc
from weakref import ref

import pytest

from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, recommendation
from proxy.profile.query import ProfileQuery
from proxy.profile.record import EMPTY, CachedPart, Record
from proxy.profile.updates import membership
from proxy.storage.memory import Ready
from proxy.storage.tiered import TieredStore
from proxy.storage.tombstones import names
from tests.support.fakes import FakeClock

LIFETIMES = FreshnessPolicy(fresh=900, negative=60)


def store(clock: FakeClock, max_bytes: int = 1_000_000) -> TieredStore:
    return TieredStore(max_bytes=max_bytes, policy=LIFETIMES, now=clock)


def some(clock: FakeClock, size: int = 10) -> Record:
    return Record({COHORTS: CachedPart(bytes(size), clock())})


@pytest.mark.contract("1 identity")
def test_parts_are_merged_into_one_record_a_user(clock: FakeClock) -> None:
    kept = store(clock)
    kept.merge(Identity("u", None), some(clock))
    kept.merge(Identity("u", None), Record({PROPERTIES: CachedPart(b"{}", clock())}))
    assert kept.read(Identity("u", None)).parts.keys() == {COHORTS, PROPERTIES}
    assert kept.read(Identity("u", "d")) == EMPTY
    assert kept.read(Identity(None, "u")) == EMPTY


def test_what_may_not_be_served_any_more_does_not_pile_up(clock: FakeClock) -> None:
    kept = store(clock)
    for number in range(50):
        kept.merge(Identity("u", None), Record({recommendation(str(number)): CachedPart(b"{}", clock())}))
        clock.advance(100)
    assert len(kept.read(Identity("u", None)).parts) <= 9


def test_the_least_recently_used_leaves_first_and_the_bound_is_in_bytes(clock: FakeClock) -> None:
    kept = store(clock, max_bytes=20_000)
    kept.merge(Identity("first", None), some(clock, 1000))
    for number in range(100):
        kept.read(Identity("first", None))
        kept.merge(Identity(str(number), None), some(clock, 1000))
        assert kept.size <= 20_000
    assert kept.read(Identity("first", None)) != EMPTY
    assert kept.read(Identity("0", None)) == EMPTY
    assert kept.read(Identity("99", None)) != EMPTY


def test_a_record_larger_than_the_cache_is_not_kept_and_neither_is_its_past(clock: FakeClock) -> None:
    kept = store(clock, max_bytes=20_000)
    kept.merge(Identity("u", None), some(clock))
    clock.advance(1)
    kept.merge(Identity("u", None), some(clock, 30_000))
    assert kept.empty
    assert kept.size == 0


def test_the_bytes_counted_are_the_bytes_taken(clock: FakeClock) -> None:
    kept = store(clock, max_bytes=1 << 30)

    def fill(prefix: str, count: int) -> None:
        for number in range(count):
            identity = Identity(f"{prefix}-{number:06}", f"device-{number:06}")
            at = clock() + number / 7
            parts = {
                PROPERTIES: CachedPart(bytes(2000 + number % 50), at),
                COHORTS: CachedPart(bytes(100 + number % 50), at),
                recommendation(f"rec-{number}"): CachedPart(bytes(700), at),
            }
            kept.merge(identity, Record(parts, None, str(number), f"returned-{number}"))

    fill("warm", 2000)
    tracemalloc.start()
    before = kept.size
    fill("user", 4000)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.9 < (kept.size - before) / taken < 1.15


WISH = ProfileQuery(("cohorts",))
USER = Identity("u", None)


def asked(kept: TieredStore, body: bytes = b"{}", times: int = 2, identity: Identity = USER) -> None:
    for _ in range(times):
        found = kept.fresh(identity, WISH)
        if found and found.again:
            kept.keep_ready(identity, WISH, found.record, body, "etag")


def ready(kept: TieredStore, identity: Identity = USER, query: ProfileQuery = WISH) -> Ready | None:
    found = kept.fresh(identity, query)
    return found.ready if found else None


def test_an_answer_asked_twice_is_ready_until_it_goes_stale(clock: FakeClock) -> None:
    kept = store(clock)
    kept.merge(USER, some(clock))
    asked(kept, times=1)
    asked(kept, times=1)
    clock.advance(100)
    found = kept.fresh(USER, WISH)
    assert found is not None
    assert found.ready is not None
    assert (found.ready.body, found.ready.etag, found.freshness.age) == (b"{}", "etag", 100)
    assert ready(kept, Identity("v", None)) is None
    clock.advance(found.freshness.ttl)
    assert kept.fresh(USER, WISH) is None


def test_an_answer_asked_once_or_otherwise_before_is_not_kept_ready(clock: FakeClock) -> None:
    kept = store(clock)
    kept.merge(USER, some(clock))
    other = ProfileQuery(("cohorts",), cohort_ids=("a",))
    for query in (WISH, other, WISH, other):
        found = kept.fresh(USER, query)
        assert found is not None
        assert (found.record, found.ready, found.again) == (kept.read(USER), None, False)
    asked(kept)
    assert ready(kept)
    assert ready(kept, query=other) is None


def test_an_answer_that_was_kept_for_one_question_never_answers_another(clock: FakeClock) -> None:
    kept = store(clock)
    kept.merge(USER, some(clock))
    other = ProfileQuery(("cohorts",), cohort_ids=("a",))
    asked(kept)
    for query in (other, other, WISH):
        assert ready(kept, query=query) is None
    assert ready(kept), "asked for again, and still kept"


def test_what_was_asked_of_a_user_is_not_kept_alive_by_that_user(clock: FakeClock) -> None:
    kept = store(clock)
    kept.merge(USER, some(clock))
    query = ProfileQuery(("cohorts",), cohort_ids=("a", "b, c"))
    assert query.cohorts
    assert kept.fresh(USER, query)
    gone = ref(query)
    del query
    assert gone() is None


def test_nobody_hears_of_an_age_below_zero_when_the_clock_was_set_back(clock: FakeClock) -> None:
    kept = store(clock)
    kept.merge(USER, some(clock))
    asked(kept)
    clock.advance(-5)
    found = kept.fresh(USER, WISH)
    assert found is not None
    assert found.ready
    assert found.freshness.age == 0


def test_a_ready_answer_is_dropped_when_something_newer_lands(clock: FakeClock) -> None:
    kept = store(clock)
    kept.merge(USER, some(clock))
    asked(kept)
    old = kept.read(USER)
    clock.advance(1)
    kept.merge(USER, some(clock))
    assert ready(kept) is None
    kept.keep_ready(USER, WISH, old, b"{}", "etag")  # who was slow to write it down
    assert ready(kept) is None


def test_no_byte_of_a_ready_answer_outlives_that_its_user_is_forgotten(clock: FakeClock) -> None:
    kept = store(clock)
    kept.merge(USER, some(clock))
    asked(kept)
    assert ready(kept)
    kept.forget(names(USER))
    assert kept.fresh(USER, WISH) is None
    assert kept.size == 0


def test_a_ready_answer_whose_record_had_to_leave_goes_with_whoever_is_forgotten(clock: FakeClock) -> None:
    kept = store(clock, max_bytes=64_000)
    kept.merge(USER, some(clock))
    asked(kept, bytes(2000))
    for number in range(20):
        kept.merge(Identity(str(number), None), some(clock, 5000))
    assert kept.read(USER) == EMPTY
    before = kept.size
    kept.forget(names(Identity("returned-u", None)))
    assert kept.size < before - 2000


def test_others_have_their_turn_while_a_user_is_sought_among_many(clock: FakeClock) -> None:
    kept = store(clock)
    for number in range(1500):
        kept.push([(str(number), membership("vip", True, clock()))], kept.generation)
    left_at_each_turn: list[int] = []
    kept.forget(names(Identity("1499", None)), checkpoint=lambda: left_at_each_turn.append(kept.records))
    assert left_at_each_turn == [1500] * 3
    assert kept.records == 1499


def test_ready_answers_are_counted_within_the_bound(clock: FakeClock) -> None:
    kept = store(clock, max_bytes=160_000)
    before = kept.size
    for number in range(100):
        identity = Identity(str(number), None)
        kept.merge(identity, some(clock))
        asked(kept, bytes(1000), identity=identity)
        assert kept.size <= 160_000
    there = [number for number in range(100) if ready(kept, Identity(str(number), None))]
    assert there[-1] == 99
    assert 1000 * len(there) <= 10_000
    assert kept.size > before + 1000 * len(there)


def test_the_bytes_counted_for_ready_answers_are_the_bytes_taken(clock: FakeClock) -> None:
    kept = store(clock, max_bytes=1 << 30)

    def fill(prefix: str, count: int) -> None:
        for number in range(count):
            identity = Identity(f"{prefix}-{number:06}", None)
            kept.merge(identity, Record({COHORTS: CachedPart(b"[]", clock() + number / 7)}))
            kept.keep_ready(identity, WISH, kept.read(identity), bytes(2000 + number % 50), f"{number:032}")

    fill("warm", 2000)
    tracemalloc.start()
    before = kept.size
    fill("user", 4000)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.9 < (kept.size - before) / taken < 1.15
