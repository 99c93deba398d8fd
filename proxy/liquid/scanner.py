"""Finds the Liquid in a template, and rewrites Braze's `${attribute}` as plain Liquid."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

ATTRIBUTES = "__braze__"
"""The variable for attributes in `${…}` without a prefix."""
CONTENT_BLOCK_TAG = "content_block"
"""The tag for an output of a whole Content Block, whose text is Liquid."""
HTML_COMMENT = "html_comment"
"""The name of a piece that is an HTML comment. Braze removes HTML comments before it reads Liquid.

Source: Braze's documentation, Personalize > Liquid > "Use Liquid".
"""
_CHARACTER = r"\$(?!\{)|\$\{[^}]*+\}|\}(?!\})"
"""A character of an output, or an attribute: the first brace after `${user_id` closes it."""
_INNER = rf"\{{\{{((?:[^${{}}]|{_CHARACTER})*+)\}}\}}"
_QUOTED = "|".join(rf"{quote}(?:\{{\{{[^{quote}{{}}]*+\}}\}}|[^{quote}}}]|\}}(?!\}}))*+{quote}" for quote in "\"'")
_NESTED = rf"""(?:{_QUOTED}|{_INNER}|[^${{}}]|\{{(?!\{{)|{_CHARACTER})*+(?=\}}\}})"""
OPEN_OUTPUT = rf"\{{\{{(?:{_NESTED}|(?:[^$}}]|{_CHARACTER})*+)"
"""Pattern of a `{{ … ` without its `}}`, which can contain other outputs, as in `{{ a | plus: {{b}} }}`."""
OUTPUT = re.compile(OPEN_OUTPUT + r"(?:(?P<closed>\}\})|.*)", re.DOTALL)
"""A `{{ … }}`, or an unclosed `{{` with all text after it, so that a search takes linear time."""

_BLOCKS = frozenset({"if", "unless", "case", "for", "tablerow", "capture", "ifchanged", "translation"})
_MARKUP = re.compile(OPEN_OUTPUT + r"(?P<output>\}\})?|\{(?=%)(?:.*?(?P<tag>%\})|)|<!--", re.DOTALL)
_TAG = re.compile(r"\{%-?\s*(#|\w+)(.*?)-?%\}\Z", re.ASCII | re.DOTALL)
_CONTENT_BLOCK = re.compile(r"\{\{(-?)\s*content_blocks\.\$\{([^{}\n]*)\}\s*(?:\|\s*id\s*:[^|}]*)?(-?)\}\}")
_ATTRIBUTE = re.compile(r"(?:(?<!\w)(\w+)\.)?\$\{([^{}\n]*)\}")
_BRACKETED = re.compile(rf"""("[^"]*+"|'[^']*+')|{_INNER}""")
"""Text in quotes, or an output inside a tag or output."""
_COMMENTED = re.compile(r"\{%-?\s*(?P<name>\w*).*?(?P<tag>%\})|\{\{.*?\}(?P<output>\})?|\{[{%]", re.ASCII | re.DOTALL)
_WITH_OUTPUTS = frozenset(
    {"connected_content", "catalog_items", "catalog_selection_items", "promotion", "landing_page_url", "message_extras"}
)
"""The tags whose text is not an expression, but text with outputs."""
_CLOSING = {"{{": "}}", "{%": "%}"}
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


class TooLarge(Unreadable):
    """The template exceeds a limit of the preview. Braze may accept the template."""


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
    last_comment_end = source.rfind("-->")
    while match := _MARKUP.search(source, at):
        start, at = match.span()
        line = line_at(source, start)
        if match[0] == "<!--":
            if at <= last_comment_end:
                at = source.index("-->", at) + 3
                pieces.append(Markup("verbatim", source[start:at], HTML_COMMENT, "", start, line))
            continue
        if not match.lastgroup:
            opening = source[start : start + 2]
            raise Unreadable(line, f"{opening} is never closed; add {_CLOSING[opening]}")
        text = match[0]
        # The time of python-liquid grows fast with the length of a run of blanks.
        if _LONG_BLANK.search(text):
            raise TooLarge(line, "a tag has 200 spaces in a row; remove spaces")
        if match["output"]:
            _require_few_brackets(text, line)
            pieces.append(Markup("output", text, "", text[2:-2].strip("-").strip(), start, line))
            continue
        tag = _TAG.match(text)
        if tag is None:
            raise Unreadable(line, "{% has no tag name; write the name, and delete any no-break space before it")
        name, rest = tag[1], tag[2].strip()
        if name in ("raw", "comment"):
            at = _end_of_block(source, name, at)
            if not at:
                raise Unreadable(line, f"{{% {name} %}} is never closed; add {{% end{name} %}}")
            pieces.append(Markup("verbatim", source[start:at], name, "", start, line))
            continue
        if name == "connected_content":
            _require_closed_outputs(text, line)
        elif name != "abort_message":
            _require_few_brackets(text, line)
        pieces.append(Markup("tag", text, name, rest, start, line))
    _require_closed_blocks(pieces)
    return pieces


def rewrite(source: str, pieces: Iterable[Markup]) -> str:
    """Return `source` as plain Liquid with the same line numbers. `pieces`: the Liquid in `source`."""
    plain, at = [], 0
    for markup in pieces:
        plain += [source[at : markup.start], _plain(markup)]
        at = markup.start + len(markup.text)
    return "".join([*plain, source[at:]])


def attributes(text: str) -> list[tuple[str, str]]:
    """Return the prefix ("" if missing) and the name of each `${…}` in a piece of Liquid."""
    return [(prefix, name.strip()) for prefix, name in _ATTRIBUTE.findall(text)]


def line_at(source: str, index: int) -> int:
    """Return the line of an index in `source`, counted from 1."""
    return bisect_left(_newlines(source), index) + 1


@lru_cache(maxsize=4)
def _newlines(source: str) -> list[int]:
    return [match.start() for match in re.finditer("\n", source)]


def _end_of_block(source: str, name: str, at: int) -> int:
    """Return the index after the end of a block whose content is text; 0 without an end. `at`: after its start."""
    if name != "comment":
        end = re.compile(rf"\{{%-?\s*end{name}\s*-?%\}}").search(source, at)
        return end.end() if end else 0
    depth = 1
    while depth and (tag := _COMMENTED.search(source, at)):
        at = tag.end()
        if not tag["tag"] and not tag["output"]:
            problem = f"{tag[0][:2]} in a comment is never closed; add {_CLOSING[tag[0][:2]]}"
            raise Unreadable(line_at(source, tag.start()), problem)
        if tag["name"] == "raw":
            at = _end_of_block(source, "raw", at)
            if not at:
                return 0
        depth += {"comment": 1, "endcomment": -1}.get(tag["name"] or "", 0)
    return 0 if depth else at


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
        raise TooLarge(line, f"an expression has more than {_MAX_BRACKETS} brackets; use fewer")


def _plain(markup: Markup) -> str:
    if markup.name == "comment":
        # Liquid ignores the text of a comment, but python-liquid scans it for tags, slowly.
        opening, closing = markup.text.index("%}") + 2, markup.text.rindex("{%")
        blank = "\n" * markup.text.count("\n", opening, closing)
        return markup.text[:opening] + blank + markup.text[closing:]
    if markup.name == HTML_COMMENT:  # a Liquid comment keeps the line numbers and prints nothing
        return _as_comment(markup.text)
    if markup.name == "raw":
        return _without_html_comments(markup.text)
    if block := _CONTENT_BLOCK.fullmatch(markup.text):
        return f"{{%{block[1]} {CONTENT_BLOCK_TAG} {block[2].strip()} {block[3]}%}}"
    if markup.kind == "verbatim" or markup.name == "abort_message":
        return markup.text
    text = _ATTRIBUTE.sub(_attribute_lookup, markup.text)
    if markup.name in _WITH_OUTPUTS:
        return OUTPUT.sub(lambda output: _without_brackets(output[0]) if output["closed"] else output[0], text)
    return _without_brackets(text)


def _without_brackets(text: str) -> str:
    """Return a tag or output without the brackets of the outputs inside it."""
    inner = _BRACKETED.sub(lambda match: match[1] or match[2].strip("-").strip(), text[2:-2])
    if text.startswith("{{") and "}}" in inner and "%}" not in inner:
        # python-liquid ends an output at the first }}, also inside a quoted text.
        dashes = ["-" * (inner[at] == "-") for at in (0, -1)]
        return f"{{%{dashes[0]} echo {inner.strip('-')} {dashes[1]}%}}"
    return text[:2] + inner + text[-2:]


def _without_html_comments(raw: str) -> str:
    """Return a raw block whose HTML comments are Liquid comments. No regular expression, which would be quadratic."""
    plain, at = [], 0
    while (start := raw.find("<!--", at)) >= 0 and (end := raw.find("-->", start + 4)) >= 0:
        plain += [raw[at:start], "{% endraw %}", _as_comment(raw[start:end]), "{% raw %}"]
        at = end + 3
    return "".join([*plain, raw[at:]])


def _as_comment(text: str) -> str:
    return "{% comment %}" + "\n" * text.count("\n") + "{% endcomment %}"


def _attribute_lookup(match: re.Match[str]) -> str:
    name = match[2].strip().replace('"', "")
    return f'{match[1] or ATTRIBUTES}["{name}"]'
