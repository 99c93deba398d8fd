"""The standard filters of lists and objects, as Ruby's Liquid has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cmp_to_key
from typing import Any

from proxy.liquid.lookup import PropertyError, WithoutPropertiesError, has_properties, property_of, size_of
from proxy.liquid.ruby import RubyError, entries, equal, identity, kind, text

_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def size(value: object) -> int:
    """Return the length of a value, or 0."""
    return size_of(value) or 0


def join(value: object, glue: object = " ") -> str:
    """Join the entries of a list."""
    return text(glue).join(map(text, entries(value)))


def sort(value: object, name: object = None) -> list[Any] | None:
    """Sort a list, with absent values last."""
    return _sorted(value, name, _compare)


def sort_natural(value: object, name: object = None) -> list[Any] | None:
    """Sort a list by its text, ignoring the case of ASCII letters, with absent values last."""
    return _sorted(value, name, _compare_ignoring_case)


def where(value: object, name: object, target: object = None) -> list[Any] | None:
    """Return the entries with a property, or with this value of the property."""

    def matches(entry: object) -> bool:
        actual = property_of(entry, name)
        return actual is not None and actual is not False if target is None else equal(actual, target)

    return _by_property(name, lambda: [entry for entry in entries(value) if matches(entry)])


def uniq(value: object, name: object = None) -> list[Any] | None:
    """Return the entries without duplicates."""
    # Ruby does not look up the property of a single entry.
    if name is None or len(entries(value)) < 2:
        return _first_of_each(value, lambda entry: entry)
    return _by_property(name, lambda: _first_of_each(value, lambda entry: property_of(entry, name)))


def reverse(value: object) -> list[Any]:
    """Return the entries in the opposite order."""
    return entries(value)[::-1]


def map_(value: object, name: object) -> list[Any]:
    """Return a property of each entry."""
    if name == "to_liquid":
        return entries(value)
    try:
        return [property_of(entry, name) if has_properties(entry) else None for entry in entries(value)]
    except PropertyError:
        raise _cannot_select(name) from None


def compact(value: object, name: object = None) -> list[Any] | None:
    """Return the entries that have a value, or a value of the property."""
    if name is None:
        return [entry for entry in entries(value) if entry is not None]
    return _by_property(name, lambda: [entry for entry in entries(value) if property_of(entry, name) is not None])


def concat(value: object, other: object) -> list[Any]:
    """Return the entries of two lists."""
    if not isinstance(other, list | tuple):
        raise RubyError("concat filter requires an array argument")
    return [*entries(value), *other]


def _sorted(value: object, name: object, compare: Callable[[Any, Any], int]) -> list[Any] | None:
    values = entries(value)
    if name is None:
        return sorted(values, key=cmp_to_key(compare))
    if not all(map(has_properties, values)):
        return None
    # A single entry is not compared, so Ruby does not look up its property.
    if len(values) < 2:
        return values
    return _by_property(name, lambda: sorted(values, key=lambda entry: cmp_to_key(compare)(property_of(entry, name))))


def _compare(left: Any, right: Any) -> int:
    order = _order(left, right)
    if order is not None:
        return order
    if left is None:
        return 1
    if right is None:
        return -1
    raise RubyError("cannot sort values of incompatible types")


def _order(left: Any, right: Any) -> int | None:
    """Return Ruby's `<=>`: negative, zero or positive; None for values without an order."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        for pair in zip(left, right, strict=False):
            if order := _order(*pair):
                return order
            if order is None:
                return None
        return len(left) - len(right)
    if equal(left, right):
        return 0
    kinds = {kind(left), kind(right)}
    if len(kinds) > 1 or None in kinds:
        return None
    return -1 if left < right else 1


def _compare_ignoring_case(left: Any, right: Any) -> int:
    if left is None or right is None:
        return 1 if left is None else -1
    lower = [text(value).translate(_ASCII_LOWER) for value in (left, right)]
    return (lower[0] > lower[1]) - (lower[0] < lower[1])


def _first_of_each(value: object, key: Callable[[Any], object]) -> list[Any]:
    unique: dict[object, Any] = {}
    for entry in entries(value):
        unique.setdefault(identity(key(entry)), entry)
    return list(unique.values())


def _by_property(name: object, select: Callable[[], list[Any]]) -> list[Any] | None:
    try:
        return select()
    except WithoutPropertiesError:
        return None
    except PropertyError:
        raise _cannot_select(name) from None


def _cannot_select(name: object) -> RubyError:
    return RubyError(f"cannot select the property '{text(name)}'")
