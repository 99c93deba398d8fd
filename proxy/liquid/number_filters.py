"""The standard filters of numbers, as Ruby's Liquid has them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal

from proxy.liquid.ruby import EXACT, Number, RubyError, equal, number, plain, text

_INT = range(-(2**31), 2**31)


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
    amount, limit = number(value), number(least)
    return plain(max(amount, limit))


def at_most(value: object, most: object) -> int | float:
    """Return the smaller number."""
    amount, limit = number(value), number(most)
    return plain(min(amount, limit))


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
    if not remainder:
        return Decimal(0)
    return EXACT.add(remainder, right) if (remainder < 0) is not (right < 0) else remainder


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
