"""The standard tags and outputs, parsed and printed as Ruby's Liquid does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TextIO, cast

from liquid import RenderContext, Token
from liquid.ast import BlockNode, ConditionalBlockNode, Node
from liquid.builtin.expressions import Identifier, LoopExpression
from liquid.builtin.output import OutputNode
from liquid.builtin.tags.assign_tag import AssignNode
from liquid.builtin.tags.capture_tag import CaptureNode
from liquid.builtin.tags.case_tag import CaseNode, MultiExpressionBlockNode
from liquid.builtin.tags.for_tag import ForNode
from liquid.builtin.tags.if_tag import IfNode
from liquid.builtin.tags.tablerow_tag import TablerowNode
from liquid.builtin.tags.unless_tag import UnlessNode
from liquid.expression import Expression
from liquid.parser import get_parser
from liquid.stream import TokenStream
from liquid.tag import Tag
from liquid.token import TOKEN_EOF, TOKEN_EXPRESSION, TOKEN_OUTPUT, TOKEN_TAG

from proxy.liquid.expressions import (
    FRAGMENT,
    Constant,
    Loop,
    NotLiquidError,
    condition,
    filtered,
    first_value,
    same,
    value,
    when_values,
)
from proxy.liquid.ruby import RubyError, identity, printed

_SIGNATURE = re.compile(r"([\w\-.\[\]()]++)(\s*+=)?", re.ASCII)


class _PrintedNode(OutputNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return buffer.write(printed(self.expression.evaluate(context)))


class OutputTag(Tag):
    """`{{ … }}`."""

    name = TOKEN_OUTPUT
    block = False

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the output."""
        token = stream.eat(TOKEN_OUTPUT)
        return _PrintedNode(token, filtered(token, stream.expect(TOKEN_EXPRESSION).value))


class EchoTag(Tag):
    """`{% echo … %}`."""

    name = "echo"
    block = False

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, markup = read(stream)
        return _PrintedNode(token, filtered(token, markup))


class AssignTag(Tag):
    """`{% assign name = … %}`."""

    name = "assign"
    block = False

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, markup = read(stream)
        match = next((match for match in _SIGNATURE.finditer(markup) if match[2]), None)
        if match is None:
            raise NotLiquidError("assign has no name or no value; write {% assign name = value %}", token=token)
        name = Identifier(match[1], token=token)
        return AssignNode(token, name=name, expression=filtered(token, markup[match.end() :]))


class CaptureTag(Tag):
    """`{% capture name %}`."""

    name = "capture"
    end = "endcapture"

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, markup = read_block(stream)
        match = _SIGNATURE.search(markup)
        if match is None:
            raise NotLiquidError("capture has no name; write {% capture name %}", token=token)
        block = get_parser(self.env).parse_block(stream, frozenset({"endcapture", TOKEN_EOF}))
        stream.expect(TOKEN_TAG, value="endcapture")
        block.blank = False  # the variable keeps white space
        return CaptureNode(token, Identifier(match[1], token=token), block)


class _ConditionTag(Tag):
    node_class: Callable[..., Node]

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, markup = read_block(stream)
        whole = condition(token, markup)
        ends = frozenset({self.end, "elsif", "else", TOKEN_EOF})
        parse_block = get_parser(self.env).parse_block
        consequence = parse_block(stream, ends)
        alternatives: list[ConditionalBlockNode] = []
        default: BlockNode | None = None
        while stream.current.kind == TOKEN_TAG and stream.current.value != self.end:
            branch, markup = read_block(stream)
            # Ruby parses a branch after `else`, which is always taken before.
            alternative = condition(branch, markup) if branch.value == "elsif" else None
            block = parse_block(stream, ends)
            if default is not None:
                continue
            if alternative is None:
                default = block
            else:
                alternatives.append(ConditionalBlockNode(branch, alternative, block))
        stream.expect(TOKEN_TAG, value=self.end)
        return self.node_class(token, whole, consequence, alternatives, default)


class IfTag(_ConditionTag):
    """`{% if … %}`."""

    name = "if"
    end = "endif"
    node_class = IfNode


class UnlessTag(_ConditionTag):
    """`{% unless … %}`."""

    name = "unless"
    end = "endunless"
    node_class = UnlessNode


class _When(Expression):
    def __init__(self, token: Token, left: Expression, values: list[Expression]) -> None:
        super().__init__(token)
        self.left, self.values = left, values

    def evaluate(self, context: RenderContext) -> list[bool]:
        left = self.left.evaluate(context)
        return [same(left, found.evaluate(context)) for found in self.values]

    def children(self) -> list[Expression]:
        return self.values


class CaseTag(Tag):
    """`{% case … %}`."""

    name = "case"
    end = "endcase"

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, markup = read_block(stream)
        left = first_value(token, markup)
        if left is None:
            raise NotLiquidError("case has no value; write {% case value %}", token=token)
        ends = frozenset({"endcase", "when", "else", TOKEN_EOF})
        parse_block = get_parser(self.env).parse_block
        parse_block(stream, ends)  # ignored
        blocks: list[MultiExpressionBlockNode | BlockNode] = []
        while stream.current.kind == TOKEN_TAG and stream.current.value != "endcase":
            branch, markup = read_block(stream)
            values = when_values(branch, markup) if branch.value == "when" else None
            if values is None and markup.strip():
                raise NotLiquidError("else has a value; write {% when value %} or {% else %}", token=branch)
            block = parse_block(stream, ends)
            if values is None:
                blocks.append(block)
            else:
                blocks.append(MultiExpressionBlockNode(branch, block, cast(Any, _When(branch, left, values))))
        stream.expect(TOKEN_TAG, value="endcase")
        return CaseNode(token, left, blocks)


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
        found = (first_value(token, part) for part in (named[2] if named else markup).split(","))
        values = [part for part in found if part is not None]
        if not re.match(FRAGMENT, markup):
            raise NotLiquidError("cycle has no values; write {% cycle 'a', 'b' %}", token=token)
        if named:
            return _CycleNode(token, value(token, named[1]), values)
        # Without a name, lists of the same constants are one group. A list with a variable is its own group.
        constants = [part.value for part in values if isinstance(part, Constant)]
        name = constants if len(constants) == len(values) else [token.start_index]
        return _CycleNode(token, Constant(token, name), values)


class _PartialNode(Node):
    def __init__(self, token: Token) -> None:
        super().__init__(token)
        self.blank = False

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        raise RubyError("This liquid context does not allow includes.")


class IncludeTag(Tag):
    """`{% include … %}`, which needs other templates. A message has none."""

    name = "include"
    block = False

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        return _PartialNode(read(stream)[0])


class RenderTag(IncludeTag):
    """`{% render … %}`."""

    name = "render"


TAGS: tuple[type[Tag], ...] = (
    OutputTag,
    EchoTag,
    AssignTag,
    CaptureTag,
    IfTag,
    UnlessTag,
    CaseTag,
    ForTag,
    TablerowTag,
    CycleTag,
    IncludeTag,
    RenderTag,
)


def read(stream: TokenStream) -> tuple[Token, str]:
    """Return a tag's token and the text after its name. The stream stays at the last token of the tag."""
    token = stream.expect(TOKEN_TAG)
    if stream.peek.kind != TOKEN_EXPRESSION:
        return token, ""
    stream.next()
    return token, stream.current.value


def read_block(stream: TokenStream) -> tuple[Token, str]:
    """Return a tag's token and the text after its name. The stream moves to the token after the tag."""
    found = read(stream)
    stream.next()
    return found
