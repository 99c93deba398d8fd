"""Reads user ids from a list or a CSV table."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TextIO

from proxy.api.errors import BadRequest
from proxy.api.parse import parse_ids

MAX_ROW_CHARACTERS = 1024 * 1024
"""Limit on the characters of a row. A quote that is not closed makes all following lines one row."""
_MAX_ROW_LINES = 10_000
"""Limit on the lines of a row. Each line takes about fifty bytes more than its characters."""
BLANK_LINE = "the line is blank"
_NOT_UTF_8 = "the line is not UTF-8; save the file as UTF-8"
_FIX_QUOTES = "close each quote, and double each quote inside a cell"
_DELIMITERS = ",;\t|"
_LIST_DELIMITERS = ",;\t"
"""Ids of identity providers contain `|`."""
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?[\r\n]*')
"""Spreadsheets write this line before the header."""
_HEADER = re.compile(
    r"""["'\s]*(?:(?:amplitude|braze|customer|user|external|client|contact|member|account|profile|person|subscriber|recipient"""
    r"""|distinct|unique)[\s_.-]*)*(?:ids?|identifiers?|uid|uuid|users?|customers?|e-?mail(?:[\s_-]?address)?)["'\s]*""",
    re.IGNORECASE,
)
_LINE_BREAK = re.compile(r"\r\n?|\n")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MAX_SHOWN = 60
"""Limit on the characters of a first line in an error message."""
_MAX_COLUMNS = 30
"""Limit on the column names in an error message."""


class NoColumn(Exception):
    """The column is not in the table, or was not given. The text has the fix."""


class UnreadableRow(Exception):
    """A quote is not closed, so the row has no known end. The text has the line and the fix."""


class RowTooLong(Exception):
    """A row is longer than MAX_ROW_CHARACTERS or _MAX_ROW_LINES. The text has the line and the fix.

    `beginning`: the first characters of a single line.
    """

    def __init__(self, text: str, beginning: str = "") -> None:
        super().__init__(text)
        self.beginning = beginning


@dataclass(frozen=True, slots=True)
class Row:
    """A user id, or the reason why the row has no user id."""

    line: int
    user_id: str = ""
    fault: str = ""
    is_incomplete: bool = False
    """True if the row is not a complete row of the table."""
    no_user: bool = False
    """True if no user is expected in the row: it is blank, or a table header."""
    lines: int = 1
    """The number of lines of an unreadable row."""


def bounded_lines(text: TextIO) -> Iterator[str]:
    """Yield the lines of a text in bounded memory. Raises RowTooLong."""
    number = 0
    while line := text.readline(MAX_ROW_CHARACTERS + 1):
        number += 1
        if len(line) > MAX_ROW_CHARACTERS:
            raise RowTooLong(
                f"line {number}: the line has more than {MAX_ROW_CHARACTERS:,} characters; write one user per line, "
                "and remove long columns",
                line[:100],
            )
        yield line


def read(lines: Iterable[str], column: str | None = None) -> Iterator[Row]:
    """Yield the rows of a list with one id per line, or of a CSV table with the ids in `column`.

    A table has one of the delimiters `,`, `;`, tab and `|`. The ids of a list may be quoted as in CSV.
    Raises NoColumn, also if the first line of a list is a table header. Raises UnreadableRow and RowTooLong.
    """
    # The default limit of csv, 131,072 characters, is less than a cell with all properties of a user.
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    return _list_rows(lines) if column is None else _table_rows(lines, column)


def _table_rows(lines: Iterable[str], column: str) -> Iterator[Row]:
    _, rows = read_table(lines, column, column.__eq__)
    for row, _ in rows:
        yield row


def read_table(
    lines: Iterable[str], column: str, is_column: Callable[[str], bool]
) -> tuple[list[str], Iterator[tuple[Row, list[str]]]]:
    """Return the header of a CSV table, and an iterator of its rows with their cells.

    `is_column`: whether a name in the header is the column of the user ids. `column`: its name in error messages.
    A row that is not CSV has no cells. Raises NoColumn at once, and UnreadableRow during the iteration.
    """
    # The default limit of csv, 131,072 characters, is less than a cell with all properties of a user.
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    source = iter(lines)
    first, first_line, delimiter = "", 0, None
    for line in source:
        first, first_line = line, first_line + 1
        if separator := _SEPARATOR_LINE.fullmatch(first):
            delimiter = separator[1]
        elif first.strip():
            break
    delimiter = delimiter or _delimiter(first, is_column)
    recorded = _Lines(chain([first], source), first_line, delimiter)
    table = csv.reader(recorded, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(table, [])]
    except csv.Error as error:
        raise NoColumn(
            f"column {column!r} is missing; the first line is not CSV ({error}); {_FIX_QUOTES} in line {first_line}"
        ) from None
    return header, _rows(table, recorded, column, _position(header, column, is_column))


def _list_rows(lines: Iterable[str]) -> Iterator[Row]:
    is_first = True
    for number, line in enumerate(lines, start=1):
        text = line.strip(" \t\r\n")
        if not text.strip():
            yield Row(number, fault=BLANK_LINE, no_user=True)
            continue
        if is_first:
            _require_list(text)
            is_first = False
        if _HEADER.fullmatch(text):
            yield Row(number, fault="the line is a table header", no_user=True)
        elif text.startswith('"'):
            yield _quoted_row(number, text)
        else:
            yield _row(number, text)


def _require_list(first_line: str) -> None:
    cells = max((_cells(first_line, delimiter) for delimiter in _LIST_DELIMITERS), key=len)
    if len(cells) == 1 and not _HEADER.fullmatch(first_line):
        return
    shown = first_line if len(first_line) <= _MAX_SHOWN else f"{first_line[:_MAX_SHOWN]}…"
    column = next((name for name in cells if _HEADER.fullmatch(name)), None)
    column = column or next((name for name in cells if "id" in name.lower()), cells[0])
    raise NoColumn(
        f"the first line, {shown!r}, is a table header; add the column of the user ids: "
        f"--column {shlex.quote(''.join(filter(str.isprintable, column)))}"
    )


def _quoted_row(number: int, text: str) -> Row:
    try:
        cells = next(csv.reader([text], strict=True))
    except csv.Error as error:
        return Row(number, fault=f"the line is not CSV ({error}); {_FIX_QUOTES}")
    if len(cells) > 1:
        return Row(number, fault="the line has several cells; use a header, and --column with its name")
    return _row(number, cells[0])


class _Lines:
    """The lines of a table, with those of the current row."""

    def __init__(self, lines: Iterable[str], first_line: int, delimiter: str) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._size = 0
        self.first = first_line
        """The line number of the first line of the row."""
        self.row: list[str] = []
        self.ended = False

    def start_row(self) -> None:
        """Forget the lines of the last row."""
        self.first += len(self.row)
        self._size, self.row = 0, []

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self._size += len(line)
            if self._size > MAX_ROW_CHARACTERS or len(self.row) == _MAX_ROW_LINES:
                raise RowTooLong(
                    f"line {self.first}: the row has more than {MAX_ROW_CHARACTERS:,} characters or "
                    f"{_MAX_ROW_LINES:,} lines; close its quotes, or remove its longest column"
                )
            self.row.append(line)
            yield line
        self.ended = True

    def opening_line(self, end: int | None = None) -> int:
        """Return the line of the quote that is still open at the end of the row, or before its line `end`."""
        lines = self.row[:end]
        # The last cell of an incomplete row has all text since the quote.
        open_cell = next(csv.reader(lines, delimiter=self._delimiter))[-1]
        breaks = len(_LINE_BREAK.findall(open_cell)) - lines[-1].endswith(("\r", "\n"))
        return self.first + len(lines) - 1 - breaks


def _rows(table: Iterator[list[str]], recorded: _Lines, column: str, position: int) -> Iterator[tuple[Row, list[str]]]:
    while True:
        recorded.start_row()
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            if recorded.ended:
                opening = recorded.opening_line()
                raise UnreadableRow(f"line {opening}: a quote is not closed; {_FIX_QUOTES}") from None
            size = len(recorded.row)
            opening = recorded.first if size == 1 else recorded.opening_line(end=-1)
            yield Row(opening, fault=f"the row is not CSV ({error}); {_FIX_QUOTES}", is_incomplete=True, lines=size), []
            continue
        number = recorded.first + len(recorded.row) - 1
        if len(cells) > position:
            yield _row(number, cells[position]), cells
        elif any(cells):
            yield Row(number, fault=f"the row has no {column}; add the missing cells", is_incomplete=True), cells
        else:
            yield Row(number, fault=BLANK_LINE, no_user=True), cells


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _delimiter(header: str, is_column: Callable[[str], bool]) -> str:
    """Return the delimiter with which the header has the column, or else the most columns."""

    def rank(delimiter: str) -> tuple[bool, int]:
        names = _cells(header, delimiter)
        return any(map(is_column, names)), len(names)

    return max(_DELIMITERS, key=rank)


def _position(header: list[str], column: str, is_column: Callable[[str], bool]) -> int:
    if not any(header):
        raise NoColumn(f"column {column!r} is missing; the file has no header")
    positions = [position for position, name in enumerate(header) if is_column(name)]
    if len(positions) == 1:
        return positions[0]
    if positions:
        numbers = " and ".join(str(position + 1) for position in positions)
        raise NoColumn(f"column {column!r} is ambiguous; columns {numbers} have this name, so rename one of them")
    names = ", ".join(map(repr, header[:_MAX_COLUMNS]))
    more = f" and {len(header) - _MAX_COLUMNS:,} more" if len(header) > _MAX_COLUMNS else ""
    coding = f"; {_NOT_UTF_8}" if any(map(_SURROGATE.search, header)) else ""
    raise NoColumn(f"column {column!r} is missing; the first line has {names}{more}{coding}")


def _row(line: int, text: str) -> Row:
    try:
        user_id = parse_ids([("user_id", text)]).user_id or ""
    except BadRequest as error:
        if not text.strip():
            return Row(line, fault="user_id is blank", no_user=True)
        return Row(line, fault=_NOT_UTF_8 if _SURROGATE.search(text) else error.detail)
    if user_id != text:
        return Row(line, fault="user_id begins or ends with white space; remove the white space")
    return Row(line, user_id)
