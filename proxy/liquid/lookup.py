"""Looks up keys, positions and properties of values like Ruby."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.liquid.ruby import LONG, RubyError

_MAX_BITS = 4_096


class AfterDot(str):
    """A step that is written after a dot. Only there Ruby reads `size`, `first` and `last` as commands."""

    __slots__ = ()


class PropertyError(Exception):
    """Ruby raises TypeError for a property of this kind."""


class WithoutPropertiesError(Exception):
    """The value has no properties, such as a boolean."""


def look_up(value: Any, step: object) -> Any:
    """Return the value of a step such as `.name` or `[0]`; None if it is absent."""
    if isinstance(step, str) and isinstance(value, Mapping):
        if step in value:
            return value[step]
    elif isinstance(step, int) and isinstance(value, list | tuple) and not isinstance(step, bool):
        return value[step] if -len(value) <= step < len(value) else None
    if not isinstance(step, AfterDot):
        return None
    if step == "size":
        return size_of(value)
    if step == "first" and isinstance(value, list | tuple | dict | range):
        return first(value)
    return last(value) if step == "last" and isinstance(value, list | tuple | range) else None


def size_of(value: object) -> int | None:
    """Return the length of a text, list or object, and the bytes of an integer; None for other values."""
    if isinstance(value, str | list | tuple | dict):
        return len(value)
    if isinstance(value, range):
        return max(0, value.stop - value.start)
    if isinstance(value, int) and not isinstance(value, bool):
        return max(8, (value.bit_length() + 7) // 8)
    return None


def first(value: object) -> Any:
    """Return the first entry of a list or object."""
    if isinstance(value, range):
        return value.start
    if isinstance(value, dict):
        return next(map(list, value.items()), None)
    return value[0] if isinstance(value, list | tuple) and value else None


def last(value: object) -> Any:
    """Return the last entry of a list."""
    if isinstance(value, range):
        return value.stop - 1
    return value[-1] if isinstance(value, list | tuple) and value else None


def has_properties(value: object) -> bool:
    """Return whether Ruby can look up a property of this value, also if it has none."""
    return isinstance(value, str | dict | list | tuple) or (isinstance(value, int) and not isinstance(value, bool))


def property_of(value: object, name: object) -> Any:
    """Return the property of an entry: a key of an object, a part of a text, a bit of a number; None if absent.

    Raises PropertyError for a name of an unsuitable type and WithoutPropertiesError for a value without properties.
    """
    match value:
        case dict():
            return value.get(name) if isinstance(name, str) else None
        case str() if isinstance(name, str):
            return name if name in value else None
        case bool() | None | float() | range():
            raise WithoutPropertiesError
        case str() if isinstance(name, range):
            start = name.start + len(value) if name.start < 0 else name.start
            return value[start : name.stop] if 0 <= start <= len(value) else None
        case int() if isinstance(name, range) and 0 <= name.start <= name.stop < _MAX_BITS:
            return value >> name.start & (1 << len(name)) - 1
    if isinstance(name, bool) or not isinstance(name, int | float):
        raise PropertyError
    at = int(name)
    if isinstance(value, int):
        if isinstance(name, float) and at not in LONG and value not in LONG:
            raise RubyError("internal")
        return 0 if at < 0 else value >> min(at, value.bit_length()) & 1
    if isinstance(value, str):
        if at not in LONG:
            raise RubyError("internal")
        return value[at] if -len(value) <= at < len(value) else None
    raise WithoutPropertiesError
