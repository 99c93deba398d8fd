"""Finds conditions and names that Liquid reads differently than the author expects."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.liquid.lint.place import finding
from proxy.liquid.lint.scope import rest_start
from proxy.liquid.scanner import Markup
from proxy.liquid.types import Finding
from proxy.profile.liquid_names import safe_names

_CONDITIONS = frozenset({"if", "elsif", "unless"})
_QUOTED = re.compile(r"""(["'])(.*?)\1""", re.DOTALL)
_ORDER = re.compile(r"""(["'])[^"']*\1\s*[<>]=?|[<>]=?\s*(["'])[^"']*\2""")
_NUMBER_AS_TEXT = re.compile(
    r"""(?:\.computations[.\[]|\.propensity\b)[^\s=!]{0,200}\s*(?:==|!=)\s*["']-?(?:0|[1-9]\d*)(?:\.\d+)?["']"""
)
_QUOTED_NUMBER = re.compile(r"""(["'])(-?\d+(?:\.\d+)?)\1""")
_EXACT_NAMES = frozenset(
    {"properties_by_name", "computations_by_name", "member"} | {"recommendations_by_id", "propensities_by_id"}
)
"""Objects whose keys are written as in Amplitude."""
_INDEX = re.compile(r"\[\s*-?\d+\s*\]")
_RANGE = re.compile(r"\(\s*[\w.-]{1,100}?\s*\.\.\s*[\w.-]{1,100}?\s*\)")

# Names after a dot. A search starts at every letter, so the length is limited.
_COLON = re.compile(r"[\w\])-]\.([\w-]{1,100}:\w[\w-]{0,100})")
_BLANK = re.compile(
    r"(?<![\w.-])[A-Za-z_][\w-]{0,100}(?:\.[\w-]{1,100}){0,20}?"
    r"\.([\w-]{1,100}[ \t]+(?!(?i:and|or|contains|is|eq|equals)\b)[A-Za-z_]\w{0,100})(?!\w|\s*:)"
)
_DIGIT = re.compile(r"[A-Za-z_\])][\w-]{0,100}\.(\d[\w-]{0,100}[A-Za-z_][\w-]{0,100})")
_FOREIGN = re.compile(r"[\w\])]\.([\w-]{0,100}[^\x00-\x7f][^\s|}=<>!,:]{0,100})")
_BRACKET = re.compile(r"[\w\])]\.(\[[^\]]{0,100}\][^|}=<>!,\"']{0,100})")
_BRACKETED = re.compile(r"""\[\s*(["'])([^"']{0,100}[\[\]][^"']{0,100})\1\s*\]""")


def condition_findings(source: str, markup: Markup) -> Iterator[Finding]:
    """Yield a finding for each comparison or grouping that Liquid does not support."""
    if markup.name not in _CONDITIONS:
        return
    number = _QUOTED_NUMBER.search(markup.rest)
    span, unquoted, quoted = (markup.start, markup.start + len(markup.text)), None, "the value in quotes"
    if number:
        span = rest_start(markup) + number.start(), rest_start(markup) + number.end()
        unquoted, quoted = number[2], number[0]
    if _ORDER.search(markup.rest):
        yield finding(
            source,
            span,
            "text-against-number",
            f"{quoted} is text; Liquid prints an error if < or > compares text with a number",
            f"write {unquoted or 'the number'} without quotes",
            replacement=unquoted,
        )
    elif _NUMBER_AS_TEXT.search(markup.rest):
        yield finding(
            source,
            span,
            "text-against-number",
            f"{quoted} is text, and a number never equals text",
            f"write {unquoted or 'the number'} without quotes",
            replacement=unquoted,
        )
    if re.search(r"[()]", _RANGE.sub("", _QUOTED.sub("", markup.rest))):
        yield finding(
            source,
            (markup.start, markup.start + len(markup.text)),
            "parentheses",
            "Liquid ignores parentheses, so this condition has a different meaning",
            "write one if inside another, or test ok, personalized or is_member, which are true or false",
        )


def name_findings(source: str, markup: Markup) -> Iterator[Finding]:
    """Yield a finding for each name that Liquid cannot parse after a dot or in brackets."""
    bare = _QUOTED.sub(lambda match: match[1] + "x" * len(match[2]) + match[1], markup.rest)
    rules = [_COLON, _DIGIT, _FOREIGN, _BRACKET]
    if markup.kind == "output" or markup.name in _CONDITIONS | {"assign", "case"}:
        rules.append(_BLANK)
    for rule in rules:
        for match in rule.finditer(bare):
            start = rest_start(markup) + match.start(1) - 1
            fixed = _fixed(bare[: match.start(1) - 1], match[1].strip())
            yield finding(
                source,
                (start, start + 1 + len(match[1].rstrip())),
                "unsafe-name",
                f"Liquid cannot read {match[1].strip()[:80]} after a dot, so it prints nothing",
                f"write {fixed}",
                replacement=fixed,
            )
    for match in _BRACKETED.finditer(markup.rest):
        start = rest_start(markup) + match.start()
        yield finding(
            source,
            (start, start + len(match[0])),
            "unsafe-name",
            f"Liquid cannot read the name {match[2][:80]} in brackets, because the name contains brackets",
            f"write {{% assign key = '{match[2][:80]}' %}} before this, and [key] here",
        )


def _fixed(before: str, name: str) -> str:
    """Return keys that Liquid can read instead of `.name`. `before`: the expression before the dot."""
    if literal := _INDEX.match(name):
        return literal[0]
    container = re.search(r"[\w-]*\Z", before)
    if container and container[0] in _EXACT_NAMES:
        return f"['{name}']"
    only_variable = not before[: container.start() if container else 0].rstrip().endswith((".", "]"))
    safe = safe_names([name])[name]
    return f".properties.{safe}" if only_variable and container and container[0] != "properties" else f".{safe}"
