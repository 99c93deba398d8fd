"""The standard tags and outputs, parsed and printed as Ruby's Liquid does."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TextIO, cast

from liquid import Environment, RenderContext, Token
from liquid.ast import BlockNode, ConditionalBlockNode, Node
from liquid.builtin.expressions import Identifier
from liquid.builtin.output import OutputNode
from liquid.builtin.tags.assign_tag import AssignNode
from liquid.builtin.tags.capture_tag import CaptureNode
from liquid.builtin.tags.case_tag import CaseNode, MultiExpressionBlockNode
from liquid.builtin.tags.if_tag import IfNode
from liquid.builtin.tags.unless_tag import UnlessNode
from liquid.expression import Expression
from liquid.parser import get_parser
from liquid.stream import TokenStream
from liquid.tag import Tag
from liquid.token import TOKEN_EOF, TOKEN_EXPRESSION, TOKEN_OUTPUT, TOKEN_TAG

from proxy.liquid.expressions import (
    Condition,
    NotLiquidError,
    UnusualSyntaxError,
    condition,
    first_value,
    parse_filtered,
    same,
    when_values,
)
from proxy.liquid.loop_tags import CycleTag, ForTag, TablerowTag
from proxy.liquid.ruby import RubyError, printed
from proxy.liquid.standard_syntax import is_standard_condition, standard
from proxy.liquid.tag_stream import read, read_block

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
        markup = stream.expect(TOKEN_EXPRESSION).value
        _report_unusual(self.env, token, markup)
        return _PrintedNode(token, parse_filtered(token, markup))


class EchoTag(Tag):
    """`{% echo … %}`."""

    name = "echo"
    block = False

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, markup = read(stream)
        _report_unusual(self.env, token, markup)
        return _PrintedNode(token, parse_filtered(token, markup))


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
        _report_unusual(self.env, token, markup[match.end() :])
        return AssignNode(token, name=name, expression=parse_filtered(token, markup[match.end() :]))


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
        whole = self._condition(token, markup)
        ends = frozenset({self.end, "elsif", "else", TOKEN_EOF})
        parse_block = get_parser(self.env).parse_block
        consequence = parse_block(stream, ends)
        alternatives: list[ConditionalBlockNode] = []
        default: BlockNode | None = None
        while stream.current.kind == TOKEN_TAG and stream.current.value != self.end:
            branch, markup = read_block(stream)
            # Ruby parses a branch after `else`, which is always taken before.
            alternative = self._condition(branch, markup) if branch.value == "elsif" else None
            block = parse_block(stream, ends)
            if default is not None:
                continue
            if alternative is None:
                default = block
            else:
                alternatives.append(ConditionalBlockNode(branch, alternative, block))
        stream.expect(TOKEN_TAG, value=self.end)
        return self.node_class(token, whole, consequence, alternatives, default)

    def _condition(self, token: Token, markup: str) -> Condition:
        parsed = condition(token, markup)
        # An unknown operator is an error in the message, which has its own finding.
        if parsed.has_known_operators() and not is_standard_condition(markup):
            self.env.error(UnusualSyntaxError("the condition is not standard Liquid", token=token))
        return parsed


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
        return [same(left, value.evaluate(context)) for value in self.values]

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


def _report_unusual(env: Environment, token: Token, markup: str) -> None:
    if markup.strip() and standard(markup) is None:
        env.error(UnusualSyntaxError("the value with its filters is not standard Liquid", token=token))
