"""Finds the Liquid in a template, and rewrites Braze's `${attribute}` as plain Liquid."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

ATTRIBUTES = "__braze__"
"""The variable with the attributes of a `${…}` that has no prefix."""

_BLOCKS = frozenset({"if", "unless", "case", "for", "tablerow", "capture", "ifchanged"})
_VERBATIM = ("raw", "comment", "doc")
_TAG = re.compile(r"\{%-?\s*(#|\w*)(.*?)-?%\}\Z", re.DOTALL)
_ATTRIBUTE = re.compile(r"(?:(?<!\w)(\w+)\.)?\$\{([^{}\n]*)\}")
_WORD_OF_LIQUID = re.compile(
    r"""("[^"]*"|'[^']*')|(?<=[\w\]])\.(for|in|with|as|by|limit|offset|reversed|continue|cols|and|or|not|contains|if|else"""
    r"""|nil|null|true|false|empty|blank|required)(?![\w-])"""
)
"""A name after a dot that python-liquid parses as a keyword and Ruby's Liquid as a name."""
_OPENING = re.compile(r"\{[{%]")
_ATTRIBUTE_OR_END = re.compile(r"\$\{|\}\}")
_LONG_BLANK = re.compile(r"\s{200}")
_MAX_BRACKETS = 500
"""Per expression. python-liquid reads to the end of the expression from each unclosed bracket."""


class Unreadable(Exception):
    """A template that Liquid refuses. `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Markup:
    """A piece of Liquid. `name` is empty for an output; `rest` is its text without name and delimiters."""

    kind: Literal["output", "tag", "verbatim"]
    text: str
    name: str
    rest: str
    start: int
    line: int


def markups(source: str) -> Iterator[Markup]:
    """Yield the Liquid in `source` in order; a comment or raw block is one piece. Raises Unreadable."""
    at, line, counted = 0, 1, 0
    while opening := _OPENING.search(source, at):
        start = opening.start()
        line += source.count("\n", counted, start)
        counted = start
        output = opening[0] == "{{"
        at = _end_of_output(source, start) if output else source.find("%}", start) + 2
        if at < 2:
            raise Unreadable(line, f"{source[start : start + 2]} is never closed")
        text = source[start:at]
        # python-liquid tries every way to split a run of blanks.
        if _LONG_BLANK.search(text):
            raise Unreadable(line, "200 blanks in a row inside a tag are more than this preview reads")
        if output:
            _require_few_brackets(text, line)
            yield Markup("output", text, "", text[2:-2].strip("-").strip(), start, line)
            continue
        parsed = _TAG.match(text)
        name, rest = (parsed[1], parsed[2].strip()) if parsed else ("", "")
        if name in _VERBATIM:
            end = re.compile(rf"\{{%-?\s*end{name}\s*-?%\}}").search(source, at)
            if end is None:
                raise Unreadable(line, f"{{% {name} %}} is never closed")
            at = end.end()
            yield Markup("verbatim", source[start:at], name, "", start, line)
            continue
        if name == "connected_content":
            _require_closed_outputs(text, line)
        elif name != "abort_message":
            _require_few_brackets(text, line)
        yield Markup("tag", text, name, rest, start, line)


def require_closed(source: str) -> None:
    """Raise Unreadable when a block is opened and never closed."""
    open_blocks: list[Markup] = []
    for markup in markups(source):
        if markup.name in _BLOCKS:
            open_blocks.append(markup)
        elif open_blocks and markup.name == f"end{open_blocks[-1].name}":
            open_blocks.pop()
    if open_blocks:
        raise Unreadable(open_blocks[-1].line, f"{{% {open_blocks[-1].name} %}} is never closed")


def rewritten(source: str) -> str:
    """Return `source` as plain Liquid with the same line numbers. Raises Unreadable."""
    pieces, at = [], 0
    for markup in markups(source):
        pieces.append(source[at : markup.start])
        at = markup.start + len(markup.text)
        if markup.name == "comment":
            pieces.append(_emptied(markup.text))
        elif markup.kind == "verbatim" or markup.name == "abort_message":
            pieces.append(markup.text)
        else:
            text = _ATTRIBUTE.sub(_as_liquid, markup.text)
            if markup.name == "connected_content":  # a host may end in .in
                pieces.append(replace_outputs(text, lambda output: _WORD_OF_LIQUID.sub(_as_name, output)))
            else:
                pieces.append(_WORD_OF_LIQUID.sub(_as_name, text))
    pieces.append(source[at:])
    return "".join(pieces)


def attributes(text: str) -> Iterator[tuple[str, str]]:
    """Yield the prefix ("" without one) and the name of each `${…}` in a piece of Liquid."""
    for match in _ATTRIBUTE.finditer(text):
        yield match[1] or "", match[2].strip()


def outputs(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each `{{ … }}` in the text of a tag, except an unclosed one."""
    at = 0
    while (start := text.find("{{", at)) >= 0 and (at := _end_of_output(text, start)):
        yield start, at


def replace_outputs(text: str, replace: Callable[[str], str]) -> str:
    """Return `text` with `replace` applied to each `{{ … }}` in it."""
    pieces, at = [], 0
    for start, end in outputs(text):
        pieces += [text[at:start], replace(text[start:end])]
        at = end
    return "".join([*pieces, text[at:]])


def _require_closed_outputs(tag: str, line: int) -> None:
    at = 0
    for start, end in outputs(tag):
        _require_few_brackets(tag[start:end], line)
        at = end
    if (start := tag.find("{{", at)) >= 0:
        line += tag.count("\n", 0, start)
        raise Unreadable(line, "{{ in a tag is never closed; write }} after the value, before the tag ends with %}")


def _require_few_brackets(expression: str, line: int) -> None:
    if expression.count("(") + expression.count("[") > _MAX_BRACKETS:
        raise Unreadable(line, f"more than {_MAX_BRACKETS} brackets in one expression; use fewer")


def _end_of_output(source: str, start: int) -> int:
    """Return the end of the output that begins at `start`. The first brace after `${user_id` closes the attribute."""
    at = start + 2
    while match := _ATTRIBUTE_OR_END.search(source, at):
        if match[0] == "}}":
            return match.end()
        at = source.find("}", match.end()) + 1
        if not at:
            break
    return 0


def _as_liquid(match: re.Match[str]) -> str:
    name = match[2].strip().replace('"', "")
    return f'{match[1] or ATTRIBUTES}["{name}"]'


def _as_name(match: re.Match[str]) -> str:
    return match[1] or f'["{match[2]}"]'


def _emptied(comment: str) -> str:
    # Liquid ignores the text of a comment, but python-liquid scans it for tags, slowly.
    opening, closing = comment.index("%}") + 2, comment.rindex("{%")
    return comment[:opening] + "\n" * comment.count("\n", opening, closing) + comment[closing:]
