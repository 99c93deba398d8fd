"""Converts and compares values like Ruby, in whose Liquid Braze renders.

A filter gets None for an absent name; Python's `range` stands for Ruby's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from liquid.exceptions import LiquidError, ResourceLimitError

Number = int | Decimal
"""Ruby's Liquid calculates with Integer and BigDecimal."""
EXACT = Context(prec=1_500, rounding=ROUND_HALF_EVEN, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
"""More digits than the sum of any two JSON numbers; division by zero gives an infinity."""
WHITE = "\0\t\n\v\f\r "
"""Characters that Ruby strips. Python also strips the no-break space."""

LONG = range(-(2**63), 2**63)
"""The positions that Ruby accepts."""

_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]+")
_LEADING_INTEGER = re.compile(r"[\t\n\v\f\r ]*([+-]?[0-9]+(?:_[0-9]+)*)")
_INTEGER = re.compile(
    r"(?ai)([+-]?)(?:0x(?P<x>[0-9a-f]+(?:_[0-9a-f]+)*)|0b(?P<b>[01]+(?:_[01]+)*)|0o?_?(?P<o>[0-7]+(?:_[0-7]+)*)"
    r"|(?:0d)?(?P<d>[0-9]+(?:_[0-9]+)*))"
)
_BASES = {"x": 16, "b": 2, "o": 8, "d": 10}
_DROPS = {"ForLoop": "Liquid::ForloopDrop", "TableRow": "Liquid::TablerowloopDrop"}
"""Text that Ruby prints for the object `forloop` itself."""
_MAX_DIGITS = 1_300
"""Digits of a number. Python converts long numbers in quadratic time."""
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\x1b": "\\e", "\a": "\\a", "\b": "\\b", "\v": "\\v", "\f": "\\f"}
_ESCAPED = re.compile(r'["\\]|#(?=[{$@])|[^ -~]')


class RubyError(LiquidError):
    """An error with the text of Ruby's Liquid, which is printed into the message."""

    def __init__(self, message: str) -> None:
        super().__init__(message, token=None)


def text(value: object) -> str:
    """Return a value as the input of a text filter: a list has brackets, unlike in a message."""
    return inspect_value(value) if isinstance(value, list | tuple) else printed(value)


def printed(value: object) -> str:
    """Return a value as printed into a message."""
    match value:
        case None:
            return ""
        case str():
            return encodable(value)
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return _float(value)
        case list() | tuple():
            return "".join(printed(entry) for entry in value)
        case dict():
            return inspect_value(value)
        case range():
            return f"{value.start}..{value.stop - 1}"
    return _DROPS.get(type(value).__name__, "")


def encodable(text: str) -> str:
    """Return text that UTF-8 can encode, because JSON can contain lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def inspect_value(value: object) -> str:
    """Return a value as Ruby shows it inside a list or an object."""
    match value:
        case None:
            return "nil"
        case str():
            return '"' + _ESCAPED.sub(_escape, encodable(value)) + '"'
        case dict():
            members = (f"{inspect_value(key)}=>{inspect_value(entry)}" for key, entry in value.items())
            return "{" + ", ".join(members) + "}"
        case list() | tuple():
            return "[" + ", ".join(inspect_value(entry) for entry in value) + "]"
    return printed(value)


def number(value: object) -> Number:
    """Return a value as a number: text begins with an integer or is a decimal fraction, everything else is 0."""
    match value:
        case bool():
            return 0
        case int():
            return value
        case float():
            return Decimal(repr(value))
        case str():
            stripped = value.strip(WHITE)
            if _DECIMAL.fullmatch(stripped):
                _require_short(stripped)
                return Decimal(stripped)
            return leading_integer(value)
    return 0


def leading_integer(value: str) -> int:
    """Return the integer at the start of a text, or 0."""
    match = _LEADING_INTEGER.match(value)
    if match is None:
        return 0
    _require_short(match[1])
    return int(match[1])


def integer(value: object) -> int:
    """Return an integer or a text that is an integer; other values are errors."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _INTEGER.fullmatch(text(value).strip(WHITE[1:]))
    if match is None or not match.lastgroup:
        raise RubyError("invalid integer")
    digits = match[match.lastgroup]
    if match.lastgroup == "d" and len(digits) > 1 and digits.startswith("0") and not match[0].lower().count("d"):
        raise RubyError("invalid integer")
    _require_short(digits)
    return int(match[1] + digits, _BASES[match.lastgroup])


def plain(value: Number) -> int | float:
    """Return a calculated number as a value: an Integer, or a Float for a BigDecimal."""
    return float(value) if isinstance(value, Decimal) else value


def equal(left: object, right: object) -> bool:
    """Return whether values are equal. Python also treats true and 1 as equal."""
    match left, right:
        case (bool(), _) | (_, bool()):
            return left is right
        case (list() | tuple(), list() | tuple()):
            return len(left) == len(right) and all(map(equal, left, right))
        case (dict(), dict()):
            return left.keys() == right.keys() and all(equal(value, right[key]) for key, value in left.items())
        case (range(), range()):
            return (left.start, left.stop) == (right.start, right.stop)
    return left == right


def is_blank(value: object) -> bool:
    """Return whether Rails treats a value as blank: absent, false, empty or white space."""
    return value is None or value is False or is_empty(value) or (isinstance(value, str) and value.isspace())


def is_empty(value: object) -> bool:
    """Return whether a text, list or object is empty."""
    return isinstance(value, str | list | tuple | dict) and not value


def ordered(sign: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
    """Compare numbers with numbers and text with text. A mix is an error; values without an order give false."""
    kinds = kind(left), kind(right)
    if None in kinds:
        return False
    if kinds[0] is not kinds[1]:
        left_type = "String" if isinstance(left, str) else "Integer" if isinstance(left, int) else "Float"
        shown = printed(right) if kinds[1] is float else "String"
        raise RubyError(f"comparison of {left_type} with {shown} failed")
    return sign(left, right)


def contains(left: Any, right: Any) -> bool:
    """Return whether a text has this part, a list this entry, an object this key or a range this number."""
    if right is None or right is False:
        return False
    if isinstance(left, str):
        return text(right) in left
    if isinstance(left, range):
        return kind(right) is float and left.start <= right < left.stop
    return isinstance(left, list | tuple | dict) and any(equal(entry, right) for entry in left)


def kind(value: object) -> type | None:
    """Return str for text, float for a number, and None for values without an order, such as booleans."""
    if isinstance(value, str):
        return str
    return float if isinstance(value, int | float) and not isinstance(value, bool) else None


def identity(value: object) -> object:
    """Return a hashable value that is equal for values that `uniq` treats as equal, unlike 1 and 1.0."""
    match value:
        case list() | tuple():
            return (list, *map(identity, value))
        case dict():
            return (dict, frozenset((key, identity(entry)) for key, entry in value.items()))
    return type(value), value


def entries(value: object) -> list[Any]:
    """Return the entries of a value for a list filter: nested lists are flattened, another value is a single entry."""
    match value:
        case None:
            return []
        case list() | tuple():
            return list(_flat(value))
        case range():
            return list(value)
    return [value]


def _flat(values: Iterable[object]) -> Iterable[object]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _require_short(digits: str) -> None:
    if len(digits) > _MAX_DIGITS:
        raise ResourceLimitError("a number is too long; shorten the number", token=None)


def _float(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    shown = repr(value)
    mantissa, e, exponent = shown.partition("e")
    return shown if not e else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in '"\\#':
        return "\\" + character
    if character in _ESCAPES:
        return _ESCAPES[character]
    if unicodedata.category(character) not in ("Cc", "Cn", "Cs", "Zl", "Zp"):
        return character
    code = ord(character)
    return f"\\u{code:04X}" if code < 0x10000 else f"\\u{{{code:X}}}"
