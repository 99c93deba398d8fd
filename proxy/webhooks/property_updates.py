"""Turns the user properties of a webhook into updates."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any

import msgspec

from proxy.profile.json import write_json
from proxy.profile.liquid_names import USER_PROPERTY
from proxy.profile.text_values import convert_text
from proxy.profile.updates import MAX_FIELDS, REMOVED, UNKNOWN, Updates, cleared, merged, properties, property_lines
from proxy.webhooks.envelope import SkippedValue
from proxy.webhooks.skipped_user import SkippedUser

_UNKNOWABLE = ("$add", "$append", "$prepend", "$preInsert", "$postInsert", "$remove")
"""Operators whose result depends on the previous value, which only Amplitude knows."""
OPERATORS = frozenset({*_UNKNOWABLE, "$set", "$setOnce", "$unset", "$clearAll"})
_LINES = msgspec.json.Encoder().encode_lines
_SAME_IN_MSGSPEC = frozenset({str, int, bool, type(None)})
_PREFIXED = f'"{USER_PROPERTY}'.encode()


def read_properties(
    value: Any, at: float, now: float, text_properties: AbstractSet[str], *, whole: bool = False
) -> tuple[Updates, int]:
    """Return the updates in `user_properties`, and the number of properties that cannot be applied.

    `value` contains names and values, or Amplitude's operators. `whole`: whether it is a complete set of properties.
    Raises SkippedUser.
    """
    if isinstance(value, SkippedValue):
        raise SkippedUser(value.reason)
    if not isinstance(value, dict):
        return {}, 1
    operands = [value[name] for name in OPERATORS & value.keys()]
    if len(value) + sum(len(operand) for operand in operands if isinstance(operand, dict | list)) > MAX_FIELDS:
        raise SkippedUser("too_large")  # checked before the encoding, which would delay other requests
    if not operands:
        return _property_values(_convert(value, text_properties), at, now, whole=whole), 0
    updates: Updates = {}
    unapplied = 0
    values: dict[str, bytes] = {}
    for name, operand in value.items():
        if name not in OPERATORS:
            values |= _encode(_convert({name: operand}, text_properties))
        elif name == "$clearAll":
            updates = cleared(at, now)
            unapplied += 1
        elif name == "$unset" and isinstance(operand, list):
            values |= {_without_prefix(key): REMOVED for key in operand if isinstance(key, str)}
        elif not isinstance(operand, dict):
            unapplied += 1
        elif name == "$set":
            values |= _encode(_convert(operand, text_properties))
        elif name == "$unset":
            values |= dict.fromkeys(map(_without_prefix, operand), REMOVED)
        else:
            unapplied += len(operand)
            if name in _UNKNOWABLE:
                values |= dict.fromkeys(map(_without_prefix, operand), UNKNOWN)
    return merged(updates, properties(values, at, now)), unapplied


def _property_values(values: Mapping[str, Any], at: float, now: float, *, whole: bool) -> Updates:
    """Return the updates of properties that have these values.

    A batch has hundreds of thousands of values, and msgspec writes most types exactly as `write_json` does. msgspec
    writes all values of a user at once, in a twentieth of the time.
    """
    if _SAME_IN_MSGSPEC.issuperset(map(type, values.values())):
        with suppress(UnicodeEncodeError):  # half of a surrogate pair
            names = _LINES(list(values))
            if _PREFIXED not in names:
                return property_lines(names, _LINES(list(values.values())), at, now, whole=whole)
    return properties(_encode(values), at, now, whole=whole)


def _without_prefix(name: str) -> str:
    return name.removeprefix(USER_PROPERTY)


def _convert(values: Mapping[str, Any], text_properties: AbstractSet[str]) -> dict[str, Any]:
    return {name: convert_text(_without_prefix(name), value, text_properties) for name, value in values.items()}


def _encode(values: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the JSON of each value by property name without prefix."""
    return {_without_prefix(name): write_json(value) for name, value in values.items()}
