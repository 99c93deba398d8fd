"""Finds words and signs of other languages, and suggests the Liquid for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet

from proxy.liquid import braze_filters
from proxy.liquid.lint.place import finding
from proxy.liquid.lint.scope import rest_start
from proxy.liquid.lint.values import similar
from proxy.liquid.scanner import OUTPUT, Markup
from proxy.liquid.standard_filters import STANDARD
from proxy.liquid.types import Finding

_BLOCKS = ("if", "unless", "case", "for", "tablerow", "capture", "ifchanged")
_KNOWN_TAGS = (
    *_BLOCKS, *(f"end{name}" for name in _BLOCKS), "elsif", "else", "when", "assign", "cycle", "echo", "break",
    "continue", "increment", "decrement", "connected_content", "abort_message", "endcomment", "endraw", "enddoc",
)  # fmt: skip
_VERBATIM = frozenset({"raw", "comment", "doc"})
"""Tags whose names are also likely names of variables."""
_ASSIGN = frozenset({"set", "let", "var", "const"})
_ELSIF = frozenset({"elseif", "elif", "elsunless"})
_CONDITIONS = frozenset({"if", "elsif", "unless"})
_FILTERLESS = _CONDITIONS | {"case", "when", "for", "tablerow"}
_QUOTED = re.compile(r"""(["'])(.*?)\1""", re.DOTALL)
_DOUBLE, _SINGLE = "\u201c\u201d\u201e\u201f", "\u2018\u2019\u201a\u201b"
_CURLY = re.compile(
    rf"""[{_DOUBLE}]([^{_DOUBLE}"\n]{{0,200}})[{_DOUBLE}"]|[{_SINGLE}]([^{_SINGLE}'\n]{{0,200}})[{_SINGLE}']"""
    rf"""|"([^{_DOUBLE}"\n]{{0,200}})[{_DOUBLE}]|[{_DOUBLE}{_SINGLE}]"""
)
_SIGNS = {
    "&&": "and", "||": "or", "&": "and", "=>": ">=", "=<": "<=", "===": "==", "!==": "!=", "=": "==",
    "≥": ">=", "≤": "<=", "≠": "!=", "AND": "and", "And": "and", "OR": "or", "Or": "or",
    "is": "==", "eq": "==", "equals": "==",
}  # fmt: skip
_SIGN = re.compile(r"&&?|\|\||!==|===|=>|=<|(?<![=!<>])=(?![=<>])|[≥≤≠]|(?<![\w.])(?:AND|And|OR|Or|is|eq|equals)(?=\s)")
_NOT = re.compile(r"(?:(?<![\w.])not\s+|!\s*)(?P<value>[A-Za-z_][\w.-]*)")
_OPERATOR = re.compile(r"==|!=|<>|<=|>=|[<>=]|\b(?:and|or|contains)\b")
_WITHOUT_COLON = re.compile(r"\|\s*(\w{1,60})(?=\s+[\"'\d])")
_WITHOUT_PIPE = re.compile(r"(?<=[\w\]\"'}])\s+((?:default|append|prepend|date|join|replace|truncate))(?=\s*:)")
_WITH_PARENTHESES = re.compile(r"\|\s*(\w{1,60})\s*\(\s*([^()|]{0,200}?)\s*\)")
_FILTER_NAME = re.compile(r"(?<!\|)\|(?!\|)\s*(\w{1,60}+)(?!\s*\()")
FILTERS = frozenset({*STANDARD, *braze_filters.FILTERS})
"""The filters that the preview knows."""
_TAG_WORD = re.compile(r"(?P<name>[a-z_]+)(?P<rest>\s+[^|.\s].*|\s*)\Z", re.DOTALL)


def syntax_findings(source: str, pieces: Sequence[Markup], tags: Collection[str]) -> Iterator[Finding]:
    """Yield the findings about single pieces of Liquid. `tags`: further tags that the preview knows."""
    known = {*_KNOWN_TAGS, *tags}
    open_blocks: list[str] = []
    for markup in pieces:
        if markup.kind == "verbatim":
            continue
        masked = _QUOTED.sub(lambda match: match[1] + "x" * len(match[2]) + match[1], markup.text)
        yield from _curly_quotes(source, markup, masked)
        if markup.kind == "output":
            yield from _tag_in_output(source, markup, known)
            yield from _or_in_output(source, markup, masked)
            yield from _filter_signs(source, markup, masked)
            yield from _unknown_filters(source, markup, masked)
            continue
        if markup.name in ("assign", "echo"):
            yield from _filter_signs(source, markup, masked)
        if markup.name in ("assign", "echo", "liquid"):
            yield from _unknown_filters(source, markup, masked)
        if markup.name == "connected_content":
            for output in OUTPUT.finditer(masked):
                yield from _unknown_filters(source, markup, output[0], output.start())
        if markup.name == "assign" and (sign := re.match(r"[\w-]+\s*(==+)", markup.rest)):
            at = rest_start(markup) + sign.start(1)
            yield finding(
                source, (at, at + len(sign[1])), "operator", f"assign sets a variable with =, not with {sign[1]}",
                "write =", replacement="=",
            )  # fmt: skip
        if markup.name in _BLOCKS:
            open_blocks.append(markup.name)
        elif open_blocks and markup.name.startswith("end"):
            block = open_blocks.pop()
            if markup.name == "end" and not markup.rest:
                fixed = f"{{% end{block} %}}"
                yield finding(
                    source, _span(markup), "unknown-tag", "end is not a Liquid tag", f"write {fixed}",
                    replacement=fixed,
                )  # fmt: skip
        yield from _tag_name(source, markup, known)
        rest = masked[rest_start(markup) - markup.start :]
        if markup.name in _CONDITIONS:
            yield from _operators(source, markup, rest)
        if markup.name in _FILTERLESS:
            yield from _filters(source, markup, rest)


def _curly_quotes(source: str, markup: Markup, masked: str) -> Iterator[Finding]:
    for match in _CURLY.finditer(masked):
        start = markup.start + match.start()
        original = source[start : start + len(match[0])]
        inside = original[1:-1]
        if markup.name == "connected_content" and not re.search(r"\{\{[^{}]*\Z", masked[: match.start()]):
            yield from _curly_quotes_in_tag(source, start, original, masked[: match.start()])
            continue
        mark = '"' if "'" in inside else "'"
        fixed = f"{mark}{inside}{mark}" if len(original) > 1 else "'"
        yield finding(
            source, (start, start + len(original)), "curly-quotes",
            f"Liquid does not accept the curly quotes in {original}", f"write {fixed}", replacement=fixed,
        )  # fmt: skip


def _curly_quotes_in_tag(source: str, start: int, original: str, before: str) -> Iterator[Finding]:
    inside = original[1:-1] if len(original) > 1 else ""
    if before.rstrip().endswith("connected_content"):
        return  # the finding about the quoted URL covers this
    fixed = f'"{inside}"' if before.rstrip().endswith(("{", "[", ":", ",")) else inside
    yield finding(
        source, (start, start + len(original)), "curly-quotes",
        f"{original} has curly quotes instead of plain quotes", f"write {fixed}", replacement=fixed,
    )  # fmt: skip


def _filter_signs(source: str, markup: Markup, masked: str) -> Iterator[Finding]:
    """Yield a finding for `| default 'x'`, `| default('x')` and `name default: 'x'`."""
    for match in _WITH_PARENTHESES.finditer(masked):
        start, end = markup.start + match.start(1), markup.start + match.end()
        arguments = source[markup.start + match.start(2) : markup.start + match.end(2)]
        fixed = f"{match[1]}: {arguments}" if arguments else match[1]
        yield finding(
            source, (start, end), "filter-signs", f"the filter {match[1]} has parentheses", f"write {fixed}",
            replacement=fixed,
        )  # fmt: skip
    for match in _WITHOUT_COLON.finditer(masked):
        start, end = markup.start + match.start(1), markup.start + match.end(1)
        yield finding(
            source, (start, end), "filter-signs", f"the filter {match[1]} has no colon before its argument",
            f"write {match[1]}:", replacement=f"{match[1]}:",
        )  # fmt: skip
    for match in _WITHOUT_PIPE.finditer(masked):
        start, end = markup.start + match.start(1), markup.start + match.end(1)
        yield finding(
            source, (start, end), "filter-signs", f"the filter {match[1]} has no | before it",
            f"write | {match[1]}", replacement=f"| {match[1]}",
        )  # fmt: skip


def _unknown_filters(source: str, markup: Markup, masked: str, at: int = 0) -> Iterator[Finding]:
    """Yield a finding for each filter that the preview does not know. `at`: the index of `masked` in the piece."""
    for match in _FILTER_NAME.finditer(masked):
        name = match[1]
        if name in FILTERS:
            continue
        suggestion = similar(name, sorted(FILTERS))
        start = markup.start + at + match.start(1)
        yield finding(
            source, (start, start + len(name)), "unknown-filter",
            f"the preview does not know the filter {name} and leaves the value unchanged",
            f"write {suggestion}" if suggestion
            else "check the spelling; if the filter is Braze's own, test the message in Braze",
            replacement=suggestion,
        )  # fmt: skip


def _tag_in_output(source: str, markup: Markup, known: AbstractSet[str]) -> Iterator[Finding]:
    word = _TAG_WORD.match(markup.rest)
    if word and (word["name"] in known or word["name"] in _ELSIF) and word["name"] not in _VERBATIM:
        name = "elsif" if word["name"] in _ELSIF else word["name"]
        fixed = f"{{% {name}{word['rest'].rstrip()} %}}"
        yield finding(
            source, _span(markup), "tag-in-output",
            f"{{{{ }}}} prints a value, but {word['name']} is a tag", f"write {fixed}", replacement=fixed,
        )  # fmt: skip


def _or_in_output(source: str, markup: Markup, masked: str) -> Iterator[Finding]:
    if (at := masked.find("||")) >= 0:
        start = markup.start + at
        yield finding(
            source, (start, start + 2), "operator",
            "Liquid has no operator ||", "write | default: and the text for a missing value",
            replacement="| default:",
        )  # fmt: skip


def _tag_name(source: str, markup: Markup, known: AbstractSet[str]) -> Iterator[Finding]:
    name, rest = markup.name, markup.rest
    if (re.match(r"if\b", rest) and name in ("else", "end")) or name in _ELSIF:
        start = markup.start + markup.text.index(name, 2)
        end = start + len(name) if name in _ELSIF else rest_start(markup) + 2
        written, suggestion = source[start:end], "endif" if name == "end" else "elsif"
        yield finding(
            source, (start, end), "unknown-tag",
            f"{written} is not a Liquid tag", f"write {suggestion}", replacement=suggestion,
        )  # fmt: skip
    elif name == "end" and rest in _BLOCKS:
        fixed = f"{{% end{rest} %}}"
        yield finding(
            source, _span(markup), "unknown-tag", f"end {rest} is not a Liquid tag", f"write {fixed}",
            replacement=fixed,
        )  # fmt: skip
    elif name in _ASSIGN and "=" in rest:
        start = markup.start + markup.text.index(name, 2)
        yield finding(
            source, (start, start + len(name)), "unknown-tag", f"{name} is not a Liquid tag", "write assign",
            replacement="assign",
        )  # fmt: skip
    elif name and name not in known | _VERBATIM and name not in ("#", "end"):
        start = markup.start + markup.text.index(name, 2)
        if rest.startswith((".", "[", "|")) or not name.islower():
            fixed = f"{{{{ {name}{' ' * rest.startswith('|')}{rest} }}}}"
            yield finding(
                source, _span(markup), "unknown-tag",
                f"{{% %}} runs a tag, but {name} is not a tag", f"write {fixed} to print the value", replacement=fixed,
            )  # fmt: skip
        elif near := similar(name, sorted(known)):
            yield finding(
                source, (start, start + len(name)), "unknown-tag",
                f"{name} is not a Liquid tag", f"write {near}", replacement=near,
            )  # fmt: skip


def _operators(source: str, markup: Markup, rest: str) -> Iterator[Finding]:
    base = rest_start(markup)
    for match in _SIGN.finditer(rest):
        suggestion = _SIGNS[match[0]]
        yield finding(
            source, (base + match.start(), base + match.end()), "operator",
            f"Liquid has no operator {match[0]}", f"write {suggestion}", replacement=suggestion,
        )  # fmt: skip
    for match in _NOT.finditer(rest):
        fixed = f"{match['value']} == false"
        yield finding(
            source, (base + match.start(), base + match.end()), "operator",
            f"Liquid has no operator for not, so it cannot read {match[0]}",
            f"write {fixed}, or use unless instead of if", replacement=fixed,
        )  # fmt: skip


def _filters(source: str, markup: Markup, rest: str) -> Iterator[Finding]:
    bar = next((match for match in re.finditer(r"(?<!\|)\|(?!\|)", rest)), None)
    if bar is None:
        return
    base = rest_start(markup)
    text = source[base : base + len(markup.rest)]
    loop = re.match(r"[\w-]+\s+in\s+", rest) if markup.name in ("for", "tablerow") else None
    before = list(_OPERATOR.finditer(rest, loop.end() if loop else 0, bar.start()))
    begin = before[-1].end() if before else loop.end() if loop else 0
    after = re.compile(r"\b(?:limit|offset|reversed)\b" if loop else _OPERATOR.pattern).search(rest, bar.end())
    end = min(after.start() if after else len(text), len(text))
    operand = text[begin:end].strip()
    name = "value"
    while re.search(rf"\b{name}\b", source):
        name += "_2"
    condition = f"{text[:begin].rstrip()} {name} {text[end:].lstrip()}".strip()
    assign, tag = f"{{% assign {name} = {operand} %}}", f"{{% {markup.name} {condition} %}}"
    inner = markup.name in ("elsif", "when")
    yield finding(
        source, _span(markup), "filter-in-tag",
        f"filters do not work inside {markup.name}, so {text[bar.start() : end].strip()} has no effect",
        f"write {assign} before the {'first branch' if inner else 'tag'}, and {tag}",
        replacement=None if inner else assign + tag,
    )  # fmt: skip


def _span(markup: Markup) -> tuple[int, int]:
    return markup.start, markup.start + len(markup.text)
