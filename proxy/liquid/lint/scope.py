"""Follows a message from top to bottom: which variables exist at each place, and which values they can have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.liquid import tag_syntax
from proxy.liquid.lint.paths import Path, paths
from proxy.liquid.lint.values import Missing, Values, entries, follow
from proxy.liquid.scanner import OUTPUT, Markup

_CONDITIONS = frozenset({"if", "elsif", "unless", "case", "when", "cycle", "echo", "else"})
_BLOCKS = frozenset({"if", "unless", "case", "for", "tablerow", "capture", "ifchanged"})
_ASSIGN = re.compile(r"(?P<name>[\w-]+)\s*=\s*(?P<value>.*)", re.DOTALL)
_LOOP = re.compile(r"(?P<name>[\w-]+)\s+in\s+(?P<value>.*)", re.DOTALL)
_NAME = re.compile(r"""["']?(?P<name>[\w-]+)""")
_SAVE = re.compile(r":save\s+(?P<name>[\w-]+)")
_SET_IN_LIQUID_TAG = re.compile(r"\b(?:assign|capture|increment|decrement|for|tablerow)\s+(?P<name>[\w-]+)")
_TEXT = re.compile(r"""(["'])(?P<text>[^"']*)\1\Z""")


@dataclass(slots=True)
class Scope:
    """The variables at a place in the message. `requested`: the parameters of the tag that saved a variable."""

    values: dict[str, Values] = field(default_factory=dict)
    requested: dict[str, frozenset[str]] = field(default_factory=dict)

    def key(self, key: str | int | Path) -> str | int | None:
        """Return a key of a path, or None if the key is a variable with an unknown value."""
        if not isinstance(key, Path):
            return key
        try:
            values = self.of(key)
        except Missing:
            return None
        return values[0] if values and len(values) == 1 and isinstance(values[0], str | int) else None

    def of(self, path: Path) -> Values:
        """Return the values of a path. Raises Missing if no value has a key of the path."""
        values = self.values.get(path.root)
        for part in path.keys:
            key = self.key(part)
            values = None if key is None else follow(values, key)
        return values


@dataclass(frozen=True, slots=True)
class Read:
    """A variable that the message reads. `scope` changes when the next variable is read."""

    path: Path
    markup: Markup
    scope: Scope


@dataclass(frozen=True, slots=True)
class Setter:
    """A tag that sets a variable."""

    name: str
    markup: Markup


def setters(pieces: Iterable[Markup]) -> Iterator[Setter]:
    """Yield the tags that set variables, in order."""
    for markup in pieces:
        for name in _names_set(markup):
            yield Setter(name, markup)


def reads(pieces: Sequence[Markup], tags: Iterable[Mapping[str, Any]]) -> Iterator[Read]:
    """Yield the variables that a message reads, in order. `tags`: the reports of the tags that were rendered."""
    answers: dict[tuple[int, str], list[Any]] = {}
    for tag in tags:
        if tag["saved_as"] and tag["status"] and 200 <= tag["status"] < 300:
            value = tag["json"]
            value = value | {"__http_status_code__": tag["status"]} if isinstance(value, dict) else value
            answers.setdefault((tag["line"], tag["saved_as"]), []).append(value)
    scope = Scope()
    blocks: list[tuple[str, str, Values]] = []
    for markup in pieces:
        if markup.kind == "verbatim":
            continue
        for text, start in _expressions(markup):
            for path in paths(text, start):
                yield Read(path, markup, scope)
        _set(scope, markup, answers, in_block=bool(blocks))
        if markup.name in _BLOCKS:
            loop = _LOOP.match(markup.rest) if markup.name in ("for", "tablerow") else None
            blocks.append((markup.name, loop["name"] if loop else "", scope.values.get(loop["name"]) if loop else None))
            if loop:
                scope.values[loop["name"]] = entries(_value(scope, loop["value"]))
        elif blocks and markup.name == f"end{blocks[-1][0]}":
            _, name, outer = blocks.pop()
            if name and outer is not None:
                scope.values[name] = outer
            elif name:
                scope.values.pop(name, None)


def rest_start(markup: Markup) -> int:
    """Return the index in the message of the text after the name of a piece."""
    after_name = markup.text.index(markup.name, 2) + len(markup.name)
    return markup.start + max(0, markup.text.find(markup.rest, after_name))


def _expressions(markup: Markup) -> Iterator[tuple[str, int]]:
    start = rest_start(markup)
    if markup.kind == "output" or markup.name in _CONDITIONS:
        yield markup.rest, start
    elif markup.name in ("assign", "for", "tablerow"):
        match = (_ASSIGN if markup.name == "assign" else _LOOP).match(markup.rest)
        if match:
            yield match["value"], start + match.start("value")
    elif markup.name not in ("liquid", "capture", "abort_message"):
        for output in OUTPUT.finditer(markup.text):
            if output["closed"]:
                yield output[0][2:-2], markup.start + output.start() + 2


def _names_set(markup: Markup) -> Iterator[str]:
    match markup.name:
        case "assign":
            pattern = _ASSIGN
        case "for" | "tablerow":
            pattern = _LOOP
        case "capture" | "increment" | "decrement":
            pattern = _NAME
        case "liquid":
            yield from (match["name"] for match in _SET_IN_LIQUID_TAG.finditer(markup.rest))
            return
        case "connected_content":
            saved = tag_syntax.parse(markup.rest).options.get("save", "")
            name = re.search(r"[A-Za-z_][\w-]*", saved)
            yield name[0] if name else tag_syntax.UNSAVED
            return
        case _:
            if markup.kind == "tag" and not markup.name.startswith("end") and markup.name not in _CONDITIONS:
                # A tag of Braze, such as catalog_items, can set variables that only Braze knows.
                yield from (match["name"] for match in _SAVE.finditer(markup.rest))
                yield from ("items",) if markup.name.startswith("catalog_") else ()
            return
    if match := pattern.match(markup.rest):
        yield match["name"]


def _set(scope: Scope, markup: Markup, answers: Mapping[tuple[int, str], list[Any]], *, in_block: bool) -> None:
    if markup.name in ("for", "tablerow"):
        return
    for name in _names_set(markup):
        values: Values = None
        if markup.name == "assign" and (assign := _ASSIGN.match(markup.rest)):
            values = _value(scope, assign["value"])
        elif markup.name == "connected_content":
            values = tuple(answers.get((markup.line, name), ())) or None
        scope.requested.pop(name, None)
        if in_block and name in scope.values:
            outer = scope.values[name]
            values = None if values is None or outer is None else outer + values
        elif markup.name == "connected_content":
            scope.requested[name] = frozenset(tag_syntax.parse(markup.rest).parameters)
        scope.values[name] = values


def _value(scope: Scope, text: str) -> Values:
    """Return the values of an expression if it is a text or a variable without filters."""
    text = text.strip().removeprefix("{{").removesuffix("}}").strip()
    if literal := _TEXT.match(text):
        return (literal["text"],) if literal["text"] else None
    read = next(paths(text, 0), None)
    if read is None or (read.start, "|" in text) != (0, False) or text[read.end :].lstrip()[:1] in ("[", ".", "("):
        return None
    try:
        return scope.of(read)
    except Missing:
        return None
