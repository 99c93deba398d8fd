"""Finds wrong braces. Works on the text of a message, because such a message may be unreadable as Liquid."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.liquid.lint.place import finding
from proxy.liquid.types import Finding

_VERBATIM = re.compile(r"\{%-?\s*(raw|comment|doc)\s*-?%\}")
_PREFIX = r"(?:\w{1,60}\.)?"
_ATTRIBUTE = re.compile(
    rf"\{{\{{(?P<before>-?\s{{0,9}}{_PREFIX}\$\{{)\s{{0,9}}(?P<name>\w[\w ]{{0,60}}?)\s{{0,9}}"
    r"(?P<filters>\|[^{}\n]{0,300}?)?(?P<end>-?\}{2,3})(?!\})"
)
_OUTPUT_AS_TAG = re.compile(r"\{\{(?P<inside>[^{}%]{0,300})%\}")
_TAG_IN_OUTPUT = re.compile(r"\{\{%(?P<inside>-?\s{0,9}\w[^{}%]{0,300})%\}\}")
_SPACE_IN_OPENING = re.compile(r"(?<!\{)\{[ \t]{1,9}%(?P<inside>-?\s{0,9}\w[^{}%]{0,300})%[ \t]{0,9}\}")
_TAG_AS_OUTPUT = re.compile(r"\{%(?P<inside>-?\s{0,9}\w[^{}%]{0,300})\}\}")
_SHORT_OUTPUT = re.compile(r"(?<!\{)\{\{(?!\{)(?P<inside>(?:[^{}$\n]|\$\{[^{}\n]{0,60}\}){1,300})(?<![%}])\}(?!\})")
_SHORT_TAG = re.compile(r"\{%(?P<inside>-?\s{0,9}(?!connected_content)\w[^{}%\n]{0,300})(?:\}(?!\})|%(?!\}))")
_SHORT_OPENING = re.compile(
    r"(?<![{%$])\{(?P<inside>\s{0,9}[A-Za-z_][\w.]{0,200}\s{0,9}(?:\|[^{}\n]{0,200})?)\}\}(?!\})"
)


def delimiter_findings(source: str) -> Iterator[Finding]:
    """Yield a finding for each `{{`, `{%` or `${` whose closing delimiter is missing or wrong."""
    text = _without_verbatim(source)
    for match in _ATTRIBUTE.finditer(text):
        filters = (match["filters"] or "").strip()
        if match["end"].count("}") == 3 and not filters:
            continue  # correct
        dash = "-" if match["end"].startswith("-") else ""
        fixed = f"{{{{{match['before']}{match['name']}}}{' ' * bool(filters)}{filters}{dash}}}}}"
        yield _finding(source, match, f"${{{match['name']} has no closing brace after the name", fixed)
    for pattern, problem, opening, closing in (
        (_OUTPUT_AS_TAG, "{{ is closed with %}", "{{", "}}"),
        (_TAG_IN_OUTPUT, "{{% is not the beginning of a tag", "{%", "%}"),
        (_SPACE_IN_OPENING, "{ % is not the beginning of a tag", "{%", "%}"),
        (_TAG_AS_OUTPUT, "{% is closed with }}", "{%", "%}"),
        (_SHORT_OUTPUT, "{{ is closed with one } instead of two", "{{", "}}"),
        (_SHORT_TAG, "{% is not closed with %}", "{%", "%}"),
        (_SHORT_OPENING, "}} is opened with one { instead of two", "{{", "}}"),
    ):
        for match in pattern.finditer(text):
            yield _finding(source, match, problem, opening + match["inside"] + closing)


def opening_span(source: str, line: int) -> tuple[int, int]:
    """Return the range of the first Liquid in a line, or of the whole line."""
    start = 0
    for _ in range(line - 1):
        start = source.index("\n", start) + 1
    end = source.find("\n", start)
    text = source[start : end if end >= 0 else len(source)]
    match = re.search(r"\{[{%]", text)
    if match is None:
        return start, start + len(text)
    closing = text.find("%}" if match[0] == "{%" else "}}", match.end())
    return start + match.start(), start + (closing + 2 if closing >= 0 else len(text))


def _finding(source: str, match: re.Match[str], problem: str, fixed: str) -> Finding:
    return finding(source, match.span(), "braces", problem, f"write {fixed}", replacement=fixed)


def _without_verbatim(source: str) -> str:
    """Return the source with raw blocks and comments replaced by blanks."""
    text, at = "", 0
    while opening := _VERBATIM.search(source, at):
        closing = re.compile(rf"\{{%-?\s*end{opening[1]}\s*-?%\}}").search(source, opening.end())
        end = closing.end() if closing else len(source)
        text += source[at : opening.start()] + " " * (end - opening.start())
        at = end
    return text + source[at:]
