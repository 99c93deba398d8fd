"""Builds findings that point at a range of the message."""

from __future__ import annotations

from typing import Literal

from proxy.liquid.scanner import line_at
from proxy.liquid.types import Finding


def finding(
    source: str,
    span: tuple[int, int],
    rule: str,
    problem: str,
    fix: str,
    *,
    level: Literal["problem", "note"] = "problem",
    replacement: str | None = None,
) -> Finding:
    """Return a finding about the characters `span` (start, end) of the message `source`."""
    start, end = span
    column = start - source.rfind("\n", 0, start)
    return Finding(line_at(source, start), rule, problem, fix, level, column, end - start, replacement)


def span(finding: Finding, source: str) -> tuple[int, int]:
    """Return the range of a finding in the message `source`."""
    start = 0
    for _ in range(finding.line - 1):
        start = source.index("\n", start) + 1
    start += finding.column - 1
    return start, start + finding.length
