"""Parses expressions as Ruby's Liquid does in its tolerant mode, which Braze uses.

That mode finds values by patterns and ignores characters that fit no pattern, such as the braces in
`{% if {{x}} == 1 %}`. python-liquid rejects such an expression, so its parser only reports unusual syntax.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from liquid import RenderContext, Token
from liquid.builtin.expressions import Filter, FilteredExpression, KeywordArgument, PositionalArgument
from liquid.exceptions import LiquidSyntaxError
from liquid.expression import Expression

from proxy.liquid.lookup import AfterDot
from proxy.liquid.ruby import (
    RubyError,
    contains,
    equal,
    integer,
    is_blank,
    is_empty,
    leading_integer,
    ordered,
)
from proxy.liquid.standard_syntax import standard

FRAGMENT = r"""(?:"[^"]*"|'[^']*'|(?:[^\s,|'"]|"[^"]*"|'[^']*')+)"""
"""Pattern of a value: text in quotes, or characters without blanks."""

_WORD = r"\b(?:\s?and\s?|\s?or\s?)\b"
_CONDITIONS = re.compile(rf"{_WORD}|(?:\s*(?!{_WORD})(?:{FRAGMENT}|\S+)\s*)+", re.ASCII)
_COMPARISON = re.compile(rf"({FRAGMENT})\s*([=!<>a-z_]+)?\s*({FRAGMENT})?", re.ASCII)
_VALUE = re.compile(FRAGMENT, re.ASCII)
_FILTER = re.compile(rf"(?:\s+|{FRAGMENT}|,)++", re.ASCII)
_ARGUMENT = re.compile(rf"[:,]\s*((?:\w+\s*:\s*)?{FRAGMENT})", re.ASCII)
_NAMED = re.compile(rf"(\w[\w-]*)\s*:\s*({FRAGMENT})", re.ASCII)
_WHEN = re.compile(rf"({FRAGMENT})(?:(?:\s+or\s+|\s*,\s*)({FRAGMENT}.*))?", re.ASCII | re.DOTALL)
_RANGE = re.compile(r"\(\s*(?>(\S+)\s*\.\.)\s*(\S+)\s*\)", re.ASCII)
_STEP = re.compile(r"\[[^\]]+\]|[\w-]+\??", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]+")
_FLOAT = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)[0-9.]*")
_LITERALS = {"": None, "nil": None, "null": None, "true": True, "false": False, "blank": "", "empty": ""}
_TESTS: dict[str, Callable[[object], bool]] = {"blank": is_blank, "empty": is_empty}
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": partial(ordered, operator.lt),
    "<=": partial(ordered, operator.le),
    ">": partial(ordered, operator.gt),
    ">=": partial(ordered, operator.ge),
    "contains": contains,
}


class NotLiquidError(LiquidSyntaxError):
    """Ruby's Liquid refuses the whole template."""


class UnusualSyntaxError(LiquidSyntaxError):
    """Ruby's Liquid ignores a part of the expression."""


class Constant(Expression):
    """A value that is written in the template."""

    __slots__ = ("value",)

    def __init__(self, token: Token, value: object) -> None:
        super().__init__(token)
        self.value = value

    def evaluate(self, context: RenderContext) -> object:
        return self.value

    def children(self) -> list[Expression]:
        return []


class _Lookup(Expression):
    """A variable and the steps into its value."""

    __slots__ = ("steps",)

    def __init__(self, token: Token, steps: list[Expression]) -> None:
        super().__init__(token)
        self.steps = steps

    def evaluate(self, context: RenderContext) -> object:
        return context.get([step.evaluate(context) for step in self.steps] or [None], token=self.token)

    def children(self) -> list[Expression]:
        return self.steps


class _Range(Expression):
    __slots__ = ("ends",)

    def __init__(self, token: Token, ends: list[Expression]) -> None:
        super().__init__(token)
        self.ends = ends

    def evaluate(self, context: RenderContext) -> range:
        start, stop = (_range_end(end.evaluate(context)) for end in self.ends)
        return range(start, stop + 1)

    def children(self) -> list[Expression]:
        return self.ends


class _Test(Expression):
    """`blank` or `empty` beside a comparison. Without a comparison it is true."""

    __slots__ = ("test",)

    def __init__(self, token: Token, test: Callable[[object], bool]) -> None:
        super().__init__(token)
        self.test = test

    def evaluate(self, context: RenderContext) -> object:
        return self

    def children(self) -> list[Expression]:
        return []

    def __str__(self) -> str:
        return ""


class Condition(Expression):
    """A value or a comparison, and after `and` or `or` another condition, which Ruby evaluates from the right."""

    __slots__ = ("following", "left", "operator", "right", "word")

    def __init__(self, token: Token, left: Expression, sign: str | None, right: Expression) -> None:
        super().__init__(token)
        self.left, self.operator, self.right = left, sign, right
        self.word: str | None = None
        self.following: Condition | None = None

    def evaluate(self, context: RenderContext) -> bool:
        condition = self
        while True:
            result = condition._holds(context)
            if condition.following is None or result is (condition.word == "or"):
                return result
            condition = condition.following

    def children(self) -> list[Expression]:
        return [self.left, self.right, *([self.following] if self.following else [])]

    def has_known_operators(self) -> bool:
        """Return whether Ruby's Liquid knows each operator."""
        condition: Condition | None = self
        while condition is not None and condition.operator in (None, "==", "!=", "<>", *_OPERATORS):
            condition = condition.following
        return condition is None

    def _holds(self, context: RenderContext) -> bool:
        left = self.left.evaluate(context)
        if self.operator is None:
            return left is not None and left is not False
        right = self.right.evaluate(context)
        if self.operator in ("==", "!=", "<>"):
            return same(left, right) is (self.operator == "==")
        compare = _OPERATORS.get(self.operator)
        if compare is None:
            raise RubyError(f"Unknown operator {self.operator}")
        return compare(left, "" if isinstance(right, _Test) and isinstance(left, str) else right)


def value(token: Token, markup: str) -> Expression:
    """Return a value: a literal, a range or a variable."""
    text = markup.strip("\0\t\n\v\f\r ")
    if text and text[0] in "\"'" and text[-1] == text[0]:
        return Constant(token, text[1:-1])
    if _INTEGER.fullmatch(text):
        return Constant(token, leading_integer(text))
    if match := _RANGE.fullmatch(text):
        ends = [value(token, match[1]), value(token, match[2])]
        if not all(isinstance(end, Constant) for end in ends):
            return _Range(token, ends)
        start, stop = (to_i(end.value) for end in ends if isinstance(end, Constant))
        return Constant(token, range(start, stop + 1))
    if (match := _FLOAT.fullmatch(text)) and len(text.lstrip("-")) > 1:
        return Constant(token, float(match[1]))
    if text in _LITERALS:
        return Constant(token, _LITERALS[text])
    return _Lookup(token, [*_steps(token, text)])


def parse_filtered(token: Token, markup: str) -> FilteredExpression:
    """Return a value with its filters."""
    # Only here Ruby first tries its strict parser, which allows blanks, as in `a [0]`.
    markup = standard(markup) or markup
    first = _VALUE.search(markup)
    if first is None:
        return FilteredExpression(token, Constant(token, None))
    _, bar, rest = markup[first.end() :].partition("|")
    filters = []
    for match in _FILTER.finditer(rest.lstrip() if bar else ""):
        name = re.search(r"\w+", match[0], re.ASCII)
        if name is None:
            continue
        arguments: list[KeywordArgument | PositionalArgument] = []
        for argument in _ARGUMENT.findall(match[0]):
            named = _NAMED.fullmatch(argument)
            if named:
                arguments.append(KeywordArgument(token, named[1], value(token, named[2])))
            else:
                arguments.append(PositionalArgument(value(token, argument)))
        filters.append(Filter(token, name[0], arguments))
    return FilteredExpression(token, value(token, first[0]), filters)


def condition(token: Token, markup: str) -> Condition:
    """Return the condition of `if` or `unless`."""
    parts = _CONDITIONS.findall(markup)
    last = _comparison(token, parts.pop() if parts else "")
    while parts:
        word = parts.pop().strip()
        before = _comparison(token, parts.pop() if parts else "")
        if word not in ("and", "or"):
            raise NotLiquidError("a condition is not complete; write a value on both sides of and, or", token=token)
        before.word, before.following = word, last
        last = before
    return last


def _comparison(token: Token, markup: str) -> Condition:
    match = _COMPARISON.search(markup)
    if match is None:
        raise NotLiquidError("a condition is missing; write {% if value %} or {% if value == 'x' %}", token=token)
    right = parse_operand(token, match[3]) if match[3] is not None else Constant(token, None)
    return Condition(token, parse_operand(token, match[1]), match[2], right)


def parse_operand(token: Token, markup: str) -> Expression:
    """Return a side of a comparison, in which `blank` and `empty` are tests."""
    return _Test(token, _TESTS[markup]) if markup in _TESTS else value(token, markup)


def first_value(token: Token, markup: str) -> Expression | None:
    """Return the first value in `markup`; None without a value."""
    match = _VALUE.search(markup)
    return value(token, match[0]) if match else None


def when_values(token: Token, markup: str) -> list[Expression]:
    """Return the values of a `when`."""
    values: list[Expression] = []
    rest: str | None = markup
    while rest is not None:
        match = _WHEN.search(rest)
        if match is None:
            raise NotLiquidError("when has no value; write {% when 'value' %}", token=token)
        values.append(parse_operand(token, match[1]))
        rest = match[2]
    return values


def same(left: object, right: object) -> bool:
    """Return whether `==` holds, where a side can be `blank` or `empty`."""
    if isinstance(left, _Test):
        return left.test(right)
    return right.test(left) if isinstance(right, _Test) else equal(left, right)


def _steps(token: Token, text: str) -> Iterator[Expression]:
    for step in _STEP.findall(text):
        yield value(token, step[1:-1]) if step.startswith("[") else Constant(token, AfterDot(step))


def _range_end(bound: object) -> int:
    if bound is None:
        return 0
    return leading_integer(bound) if isinstance(bound, str) else integer(bound)


def to_i(number: object) -> int:
    """Return a number as an integer, as Ruby's `to_i` does."""
    if isinstance(number, str):
        return leading_integer(number)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return int(number)
    if number is None:
        return 0
    raise RubyError("internal")
