"""Parses the checked fragments of README.md and docs/.

A line `<!-- test: NAME -->` marks a fragment. The fragment contains the code blocks and the first table or list after
the line, up to the next such line or heading. Prose in between is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT

README = ROOT / "README.md"
PAGES = {path: path.read_text(encoding="utf-8") for path in (README, *sorted((ROOT / "docs").glob("*.md")))}

_FENCE = re.compile(r"\s*```(\w*)")
_MARKER = re.compile(r"\s*<!-- test: (.+) -->$")
_HEADING = re.compile(r"#+ (.+)")
_CELL_ENDS = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Fragment:
    """Code blocks as (language, text), the rows of the first table without its head, and the items of a list."""

    page: Path
    name: str
    blocks: list[tuple[str, str]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    items: list[str] = field(default_factory=list)

    def block(self, language: str) -> str:
        """Return the first block of this language."""
        return next(text for block_language, text in self.blocks if block_language == language)

    def table(self) -> dict[str, list[str]]:
        """Return the first cell of each row, without backticks, and the other cells."""
        return {row[0].strip("`"): row[1:] for row in self.rows}


@dataclass(frozen=True)
class Page:
    """The content of a page."""

    fragments: list[Fragment]
    blocks: list[tuple[str, str]]
    headings: list[str]
    prose: str


def _parse(path: Path) -> Page:
    page = Page([], [], [], PAGES[path])
    current: Fragment | None = None
    code: list[str] | None = None
    language = ""
    prose = []
    table_ended = False
    for line in PAGES[path].splitlines():
        if fence := _FENCE.match(line):
            if code is None:
                code, language = [], fence[1]
                continue
            page.blocks.append((language, "\n".join(code) + "\n"))
            if current:
                current.blocks.append(page.blocks[-1])
            code = None
        elif code is not None:
            code.append(line)
        elif marker := _MARKER.match(line):
            page.fragments.append(current := Fragment(path, marker[1]))
            table_ended = False
        elif heading := _HEADING.match(line):
            page.headings.append(heading[1])
            current = None
        else:
            prose.append(line)
            if current and line.startswith("- "):
                current.items.append(line[2:])
            elif current and line.startswith("|") and not table_ended:
                if not line.startswith("| ---"):
                    current.rows.append([cell.strip() for cell in _CELL_ENDS.split(line)[1:-1]])
            else:
                table_ended = bool(current and current.rows)
    for fragment_ in page.fragments:
        del fragment_.rows[:1]  # the head
    return Page(page.fragments, page.blocks, page.headings, "\n".join(prose))


PARSED = {path: _parse(path) for path in PAGES}


def fragments(kind: str) -> list[Fragment]:
    """Return the fragments whose names are `kind`, alone or followed by another word."""
    return [fragment for fragment in _all_fragments() if fragment.name == kind or fragment.name.startswith(f"{kind} ")]


def fragment(name: str) -> Fragment:
    """Return the only fragment of this name."""
    (match,) = (fragment for fragment in _all_fragments() if fragment.name == name)
    return match


def table(name: str) -> dict[str, list[str]]:
    """Return the rows of all fragments of this name: the first cell, without backticks, and the other cells."""
    return {first: cells for fragment in fragments(name) for first, cells in fragment.table().items()}


def commands() -> Iterator[tuple[Path, str]]:
    """Yield every command in the shell blocks with its page. Continued lines are joined."""
    for path, page in PARSED.items():
        for language, text in page.blocks:
            if language == "sh":
                for line in text.replace("\\\n", " ").splitlines():
                    yield path, line.strip()


def _all_fragments() -> Iterator[Fragment]:
    for page in PARSED.values():
        yield from page.fragments
