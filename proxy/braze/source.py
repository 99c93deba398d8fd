"""Where the Liquid is in a template, and Braze's `${attribute}` written as Liquid can read it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ATTRIBUTES = "__braze__"
"""The variable that holds what `${…}` names without anything in front."""

_BLOCKS = frozenset({"if", "unless", "case", "for", "tablerow", "capture", "ifchanged"})
_VERBATIM = ("raw", "comment", "doc")
_TAG = re.compile(r"\{%-?\s*(#|\w*)(.*?)-?%\}\Z", re.DOTALL)
_ATTRIBUTE = re.compile(r"(?:([A-Za-z_]\w*)\.)?\$\{([^{}\n]*)\}")
_WORD_OF_LIQUID = re.compile(
    r"""("[^"]*"|'[^']*')|(?<=[\w\]])\.(for|in|with|as|by|limit|offset|reversed|continue|cols|and|or|not|contains|if|else"""
    r"""|nil|null|true|false|empty|blank|required)(?![\w-])"""
)
"""A name after a dot that python-liquid takes for a word of its own, and Ruby's Liquid for a name."""
_OUTPUT = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_LONG_BLANK = re.compile(r"\s{200}")


class Unreadable(Exception):
    """A template that Liquid refuses as a whole. `line`: where, counted from 1."""

    def __init__(self, line: int, fault: str) -> None:
        super().__init__(fault)
        self.line = line
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Markup:
    """One piece of Liquid. `name` is empty for an output; `rest` is what it holds, without name and delimiters."""

    kind: Literal["output", "tag", "verbatim"]
    text: str
    name: str
    rest: str
    start: int
    line: int


def markups(source: str) -> Iterator[Markup]:
    """Yield the Liquid in `source` in order; a comment or raw block is one piece. Raises Unreadable."""
    at, line, counted = 0, 1, 0
    while (start := _next_opening(source, at)) >= 0:
        line += source.count("\n", counted, start)
        counted = start
        output = source.startswith("{{", start)
        at = _end_of_output(source, start) if output else source.find("%}", start) + 2
        if at < 2:
            raise Unreadable(line, f"{source[start : start + 2]} is never closed")
        text = source[start:at]
        # What reads Liquid for us tries every way to split a run of blanks.
        if _LONG_BLANK.search(text):
            raise Unreadable(line, "200 blanks in a row inside a tag are more than this preview reads")
        if output:
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
        else:
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
    """Return `source` as plain Liquid, line by line where it was. Raises Unreadable."""
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
                pieces.append(_OUTPUT.sub(lambda found: _WORD_OF_LIQUID.sub(_as_name, found[0]), text))
            else:
                pieces.append(_WORD_OF_LIQUID.sub(_as_name, text))
    pieces.append(source[at:])
    return "".join(pieces)


def attributes(text: str) -> Iterator[tuple[str, str]]:
    """Yield what is in front of each `${…}` in a piece of Liquid ("" for nothing), and the name in it."""
    for found in _ATTRIBUTE.finditer(text):
        yield found[1] or "", found[2].strip()


def _next_opening(source: str, at: int) -> int:
    places = [place for place in (source.find("{{", at), source.find("{%", at)) if place >= 0]
    return min(places, default=-1)


def _end_of_output(source: str, start: int) -> int:
    """Return where the output that begins at `start` ends; the brace of `{{${user_id}}}` is its attribute's."""
    at = start + 2
    while True:
        end, attribute = source.find("}}", at), source.find("${", at)
        if end < 0:
            return 0
        if not 0 <= attribute < end:
            return end + 2
        at = source.find("}", attribute) + 1


def _as_liquid(found: re.Match[str]) -> str:
    name = found[2].strip().replace('"', "")
    return f'{found[1] or ATTRIBUTES}["{name}"]'


def _as_name(found: re.Match[str]) -> str:
    return found[1] or f'["{found[2]}"]'


def _emptied(comment: str) -> str:
    # Its text is nothing to Liquid, but what reads Liquid for us looks for tags in it, and takes its time.
    opening, closing = comment.index("%}") + 2, comment.rindex("{%")
    return comment[:opening] + "\n" * comment.count("\n", opening, closing) + comment[closing:]
