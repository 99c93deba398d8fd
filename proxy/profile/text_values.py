"""Converts properties that arrive as text to the types that the User Profile API returns.

Amplitude's files and event streams have every value as text ("All forwarded user properties are sent as strings",
amplitude.com/docs). A template must get the same types from both sources.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from proxy.profile.coerce import number
from proxy.profile.json import read_json

_BOOLEANS = {"true": True, "false": False}
_FIRST_CHARACTERS = frozenset("-0123456789[{tf")


def convert_text(name: str, value: Any, text_properties: AbstractSet[str]) -> Any:
    """Return the value of a property with its type.

    A canonical decimal (see `number`) becomes a number. `true` and `false` become booleans, and a JSON array or object
    is parsed. Any other text, other types, and all values of `text_properties` are returned unchanged.
    """
    if type(value) is not str or value[:1] not in _FIRST_CHARACTERS or name in text_properties:
        return value
    if value in _BOOLEANS:
        return _BOOLEANS[value]
    if value[0] not in "[{":
        return number(value)
    try:
        return read_json(value.encode())
    except ValueError:  # text that begins with a bracket, half of a surrogate pair, or a document with many levels
        return value
