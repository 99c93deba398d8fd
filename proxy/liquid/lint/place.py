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
