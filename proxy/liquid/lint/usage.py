"""Finds variables that exist but are used incorrectly: empty, compared with the wrong text, or printed whole."""

from __future__ import annotations

import re
from collections.abc import Collection

from proxy.liquid.lint.paths import write_path
from proxy.liquid.lint.place import finding
from proxy.liquid.lint.scope import Read
from proxy.liquid.lint.suggestions import OPEN, first_missing
from proxy.liquid.lint.values import Missing, keys, list_names, similar
from proxy.liquid.scanner import Markup, rewrite
from proxy.liquid.types import Finding

_COMPARISON = re.compile(r"""\s*(?P<sign>[=!]=|contains)\s*(?P<literal>"[^"]{0,200}"|'[^']{0,200}')""")
_DEFAULT = re.compile(r"\|\s*default\b")


def find_pointless_comparison(source: str, read: Read) -> Finding | None:
    """Return the finding about a comparison with a text that the variable never equals."""
    match = _COMPARISON.match(source, read.path.end)
    if match is None or read.markup.name not in ("if", "elsif", "unless"):
        return None
    try:
        values = read.scope.of(read.path) or ()
    except Missing:
        return None
    start, end = match.start("literal"), match.end("literal")
    literal = match["literal"][1:-1]
    if match["sign"] != "contains" and literal in ("true", "false") and values and isinstance(values[0], bool):
        return finding(
            source, (start, end), "text-against-boolean",
            f"{read.path} is true or false, so it never equals the text {match['literal']}",
            f"write {literal} without quotes", replacement=literal,
        )  # fmt: skip
    known = [entry for value in values if isinstance(value, list) for entry in value if isinstance(entry, str)]
    if match["sign"] == "contains" and literal not in known and (suggestion := similar(literal, known)):
        return finding(
            source, (start + 1, end - 1), "unknown-id", f"{read.path} does not contain {literal}",
            f"write {suggestion}",
            replacement=suggestion,
        )  # fmt: skip
    return None


def whole(source: str, read: Read) -> Finding | None:
    """Return the finding about an object or a list that is used as a whole."""
    path, markup = read.path, read.markup
    try:
        values = read.scope.of(path)
    except Missing:
        return None
    span, listing = (path.start, path.end), list_names(keys(values))
    if markup.name in ("for", "tablerow") and not path.keys and "items" in keys(values):
        return finding(
            source, span, "whole-object", f"{path} is an object, so the loop goes through its keys",
            f"write {path}.items", replacement=f"{path}.items",
        )  # fmt: skip
    if markup.kind != "output" or markup.rest != source[path.start : path.end] or not values:
        return None
    if isinstance(values[0], dict):
        return finding(
            source, span, "whole-object", f"{path} is an object, so Liquid prints all its keys and values",
            f"write {path}.KEY with one of the keys {listing}",
        )  # fmt: skip
    if isinstance(values[0], list) and len(values[0]) > 1:
        fixed = f"{path} | join: ', '"
        return finding(
            source, span, "whole-list", f"{path} is a list, so Liquid prints its entries without a separator",
            f"write {{{{ {fixed} }}}}", level="note", replacement=fixed,
        )  # fmt: skip
    return None


def prints_nothing(read: Read, empty: Collection[tuple[int, str]]) -> bool:
    """Return whether an output printed nothing, because its variable has no value. `empty`: as in `name_findings`."""
    markup = read.markup
    if markup.kind != "output" or _DEFAULT.search(markup.rest):
        return False
    plain = rewrite(markup.text, [Markup(markup.kind, markup.text, markup.name, markup.rest, 0, 1)])
    if (markup.line, plain) not in empty:
        return False
    try:
        values = read.scope.of(read.path)
    except Missing:
        index, _ = first_missing(read.path.root, read.path.keys, read.scope) or (0, None)
        return index > 0 and read.path.keys[index - 1] in OPEN
    return values is not None and all(value is None or value == "" or value == [] for value in values)


def empty_output(source: str, read: Read) -> Finding:
    """Return the finding about an output that printed nothing."""
    markup = read.markup
    place = first_missing(read.path.root, read.path.keys, read.scope)
    why = ""
    if place and keys(place[1]):
        why = f"; {write_path(read.path.root, read.path.keys[: place[0]])} has {list_names(keys(place[1]))}"
    opening = "{{-" if markup.text.startswith("{{-") else "{{"
    closing = "-}}" if markup.text.endswith("-}}") else "}}"
    fixed = f"{opening} {markup.rest} | default: '…' {closing}"
    return finding(
        source, (markup.start, markup.start + len(markup.text)), "empty",
        f"{markup.rest} is empty for this user{why}", f"add a default: {fixed}", replacement=fixed,
    )  # fmt: skip
