"""Compares as Ruby's Liquid does: numbers with numbers, text with text, and an error for a mix."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from liquid import RenderContext
from liquid.builtin.expressions.logical import (
    ContainsExpression,
    GeExpression,
    GtExpression,
    LeExpression,
    LtExpression,
)
from liquid.exceptions import LiquidTypeError
from liquid.expression import Expression

from proxy.liquid import ruby_output

_SIGNS: dict[type[Expression], Callable[[Any, Any], bool]] = {
    LtExpression: operator.lt,
    LeExpression: operator.le,
    GtExpression: operator.gt,
    GeExpression: operator.ge,
}
_PARTS = ("expression", "left", "right")


def compare_as_ruby(expressions: Iterable[Expression]) -> None:
    """Replace python-liquid's comparisons by Ruby's in each of `expressions` and below it."""
    for expression in expressions:
        for part in _PARTS:
            inner = getattr(expression, part, None)
            if isinstance(inner, Expression):
                compare_as_ruby([inner])
                setattr(expression, part, _replaced(inner))


def _replaced(expression: Expression) -> Expression:
    if isinstance(expression, ContainsExpression):
        return _Contains(expression)
    sign = _SIGNS.get(type(expression))
    return _Order(expression, sign) if sign else expression


class _Order(Expression):
    __slots__ = ("left", "right", "sign")

    def __init__(self, original: Any, sign: Callable[[Any, Any], bool]) -> None:
        super().__init__(original.token)
        self.left: Expression = original.left
        self.right: Expression = original.right
        self.sign = sign

    def evaluate(self, context: RenderContext) -> bool:
        left, right = (_value(side.evaluate(context)) for side in (self.left, self.right))
        kinds = _kind(left), _kind(right)
        if None in kinds:
            return False
        if kinds[0] is not kinds[1]:
            kind = ruby_output.prints(right) if kinds[1] is float else "String"
            raise LiquidTypeError(f"comparison of {ruby_output.type_name(left)} with {kind} failed", token=self.token)
        return self.sign(left, right)

    def children(self) -> list[Expression]:
        return [self.left, self.right]


class _Contains(Expression):
    __slots__ = ("left", "right")

    def __init__(self, original: ContainsExpression) -> None:
        super().__init__(original.token)
        self.left = original.left
        self.right = original.right

    def evaluate(self, context: RenderContext) -> bool:
        left, right = (_value(side.evaluate(context)) for side in (self.left, self.right))
        if right is None or right is False:
            return False
        if isinstance(left, str):
            return ruby_output.text(right) in left
        if isinstance(left, range):
            return _kind(right) is float and left.start <= right < left.stop
        if not isinstance(left, list | tuple | dict):
            return False
        # Not by hash: `right` may be a list, and in Python true equals 1.
        return any(entry == right and isinstance(entry, bool) is isinstance(right, bool) for entry in left)

    def children(self) -> list[Expression]:
        return [self.left, self.right]


def _value(value: Any) -> Any:
    return value.__liquid__() if hasattr(value, "__liquid__") else value


def _kind(value: object) -> type | None:
    """Return str for text, float for a number, and None for values without an order, such as booleans."""
    if isinstance(value, str):
        return str
    return float if isinstance(value, int | float) and not isinstance(value, bool) else None
