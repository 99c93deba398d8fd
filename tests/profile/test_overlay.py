"""Updates applied to a cached record."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.profile import encoding
from proxy.profile.aliases import Aliases, parse
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.json import write_json
from proxy.profile.overlay import apply_updates
from proxy.profile.parts import COHORTS, PROPERTIES, recommendation
from proxy.profile.query import ProfileQuery
from proxy.profile.record import EMPTY, CachedPart, Record
from proxy.profile.updates import REMOVED, UNKNOWN, Updates, cleared, membership, merged, parse_updates, properties
from tests.profile.test_updates import PUSHES

COHORTS_ALL, PROPERTIES_ALL = ProfileQuery(("cohorts",)), ProfileQuery(("properties",))


def in_cohorts(*cohort_ids: str) -> ProfileQuery:
    return ProfileQuery(("cohorts",), cohort_ids=cohort_ids)


def of_keys(*keys: str) -> ProfileQuery:
    return ProfileQuery(("properties",), keys=keys)


def record(at: float, *, cohorts: Any = None, props: Any = None, warm: bool = False) -> Record:
    values_by_part = {COHORTS: cohorts, PROPERTIES: props}
    return Record(
        {part: CachedPart(encoding.write(raw), at, warm) for part, raw in values_by_part.items() if raw is not None},
        None,
        "u",
    )


def overlaid(cached: Record, query: ProfileQuery, *pushes: Updates) -> Record:
    pushed: Updates = {}
    for push in pushes:
        pushed = merged(pushed, push)
    return apply_updates(cached, parse_updates(pushed), query)


def value(result: Record, part: Any) -> Any:
    return encoding.read(result.parts[part].value)


def props(at: float, *, whole: bool = False, **values: Any) -> Updates:
    return properties({name: write_json(raw) for name, raw in values.items()}, at, whole=whole)


def test_cohorts__all_requested_were_pushed__known_with_the_age_of_the_oldest_push() -> None:
    pushes = [membership("a", True, 10), membership("b", False, 20), membership("c", True, 5)]
    result = overlaid(EMPTY, in_cohorts("a", "b"), *pushes)
    assert result.parts[COHORTS].fetched_at == 10
    assert result.parts[COHORTS].pushed
    assert set(value(result, COHORTS)) & {"a", "b"} == {"a"}


def test_cohorts__not_all_requested_were_pushed__miss() -> None:
    assert not overlaid(EMPTY, in_cohorts("a", "b"), membership("a", True, 10)).parts
    assert not overlaid(EMPTY, COHORTS_ALL, membership("a", True, 10)).parts


def test_cohorts__fetched_list_and_later_pushes__pushes_applied_and_age_unchanged() -> None:
    cached = record(10, cohorts=["a", "b", 7])
    pushes = [
        membership("a", False, 11),
        membership("new", True, 12),
        membership("b", False, 9),
        membership("7", False, 11),
    ]
    result = overlaid(cached, COHORTS_ALL, *pushes)
    assert value(result, COHORTS) == ["b", "new"]
    assert (result.parts[COHORTS].fetched_at, result.parts[COHORTS].pushed) == (10, False)


def test_updates__older_than_the_fetch__ignored() -> None:
    cached = record(10, cohorts=["a"], props={"gp:x": 1})
    result = overlaid(cached, in_cohorts("a"), membership("a", False, 10), props(9, x=2), props(9.5, whole=True, y=1))
    assert result == cached


def test_cohorts__alias_requested__pushed_id_is_used() -> None:
    query = ProfileQuery(("cohorts",), cohort_ids=("vip",), aliases=Aliases(parse("cohorts.vip=c31")))
    assert value(overlaid(EMPTY, query, membership("c31", True, 10)), COHORTS) == ["c31"]


def test_properties__whole_set_was_pushed__replaces_fetched_values_under_their_names() -> None:
    result = overlaid(EMPTY, PROPERTIES_ALL, props(10, whole=True, a=1, b=2), props(12, b=3))
    assert value(result, PROPERTIES) == {"a": 1, "b": 3}
    assert (result.parts[PROPERTIES].fetched_at, result.parts[PROPERTIES].pushed) == (10, True)
    older = overlaid(
        record(5, props={"gp:a": 0, "gp:old": 0, "b": 0}), PROPERTIES_ALL, props(10, whole=True, a=1, b=2, c=3)
    )
    assert value(older, PROPERTIES) == {"gp:a": 1, "b": 2, "gp:c": 3}, "the names of the fetched properties are kept"


def test_properties__only_a_part_was_pushed__applied_to_a_fetched_set_or_a_miss() -> None:
    assert not overlaid(EMPTY, PROPERTIES_ALL, props(10, a=1)).parts
    result = overlaid(record(5, props={"gp:a": 0, "b": 0}), PROPERTIES_ALL, props(10, a=1, c=1), props(4, b=1))
    assert value(result, PROPERTIES) == {"gp:a": 1, "b": 0, "gp:c": 1}
    assert (result.parts[PROPERTIES].fetched_at, result.parts[PROPERTIES].pushed) == (5, False)


def test_keys__all_requested_were_pushed__known_with_the_age_of_the_oldest_push() -> None:
    result = overlaid(EMPTY, of_keys("a", "gp:b"), props(10, a=1), props(12, b=2), props(5, c=3))
    assert value(result, PROPERTIES) == {"a": 1, "gp:b": 2, "c": 3}
    assert (result.parts[PROPERTIES].fetched_at, result.parts[PROPERTIES].pushed) == (10, True)
    unset = overlaid(EMPTY, of_keys("a"), properties({"a": REMOVED}, 10))
    assert value(unset, PROPERTIES) == {}


def test_keys__one_not_pushed_or_uncertain_or_unsafe__miss() -> None:
    assert not overlaid(EMPTY, of_keys("a", "b"), props(10, a=1)).parts
    assert not overlaid(EMPTY, of_keys("a"), properties({"a": UNKNOWN}, 10)).parts
    assert not overlaid(EMPTY, of_keys("my prop"), properties({"my prop": b"1"}, 10)).parts
    over = overlaid(record(5, props={"gp:my_prop": 0}), of_keys("my prop"), properties({"my prop": b"1"}, 10))
    assert (value(over, PROPERTIES)["gp:my prop"], over.parts[PROPERTIES].fetched_at) == (1, 10)


def test_properties__changed_to_a_value_only_amplitude_knows__fetched_value_stays() -> None:
    cached = record(5, props={"gp:n": 1})
    assert value(overlaid(cached, PROPERTIES_ALL, properties({"n": UNKNOWN}, 10)), PROPERTIES) == {"gp:n": 1}
    assert value(overlaid(cached, PROPERTIES_ALL, props(6, n=2), properties({"n": UNKNOWN}, 10)), PROPERTIES) == {
        "gp:n": 1
    }


def test_properties__whole_set_with_a_value_only_amplitude_knows__not_a_whole_set() -> None:
    pushes = [props(6, whole=True, n=2, m=3), properties({"n": UNKNOWN}, 10)]
    for query in (PROPERTIES_ALL, of_keys("n"), of_keys("n", "m"), of_keys("my prop")):
        assert not overlaid(EMPTY, query, *pushes).parts
    for query, expected in ((of_keys("m"), 3), (of_keys("m", "none"), 3)):
        result = overlaid(EMPTY, query, *pushes)
        assert (value(result, PROPERTIES)["m"], result.parts[PROPERTIES].fetched_at) == (expected, 6)
        assert "n" not in value(result, PROPERTIES)
    cached = record(5, props={"gp:n": 1, "gp:old": 1})
    for query in (PROPERTIES_ALL, of_keys("n")):
        result = overlaid(cached, query, *pushes)
        assert value(result, PROPERTIES) == {"gp:n": 1, "gp:m": 3}, "the fetched copy has the last known value"
        assert (result.parts[PROPERTIES].fetched_at, result.parts[PROPERTIES].pushed) == (5, False)


def test_properties__cleared__earlier_set_is_dropped_and_later_set_is_kept() -> None:
    assert not overlaid(record(5, props={"gp:n": 1}), PROPERTIES_ALL, props(6, n=2), cleared(7)).parts
    assert not overlaid(record(5, props={"gp:n": 1}), of_keys("n"), cleared(7)).parts
    result = overlaid(record(5, props={"gp:n": 1}), of_keys("n"), cleared(7), props(8, n=3))
    assert (value(result, PROPERTIES), result.parts[PROPERTIES].fetched_at) == ({"n": 3}, 8)
    after = record(8, props={"gp:n": 1})
    assert overlaid(after, PROPERTIES_ALL, cleared(7)) == after


def test_properties__fetched_with_and_without_prefix__push_changes_the_prefixed_property() -> None:
    result = overlaid(record(5, props={"name": "built in", "gp:name": "old"}), PROPERTIES_ALL, props(10, name="new"))
    assert value(result, PROPERTIES) == {"name": "built in", "gp:name": "new"}
    plain = overlaid(record(5, props={"name": "old"}), PROPERTIES_ALL, props(10, name="new", other=1))
    assert value(plain, PROPERTIES) == {"name": "new", "other": 1}


def test_unknown_user__push__known_only_if_the_push_is_later() -> None:
    unknown = Record(unknown_at=10.0)
    assert overlaid(unknown, in_cohorts("a"), membership("a", True, 9)) == unknown
    result = overlaid(unknown, in_cohorts("a"), membership("a", True, 11))
    assert (result.unknown_at, value(result, COHORTS)) == (None, ["a"])
    assert overlaid(unknown, COHORTS_ALL, membership("a", True, 11)) == Record()


def test_updates__other_parts_and_ids__unchanged() -> None:
    cached = Record({recommendation("r"): CachedPart(b"{}", 1.0)}, None, "returned", "device")
    result = overlaid(cached, in_cohorts("a"), membership("a", True, 2))
    assert result.parts[recommendation("r")] == cached.parts[recommendation("r")]
    assert (result.user_id, result.device_id) == ("returned", "device")


def test_updates__warmed_parts__stay_warmed() -> None:
    cached = record(5, cohorts=["a"], props={"gp:x": 1}, warm=True)
    result = overlaid(
        cached, ProfileQuery(("properties", "cohorts"), cohort_ids=("a",)), membership("a", False, 6), props(6, x=2)
    )
    assert all(part.warm for part in result.parts.values())


def test_freshness__pushed_part__has_its_own_lifetime_and_counts_as_warmed() -> None:
    policy = FreshnessPolicy(fresh=900, negative=60, stale_while_revalidate=10, stale_if_error=100, pushed=3600)
    result = overlaid(EMPTY, in_cohorts("a"), membership("a", True, 1000.0))
    assert policy.ttl(result, COHORTS, 1000.0) == 3600
    assert policy.is_warm(result, COHORTS, 4599.0)
    assert not policy.is_warm(result, COHORTS, 4600.0)
    assert policy.updates_usable_for == 3700
    short = FreshnessPolicy(fresh=900, negative=60, pushed=1)
    assert short.ttl(result, COHORTS, 1000.0) > 800, "a pushed part is fresh at least as long as a fetched part"


ANY_QUERY = st.sampled_from(
    [COHORTS_ALL, PROPERTIES_ALL, in_cohorts("a"), in_cohorts("a", "b"), of_keys("a"), of_keys("b")]
)
ANY_VALUE = st.sampled_from([None, [], ["a"], {"gp:a": 1}, {"a": 1, "gp:b": 2}, 3, "x"])


@given(st.lists(PUSHES, max_size=5), ANY_VALUE, ANY_VALUE, st.sampled_from([1.0, 2.0, 5.0]), ANY_QUERY)
def test_updates__any_cached_values__applied_without_making_a_part_older(
    pushes: list[Updates], cohorts: Any, properties_value: Any, at: float, query: ProfileQuery
) -> None:
    cached = record(at, cohorts=cohorts, props=properties_value)
    result = overlaid(cached, query, *pushes)
    no_updates: Updates = {}
    content = parse_updates(functools.reduce(merged, pushes, no_updates))
    assert result.parts.keys() | ({PROPERTIES} if content.cleared_at is not None else set()) >= cached.parts.keys()
    # After a clear or a whole push, the fetched set does not count, so a pushed value may be older than the fetch.
    replaced = content.cleared_at is not None or content.whole_at is not None
    for part, part_value in result.parts.items():
        assert part_value.fetched_at >= at or part not in cached.parts or (part == PROPERTIES and replaced)
        encoding.read(part_value.value)


@pytest.mark.parametrize("query", [COHORTS_ALL, of_keys("a")])
def test_updates__nothing_pushed__record_is_unchanged(query: ProfileQuery) -> None:
    cached = record(5, cohorts=["a"], props={"gp:x": 1})
    assert overlaid(cached, query) == cached
