"""The standard filters as Ruby's Liquid 5.4 has them, with its results for values of any type and its error texts.

Outside fact: each filter is compared with Ruby in tests/liquid/test_filters_as_ruby.py.
"""

from __future__ import annotations

import base64
import html
import operator
import re
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from functools import cmp_to_key
from typing import Any
from urllib.parse import quote_plus, unquote_to_bytes

from proxy.liquid.dates import date
from proxy.liquid.ruby import (
    EXACT,
    LONG,
    WHITE,
    Number,
    PropertyError,
    RubyError,
    WithoutPropertiesError,
    entries,
    equal,
    first,
    has_properties,
    identity,
    integer,
    kind,
    last,
    number,
    plain,
    property_of,
    size_of,
    text,
)

_ENTITY = re.compile(r"""["><']|&(?!(?:[a-zA-Z]+|#[0-9]+);)""")
_LINE_END = re.compile(r"\r?\n")
_WORD = re.compile(r"[^\t\n\v\f\r ]+")
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_BACKSLASH = re.compile(r"\\([0-9&'`\\]|k<[^>]*>)")
_INT = range(-(2**31), 2**31)


def size(value: object) -> int:
    """Return the length of a value, or 0."""
    return size_of(value) or 0


def downcase(value: object) -> str:
    """Return lower-case text. Ruby ignores the form of sigma at the end of a word."""
    return "".join(character.lower() for character in text(value))


def upcase(value: object) -> str:
    """Return upper-case text."""
    return text(value).upper()


def capitalize(value: object) -> str:
    """Return text with an upper-case first character, and lower case after it."""
    full = text(value)
    return full[:1].title() + downcase(full[1:])


def escape(value: object) -> str | None:
    """Escape text for HTML."""
    return None if value is None else html.escape(text(value)).replace("&#x27;", "&#39;")


def escape_once(value: object) -> str:
    """Escape text for HTML, except for entities."""
    return _ENTITY.sub(lambda match: escape(match[0]) or "", text(value))


def url_encode(value: object) -> str | None:
    """Encode text for a form."""
    return None if value is None else quote_plus(text(value), safe="")


def url_decode(value: object) -> str | None:
    """Decode the text of a form."""
    if value is None:
        return None
    try:
        return unquote_to_bytes(text(value).replace("+", " ")).decode()
    except UnicodeDecodeError:
        raise RubyError("invalid byte sequence in UTF-8") from None


def base64_encode(value: object) -> str:
    """Encode text in base64."""
    return base64.b64encode(text(value).encode()).decode()


def base64_decode(value: object) -> str:
    """Decode base64."""
    return _from_base64(text(value), "base64_decode")


def base64_url_safe_encode(value: object) -> str:
    """Encode text in base64 for URLs."""
    return base64.urlsafe_b64encode(text(value).encode()).decode()


def base64_url_safe_decode(value: object) -> str:
    """Decode base64 for URLs, with or without padding."""
    encoded = text(value).translate({ord("-"): "+", ord("_"): "/"})
    if not encoded.endswith("="):
        encoded += "=" * (-len(encoded) % 4)
    return _from_base64(encoded, "base64_url_safe_decode")


def slice_(value: object, offset: object, length: object = None) -> object:
    """Return a part of a text or list."""
    start = integer(offset)
    count = 1 if length is None or length is False else integer(length)
    if start not in LONG or count not in LONG:
        raise RubyError("internal")
    whole: Any = value if isinstance(value, list | tuple) else text(value)
    if start < 0:
        start += len(whole)
    return whole[start : start + count] if start >= 0 and count >= 0 else whole[:0]


def truncate(value: object, length: object = 50, end: object = "...") -> str | None:
    """Cut a text to `length` characters, including `end`."""
    if value is None:
        return None
    full, most, ending = text(value), integer(length), text(end)
    return full[: max(0, most - len(ending))] + ending if len(full) > most else full


def truncatewords(value: object, words: object = 15, end: object = "...") -> str | None:
    """Cut a text after `words` words; a shorter text is unchanged."""
    if value is None:
        return None
    full, most = text(value), max(1, integer(words))
    if most + 1 not in _INT:
        raise RubyError(f"integer {most} too big for truncatewords")
    found = _WORD.findall(full)
    if len(found) > most:
        return " ".join(found[:most]) + text(end)
    # Ruby counts an empty word after a blank at the end.
    if len(found) == most and full[-1:] in WHITE[1:] and full:
        return " ".join(found) + text(end)
    return full


def split(value: object, separator: object) -> list[str]:
    """Split a text. Empty parts at the end are dropped."""
    full, between = text(value), text(separator)
    if between == " ":
        return _WORD.findall(full)
    parts = full.split(between) if between else list(full)
    while parts and not parts[-1]:
        parts.pop()
    return parts


def strip(value: object) -> str:
    """Remove blanks at both ends."""
    return text(value).strip(WHITE)


def lstrip(value: object) -> str:
    """Remove blanks at the start."""
    return text(value).lstrip(WHITE)


def rstrip(value: object) -> str:
    """Remove blanks at the end."""
    return text(value).rstrip(WHITE)


def strip_html(value: object) -> str:
    """Remove HTML tags and comments, and scripts and styles with their text."""
    full = text(value)
    blocks = {"<script": "</script>", "<!--": "-->", "<style": "</style>"}
    kept, at = [], 0
    for match in re.finditer("|".join(blocks), full):
        closing = blocks[match[0]]
        if match.start() < at or not closing:
            continue
        end = full.find(closing, match.end())
        if end < 0:
            blocks[match[0]] = ""  # a search from every later start would take quadratic time
            continue
        kept.append(full[at : match.start()])
        at = end + len(closing)
    rest = "".join(kept) + full[at:]
    # Without a `>` after it, each `<` would be searched to the end.
    tags, close, after = rest.rpartition(">")
    return re.sub(r"<[^>]*>", "", tags + close) + after


def strip_newlines(value: object) -> str:
    """Remove line ends."""
    return _LINE_END.sub("", text(value))


def newline_to_br(value: object) -> str:
    """Put a `<br />` before each line end."""
    return _LINE_END.sub("<br />\n", text(value))


def replace(value: object, old: object, new: object = "") -> str:
    """Replace each occurrence of a text."""
    return _replaced(text(value), text(old), text(new), -1)


def replace_first(value: object, old: object, new: object = "") -> str:
    """Replace the first occurrence of a text."""
    return _replaced(text(value), text(old), text(new), 1)


def replace_last(value: object, old: object, new: object) -> str:
    """Replace the last occurrence of a text."""
    full, part = text(value), text(old)
    at = full.rfind(part)
    return full if at < 0 else full[:at] + text(new) + full[at + len(part) :]


def remove(value: object, part: object) -> str:
    """Remove each occurrence of a text."""
    return text(value).replace(text(part), "")


def remove_first(value: object, part: object) -> str:
    """Remove the first occurrence of a text."""
    return text(value).replace(text(part), "", 1)


def remove_last(value: object, part: object) -> str:
    """Remove the last occurrence of a text."""
    return replace_last(value, part, "")


def append(value: object, end: object) -> str:
    """Add a text at the end."""
    return text(value) + text(end)


def prepend(value: object, start: object) -> str:
    """Add a text at the start."""
    return text(start) + text(value)


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
        found = property_of(entry, name)
        return found is not None and found is not False if target is None else equal(found, target)

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


def abs_(value: object) -> int | float:
    """Return a number without its sign."""
    exact = number(value)
    return abs(exact) if isinstance(exact, int) else plain(exact.copy_abs())


def plus(value: object, other: object) -> int | float:
    """Add two numbers."""
    return _calculated(value, other, operator.add, EXACT.add)


def minus(value: object, other: object) -> int | float:
    """Subtract a number."""
    return _calculated(value, other, operator.sub, EXACT.subtract)


def times(value: object, other: object) -> int | float:
    """Multiply two numbers."""
    return _calculated(value, other, operator.mul, EXACT.multiply)


def divided_by(value: object, other: object) -> int | float:
    """Divide by a number. Integers give an integer, rounded down."""
    return _calculated(value, other, operator.floordiv, EXACT.divide)


def modulo(value: object, other: object) -> int | float:
    """Return the remainder, with the sign of the divisor."""
    return _calculated(value, other, operator.mod, _remainder)


def round_(value: object, digits: object = 0) -> int | float:
    """Round a number, halves away from zero."""
    exact, places = number(value), int(number(digits))
    if places not in _INT:
        raise RubyError("internal")
    if isinstance(exact, int):
        return exact if places >= 0 else int(_rounded(Decimal(exact), places))
    if not exact.is_finite():
        if places <= 0:
            raise _infinite(exact)
        return float(exact)
    rounded = _rounded(exact, places)
    return int(rounded) if places <= 0 or equal(digits, 0) else float(rounded)


def ceil(value: object) -> int:
    """Round up to an integer."""
    return _whole(number(value), ROUND_CEILING)


def floor(value: object) -> int:
    """Round down to an integer."""
    return _whole(number(value), ROUND_FLOOR)


def at_least(value: object, least: object) -> int | float:
    """Return the larger number."""
    found, limit = number(value), number(least)
    return plain(max(found, limit))


def at_most(value: object, most: object) -> int | float:
    """Return the smaller number."""
    found, limit = number(value), number(most)
    return plain(min(found, limit))


def default(value: object, other: object = "", options: object = None) -> object:
    """Return `other` for a value that is absent, false or empty."""
    allow_false = options.get("allow_false") if isinstance(options, dict) else None
    missing = value is None or (value is False and allow_false in (None, False))
    return other if missing or (isinstance(value, str | list | tuple | dict) and not value) else value


_FUNCTIONS: tuple[Callable[..., object], ...] = (
    size,
    downcase,
    upcase,
    capitalize,
    escape,
    escape_once,
    url_encode,
    url_decode,
    base64_encode,
    base64_decode,
    base64_url_safe_encode,
    base64_url_safe_decode,
    slice_,
    truncate,
    truncatewords,
    split,
    strip,
    lstrip,
    rstrip,
    strip_html,
    strip_newlines,
    newline_to_br,
    replace,
    replace_first,
    replace_last,
    remove,
    remove_first,
    remove_last,
    append,
    prepend,
    join,
    sort,
    sort_natural,
    where,
    uniq,
    reverse,
    map_,
    compact,
    concat,
    first,
    last,
    abs_,
    plus,
    minus,
    times,
    divided_by,
    modulo,
    round_,
    ceil,
    floor,
    at_least,
    at_most,
    default,
    date,
)
STANDARD: dict[str, Callable[..., object]] = {
    **{function.__name__.rstrip("_"): function for function in _FUNCTIONS},
    "h": escape,
}
"""Name to filter. A filter takes values of any type by position; Ruby passes named arguments as a last object."""


def _from_base64(encoded: str, name: str) -> str:
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except ValueError:
        decoded = b""
    # Ruby also rejects the bits that Python ignores.
    if base64.b64encode(decoded).decode() != encoded:
        raise RubyError(f"invalid base64 provided to {name}")
    return decoded.decode("utf-8", "replace")


def _replaced(full: str, old: str, new: str, count: int) -> str:
    if "\\" not in new:
        return full.replace(old, new, count)
    if r"\k<" in new and old in full:
        raise RubyError("internal")

    def replacement(match: re.Match[str]) -> str:
        parts = {"0": old, "&": old, "\\": "\\", "`": full[: match.start()], "'": full[match.end() :]}
        return _BACKSLASH.sub(lambda escaped: parts.get(escaped[1], ""), new)

    return re.sub(re.escape(old), replacement, full, count=max(0, count))


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


def _calculated(
    value: object,
    other: object,
    integers: Callable[[int, int], int],
    decimals: Callable[[Decimal, Decimal], Decimal],
) -> int | float:
    left, right = number(value), number(other)
    try:
        if isinstance(left, int) and isinstance(right, int):
            return integers(left, right)
        return float(decimals(Decimal(left), Decimal(right)))
    except ZeroDivisionError:
        raise RubyError("divided by 0") from None


def _remainder(left: Decimal, right: Decimal) -> Decimal:
    if not right:
        raise ZeroDivisionError
    remainder = EXACT.remainder(left, right)
    return EXACT.add(remainder, right) if remainder and (remainder < 0) is not (right < 0) else remainder


def _rounded(value: Decimal, places: int) -> Decimal:
    exponent = int(value.as_tuple().exponent)
    if -places <= exponent:
        return value
    if -places > value.adjusted() + 1:
        return Decimal(0)
    return value.quantize(Decimal((0, (1,), -places)), ROUND_HALF_UP, EXACT)


def _whole(value: Number, rounding: str) -> int:
    if isinstance(value, int):
        return value
    if not value.is_finite():
        raise _infinite(value)
    return int(value.to_integral_value(rounding))


def _infinite(value: Decimal) -> RubyError:
    shown = "NaN" if value.is_nan() else text(float(value))
    return RubyError(f"Computation results in '{shown}'" + (" (Not a Number)" if value.is_nan() else ""))
