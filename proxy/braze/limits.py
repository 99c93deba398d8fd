"""Braze's limits on names and values: cuts what Braze would cut, and leaves out what Braze would reject. Does no I/O.

Sources, checked in November 2026: braze.com/docs/api/objects_filters/user_attributes_object and
.../event_object, braze.com/docs/user_guide/data/activation/attributes/nested_custom_attribute_support and
.../activation/events/custom_events/custom_event_properties, and braze.com/docs/api/endpoints/user_data (body size).
Braze's documentation forbids dots and `$` only in keys of objects. Its web SDK (6.13.0, validation-utils.js) warns for
every attribute: "Custom attribute keys cannot contain '$' or '.'".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from proxy.profile.json import write_body
from proxy.profile.liquid_names import USER_PROPERTY

STEERING_NAMES = frozenset(
    {
        "external_id",
        "user_alias",
        "braze_id",
        "_update_existing_only",
        "_merge_objects",
        "push_token_import",
        "push_tokens",
        "app_id",
    }
)
"""Names with a special meaning in an attributes object. A custom attribute can never have these names."""

PROFILE_FIELDS = frozenset(
    {
        "email",
        "phone",
        "country",
        "language",
        "first_name",
        "last_name",
        "gender",
        "dob",
        "home_city",
        "current_location",
        "time_zone",
        "image_url",
        "facebook",
        "twitter",
        "date_of_first_session",
        "date_of_last_session",
        "email_subscribe",
        "push_subscribe",
        "subscription_groups",
        "email_open_tracking_disabled",
        "email_click_tracking_disabled",
        "marked_email_as_spam_at",
    }
)
"""Braze's profile fields, which share a namespace with custom attributes."""

MAX_REQUEST_BYTES = 3_500_000
"""The maximum size of the objects in a request. Braze rejects a body of more than 4 MB with status 413."""
_MAX_CHARACTERS = 255
_MAX_LIST_ITEMS = 500
_MAX_OBJECT_BYTES = 100_000
_MAX_EVENT_BYTES = 50_000
_FORBIDDEN_IN_NAMES = frozenset(".$")
_FORBIDDEN_IN_KEYS = _FORBIDDEN_IN_NAMES | {" "}
_OPERATIONS = frozenset({"inc", "add", "remove"})
"""Braze applies an object with these keys to the stored number or list, instead of storing the object."""
_EVENT_PROPERTY_NAMES = frozenset({"time", "event_name"})
"""Braze rejects an event with a property of this name."""


class FittedValue(NamedTuple):
    """A value within Braze's limits. `reasons`: a word for each kind of change, such as `text_cut`."""

    value: Any
    reasons: frozenset[str] = frozenset()


class OmittedValue(NamedTuple):
    """A value that Braze would reject. `reason`: a word, such as `object_too_large`."""

    reason: str


def attribute_name(property_name: str) -> str:
    """Return the name of the custom attribute for a user property of Amplitude: the name without a leading `gp:`."""
    return property_name.removeprefix(USER_PROPERTY)


def fit_attribute(name: str, value: Any) -> FittedValue | OmittedValue:
    """Return an attribute's value within Braze's limits. `name`: as returned by `attribute_name`. `value`: JSON.

    Texts of more than 255 characters and lists of more than 500 items are cut, also inside objects. The attribute is
    left out if its name is empty, has more than 255 characters, or contains a dot or `$`. The attribute is also left
    out if an object has a key with such a name or with a space, if the value contains an object and is larger than
    100 KB, if a list is directly in a list, or if Braze would apply the value instead of storing it (`{"inc": 1}`).
    """
    if reason := _name_problem(name):
        return OmittedValue(reason)
    if not _FORBIDDEN_IN_NAMES.isdisjoint(name):
        return OmittedValue("name_invalid")
    if isinstance(value, Mapping) and value and value.keys() <= _OPERATIONS:
        return OmittedValue("operation")
    reasons: set[str] = set()
    fitted = _cut(value, reasons)
    if _has_list_in_list(fitted):
        return OmittedValue("list_in_list")
    if _has_invalid_key(fitted):
        return OmittedValue("key_invalid")
    if _has_object(fitted) and len(write_body({"": fitted})) > _MAX_OBJECT_BYTES:
        return OmittedValue("object_too_large")
    return FittedValue(fitted, frozenset(reasons))


def fit_event(name: str, properties: Mapping[str, Any]) -> FittedValue | OmittedValue:
    """Return an event's properties within Braze's limits. `name`: of the event. The values are JSON.

    Texts of more than 255 characters are cut. A property is left out if its name is empty, reserved, begins with `$` or
    has more than 255 characters (`property_left_out`). A property without a value is left out, because Braze has no
    null in events. The event is left out if its name is empty or has more than 255 characters, or if its properties
    have more than 50 KB.
    """
    if reason := _name_problem(name):
        return OmittedValue(reason)
    reasons: set[str] = set()
    fitted: dict[str, Any] = {}
    for key, value in properties.items():
        if key in _EVENT_PROPERTY_NAMES or key.startswith("$") or _name_problem(key):
            reasons.add("property_left_out")
        elif value is not None:
            fitted[key] = _cut(value, reasons, max_items=None)
    if len(write_body(fitted)) > _MAX_EVENT_BYTES:
        return OmittedValue("event_too_large")
    return FittedValue(fitted, frozenset(reasons))


def _name_problem(name: str) -> str | None:
    if not name.strip():
        return "name_empty"
    return "name_too_long" if len(name) > _MAX_CHARACTERS else None


def _cut(value: Any, reasons: set[str], max_items: int | None = _MAX_LIST_ITEMS) -> Any:
    if isinstance(value, str) and len(value) > _MAX_CHARACTERS:
        reasons.add("text_cut")
        return value[:_MAX_CHARACTERS]
    if isinstance(value, list):
        if max_items is not None and len(value) > max_items:
            reasons.add("list_cut")
        return [_cut(item, reasons, max_items) for item in value[:max_items]]
    if isinstance(value, Mapping):
        return {key: _cut(member, reasons, max_items) for key, member in value.items()}
    return value


def _has_invalid_key(value: Any) -> bool:
    if isinstance(value, list):
        return any(_has_invalid_key(item) for item in value)
    if isinstance(value, Mapping):
        return any(
            _name_problem(key) or not _FORBIDDEN_IN_KEYS.isdisjoint(key) or _has_invalid_key(member)
            for key, member in value.items()
        )
    return False


def _has_list_in_list(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, list) or _has_list_in_list(item) for item in value)
    return isinstance(value, Mapping) and any(map(_has_list_in_list, value.values()))


def _has_object(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(_has_object(item) for item in value))
