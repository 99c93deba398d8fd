"""The tags for, tablerow and cycle, parsed and printed as Ruby's Liquid does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TextIO, cast

from liquid import RenderContext, Token
from liquid.ast import BlockNode, Node
from liquid.builtin.expressions import LoopExpression
from liquid.builtin.tags.for_tag import ForNode
from liquid.builtin.tags.tablerow_tag import TablerowNode
from liquid.expression import Expression
from liquid.parser import get_parser
from liquid.stream import TokenStream
from liquid.tag import Tag
from liquid.token import TOKEN_EOF, TOKEN_TAG

from proxy.liquid.expressions import FRAGMENT, Constant, NotLiquidError, first_value, value
from proxy.liquid.loops import Loop
from proxy.liquid.ruby import identity, printed
from proxy.liquid.tag_stream import read, read_block


class ForTag(Tag):
    """`{% for … %}`."""

    name = "for"
    end = "endfor"

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, markup = read_block(stream)
        loop = cast(LoopExpression, Loop(token, markup, lenient=False))
        parse_block = get_parser(self.env).parse_block
        ends = frozenset({"endfor", "else", TOKEN_EOF})
        block = parse_block(stream, ends)
        default: BlockNode | None = None
        while stream.current.is_tag("else"):
            read_block(stream)
            default = parse_block(stream, ends)
        stream.expect(TOKEN_TAG, value="endfor")
        return ForNode(token, loop, block, default)


class _TablerowNode(TablerowNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        loop = cast(Loop, self.expression)
        if not loop.evaluate(context)[1]:
            if loop.values.evaluate(context) in (None, False):
                return 0
            return buffer.write('<tr class="row1">\n</tr>\n')
        return super().render_to_output(context, buffer)


class TablerowTag(Tag):
    """`{% tablerow … %}`."""

    name = "tablerow"
    end = "endtablerow"

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, markup = read_block(stream)
        loop = cast(LoopExpression, Loop(token, markup, lenient=True))
        block = get_parser(self.env).parse_block(stream, frozenset({"endtablerow", TOKEN_EOF}))
        stream.expect(TOKEN_TAG, value="endtablerow")
        return _TablerowNode(token, loop, block)


class _CycleNode(Node):
    def __init__(self, token: Token, group: Expression, values: list[Expression]) -> None:
        super().__init__(token)
        self.group, self.values = group, values
        self.blank = False

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        cycles: dict[object, int] = context.tag_namespace["cycles"]
        group = identity(self.group.evaluate(context))
        at = cycles.get(group, 0)
        cycles[group] = at + 1 if at + 1 < len(self.values) else 0
        # Groups of one name can have lists of different lengths.
        return buffer.write(printed(self.values[at].evaluate(context))) if at < len(self.values) else 0

    def expressions(self) -> Iterable[Expression]:
        return self.values


class CycleTag(Tag):
    """`{% cycle … %}`."""

    name = "cycle"
    block = False

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, markup = read(stream)
        named = re.match(rf"({FRAGMENT})\s*:\s*(.*)", markup, re.ASCII | re.DOTALL)
        parts = (first_value(token, part) for part in (named[2] if named else markup).split(","))
        values = [part for part in parts if part and not (isinstance(part, Constant) and part.value is None)]
        if not re.match(FRAGMENT, markup):
            raise NotLiquidError("cycle has no values; write {% cycle 'a', 'b' %}", token=token)
        if named:
            return _CycleNode(token, value(token, named[1]), values)
        # Without a name, lists of the same constants are one group. A list with a variable is its own group.
        constants = [part.value for part in values if isinstance(part, Constant)]
        name = constants if len(constants) == len(values) else [token.start_index]
        return _CycleNode(token, Constant(token, name), values)
