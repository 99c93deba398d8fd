"""Who is to be warmed, when the next call may go, and how far it has come. Pure."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from threading import Condition

from proxy.errors import BadRequest
from proxy.query import parse_forgetting

_AT_ONCE = 8


class NoColumn(Exception):
    """The column to be read is not in the table."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one line says: a user id, or why it cannot be read."""

    line: int
    user_id: str = ""
    fault: str = ""


def read(lines: Iterable[str], column: str | None = None) -> Iterator[Row]:
    """Return the rows of a list with one id a line, or of a CSV table with its ids in `column`.

    Blank lines are nobody. Raises NoColumn.
    """
    if column is None:
        for number, text in enumerate(lines, start=1):
            if text.strip():
                yield _row(number, text)
        return
    table = csv.reader(lines)
    header = [name.strip() for name in next(table, [])]
    if column not in header:
        raise NoColumn(f"no column {column!r}: the first line names {', '.join(map(repr, header)) or 'none'}")
    place = header.index(column)
    while True:
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(table.line_num, fault=f"is not CSV ({error})")
            continue
        if len(cells) > place:
            yield _row(table.line_num, cells[place])
        elif any(cells):
            yield Row(table.line_num, fault=f"has no {column}")


def _row(line: int, text: str) -> Row:
    try:
        return Row(line, parse_forgetting([("user_id", text)]).user_id or "")
    except BadRequest as error:
        return Row(line, fault=error.detail)


class Pacer:
    """Lets `per_minute` calls go, evenly but for a few at once. Safe for threads.

    A question takes the place of one call; `cost` corrects that when it is known what it cost. Who waits is let go
    as soon as a question turns out to have cost nothing: what is fresh already is passed over quickly.
    """

    def __init__(self, per_minute: float, *, monotonic: Callable[[], float]) -> None:
        self._interval = 60.0 / per_minute
        self._monotonic = monotonic
        self._changed = Condition()
        self._next = monotonic()

    def wait(self) -> None:
        """Return when the next call may go."""
        with self._changed:
            while (seconds := self.take()) > 0:
                self._changed.wait(seconds)

    def take(self) -> float:
        """Take the next call's place and return 0, or return the seconds until there may be one."""
        now = self._monotonic()
        # What was not used up to now is lost: a pause must not end in a storm.
        following = max(self._next, now - (_AT_ONCE - 1) * self._interval)
        if following > now:
            return following - now
        self._next = following + self._interval
        return 0.0

    def cost(self, calls: int) -> None:
        """Tell how many calls a question that has waited cost in truth."""
        with self._changed:
            self._next += (calls - 1) * self._interval
            self._changed.notify_all()


@dataclass(slots=True)
class Count:
    """How many users are done, were fresh already, are unknown to Amplitude, could not be fetched, and calls made."""

    users: int
    done: int = 0
    fresh: int = 0
    unknown: int = 0
    failed: int = 0
    calls: int = 0
    why: dict[str, int] = field(default_factory=dict)
    """The error words of those that failed, and how often."""

    @property
    def left(self) -> int:
        """Return how many are still to come."""
        return self.users - self.done - self.fresh - self.unknown - self.failed

    def line(self, seconds: float) -> str:
        """Return the progress after so many seconds, as one line."""
        through = self.users - self.left
        rate = through / seconds if seconds > 0 else 0.0
        left = f"{self.left / rate / 60:.0f} min left" if rate > 0 else "no estimate yet"
        return (
            f"{through:,} of {self.users:,}: {self.done:,} done, {self.fresh:,} fresh already, "
            f"{self.unknown:,} unknown, {self.failed:,} failed; {rate * 60:,.0f} users a minute, {left}"
        )
