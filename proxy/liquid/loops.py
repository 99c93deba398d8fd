"""The list of a loop with its limit, offset and order, as in Ruby's Liquid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from liquid import RenderContext, Token
from liquid.expression import Expression

from proxy.liquid.expressions import FRAGMENT, Constant, NotLiquidError, to_i, value
from proxy.liquid.ruby import integer

_ATTRIBUTE = re.compile(rf"(?<![\w-])-*(\w[\w-]*+)\s*+:\s*+({FRAGMENT})", re.ASCII)
_LOOP = re.compile(rf"([\w-]+)\s+in\s+((?:{FRAGMENT})++)\s*(reversed)?", re.ASCII)


class Loop(Expression):
    """The list of `for` and `tablerow`. `name` identifies the loop for `offset: continue`."""

    __slots__ = ("attributes", "cols", "identifier", "iterable", "lenient", "reversed", "values")

    def __init__(self, token: Token, markup: str, *, lenient: bool) -> None:
        super().__init__(token)
        match = _LOOP.search(markup) if lenient else _LOOP.match(markup)
        if match is None:
            raise NotLiquidError("a loop has no list; write {% for name in list %}", token=token)
        self.identifier, self.iterable = match[1], match[2]
        self.reversed = bool(match[3]) and not lenient
        self.values = value(token, match[2])
        self.lenient = lenient
        attributes = dict(_ATTRIBUTE.findall(markup))
        self.attributes = {name: value(token, text) for name, text in attributes.items() if text != "continue"}
        if attributes.get("offset") == "continue" and not lenient:
            self.attributes["offset"] = Constant(token, self)
        self.cols = _Number(token, self.attributes.get("cols") or Constant(token, None))

    def evaluate(self, context: RenderContext) -> tuple[Iterator[Any], int]:
        name = f"{self.identifier}-{self.iterable}"
        offset = self.attributes["offset"].evaluate(context) if "offset" in self.attributes else None
        start = context.stopindex(name) if offset is self else self._integer(offset) or 0
        collection = self.values.evaluate(context)
        limit = self.attributes["limit"].evaluate(context) if "limit" in self.attributes else None
        length = self._integer(limit)
        values = _collection(collection)
        # Not `len`, which raises OverflowError for a long range.
        size = max(0, values.stop - values.start) if isinstance(values, range) else len(values)
        first, last = 0, size
        if not isinstance(collection, str):  # Ruby ignores offset and limit for a text
            first = min(max(0, start), size)
            last = size if length is None else min(max(first, start + length), size)
        context.stopindex(name, start + last - first)
        entries: Any = values[first:last] if isinstance(values, range) else islice(values, first, last)
        return (reversed(list(entries)) if self.reversed else iter(entries)), last - first

    def children(self) -> list[Expression]:
        return [self.values, *self.attributes.values()]

    def _integer(self, value: object) -> int | None:
        if self.lenient:
            return None if value is None else to_i(value)
        return None if value is None else integer(value)


class _Number(Expression):
    __slots__ = ("inner",)

    def __init__(self, token: Token, inner: Expression) -> None:
        super().__init__(token)
        self.inner = inner

    def evaluate(self, context: RenderContext) -> int:
        return to_i(self.inner.evaluate(context))

    def children(self) -> list[Expression]:
        return [self.inner]


def _collection(value: object) -> Any:
    if isinstance(value, range | list | tuple):
        return value
    if isinstance(value, dict):
        return [list(pair) for pair in value.items()]
    return [value] if isinstance(value, str) and value else []
