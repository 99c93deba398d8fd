"""Reads user ids from a list or a CSV table."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proxy.api.errors import BadRequest
from proxy.api.parse import parse_ids

_SEPARATORS = re.compile(r"[,;\t]")
_HEADERS = {"id", "ids", "userid", "userids", "externalid", "externaluserid", "amplitudeid"}
_MAX_SHOWN = 60
"""Limit on the characters of a first line in an error message."""


class NoColumn(Exception):
    """The column is not in the table, or was not given. The text has the fix."""


@dataclass(frozen=True, slots=True)
class Row:
    """A user id, or the reason why the line has no user id."""

    line: int
    user_id: str = ""
    fault: str = ""
    torn: bool = False
    """True if the line is an incomplete row of the table."""
    blank: bool = False
    """True if the row is complete and the user id blank."""


def read(lines: Iterable[str], column: str | None = None) -> Iterator[Row]:
    """Yield the rows of a list with one id per line, or of a CSV table with the ids in `column`.

    Skips blank lines of a list. Raises NoColumn, also if the first line of a list is a table header.
    """
    if column is None:
        is_first = True
        for number, text in enumerate(lines, start=1):
            if text.strip():
                if is_first:
                    _require_list(text.strip())
                is_first = False
                yield _row(number, text.strip(" \t\r\n"))
        return
    table = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(table, [])]
    except csv.Error as error:
        raise NoColumn(f"column {column!r} is missing; the first line is not CSV ({error})") from None
    if column not in header:
        raise NoColumn(
            f"column {column!r} is missing; the first line has {', '.join(map(repr, header)) or 'no columns'}"
        )
    position = header.index(column)
    while True:
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(table.line_num, fault=f"is not CSV ({error})", torn=True)
            continue
        if len(cells) > position:
            yield _row(table.line_num, cells[position])
        elif any(cells):
            yield Row(table.line_num, fault=f"has no {column}", torn=True)


def _require_list(first_line: str) -> None:
    names = [name.strip(" \"'") for name in _SEPARATORS.split(first_line)]
    if len(names) == 1 and re.sub(r"[\s_\"'-]", "", first_line.lower()) not in _HEADERS:
        return
    shown = first_line if len(first_line) <= _MAX_SHOWN else f"{first_line[:_MAX_SHOWN]}…"
    if ";" in first_line or "\t" in first_line:
        raise NoColumn(f"the first line, {shown!r}, is not a user id; save the table as CSV, with commas")
    column = next((name for name in names if "id" in name.lower()), names[0])
    raise NoColumn(
        f"the first line, {shown!r}, is a table header; add the column of the user ids: "
        f"--column {''.join(filter(str.isprintable, column))}"
    )


def _row(line: int, text: str) -> Row:
    try:
        user_id = parse_ids([("user_id", text)]).user_id or ""
    except BadRequest as error:
        blank = not text.strip()
        return Row(line, fault="user_id is blank" if blank else error.detail, blank=blank)
    if user_id != text:
        return Row(line, fault="user_id begins or ends with white space; remove the white space")
    return Row(line, user_id)
