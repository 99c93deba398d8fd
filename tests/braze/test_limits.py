"""Braze's limits on names and values."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.braze.limits import (
    PROFILE_FIELDS,
    STEERING_NAMES,
    FittedValue,
    OmittedValue,
    attribute_name,
    fit_attribute,
    fit_event,
)

# From the contract of the sync.
STEERING = "external_id user_alias braze_id _update_existing_only _merge_objects push_token_import push_tokens app_id"
FIELDS = """email phone country language first_name last_name gender dob home_city current_location time_zone image_url
facebook twitter date_of_first_session date_of_last_session email_subscribe push_subscribe subscription_groups
email_open_tracking_disabled email_click_tracking_disabled marked_email_as_spam_at"""


def test_names__table__is_complete() -> None:
    assert set(STEERING.split()) == STEERING_NAMES
    assert set(FIELDS.split()) == PROFILE_FIELDS


@pytest.mark.parametrize(("name", "attribute"), [("gp:plan", "plan"), ("plan", "plan"), ("gp:gp:a", "gp:a"), ("", "")])
def test_attribute_name__prefix_of_amplitude__removed_once(name: str, attribute: str) -> None:
    assert attribute_name(name) == attribute


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        2**60,
        1.5,
        "",
        "é" * 255,
        [],
        ["a"] * 500,
        {"a": {"b": [1, "x"]}},
        {"inc": 1, "by": 2},
        {},
        [{"a": 1}, {"a": 2}],
    ],
    ids=lambda value: str(value)[:20],
)
def test_fit_attribute__within_the_limits__unchanged(value: Any) -> None:
    assert fit_attribute("plan", value) == FittedValue(value, frozenset())


@pytest.mark.parametrize(
    ("value", "fitted", "reasons"),
    [
        ("é" * 256, "é" * 255, {"text_cut"}),
        (list(range(501)), list(range(500)), {"list_cut"}),
        (["x" * 300] * 600, ["x" * 255] * 500, {"text_cut", "list_cut"}),
        ({"a": {"b": "x" * 300}}, {"a": {"b": "x" * 255}}, {"text_cut"}),
        ({"a": [0] * 600}, {"a": [0] * 500}, {"list_cut"}),
    ],
    ids=["text", "list", "both", "text in object", "list in object"],
)
def test_fit_attribute__too_long__cut_with_reason(value: Any, fitted: Any, reasons: set[str]) -> None:
    assert fit_attribute("plan", value) == FittedValue(fitted, frozenset(reasons))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("", 1, "name_empty"),
        ("  ", 1, "name_empty"),
        ("x" * 256, None, "name_too_long"),
        ("plan.type", 1, "name_invalid"),
        ("$plan", None, "name_invalid"),
        ("a$b", "x", "name_invalid"),
        ("plan", {"inc": 1}, "operation"),
        ("plan", {"add": ["a"], "remove": ["b"]}, "operation"),
        ("plan", [[1]], "list_in_list"),
        ("plan", {"a": [{"b": [1, []]}]}, "list_in_list"),
        ("plan", {"a b": 1}, "key_invalid"),
        ("plan", {"a.b": 1}, "key_invalid"),
        ("plan", {"$time": 1}, "key_invalid"),
        ("plan", {"a": {"b": [{"c$": 1}]}}, "key_invalid"),
        ("plan", [{"a b": 1}], "key_invalid"),
        ("plan", {"x" * 256: 1}, "key_invalid"),
        ("plan", {"": 1}, "key_invalid"),
        ("plan", {f"k{number}": "x" * 250 for number in range(400)}, "object_too_large"),
        ("plan", [{"text": "x" * 250}] * 400, "object_too_large"),
    ],
)
def test_fit_attribute__braze_would_reject__left_out_with_reason(name: str, value: Any, reason: str) -> None:
    assert fit_attribute(name, value) == OmittedValue(reason)


def test_fit_attribute__longest_list_of_texts__is_no_object() -> None:
    assert fit_attribute("plan", ["x" * 255] * 500) == FittedValue(["x" * 255] * 500)


def test_fit_event__within_the_limits__unchanged_without_nulls() -> None:
    properties = {"a": 1, "b c.d": {"e f": [None]}, "g": False, "list": [0] * 600}
    assert fit_event("Order Completed", {**properties, "h": None}) == FittedValue(properties)


def test_fit_event__invalid_properties__left_out_and_texts_cut() -> None:
    properties = {"": 1, "$a": 1, "time": 1, "event_name": 1, "x" * 256: 1, "ok": "x" * 300}
    assert fit_event("Viewed", properties) == FittedValue(
        {"ok": "x" * 255}, frozenset({"property_left_out", "text_cut"})
    )


@pytest.mark.parametrize(
    ("name", "properties", "reason"),
    [
        ("", {}, "name_empty"),
        ("x" * 256, {}, "name_too_long"),
        ("Viewed", {f"k{number}": "x" * 250 for number in range(200)}, "event_too_large"),
    ],
)
def test_fit_event__over_the_limits__left_out_with_reason(name: str, properties: dict[str, Any], reason: str) -> None:
    assert fit_event(name, properties) == OmittedValue(reason)
