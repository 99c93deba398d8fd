"""Braze's tags whose values only Braze knows. Each uses the test value, or prints nothing and adds a note.

`proxy.liquid.braze_objects` has the names of the values and the sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TextIO

from liquid import Environment, RenderContext, Token
from liquid.ast import BlockNode, Node
from liquid.exceptions import ResourceLimitError
from liquid.parser import get_parser
from liquid.stream import TokenStream
from liquid.tag import Tag
from liquid.token import TOKEN_EOF, TOKEN_TAG

from proxy.liquid import tag_syntax
from proxy.liquid.braze_objects import arguments, catalog_rows, tag_value_name, value_names
from proxy.liquid.ruby import printed
from proxy.liquid.scanner import CONTENT_BLOCK_TAG, Unreadable, markups, rewrite
from proxy.liquid.state import Run
from proxy.liquid.tag_stream import read
from proxy.liquid.tags import render_text
from proxy.liquid.types import Finding

_EXTRAS = re.compile(r":key\s+\S.*?\s+:value\s+\S.*", re.DOTALL)


class _WordsNode(Node):
    """A tag with words, which may contain outputs."""

    __slots__ = ("run", "tag", "words")

    def __init__(self, token: Token, tag: str, words: list[str], run: Run) -> None:
        super().__init__(token)
        self.tag = tag
        self.words = words
        self.run = run
        self.blank = False

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        words = [word for text in self.words for word in arguments(render_text(text, context, self.run))]
        if self.tag == "catalog_items":
            value = self.run.value_of(tag_value_name(self.tag, words[:1]))
            self._require(value, (list, dict))
            context.assign("items", catalog_rows(value, [word for word in words[1:] if not word.startswith(":")]))
            return 0
        if self.tag == "catalog_selection_items":
            value = self.run.value_of(tag_value_name(self.tag, words[:2]))
            self._require(value, (list,))
            context.assign("items", value if isinstance(value, list) else [])
            return 0
        return buffer.write(printed(self.run.value_of(tag_value_name(self.tag, words[:1]))))

    def _require(self, value: object, types: tuple[type, ...]) -> None:
        if value is not None and not isinstance(value, types):
            problem = f"the test value of {self.tag} is not a list, so items is empty"
            fix = 'write a JSON list, such as [{"id": "12", "title": "Boots"}]'
            self.run.note(Finding(self.run.line, "test-value", problem, fix, level="note"))


class _ContentBlockNode(Node):
    __slots__ = ("name", "run")

    def __init__(self, token: Token, name: str, run: Run) -> None:
        super().__init__(token)
        self.name = name
        self.run = run
        self.blank = False

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        run = self.run
        name = f"content_blocks.${{{self.name}}}"
        text = printed(run.value_of(name))
        line = run.line
        if name in run.open_blocks:
            raise ResourceLimitError(f"{name} includes itself; change its test value", token=self.token)
        try:
            pieces = markups(text)
        except Unreadable as error:
            raise Unreadable(line, f"the test value of {name} cannot be read: {error.problem}") from None
        for value, _ in value_names(pieces):
            run.need(value, line)
        run.open_blocks.append(name)
        try:
            for node in context.env.from_string(rewrite(text, pieces)).nodes:
                node.render(context, buffer)
                run.line = line
        finally:
            run.open_blocks.pop()
        return 1


class _MessageExtrasNode(Node):
    def __init__(self, token: Token) -> None:
        super().__init__(token)
        self.blank = False

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return 0


class _TranslationNode(Node):
    """The text between the tags is the text for the default locale."""

    __slots__ = ("block", "name", "run")

    def __init__(self, token: Token, name: str, block: BlockNode, run: Run) -> None:
        super().__init__(token)
        self.name = name
        self.block = block
        self.run = run
        self.blank = False

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        value = self.run.value_of(self.name)
        return self.block.render(context, buffer) if value is None else buffer.write(printed(value))

    def children(self, static_context: RenderContext, *, include_partials: bool = True) -> Iterable[Node]:
        return [self.block]


class _BrazeTag(Tag):
    block = False

    def __init__(self, name: str, env: Environment, run: Run) -> None:
        super().__init__(env)
        self.name = name
        self.run = run

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, text = read(stream)
        if self.name == CONTENT_BLOCK_TAG:
            return _ContentBlockNode(token, text, self.run)
        if self.name == "message_extras":
            if not _EXTRAS.fullmatch(text.strip()):
                problem = "message_extras needs :key first and :value second, so Braze adds nothing to the event"
                fix = "write {% message_extras :key NAME :value VALUE %}"
                self.run.note(Finding(self.run.line_of(token), "message-extras", problem, fix))
            return _MessageExtrasNode(token)
        # A quoted name may contain spaces, and the ids of a catalog may be outputs with spaces.
        words = list(tag_syntax.words(text)) if self.name.startswith("catalog") else [text]
        return _WordsNode(token, self.name, words, self.run)


class _TranslationTag(Tag):
    block = True
    name = "translation"
    end = "endtranslation"

    def __init__(self, env: Environment, run: Run) -> None:
        super().__init__(env)
        self.run = run

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, text = read(stream)
        stream.next()
        block = get_parser(self.env).parse_block(stream, frozenset({self.end, TOKEN_EOF}))
        stream.expect(TOKEN_TAG, value=self.end)
        return _TranslationNode(token, tag_value_name(self.name, arguments(text)[:1]), block, self.run)


def braze_tags(env: Environment, run: Run) -> dict[str, Tag]:
    """Return the tags by name."""
    names = ("catalog_items", "catalog_selection_items", "promotion", "landing_page_url", "message_extras")
    tags: dict[str, Tag] = {name: _BrazeTag(name, env, run) for name in (*names, CONTENT_BLOCK_TAG)}
    return tags | {"translation": _TranslationTag(env, run)}
