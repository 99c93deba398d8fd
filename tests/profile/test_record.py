"""Records, freshness and merging."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.profile.freshness import FreshnessPolicy, freshness
from proxy.profile.parts import COHORTS, PROPERTIES, Part, computations, recommendation
from proxy.profile.record import EMPTY, CachedPart, Record, merge

LIFETIMES = FreshnessPolicy(fresh=900, negative=60, stale_while_revalidate=100, stale_if_error=5000)


def record(at: float, *parts: Part) -> Record:
    return Record({part: CachedPart(b"1", at) for part in parts})


def test_ttl__fetched_part__seconds_until_its_lifetime_ends() -> None:
    cached = record(100, COHORTS)
    assert LIFETIMES.ttl(cached, COHORTS, 999.5) == 0.5
    assert LIFETIMES.ttl(cached, COHORTS, 1100) == -100
    assert LIFETIMES.ttl(cached, PROPERTIES, 100) == float("-inf")


def test_unknown_user__any_part__fresh_for_60_seconds_and_then_pruned() -> None:
    unknown = Record(unknown_at=100)
    assert LIFETIMES.ttl(unknown, recommendation("a"), 159) == 1
    assert LIFETIMES.prune(unknown, 159) is unknown
    assert LIFETIMES.prune(unknown, 160) == EMPTY


def test_prune__stale_parts__kept_until_stale_if_error_ends() -> None:
    both = merge(record(100, COHORTS), record(500, PROPERTIES))
    assert LIFETIMES.prune(both, 5999) is both
    assert LIFETIMES.prune(both, 6000).parts.keys() == {PROPERTIES}
    assert LIFETIMES.prune(both, 6400).parts.keys() == set()


@pytest.mark.contract("1 computations")
def test_computations__same_ids_in_another_order__same_part() -> None:
    assert computations(["b", "a"]) == computations(("a", "b"))
    assert len({computations(), computations(["a"]), computations(["a", "b"])}) == 3


def test_merge__unknown_and_known__later_record_wins() -> None:
    known, unknown = record(100, COHORTS), Record(unknown_at=200)
    assert merge(known, unknown) is merge(unknown, known) is unknown
    later = record(300, COHORTS)
    assert merge(unknown, later) is merge(later, unknown) is later


def test_merge__answer_without_an_id__earlier_id_is_kept() -> None:
    with_ids = Record({COHORTS: CachedPart(b"1", 1)}, None, "ava", "device-ava")
    merged = merge(with_ids, Record({PROPERTIES: CachedPart(b"1", 2)}, None, None, "device-2"))
    assert (merged.user_id, merged.device_id) == ("ava", "device-2")


def test_freshness__several_parts__highest_age_and_lowest_ttl() -> None:
    both = merge(record(100, COHORTS), record(500, PROPERTIES))
    result = freshness(both, [COHORTS, PROPERTIES, recommendation("a")], LIFETIMES, 600)
    assert result is not None
    assert (result.age, result.ttl) == (500, 400)
    assert freshness(both, [recommendation("a")], LIFETIMES, 600) is None


@pytest.mark.parametrize("longer", [CachedPart(b"1", 100, warm=True), CachedPart(b"1", 100, pushed=True)])
def test_freshness__parts_of_one_time_with_different_lifetimes__lowest_ttl(longer: CachedPart) -> None:
    policy = FreshnessPolicy(fresh=900, negative=60, warm=5000, pushed=5000)
    both = Record({COHORTS: longer, PROPERTIES: CachedPart(b"1", 100)})
    for parts in ([COHORTS, PROPERTIES], [PROPERTIES, COHORTS]):
        result = freshness(both, parts, policy, 600)
        assert result is not None
        assert (result.age, result.ttl) == (500, 400)
    assert (result := freshness(both, [COHORTS], policy, 600)) is not None
    assert result.ttl == 4500


parts = st.sampled_from([PROPERTIES, COHORTS, recommendation("a"), recommendation("a", "model")])
records = st.one_of(
    st.builds(Record, st.dictionaries(parts, st.builds(CachedPart, st.sampled_from([b"1", b"2"]), st.integers(0, 9)))),
    st.builds(lambda at: Record(unknown_at=at), st.integers(0, 9)),
)


@given(records, records)
def test_merge__any_records__idempotent_and_latest_parts_are_kept(old: Record, new: Record) -> None:
    merged = merge(old, new)
    assert merge(merged, new) == merged
    if merged.unknown_at is None:
        for part in (*old.parts, *new.parts):
            if old.unknown_at is None and new.unknown_at is None:
                times = [record.parts[part].fetched_at for record in (old, new) if part in record.parts]
                assert merged.parts[part].fetched_at == max(times)
