"""Records in memory."""

import tracemalloc

from proxy.parts import COHORTS, EMPTY, PROPERTIES, Identity, Kept, Lifetimes, Record, recommendation
from proxy.store import Store
from tests.fakes import FakeClock

LIFETIMES = Lifetimes(fresh=900, negative=60)


def store(clock: FakeClock, max_bytes: int = 1_000_000) -> Store:
    return Store(max_bytes=max_bytes, lifetimes=LIFETIMES, now=clock)


def some(clock: FakeClock, size: int = 10) -> Record:
    return Record({COHORTS: Kept(bytes(size), clock())})


def test_parts_are_merged_into_one_record_a_user(clock: FakeClock) -> None:
    kept = store(clock)
    kept.merge(Identity("u", None), some(clock))
    kept.merge(Identity("u", None), Record({PROPERTIES: Kept(b"{}", clock())}))
    assert kept.read(Identity("u", None)).parts.keys() == {COHORTS, PROPERTIES}
    assert kept.read(Identity("u", "d")) == EMPTY
    assert kept.read(Identity(None, "u")) == EMPTY


def test_what_may_not_be_served_any_more_does_not_pile_up(clock: FakeClock) -> None:
    kept = store(clock)
    for number in range(50):
        kept.merge(Identity("u", None), Record({recommendation(str(number)): Kept(b"{}", clock())}))
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
                PROPERTIES: Kept(bytes(2000 + number % 50), at),
                COHORTS: Kept(bytes(100 + number % 50), at),
                recommendation(f"rec-{number}"): Kept(bytes(700), at),
            }
            kept.merge(identity, Record(parts, None, str(number), f"returned-{number}"))

    fill("warm", 2000)
    tracemalloc.start()
    before = kept.size
    fill("user", 4000)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.9 < (kept.size - before) / taken < 1.15
