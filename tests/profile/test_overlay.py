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
        {part: CachedPart(encoding.write(one), at, warm) for part, one in values_by_part.items() if one is not None},
        None,
        "u",
    )


def overlaid(cached: Record, query: ProfileQuery, *pushes: Updates) -> Record:
    pushed: Updates = {}
    for one in pushes:
        pushed = merged(pushed, one)
    return apply_updates(cached, parse_updates(pushed), query)


def value(result: Record, part: Any) -> Any:
    return encoding.read(result.parts[part].value)


def props(at: float, *, whole: bool = False, **values: Any) -> Updates:
    return properties({name: write_json(one) for name, one in values.items()}, at, whole=whole)


def test_cohorts_that_were_all_pushed_answer_by_themselves_and_are_as_old_as_the_oldest() -> None:
    pushes = [membership("a", True, 10), membership("b", False, 20), membership("c", True, 5)]
    result = overlaid(EMPTY, in_cohorts("a", "b"), *pushes)
    assert result.parts[COHORTS].fetched_at == 10
    assert result.parts[COHORTS].pushed
    assert set(value(result, COHORTS)) & {"a", "b"} == {"a"}


def test_cohorts_of_which_one_was_not_pushed_and_all_cohorts_are_not_known_by_it() -> None:
    assert not overlaid(EMPTY, in_cohorts("a", "b"), membership("a", True, 10)).parts
    assert not overlaid(EMPTY, COHORTS_ALL, membership("a", True, 10)).parts


def test_a_list_that_was_fetched_gets_what_was_pushed_later_and_stays_as_old_as_it_was() -> None:
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


def test_a_fetch_later_than_the_push_wins_over_it() -> None:
    cached = record(10, cohorts=["a"], props={"gp:x": 1})
    result = overlaid(cached, in_cohorts("a"), membership("a", False, 10), props(9, x=2), props(9.5, whole=True, y=1))
    assert result == cached


def test_a_name_of_a_cohort_is_the_cohort_it_stands_for() -> None:
    query = ProfileQuery(("cohorts",), cohort_ids=("vip",), aliases=Aliases(parse("cohorts.vip=c31")))
    assert value(overlaid(EMPTY, query, membership("c31", True, 10)), COHORTS) == ["c31"]


def test_a_whole_set_that_was_pushed_is_the_user_s_properties() -> None:
    result = overlaid(EMPTY, PROPERTIES_ALL, props(10, whole=True, a=1, b=2), props(12, b=3))
    assert value(result, PROPERTIES) == {"a": 1, "b": 3}
    assert (result.parts[PROPERTIES].fetched_at, result.parts[PROPERTIES].pushed) == (10, True)
    older = overlaid(
        record(5, props={"gp:a": 0, "gp:old": 0, "b": 0}), PROPERTIES_ALL, props(10, whole=True, a=1, b=2, c=3)
    )
    assert value(older, PROPERTIES) == {"gp:a": 1, "b": 2, "gp:c": 3}, "called as it was when it was fetched"


def test_some_properties_never_pretend_to_be_all() -> None:
    assert not overlaid(EMPTY, PROPERTIES_ALL, props(10, a=1)).parts
    result = overlaid(record(5, props={"gp:a": 0, "b": 0}), PROPERTIES_ALL, props(10, a=1, c=1), props(4, b=1))
    assert value(result, PROPERTIES) == {"gp:a": 1, "b": 0, "gp:c": 1}
    assert (result.parts[PROPERTIES].fetched_at, result.parts[PROPERTIES].pushed) == (5, False)


def test_keys_that_were_all_pushed_answer_by_themselves() -> None:
    result = overlaid(EMPTY, of_keys("a", "gp:b"), props(10, a=1), props(12, b=2), props(5, c=3))
    assert value(result, PROPERTIES) == {"a": 1, "gp:b": 2, "c": 3}
    assert (result.parts[PROPERTIES].fetched_at, result.parts[PROPERTIES].pushed) == (10, True)
    unset = overlaid(EMPTY, of_keys("a"), properties({"a": REMOVED}, 10))
    assert value(unset, PROPERTIES) == {}


def test_keys_are_a_miss_where_one_was_not_pushed_is_not_sure_or_has_a_name_that_others_could_change() -> None:
    assert not overlaid(EMPTY, of_keys("a", "b"), props(10, a=1)).parts
    assert not overlaid(EMPTY, of_keys("a"), properties({"a": UNKNOWN}, 10)).parts
    assert not overlaid(EMPTY, of_keys("my prop"), properties({"my prop": b"1"}, 10)).parts
    over = overlaid(record(5, props={"gp:my_prop": 0}), of_keys("my prop"), properties({"my prop": b"1"}, 10))
    assert (value(over, PROPERTIES)["gp:my prop"], over.parts[PROPERTIES].fetched_at) == (1, 10)


def test_what_was_changed_to_what_only_amplitude_knows_leaves_the_copy_and_no_set_whole_for_long() -> None:
    cached = record(5, props={"gp:n": 1})
    assert value(overlaid(cached, PROPERTIES_ALL, properties({"n": UNKNOWN}, 10)), PROPERTIES) == {"gp:n": 1}
    assert value(overlaid(cached, PROPERTIES_ALL, props(6, n=2), properties({"n": UNKNOWN}, 10)), PROPERTIES) == {
        "gp:n": 1
    }


def test_a_whole_set_of_which_one_was_changed_to_what_only_amplitude_knows_is_none() -> None:
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
        assert value(result, PROPERTIES) == {"gp:n": 1, "gp:m": 3}, "the copy has the last that is known of it"
        assert (result.parts[PROPERTIES].fetched_at, result.parts[PROPERTIES].pushed) == (5, False)


def test_a_set_that_was_cleared_since_is_not_there_and_one_fetched_after_that_is() -> None:
    assert not overlaid(record(5, props={"gp:n": 1}), PROPERTIES_ALL, props(6, n=2), cleared(7)).parts
    assert not overlaid(record(5, props={"gp:n": 1}), of_keys("n"), cleared(7)).parts
    result = overlaid(record(5, props={"gp:n": 1}), of_keys("n"), cleared(7), props(8, n=3))
    assert (value(result, PROPERTIES), result.parts[PROPERTIES].fetched_at) == ({"n": 3}, 8)
    after = record(8, props={"gp:n": 1})
    assert overlaid(after, PROPERTIES_ALL, cleared(7)) == after


def test_a_user_property_is_the_one_with_the_prefix_where_amplitude_has_both() -> None:
    result = overlaid(record(5, props={"name": "built in", "gp:name": "old"}), PROPERTIES_ALL, props(10, name="new"))
    assert value(result, PROPERTIES) == {"name": "built in", "gp:name": "new"}
    plain = overlaid(record(5, props={"name": "old"}), PROPERTIES_ALL, props(10, name="new", other=1))
    assert value(plain, PROPERTIES) == {"name": "new", "other": 1}


def test_who_was_unknown_is_known_by_a_later_push_and_not_by_an_earlier_one() -> None:
    unknown = Record(unknown_at=10.0)
    assert overlaid(unknown, in_cohorts("a"), membership("a", True, 9)) == unknown
    result = overlaid(unknown, in_cohorts("a"), membership("a", True, 11))
    assert (result.unknown_at, value(result, COHORTS)) == (None, ["a"])
    assert overlaid(unknown, COHORTS_ALL, membership("a", True, 11)) == Record()


def test_other_parts_and_ids_stay_as_they_are() -> None:
    cached = Record({recommendation("r"): CachedPart(b"{}", 1.0)}, None, "returned", "device")
    result = overlaid(cached, in_cohorts("a"), membership("a", True, 2))
    assert result.parts[recommendation("r")] == cached.parts[recommendation("r")]
    assert (result.user_id, result.device_id) == ("returned", "device")


def test_what_was_warmed_stays_fresh_for_as_long_when_it_is_changed() -> None:
    cached = record(5, cohorts=["a"], props={"gp:x": 1}, warm=True)
    result = overlaid(
        cached, ProfileQuery(("properties", "cohorts"), cohort_ids=("a",)), membership("a", False, 6), props(6, x=2)
    )
    assert all(one.warm for one in result.parts.values())


def test_what_was_pushed_is_fresh_for_its_own_time_and_counts_as_warmed() -> None:
    policy = FreshnessPolicy(fresh=900, negative=60, stale_while_revalidate=10, stale_if_error=100, pushed=3600)
    result = overlaid(EMPTY, in_cohorts("a"), membership("a", True, 1000.0))
    assert policy.ttl(result, COHORTS, 1000.0) == 3600
    assert policy.is_warm(result, COHORTS, 4599.0)
    assert not policy.is_warm(result, COHORTS, 4600.0)
    assert policy.updates_usable_for == 3700
    short = FreshnessPolicy(fresh=900, negative=60, pushed=1)
    assert short.ttl(result, COHORTS, 1000.0) > 800, "never for a shorter time than what was fetched"


ANY_WISH = st.sampled_from(
    [COHORTS_ALL, PROPERTIES_ALL, in_cohorts("a"), in_cohorts("a", "b"), of_keys("a"), of_keys("b")]
)
ANY_VALUE = st.sampled_from([None, [], ["a"], {"gp:a": 1}, {"a": 1, "gp:b": 2}, 3, "x"])


@given(st.lists(PUSHES, max_size=5), ANY_VALUE, ANY_VALUE, st.sampled_from([1.0, 2.0, 5.0]), ANY_WISH)
def test_whatever_is_kept_can_be_laid_over_and_grows_no_older_by_it(
    pushes: list[Updates], cohorts: Any, properties_value: Any, at: float, query: ProfileQuery
) -> None:
    cached = record(at, cohorts=cohorts, props=properties_value)
    result = overlaid(cached, query, *pushes)
    nothing: Updates = {}
    content = parse_updates(functools.reduce(merged, pushes, nothing))
    assert result.parts.keys() | ({PROPERTIES} if content.cleared_at is not None else set()) >= cached.parts.keys()
    # Of a set that was cleared, or pushed whole, nothing is left: what is there instead was said whenever it was.
    replaced = content.cleared_at is not None or content.whole_at is not None
    for part, one in result.parts.items():
        assert one.fetched_at >= at or part not in cached.parts or (part == PROPERTIES and replaced)
        encoding.read(one.value)


@pytest.mark.parametrize("query", [COHORTS_ALL, of_keys("a")])
def test_nothing_pushed_changes_nothing(query: ProfileQuery) -> None:
    cached = record(5, cohorts=["a"], props={"gp:x": 1})
    assert overlaid(cached, query) == cached
