"""Passes on the user ids of rows, and counts the skipped rows by reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from proxy.api.user_rows import Row
from proxy.cli.formats import format_count

_MAX_LINES = 10
"""Limit on the line numbers to print for each reason."""


@dataclass(slots=True)
class _Skipped:
    count: int = 0
    lines: list[int] = field(default_factory=list)


class UserIds:
    """The ids of rows, and the rows without one."""

    def __init__(self) -> None:
        self._skipped: dict[str, _Skipped] = {}
        self._number = 0
        self.unreadable = 0
        """Number of skipped lines that should name a user."""

    def of(self, rows: Iterable[Row]) -> Iterator[str]:
        """Yield the ids of `rows`, and count the rows from zero."""
        self.restart()
        return (row.user_id for row in rows if self.accepts(row))

    def restart(self) -> None:
        """Count from zero."""
        self._skipped, self._number, self.unreadable = {}, 0, 0

    def accepts(self, row: Row) -> bool:
        """Return whether the row has a user id, and count the row."""
        if not row.fault:
            self._number += 1
            return True
        skipped = self._skipped.setdefault(row.fault, _Skipped())
        skipped.count += row.lines
        if len(skipped.lines) < _MAX_LINES:
            skipped.lines.append(row.line)
        self.unreadable += 0 if row.no_user else row.lines
        return False

    def summary(self, distinct: int, duplicates_note: str = "") -> Iterator[str]:
        """Yield a line for each reason to skip rows. `distinct`: the number of different ids."""
        for fault, skipped in self._skipped.items():
            label = "line" if skipped.count == 1 else "lines"
            more = ", …" if skipped.count > len(skipped.lines) else ""
            yield (
                f"skipped {format_count(skipped.count, 'line')} ({label} {', '.join(map(str, skipped.lines))}{more}): "
                f"{fault}"
            )
        if duplicates := self._number - distinct:
            yield f"skipped {format_count(duplicates, 'duplicate user id')}{duplicates_note}"
