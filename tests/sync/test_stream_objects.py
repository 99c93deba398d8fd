"""The objects for Braze of an element of Amplitude's event stream."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from proxy.sync.stream_objects import Selection, StreamObject, stream_objects
from proxy.webhooks.parse import read_users

NOW = 1_700_000_000.0
EVENT = {
    "user_id": "u1",
    "event_type": "Order",
    "event_time": "2023-11-14 22:13:20.500000",
    "uuid": "a-b-c",
    "event_properties": {"total": "12.50", "items": ["a"]},
    "user_properties": {"gp:plan": "gold", "points": "420", "city": "Rome"},
}


def objects(
    element: dict[str, Any], events: str = "*", properties: str = "*", app_id: str | None = None
) -> tuple[list[StreamObject], Counter[str]]:
    batch = read_users(json.dumps(element).encode(), NOW, lambda: None, keep_elements=True)
    selection = Selection(
        frozenset(filter(None, events.split(","))), frozenset(filter(None, properties.split(","))), app_id
    )
    skipped: Counter[str] = Counter()
    return [found for parsed in batch.elements for found in stream_objects(*parsed, selection, skipped)], skipped


def test_event__app_id__named_with_iso_time_and_unconverted_properties() -> None:
    (event, _), _ = objects(EVENT, app_id="app-1")
    assert event.content == {
        "app_id": "app-1",
        "name": "Order",
        "time": "2023-11-14T22:13:20.500+00:00",
        "properties": {"total": "12.50", "items": ["a"]},
    }
    assert (event.user_id, event.kind, event.at) == ("u1", "events", NOW + 0.5)


def test_attributes__text_values__converted_and_without_prefix() -> None:
    (_, attributes), _ = objects(EVENT)
    assert attributes.content == {"plan": "gold", "points": 420, "city": "Rome"}


@pytest.mark.parametrize(
    ("events", "properties", "kinds"),
    [
        ("Order,Visit", "", ["events"]),
        ("Visit", "", []),
        ("", "plan", ["attributes"]),
        ("", "unknown", []),
        ("*", "plan", ["events", "attributes"]),
    ],
)
def test_selection__names__only_these_are_forwarded(events: str, properties: str, kinds: list[str]) -> None:
    found, skipped = objects(EVENT, events, properties)
    assert [content.kind for content in found] == kinds
    assert not skipped


def test_event__from_currents__skipped_with_star_too() -> None:
    for events in ("*", "[Braze] Email Open"):
        found, skipped = objects(EVENT | {"event_type": "[Braze] Email Open"}, events, "")
        assert (found, skipped) == ([], {"from_braze": 1})


def test_event__without_user_properties__forwarded() -> None:
    found, _ = objects({"user_id": 17, "event_type": "Visit", "event_time": "2023-11-14 22:13:20"})
    assert [(content.user_id, content.content["name"]) for content in found] == [("17", "Visit")]


def test_event__without_a_time__gets_the_time_of_arrival() -> None:
    (event,), _ = objects({"user_id": "u1", "event_type": "Visit"})
    assert event.at == NOW


def test_attributes__unset_property__null() -> None:
    (attributes,), _ = objects({"user_id": "u1", "time": int(NOW), "user_properties": {"$unset": {"plan": "-"}}})
    assert attributes.content == {"plan": None}


def test_attributes__operator_with_unknown_result__skipped() -> None:
    change = {"$add": {"visits": 1}, "$set": {"plan": "gold"}}
    (attributes,), skipped = objects({"user_id": "u1", "time": int(NOW), "user_properties": change})
    assert (attributes.content, skipped) == ({"plan": "gold"}, {"unknown_value": 1})


def test_event_id__same_uuid__same_digest_and_another_user_or_id_another_digest() -> None:
    (first, *_), _ = objects(EVENT)
    (again, *_), _ = objects(EVENT | {"event_properties": {}})
    others = [objects(EVENT | change)[0][0] for change in ({"user_id": "u2"}, {"uuid": "a-b-d"})]
    without = objects({name: value for name, value in EVENT.items() if name != "uuid"})[0][0]
    assert first.event_id == again.event_id
    assert len({first.event_id, *(other.event_id for other in others), without.event_id}) == 4
    assert without.event_id is None


def test_attributes__reserved_names__skipped_with_star_and_by_name() -> None:
    element = {
        "user_id": "u1",
        "time": int(NOW),
        "user_properties": {"email": "a@b.c", "external_id": "x", "plan": "gold"},
    }
    for properties in ("*", "email,external_id,plan"):
        (attributes,), skipped = objects(element, properties=properties)
        assert (attributes.content, skipped) == ({"plan": "gold"}, {"reserved_name": 2})


def test_values__over_the_limits_of_braze__cut_or_left_out_and_counted() -> None:
    element = EVENT | {
        "event_properties": {"text": "x" * 300, "$price": 1},
        "user_properties": {"plan": "y" * 300, "tree": {"a.b": 1}, "plan.type": "gold"},
    }
    (event, attributes), skipped = objects(element)
    assert (event.content["properties"], attributes.content) == ({"text": "x" * 255}, {"plan": "y" * 255})
    assert skipped == {"text_cut": 2, "property_left_out": 1, "key_invalid": 1, "name_invalid": 1}
