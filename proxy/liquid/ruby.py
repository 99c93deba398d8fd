"""Prints and compares values like Ruby's Liquid, on which Braze builds.

Replaces the parts of python-liquid that differ.

Numbers are compared with numbers and text with text; a mix is an error.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TextIO

from liquid import RenderContext
from liquid.builtin.expressions.logical import (
    ContainsExpression,
    GeExpression,
    GtExpression,
    LeExpression,
    LtExpression,
)
from liquid.builtin.output import Output
from liquid.builtin.tags.echo_tag import EchoNode, EchoTag
from liquid.exceptions import LiquidTypeError
from liquid.expression import Expression

_Compare = Callable[[Any, Any], bool]


def text(value: object) -> str:
    """Return a value as the input of a text filter: a list has brackets, unlike in a message."""
    return _inspect(value) if isinstance(value, list | tuple) else printed(value)


def printed(value: object) -> str:
    """Return a value as printed into a message."""
    match value:
        case None:
            return ""
        case str():
            return encodable(value)
        case bool():
            return str(value).lower()
        case float():
            return _float(value)
        case list() | tuple():
            return "".join(printed(entry) for entry in value)
        case dict():
            return _inspect(value)
        case range():
            return f"{value.start}..{value.stop - 1}"
    return str(value)


def encodable(text: str) -> str:
    """Return text that UTF-8 can encode, because JSON can contain lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def _float(value: float) -> str:
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    return text if not e else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"


def _inspect(value: object) -> str:
    match value:
        case None:
            return "nil"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case dict():
            return "{" + ", ".join(f"{_inspect(key)}=>{_inspect(entry)}" for key, entry in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_inspect(entry) for entry in value) + "]"
    return printed(value)


class _RubyNode(EchoNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return buffer.write(printed(self.expression.evaluate(context)))


class RubyOutput(Output):
    """`{{ … }}`."""

    node_class = _RubyNode


class RubyEcho(EchoTag):
    """`{% echo … %}`."""

    node_class = _RubyNode


def compare_as_ruby(expressions: Iterable[Expression]) -> None:
    """Replace python-liquid's comparisons by Ruby's in `expressions` and their children."""
    for expression in expressions:
        for part in ("expression", "left", "right"):
            inner = getattr(expression, part, None)
            if isinstance(inner, Expression):
                compare_as_ruby([inner])
                if compare := _COMPARISONS.get(type(inner)):
                    setattr(expression, part, _Comparison(inner, compare))


class _Comparison(Expression):
    __slots__ = ("compare", "sides")

    def __init__(self, original: Any, compare: _Compare) -> None:
        super().__init__(original.token)
        self.sides: list[Expression] = [original.left, original.right]
        self.compare = compare

    def evaluate(self, context: RenderContext) -> bool:
        values = (side.evaluate(context) for side in self.sides)
        left, right = (value.__liquid__() if hasattr(value, "__liquid__") else value for value in values)
        return self.compare(left, right)

    def children(self) -> list[Expression]:
        return self.sides


def _order(sign: _Compare, left: Any, right: Any) -> bool:
    kinds = _kind(left), _kind(right)
    if None in kinds:
        return False
    if kinds[0] is not kinds[1]:
        left_type = "String" if isinstance(left, str) else "Integer" if isinstance(left, int) else "Float"
        shown = printed(right) if kinds[1] is float else "String"
        raise LiquidTypeError(f"comparison of {left_type} with {shown} failed", token=None)
    return sign(left, right)


def _contains(left: Any, right: Any) -> bool:
    if right is None or right is False:
        return False
    if isinstance(left, str):
        return text(right) in left
    if isinstance(left, range):
        return _kind(right) is float and left.start <= right < left.stop
    if not isinstance(left, list | tuple | dict):
        return False
    # Not `in`: Python treats true and 1 as equal.
    return any(entry == right and isinstance(entry, bool) is isinstance(right, bool) for entry in left)


def _kind(value: object) -> type | None:
    """Return str for text, float for a number, and None for values without an order, such as booleans."""
    if isinstance(value, str):
        return str
    return float if isinstance(value, int | float) and not isinstance(value, bool) else None


_COMPARISONS: dict[type[Expression], _Compare] = {
    LtExpression: partial(_order, operator.lt),
    LeExpression: partial(_order, operator.le),
    GtExpression: partial(_order, operator.gt),
    GeExpression: partial(_order, operator.ge),
    ContainsExpression: _contains,
}
