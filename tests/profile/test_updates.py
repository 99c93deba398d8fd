"""Merging and packing updates."""

from __future__ import annotations

import functools
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.profile.updates import (
    REMOVED,
    UNKNOWN,
    Updates,
    cleared,
    membership,
    merged,
    pack,
    parse_updates,
    properties,
    too_large,
    unpack,
)

RECEIPT_TIMES = st.sampled_from([float("inf"), 1.0, 1.5, 1_700_000_000.0])
EVENT_TIMES = st.sampled_from([1.5, 2.0, 3.25, 1_700_000_000.001, 1_700_000_000.002])
NAMES = st.sampled_from(["a", "b", "f", "naïve", ""])
PUSHES = st.one_of(
    st.builds(membership, NAMES, st.booleans(), EVENT_TIMES, RECEIPT_TIMES),
    st.builds(
        properties,
        st.dictionaries(NAMES, st.sampled_from([b"1", b"2", b'"x"', REMOVED, UNKNOWN]), max_size=3),
        EVENT_TIMES,
        RECEIPT_TIMES,
        whole=st.booleans(),
    ),
    st.builds(cleared, EVENT_TIMES, RECEIPT_TIMES),
)


def all_of(pushes: list[Updates]) -> Updates:
    """Merge all pushes."""
    no_updates: Updates = {}
    return functools.reduce(merged, pushes, no_updates)


def previous(updates: Updates) -> dict[bytes, bytes]:
    """Return these updates as the previous version stored them: one field for each property."""
    fields: dict[bytes, bytes] = {}
    for field, value in updates.items():
        start = value[:17] if value[8:9] == b"\xff" else value[:8]
        if field == b"f":
            fields[field] = start + value[len(start) :].replace(b"W", b"w")
        elif field[:1] == b"s":
            lines = zip(field[1:].split(b"\n")[:-1], value[len(start) :].split(b"\n")[:-1], strict=True)
            fields |= {b"p" + json.loads(name).encode(): start + line for name, line in lines}
        else:
            fields[field] = value
    return fields


@pytest.mark.contract("3 webhook order")
@settings(deadline=None)
@given(PUSHES, PUSHES, PUSHES)
@example(properties({"a": b"1", "b": b"1"}, 1.5, 1.0), properties({"a": b"1", "b": b"2"}, 1.5, 1.5), {})  # other leads
def test_merged__any_order_portions_and_repetitions__same_content(
    first: Updates, second: Updates, third: Updates
) -> None:
    assert parse_updates(merged(first, second)) == parse_updates(merged(second, first))
    assert parse_updates(merged(merged(first, second), third)) == parse_updates(merged(first, merged(second, third)))
    assert merged(merged(first, second), second) == merged(first, second)
    assert merged({}, first) == merged(first, first) == merged(first, {})


@settings(deadline=None)
@given(st.lists(PUSHES, max_size=6))
def test_parse_updates__any_updates__each_property_has_its_latest_value(pushes: list[Updates]) -> None:
    latest: dict[bytes, bytes] = {}
    for push in pushes:
        for field, value in previous(push).items():
            latest[field] = max(value, latest.get(field, b""))
    floor = latest.get(b"f", b"")[:8]
    values = {field[1:].decode(): value for field, value in latest.items() if field[:1] == b"p" and value >= floor}
    contents = {name: value[17:] if value[8:9] == b"\xff" else value[8:] for name, value in values.items()}
    assert {name: content for name, (_, content) in parse_updates(all_of(pushes)).properties.items()} == contents


@settings(deadline=None)
@given(st.lists(PUSHES, max_size=6))
def test_pack__any_updates__unpacked_as_they_were(pushes: list[Updates]) -> None:
    updates = dict(all_of(pushes))
    assert unpack(pack(updates)) == updates
    assert pack(dict(reversed(updates.items()))) == pack(updates)


@settings(deadline=None)
@given(PUSHES, PUSHES)
def test_unpack__updates_of_the_previous_version__same_content(first: Updates, second: Updates) -> None:
    assert parse_updates(unpack(pack(previous(first)))) == parse_updates(first)
    assert parse_updates(merged(unpack(pack(previous(first))), second)) == parse_updates(merged(first, second))


@pytest.mark.parametrize("data", [b"x", b"xyz", b"\0\0\0\1", b"1"])
def test_unpack__bytes_that_were_not_packed__value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="packed"):
        unpack(data)


def test_too_large__over_the_limits_of_one_user__true_and_unpack_fails() -> None:
    for large in ({"a": b"1" * 70_000}, {f"name {number}": b"1" for number in range(1001)}):
        assert too_large(properties(large, 5.0))
    assert not too_large(properties({f"name {number}": b"1" for number in range(1000)}, 5.0))
    with pytest.raises(ValueError, match="packed"):
        unpack(pack(properties({"a": b"1" * 70_000}, 5.0)))


def test_parse_updates__foreign_fields__ignored() -> None:
    result = parse_updates({b"c1": b"short", b"z": b"12345678", b"": b"12345678"} | membership("c", True, 7.0))
    assert result.cohorts == {"c": (7.0, True)}
    assert not result.properties


def test_merged__whole_set__replaces_earlier_values_and_keeps_later_ones() -> None:
    early, late = properties({"a": b"1", "b": b"1"}, 1.0), properties({"c": b"3"}, 3.0)
    whole = properties({"a": b"2"}, 2.0, whole=True)
    for order in ([early, late, whole], [whole, late, early], [late, whole, early]):
        result: Updates = {}
        for push in order:
            result = merged(result, push)
        assert parse_updates(result).properties == {"a": (2.0, b"2"), "c": (3.0, b"3")}
        assert parse_updates(result).whole_at == 2.0


def test_merged__whole_set_of_properties__cohorts_are_kept() -> None:
    result = merged(membership("c", True, 1.0), properties({}, 2.0, whole=True))
    assert parse_updates(result).cohorts == {"c": (1.0, True)}


def test_merged__clock_of_the_sender_is_ahead__ordered_by_its_time_and_aged_from_receipt() -> None:
    first, second = properties({"a": b"1"}, 110.0, 100.0), properties({"a": b"2"}, 120.0, 101.0)
    again = properties({"a": b"1"}, 110.0, 105.0)
    for order in ([first, second, again], [again, first, second]):
        result: Updates = {}
        for push in order:
            result = merged(result, push)
        assert parse_updates(result).properties == {"a": (101.0, b"2")}
    assert parse_updates(merged(again, first)).latest == parse_updates(merged(first, again)).latest == 100.0


def test_parse_updates__properties_pushed_in_any_order__sorted_by_name() -> None:
    whole = properties({"plan.type": b"1", "plan type": b"2"}, 1.0, whole=True)
    later = properties({"plan type": b"3"}, 2.0)
    assert list(parse_updates(whole).properties) == ["plan type", "plan.type"]
    assert list(parse_updates(merged(whole, later)).properties) == ["plan type", "plan.type"]
