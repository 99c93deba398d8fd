"""Merges the findings of the lint and of the rendering, so that each problem is reported once, with its range."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from proxy.liquid.lint.place import finding
from proxy.liquid.scanner import Markup
from proxy.liquid.types import Finding

_CAUSES = frozenset(
    {"operator", "curly-quotes", "braces", "tag-in-output", "unknown-tag", "filter-in-tag", "unsafe-name"}
    | {"parentheses", "text-against-number", "filter-signs", "unknown-name", "unknown-key"}
)
"""Rules that explain why Liquid skips a piece or prints an error."""
_SYMPTOMS = frozenset({"syntax", "liquid-error"})
_URLS = frozenset(
    {
        "without-question-mark",
        "quoted-url",
        "space-in-url",
        "without-scheme",
        "without-url",
        "unknown-route",
        "elsewhere",
    }
)
_IN_TAGS = _URLS | {
    "unknown-parameter",
    "cut-body",
    "json-as-form",
    "body-without-post",
    "curly-quotes",
    "braces",
    "unknown-name",
    "misspelt-attribute",
    "no-break-space",
}
"""Rules about tags that explain a failed call or a blank id."""
_UNREADABLE = frozenset({"braces", "tag-in-output", "unknown-tag"})


def merge_findings(findings: Iterable[Finding], source: str, pieces: Sequence[Markup]) -> list[Finding]:
    """Return the findings in the order of the message, without duplicates of another finding."""
    findings = list(findings)
    skipped = {entry.line for entry in findings if entry.rule == "syntax"}
    findings = [
        entry for entry in findings if entry.rule != "unknown-name" or entry.replacement or entry.line not in skipped
    ]
    rules = {(entry.line, entry.rule) for entry in findings if entry.length}
    explained = {(line, symptom) for line, rule in rules if rule in _CAUSES for symptom in _SYMPTOMS}
    explained |= {
        (line, symptom) for line, rule in rules if rule in _URLS for symptom in ("elsewhere", "no-break-space")
    }
    explained |= {
        (line, symptom) for line, rule in rules if rule in _IN_TAGS for symptom in ("failed-call", "blank-id")
    }
    unreadable = any(rule in _UNREADABLE for _, rule in rules)
    fixes = {(entry.line, entry.rule, entry.fix) for entry in findings if entry.length}
    wanted = [
        entry if entry.length else _located(entry, source, pieces)
        for entry in findings
        if (entry.length or ((entry.line, entry.rule) not in explained and not _repeats(entry, rules, fixes)))
        and not (unreadable and entry.rule == "unreadable")
        and not (entry.rule == "unescaped" and (entry.line, "json-as-form") in rules)
        and not (entry.rule == "unknown-id" and (entry.line, "no-break-space") in rules)
    ]
    return sorted(dict.fromkeys(wanted), key=lambda entry: (entry.line, not entry.length, entry.column))


def _repeats(entry: Finding, rules: set[tuple[int, str]], fixes: set[tuple[int, str, str]]) -> bool:
    """Return whether a finding without a range repeats one with a range. A line can have several attributes."""
    if entry.rule == "misspelt-attribute":
        return (entry.line, entry.rule, entry.fix) in fixes
    return (entry.line, entry.rule) in rules


def _located(entry: Finding, source: str, pieces: Sequence[Markup]) -> Finding:
    """Return a finding with the range of the only piece of Liquid in its line, if there is only one."""
    in_line = [markup for markup in pieces if markup.line == entry.line and markup.kind != "verbatim"]
    if len(in_line) != 1:
        return entry
    span = in_line[0].start, in_line[0].start + len(in_line[0].text)
    place = finding(source, span, entry.rule, entry.problem, entry.fix)
    return replace(entry, column=place.column, length=place.length)
