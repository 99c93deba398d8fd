"""Who is to be warmed, when the next call may go, and how far it has come. Pure."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from threading import Condition

from proxy.api.errors import BadRequest
from proxy.api.parse import parse_forgetting
from proxy.planning import counted

_AT_ONCE = 8
_LOOK_SECONDS = 0.25
"""Between looks of who waits for a place at whether it is to stop."""
_SEPARATORS = re.compile(r"[,;\t]")
_HEADERS = {"id", "ids", "userid", "userids", "externalid", "externaluserid", "amplitudeid"}
_SHOWN = 60
"""Characters of a first line that are repeated."""


class NoColumn(Exception):
    """The column to be read is not in the table, or was not named. Says what to mend."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one line says: a user id, or why it cannot be read."""

    line: int
    user_id: str = ""
    fault: str = ""
    torn: bool = False
    """Whether it is no whole row of the table."""
    blank: bool = False
    """Whether it is a whole row that names nobody."""


def read(lines: Iterable[str], column: str | None = None) -> Iterator[Row]:
    """Return the rows of a list with one id a line, or of a CSV table with its ids in `column`.

    Blank lines are nobody. Raises NoColumn, also for a list whose first line is that of a table.
    """
    if column is None:
        first = True
        for number, text in enumerate(lines, start=1):
            if text.strip():
                if first:
                    _require_list(text.strip())
                first = False
                yield _row(number, text)
        return
    table = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(table, [])]
    except csv.Error as error:
        raise NoColumn(f"no column {column!r}: the first line is not CSV ({error})") from None
    if column not in header:
        raise NoColumn(f"no column {column!r}: the first line names {', '.join(map(repr, header)) or 'none'}")
    place = header.index(column)
    while True:
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(table.line_num, fault=f"is not CSV ({error})", torn=True)
            continue
        if len(cells) > place:
            yield _row(table.line_num, cells[place])
        elif any(cells):
            yield Row(table.line_num, fault=f"has no {column}", torn=True)


def _require_list(first: str) -> None:
    names = [name.strip(" \"'") for name in _SEPARATORS.split(first)]
    if len(names) == 1 and re.sub(r"[\s_\"'-]", "", first.lower()) not in _HEADERS:
        return
    shown = first if len(first) <= _SHOWN else f"{first[:_SHOWN]}…"
    if ";" in first or "\t" in first:
        raise NoColumn(f"the first line, {shown!r}, is no user id: save the table as CSV, with commas")
    raise NoColumn(
        f"the first line, {shown!r}, is that of a table and no user id: name the column of the user ids, "
        f"--column {next((name for name in names if 'id' in name.lower()), names[0])}"
    )


def _row(line: int, text: str) -> Row:
    try:
        return Row(line, parse_forgetting([("user_id", text)]).user_id or "")
    except BadRequest as error:
        return Row(line, fault=error.detail, blank=not text.strip())


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

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Return when the next call may go, or, without its place, soon after it was `stopped`."""
        with self._changed:
            while not stopped() and (seconds := self.take()) > 0:
                self._changed.wait(min(seconds, _LOOK_SECONDS))

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
    def through(self) -> int:
        """Return of how many the end is known."""
        return self.done + self.fresh + self.unknown + self.failed

    @property
    def left(self) -> int:
        """Return how many are still to come."""
        return self.users - self.through

    def line(self, seconds: float) -> str:
        """Return the progress after so many seconds, as one line."""
        rate = self.through / seconds if seconds > 0 else 0.0
        left = f"{self.left / rate / 60:.0f} min left" if rate > 0 else "no estimate yet"
        return (
            f"{self.through:,} of {self.users:,}: {self.done:,} done, {self.fresh:,} fresh already, "
            f"{self.unknown:,} unknown, {self.failed:,} failed; {counted(round(rate * 60), 'user')} a minute, {left}"
        )
