"""Finds the Liquid in a template, and rewrites Braze's `${attribute}` as plain Liquid."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

ATTRIBUTES = "__braze__"
"""The variable for attributes in `${…}` without a prefix."""
OPEN_OUTPUT = r"\{\{(?:[^$}]|\$(?!\{)|\$\{[^}]*+\}|\}(?!\}))*+"
"""Pattern of a `{{ … ` without its `}}`. The first brace after `${user_id` closes the attribute."""
OUTPUT = re.compile(OPEN_OUTPUT + r"(?:(?P<closed>\}\})|.*)", re.DOTALL)
"""A `{{ … }}`, or an unclosed `{{` with all text after it, so that a search takes linear time."""

_BLOCKS = frozenset({"if", "unless", "case", "for", "tablerow", "capture", "ifchanged"})
_MARKUP = re.compile(OPEN_OUTPUT + r"(?P<output>\}\})?|\{(?=%)(?:.*?(?P<tag>%\})|)", re.DOTALL)
_TAG = re.compile(r"\{%-?\s*(#|\w*)(.*?)-?%\}\Z", re.DOTALL)
_ATTRIBUTE = re.compile(r"(?:(?<!\w)(\w+)\.)?\$\{([^{}\n]*)\}")
_WORD_OF_LIQUID = re.compile(
    r"""("[^"]*"|'[^']*')|(?<=[\w\]])\.(for|in|with|as|by|limit|offset|reversed|continue|cols|and|or|not|contains|if|else"""
    r"""|nil|null|true|false|empty|blank|required)(?![\w-])"""
)
"""A name after a dot that python-liquid parses as a keyword and Ruby's Liquid as a name."""
_LONG_BLANK = re.compile(r"\s{200}")
_MAX_BRACKETS = 500
"""Per expression. python-liquid reads to the end of the expression from each unclosed bracket."""


class Unreadable(Exception):
    """Liquid rejects the template. `line` counts from 1. `pieces`: the Liquid, if only a block is not closed."""

    def __init__(self, line: int, problem: str, pieces: Iterable[Markup] = ()) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem
        self.pieces = list(pieces)


@dataclass(frozen=True, slots=True)
class Markup:
    """A piece of Liquid. `name` is empty for an output; `rest` is its text without name and delimiters."""

    kind: Literal["output", "tag", "verbatim"]
    text: str
    name: str
    rest: str
    start: int
    line: int


def markups(source: str) -> list[Markup]:
    """Return the Liquid in `source` in order; a comment or raw block is a single piece. Raises Unreadable.

    Does not use python-liquid's lexer, which ends an output in the middle of `{{${user_id}}}`. For some templates, the
    time of that lexer grows with the square of the length.
    """
    pieces: list[Markup] = []
    at = 0
    while match := _MARKUP.search(source, at):
        start, at = match.span()
        line = line_at(source, start)
        if not match.lastgroup:
            raise Unreadable(line, f"{source[start : start + 2]} is never closed; add the closing delimiter")
        text = match[0]
        # The time of python-liquid grows fast with the length of a run of blanks.
        if _LONG_BLANK.search(text):
            raise Unreadable(line, "a tag has 200 spaces in a row; remove spaces")
        if match["output"]:
            _require_few_brackets(text, line)
            pieces.append(Markup("output", text, "", text[2:-2].strip("-").strip(), start, line))
            continue
        tag = _TAG.match(text)
        name, rest = (tag[1], tag[2].strip()) if tag else ("", "")
        if name in ("raw", "comment", "doc"):
            end = re.compile(rf"\{{%-?\s*end{name}\s*-?%\}}").search(source, at)
            if end is None:
                raise Unreadable(line, f"{{% {name} %}} is never closed; add {{% end{name} %}}")
            at = end.end()
            pieces.append(Markup("verbatim", source[start:at], name, "", start, line))
            continue
        if name == "connected_content":
            _require_closed_outputs(text, line)
        elif name != "abort_message":
            _require_few_brackets(text, line)
        pieces.append(Markup("tag", text, name, rest, start, line))
    _require_closed_blocks(pieces)
    return pieces


def rewritten(source: str, pieces: Iterable[Markup]) -> str:
    """Return `source` as plain Liquid with the same line numbers. `pieces`: the Liquid in `source`."""
    plain, at = "", 0
    for markup in pieces:
        plain += source[at : markup.start] + _plain(markup)
        at = markup.start + len(markup.text)
    return plain + source[at:]


def attributes(text: str) -> list[tuple[str, str]]:
    """Return the prefix ("" if missing) and the name of each `${…}` in a piece of Liquid."""
    return [(prefix, name.strip()) for prefix, name in _ATTRIBUTE.findall(text)]


def line_at(source: str, index: int) -> int:
    """Return the line of an index in `source`, counted from 1."""
    return source.count("\n", 0, index) + 1


def _require_closed_blocks(pieces: Collection[Markup]) -> None:
    open_blocks: list[Markup] = []
    for markup in pieces:
        if markup.name in _BLOCKS:
            open_blocks.append(markup)
        elif open_blocks and markup.name == f"end{open_blocks[-1].name}":
            open_blocks.pop()
    if open_blocks:
        name = open_blocks[-1].name
        problem = f"{{% {name} %}} is never closed; add {{% end{name} %}}"
        raise Unreadable(open_blocks[-1].line, problem, pieces)


def _require_closed_outputs(tag: str, line: int) -> None:
    for output in OUTPUT.finditer(tag):
        if not output["closed"]:
            line += tag.count("\n", 0, output.start())
            raise Unreadable(line, "{{ in a tag is never closed; write }} after the value, before the tag ends with %}")
        _require_few_brackets(output[0], line)


def _require_few_brackets(expression: str, line: int) -> None:
    if expression.count("(") + expression.count("[") > _MAX_BRACKETS:
        raise Unreadable(line, f"an expression has more than {_MAX_BRACKETS} brackets; use fewer")


def _plain(markup: Markup) -> str:
    if markup.name == "comment":
        # Liquid ignores the text of a comment, but python-liquid scans it for tags, slowly.
        opening, closing = markup.text.index("%}") + 2, markup.text.rindex("{%")
        blank = "\n" * markup.text.count("\n", opening, closing)
        return markup.text[:opening] + blank + markup.text[closing:]
    if markup.kind == "verbatim" or markup.name == "abort_message":
        return markup.text
    text = _ATTRIBUTE.sub(_attribute_lookup, markup.text)
    if markup.name == "connected_content":  # outside of outputs, `.in` is the end of a host
        return OUTPUT.sub(lambda output: _with_quoted_words(output[0]), text)
    return _with_quoted_words(text)


def _attribute_lookup(match: re.Match[str]) -> str:
    name = match[2].strip().replace('"', "")
    return f'{match[1] or ATTRIBUTES}["{name}"]'


def _with_quoted_words(text: str) -> str:
    return _WORD_OF_LIQUID.sub(lambda match: match[1] or f'["{match[2]}"]', text)
