"""Checks the objects of a request to Braze's /users/track.

Follows braze.com/docs: "User attributes object", "Event object", "Purchase object", "Data types", and "Nested custom
attributes". The error texts for missing and invalid fields are from real answers in the test data of other clients.
Braze documents no error texts for names and values that are too long, so this module defines these texts. The rule that
an attribute name has no dot or `$` is from Braze's web SDK 6.13.0 (validation-utils.js).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

IDENTIFIERS = ("external_id", "user_alias", "braze_id")
CONTROL_FIELDS = frozenset((*IDENTIFIERS, "_update_existing_only", "push_token_import", "push_tokens", "app_id"))
"""Fields of an attributes object that do not set attributes."""

_TEXT_LENGTH = 255
_LIST_ITEMS = 500
_OBJECT_BYTES = 100_000
_EVENT_PROPERTIES_BYTES = 50_000
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.:]\d{1,9})?)?(?: ?(?:Z|[+-]\d\d:?\d\d))?)?\Z")
_MILLISECONDS = re.compile(r"(:\d\d):(\d{3})")
_FORBIDDEN_IN_NAMES = re.compile(r"[$.]")
_FORBIDDEN_IN_KEYS = re.compile(r"[$. ]")
_ONE_IDENTIFIER = "only one of 'external_id', 'braze_id' or 'user_alias' is allowed"
_NO_IDENTIFIER = "'external_id', 'braze_id', 'user_alias', 'email' or 'phone' is required"


def user_key(item: Mapping[str, Any]) -> str:
    """Return the identity of the user of a valid object: the external id, or a name with a prefix."""
    if (external_id := item.get("external_id")) is not None:
        return str(external_id)
    if (alias := item.get("user_alias")) is not None:
        return f"user_alias:{alias['alias_label']}:{alias['alias_name']}"
    for name in ("braze_id", "email", "phone"):
        if (value := item.get(name)) is not None:
            return f"{name}:{value}"
    raise ValueError("the object has no identifier")


def parse_time(value: Any) -> float | None:
    """Return the epoch seconds of a time in one of Braze's formats; None for any other value. No offset means UTC."""
    # The pattern excludes other ISO 8601 formats, such as 20240131.
    if not isinstance(value, str) or value[4:5] != "-" or not _TIME.match(value):
        return None
    try:
        moment = datetime.fromisoformat(_MILLISECONDS.sub(r"\1.\2", value, count=1).replace(" +", "+"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def problem(array: str, item: Any) -> str | None:
    """Return the `type` of the error of an object of `attributes`, `events` or `purchases`; None if it is valid."""
    if not isinstance(item, dict):
        return "object is not valid"
    return _identifier_problem(item) or _CHECKS[array](item)


def _identifier_problem(item: Mapping[str, Any]) -> str | None:
    present = [name for name in IDENTIFIERS if item.get(name) is not None]
    if len(present) > 1:
        return _ONE_IDENTIFIER
    if not present:
        return None if _is_text(item.get("email")) or _is_text(item.get("phone")) else _NO_IDENTIFIER
    value = item[present[0]]
    if present[0] == "user_alias":
        valid = isinstance(value, dict) and all(_is_text(value.get(name)) for name in ("alias_name", "alias_label"))
    else:
        valid = _is_text(value)
    if valid and not isinstance(item.get("_update_existing_only", False), bool):
        return "'_update_existing_only' is not valid"
    return None if valid else f"'{present[0]}' is not valid"


def _attributes_problem(item: Mapping[str, Any]) -> str | None:
    for name, value in item.items():
        if name in CONTROL_FIELDS:
            continue
        if (is_valid := _PROFILE_FIELDS.get(name)) is not None:
            if value is not None and not is_valid(value):
                is_email = name == "email"
                return (
                    f"The value provided for the '{name}' field is not a valid email." if is_email else _invalid(name)
                )
        elif not name or len(name) > _TEXT_LENGTH or _FORBIDDEN_IN_NAMES.search(name):
            return f"'{name}' is not a valid attribute name"
        elif error := _value_problem(name, value):
            return error
    return None


def _value_problem(name: str, value: Any) -> str | None:
    """Return the problem of a value of a custom attribute, or of a member of it."""
    match value:
        case str() if len(value) > _TEXT_LENGTH:
            return f"'{name}' exceeds the maximum length of {_TEXT_LENGTH} characters"
        case list() if len(value) > _LIST_ITEMS:
            return f"'{name}' exceeds the maximum of {_LIST_ITEMS} items"
        case list():
            if any(isinstance(member, list) for member in value):  # "multi-dimensional arrays are not supported"
                return _invalid(name)
            return next(filter(None, (_value_problem(name, member) for member in value)), None)
        case dict() if is_operation(value):
            if not _is_number(value.get("inc", 0)):
                return _invalid(name)
            lists = [value.get("add", []), value.get("remove", [])]
            if any(not isinstance(members, list) for members in lists):
                return _invalid(name)
            return next(filter(None, (_value_problem(name, members) for members in lists)), None)
        case dict():
            if any(not key or _FORBIDDEN_IN_KEYS.search(key) for key in value):
                return f"'{name}' has a key that is not valid"
            if _json_size(value) > _OBJECT_BYTES:
                return f"'{name}' exceeds the maximum size of 100 KB"
            return next(filter(None, (_value_problem(name, member) for member in value.values())), None)
        case _:
            return None


def is_operation(value: Mapping[str, Any]) -> bool:
    """Return whether a value changes a number or a list instead of replacing it."""
    return bool(value) and value.keys() <= {"inc", "add", "remove"}


def _event_problem(item: Mapping[str, Any]) -> str | None:
    return _name_problem(item, "name") or _time_problem(item) or _properties_problem(item)


def _purchase_problem(item: Mapping[str, Any]) -> str | None:
    quantity = item.get("quantity", 1)
    if error := _name_problem(item, "product_id") or _time_problem(item):
        return error
    if not re.fullmatch("[A-Za-z]{3}", str(item.get("currency"))):
        return _invalid("currency")
    if not _is_number(item.get("price")):
        return _invalid("price")
    if not isinstance(quantity, int) or isinstance(quantity, bool) or not 1 <= quantity <= 100:
        return _invalid("quantity")
    return _properties_problem(item)


def _name_problem(item: Mapping[str, Any], field: str) -> str | None:
    value = item.get(field)
    if value is None:
        return f"'{field}' is required"
    return None if _is_text(value) and len(value) <= _TEXT_LENGTH else _invalid(field)


def _time_problem(item: Mapping[str, Any]) -> str | None:
    if item.get("time") is None:
        return "'time' is required"
    return _invalid("time") if parse_time(item["time"]) is None else None


def _properties_problem(item: Mapping[str, Any]) -> str | None:
    properties = item.get("properties", {})
    if not isinstance(properties, dict):
        return _invalid("properties")
    nested = False
    for name, value in properties.items():
        too_long = isinstance(value, str) and len(value) > _TEXT_LENGTH
        if not name or len(name) > _TEXT_LENGTH or name.startswith("$") or too_long:
            return _invalid("properties")
        nested = nested or isinstance(value, (list, dict))
    if nested and _json_size(properties) > _EVENT_PROPERTIES_BYTES:
        return _invalid("properties")
    return None


def _json_size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _invalid(field: str) -> str:
    return f"'{field}' is not valid"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_time(value: Any) -> bool:
    return parse_time(value) is not None


def _is_location(value: Any) -> bool:
    return isinstance(value, dict) and _is_number(value.get("longitude")) and _is_number(value.get("latitude"))


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


def _matches(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _is_a(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_SUBSCRIPTIONS = ("opted_in", "subscribed", "unsubscribed")
_PROFILE_FIELDS: dict[str, Callable[[Any], bool]] = {
    "country": _matches("[A-Za-z]{2}"),
    "current_location": _is_location,
    "date_of_first_session": _is_time,
    "date_of_last_session": _is_time,
    "dob": _matches(r"\d{4}-\d\d-\d\d"),
    "email": _matches(r"[^@\s]+@[^@\s]+\.[^@\s]+"),
    "email_click_tracking_disabled": _is_a(bool),
    "email_open_tracking_disabled": _is_a(bool),
    "email_subscribe": _one_of(*_SUBSCRIPTIONS),
    "facebook": _is_a(dict),
    "first_name": _is_a(str),
    "gender": _one_of("M", "F", "O", "N", "P"),
    "home_city": _is_a(str),
    "image_url": _is_a(str),
    "language": _matches("[A-Za-z]{2,3}([-_][A-Za-z]{2,4})?"),
    "last_name": _is_a(str),
    "marked_email_as_spam_at": _is_time,
    "phone": _is_a(str),
    "push_subscribe": _one_of(*_SUBSCRIPTIONS),
    "subscription_groups": _is_a(list),
    "time_zone": _is_a(str),
    "twitter": _is_a(dict),
}
"""Braze's profile fields, with a check of their values. Profile fields and custom attributes share a namespace."""
_CHECKS = {"attributes": _attributes_problem, "events": _event_problem, "purchases": _purchase_problem}
