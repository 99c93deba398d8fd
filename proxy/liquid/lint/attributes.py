"""Finds misspelt Braze attributes, such as `${frist_name}`, and attributes outside of `{{ }}`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from proxy.liquid.braze_objects import DOCUMENTED, suggest_attribute, suggest_object
from proxy.liquid.lint.place import finding
from proxy.liquid.scanner import OUTPUT, Markup, attributes
from proxy.liquid.types import Finding

NAMES = tuple(sorted(DOCUMENTED[""]))
"""The names that Braze documents for `${…}` without a prefix."""
_NAMES = "|".join(sorted((*NAMES, "external_id", "email"), key=len, reverse=True))
_BARE = re.compile(
    rf"(?<!\{{)\{{?\$\{{\s{{0,9}}(?P<name>{_NAMES})\s{{0,9}}\}}\}}?|(?<![{{$])\{{\$?\s{{0,9}}(?P<bare>{_NAMES})\s{{0,9}}\}}(?!\}})"
)
_ODD_OUTPUT = re.compile(
    rf"\{{\{{\s{{0,9}}(?:\$|\{{\$?|\$?\()\s{{0,9}}(?P<name>{_NAMES})\s{{0,9}}[)}}]?\s{{0,9}}\}}\}}\}}?"
)
_KNOWN = frozenset({("", "user_id"), ("most_recently_used_device", "id"), ("targeted_device", "id")})


def attribute_findings(source: str, markup: Markup) -> Iterator[Finding]:
    """Yield a finding for each misspelt attribute in a piece of Liquid."""
    at = 0
    for prefix, name in attributes(markup.text):
        written = re.compile(rf"\$\{{\s*{re.escape(name)}\s*\}}").search(markup.text, at)
        start, end = written.span() if written else (0, len(markup.text))
        at = end
        if (prefix, name) in _KNOWN:
            continue
        span = markup.start + start, markup.start + end
        suggestion = None if prefix else suggest_attribute(name)
        if suggestion:
            yield finding(
                source, span, "misspelt-attribute", f"${{{name}}} is not a Braze attribute, so it is empty",
                f"write ${{{suggestion}}}", replacement=f"${{{suggestion}}}",
            )  # fmt: skip
            continue
        attribute = f"{prefix}." * bool(prefix) + f"${{{name}}}"
        if suggestion := suggest_object(prefix):
            begin = markup.start + markup.text.rfind(prefix, 0, start)
            yield finding(
                source, (begin, begin + len(prefix)), "misspelt-attribute",
                f"Braze has no {prefix}, so {attribute} is empty", f"write {suggestion}.${{{name}}}",
                replacement=suggestion,
            )  # fmt: skip


def bare_attribute_findings(source: str, pieces: Sequence[Markup]) -> Iterator[Finding]:
    """Yield a finding for each attribute, such as `{user_id}`, outside of `{{ }}`."""
    for match in _ODD_OUTPUT.finditer(source):
        fixed = f"{{{{${{{suggest_attribute(match['name']) or match['name']}}}}}}}"
        yield finding(
            source, match.span(), "braces", f"{match[0]} does not print a Braze attribute", f"write {fixed}",
            replacement=fixed,
        )  # fmt: skip
    at = 0
    for markup in pieces:
        yield from _bare(source, source[at : markup.start], at, "")
        at = markup.start + len(markup.text)
        if markup.name == "connected_content" and markup.kind == "tag":
            masked = OUTPUT.sub(lambda output: " " * len(output[0]), markup.text)
            yield from _bare(source, masked, markup.start, " | url_param_escape")
    yield from _bare(source, source[at:], at, "")


def _bare(source: str, text: str, start: int, filters: str) -> Iterator[Finding]:
    for match in _BARE.finditer(text):
        name_written = match["name"] or match["bare"]
        name = suggest_attribute(name_written) or name_written
        fixed = f"{{{{${{{name}}}{filters}}}}}"
        yield finding(
            source, (start + match.start(), start + match.end()), "braces",
            f"{match[0]} is plain text, so Braze sends it unchanged", f"write {fixed}", replacement=fixed,
        )  # fmt: skip
