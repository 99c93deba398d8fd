"""Finds conditions and names that Liquid parses differently than intended."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.liquid.scanner import Markup
from proxy.liquid.types import Finding

_CONDITIONS = frozenset({"if", "elsif", "unless"})
_QUOTED = re.compile(r"""(["'])(.*?)\1""", re.DOTALL)
_ORDER = re.compile(r"""(["'])[^"']*\1\s*[<>]=?|[<>]=?\s*(["'])[^"']*\2""")
_NUMBER_AS_TEXT = re.compile(
    r"""(?:\.computations[.\[]|\.propensity\b)[^\s=!]{0,200}\s*(?:==|!=)\s*["']-?(?:0|[1-9]\d*)(?:\.\d+)?["']"""
)
_RANGE = re.compile(r"\(\s*[\w.-]{1,100}?\s*\.\.\s*[\w.-]{1,100}?\s*\)")

# Names after a dot. A search starts at every letter, so the length is limited.
_COLON = re.compile(r"[\w\])-]\.([\w-]{1,100}:\w[\w-]{0,100})")
_BLANK = re.compile(
    r"(?<![\w.-])[A-Za-z_][\w-]{0,100}(?:\.[\w-]{1,100}){0,20}?"
    r"\.([\w-]{1,100}[ \t]+(?!(?:and|or|contains)\b)[A-Za-z_]\w{0,100})"
)
_DIGIT = re.compile(r"[A-Za-z_\])][\w-]{0,100}\.(\d[\w-]{0,100}[A-Za-z_][\w-]{0,100})")
_FOREIGN = re.compile(r"[\w\])]\.([\w-]{0,100}[^\x00-\x7f][^\s|}=<>!,:]{0,100})")
_BRACKET = re.compile(r"[\w\])]\.(\[[^\]]{0,100}\][^|}=<>!,\"']{0,100})")
_BRACKETED = re.compile(r"""\[\s*(["'])([^"']{0,100}[\[\]][^"']{0,100})\1\s*\]""")


def condition_findings(markup: Markup) -> Iterator[Finding]:
    """Yield a finding for each comparison or grouping that Liquid cannot do."""
    if markup.name not in _CONDITIONS:
        return
    if _ORDER.search(markup.rest):
        yield Finding(
            markup.line,
            "text-against-number",
            "text in quotes is compared with < or >: with a number, Liquid prints an error into the message",
            "write the number without quotes: this service answers numbers as numbers",
        )
    elif _NUMBER_AS_TEXT.search(markup.rest):
        yield Finding(
            markup.line,
            "text-against-number",
            "a computed number is compared with text in quotes, and never equals it",
            "write the number without quotes",
        )
    if re.search(r"[()]", _RANGE.sub("", _QUOTED.sub("", markup.rest))):
        yield Finding(
            markup.line,
            "parentheses",
            "Liquid knows no parentheses in a condition, and reads it otherwise than it looks",
            "nest two ifs, or ask for the one boolean that already says it: ok, personalized, is_member",
        )


def name_findings(markup: Markup) -> Iterator[Finding]:
    """Yield a finding for each name that Liquid cannot parse after a dot or in brackets."""
    bare = _QUOTED.sub("''", markup.rest)
    rules = [_COLON, _DIGIT, _FOREIGN, _BRACKET]
    if markup.kind == "output" or markup.name in _CONDITIONS | {"assign", "case"}:
        rules.append(_BLANK)
    for rule in rules:
        for match in rule.finditer(bare):
            yield Finding(
                markup.line,
                "unsafe-name",
                f"Liquid cannot read .{match[1].strip()[:80]} after a dot, and prints nothing",
                "use the name that properties gives it (gp: dropped, each other character a _), "
                "or properties_by_name['the exact name']",
            )
    for match in _BRACKETED.finditer(markup.rest):
        yield Finding(
            markup.line,
            "unsafe-name",
            f"Liquid cannot write a name with brackets in brackets: {match[2][:80]}",
            f"{{% assign key = '{match[2][:80]}' %}} first, then [key]",
        )
