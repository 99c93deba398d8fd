"""Reads the file of a cohort download: the user id and the property values of each row.

Amplitude documents neither the names of the columns nor the format of the cells, so all known variants are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from proxy.api.user_rows import BLANK_LINE, NoColumn, Row, RowTooLong, read_table
from proxy.profile.liquid_names import USER_PROPERTY

_USER_ID = "user_id"
_SEPARATORS = re.compile(r"[ _]")
_NO_VALUE = frozenset({"", "null"})
_MAX_SHOWN = 10
"""Limit on the names in an error message."""


class UnusableFile(Exception):
    """The file is not CSV, or its columns are missing or ambiguous. The text has the fix.

    Another download would not help.
    """


class MemberRow(NamedTuple):
    """A row of the file. `values`: the text, or None, of each property of the file; empty for an unreadable row."""

    row: Row
    values: list[str | None]


@dataclass(frozen=True, slots=True)
class CohortFile:
    """The content of a cohort download.

    `names`: the properties without the prefix `gp:`. `missing`: the requested properties that the file does not have.
    """

    names: tuple[str, ...]
    missing: tuple[str, ...]
    rows: Iterator[MemberRow]


def read_cohort_file(lines: Iterable[str], properties: Sequence[str] | None) -> CohortFile:
    """Read the header, and return the file with an iterator of its rows, without blank lines.

    `properties`: the requested properties; None for all. Raises NoColumn and UnusableFile, and during the iteration
    UnreadableRow.
    """
    header, rows = _table(iter(lines))
    places: dict[str, int] = {}
    requested = None if properties is None else dict.fromkeys(map(_plain, properties))
    for place, title in enumerate(header):
        name = _plain(title)
        if (
            not name
            or _is_user_id(title)
            or _is_amplitude_id(title)
            or (requested is not None and name not in requested)
        ):
            continue
        if not _is_utf_8([name]):
            raise UnusableFile(
                f"the name of property {name!r} in the cohort file is not UTF-8; name the properties with --keys"
            )
        if name in places:
            raise UnusableFile(
                f"property {name!r} has two columns in the cohort file ({places[name] + 1} and {place + 1}), as in a "
                "portfolio project; download the cohort from the project of one app"
            )
        places[name] = place
    missing = tuple(name for name in requested or () if name not in places)
    if requested and not places:
        columns = ", ".join(map(repr, header[:_MAX_SHOWN])) + (", …" if len(header) > _MAX_SHOWN else "")
        raise UnusableFile(
            f"the cohort file has none of the requested properties; it has the columns {columns}; correct the names"
        )
    return CohortFile(tuple(places), missing, _member_rows(rows, len(header), list(places.values())))


def _table(lines: Iterator[str]) -> tuple[list[str], Iterator[tuple[Row, list[str]]]]:
    first = ""
    try:
        first = next(lines, "")
        return read_table(chain([first], lines), _USER_ID, _is_user_id)
    except (NoColumn, RowTooLong) as error:
        start = error.beginning if isinstance(error, RowTooLong) else first
        if start.lstrip()[:1] not in ("{", "["):
            raise
        raise UnusableFile(
            "the cohort file is JSON instead of CSV; add --no-export to warm, or pass the user ids in a file as USERS"
        ) from None


def _member_rows(rows: Iterable[tuple[Row, list[str]]], width: int, places: Sequence[int]) -> Iterator[MemberRow]:
    for row, cells in rows:
        if row.fault == BLANK_LINE:
            continue
        if places and not row.is_incomplete and len(cells) != width:
            fault = f"the row has {len(cells)} cells and the header {width}; correct the row"
            row = replace(row, user_id="", fault=fault, is_incomplete=True, no_user=False)
        if row.fault:
            yield MemberRow(row, [])
            continue
        values = [None if cells[place] in _NO_VALUE else cells[place] for place in places]
        if not _is_utf_8(values):
            row = replace(row, user_id="", fault="a property is not UTF-8; correct it in Amplitude")
        yield MemberRow(row, values)


def _is_utf_8(values: Iterable[str | None]) -> bool:
    try:
        "".join(filter(None, values)).encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 become surrogates
        return False
    return True


def _is_user_id(title: str) -> bool:
    return _SEPARATORS.sub("", title).casefold() == "userid"


def _is_amplitude_id(title: str) -> bool:
    return _SEPARATORS.sub("", title).casefold() == "amplitudeid"


def _plain(name: str) -> str:
    return name.strip().removeprefix(USER_PROPERTY)
