"""A moment of any year, formatted with the directives of Ruby's `strftime`.

Python's datetime ends with the year 9999, which a Unix time in milliseconds exceeds.
"""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from liquid.exceptions import ResourceLimitError

from proxy.liquid.ruby import RubyError

DAY_NAMES = tuple(calendar.day_name[(day - 1) % 7] for day in range(7))
"""From Sunday. The process never sets a locale, so the names are English."""
MONTH_NAMES = tuple(calendar.month_name[1:])

_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_DIRECTIVE = re.compile(r"%([-0^#_]*)([1-9][0-9]*)?([EO]?)(:{0,3})([A-Za-z%])")
_INCOMPLETE = re.compile(r"%[-0^#_]*[0-9]*\Z")
_WITH = {"E": "cCxXyY", "O": "deHkIlmMSuUVwWy"}
_COMPOSITE = {
    "c": "%a %b %e %H:%M:%S %Y",
    "D": "%m/%d/%y",
    "x": "%m/%d/%y",
    "F": "%Y-%m-%d",
    "T": "%H:%M:%S",
    "X": "%H:%M:%S",
    "R": "%H:%M",
    "r": "%I:%M:%S %p",
    "v": "%e-%^b-%4Y",
}
_MAX_LENGTH = 100_000
"""Characters of a formatted date, whose directives can ask for any width."""


def days_to(year: int, month: int) -> int:
    """Return the days from 1970-01-01 to the first day of a month."""
    cycles, short_year = divmod(year - 1, _CYCLE_YEARS)
    return datetime.date(short_year + 1, month, 1).toordinal() + cycles * _CYCLE_DAYS - _EPOCH


@dataclass(frozen=True)
class Moment:
    """A Unix time in `seconds` and `nanoseconds`, shown `offset` seconds east of UTC in a zone named `zone`."""

    seconds: int
    nanoseconds: int = 0
    offset: int = 0
    zone: str = "UTC"

    def strftime(self, form: str) -> str:
        """Return the moment in a format. Unknown directives are unchanged, and an incomplete last one is an error."""
        if _INCOMPLETE.search(_DIRECTIVE.sub("", form)):
            raise RubyError(f"invalid format: {form}")
        length = len(form)

        def formatted(match: re.Match[str]) -> str:
            nonlocal length
            shown = self._directive(match)
            length += len(shown)
            if length > _MAX_LENGTH:
                raise _too_long()
            return shown

        return _DIRECTIVE.sub(formatted, form)

    @cached_property
    def _day(self) -> tuple[datetime.date, int]:
        """The date in the years 1 to 400, and the years to add."""
        cycles, day = divmod((self.seconds + self.offset) // 86_400 + _EPOCH - 1, _CYCLE_DAYS)
        return datetime.date.fromordinal(day + 1), cycles * _CYCLE_YEARS

    @cached_property
    def _numbers(self) -> dict[str, tuple[int, int, str]]:
        """The number, the width and the padding of each numeric directive."""
        date, years = self._day
        second = (self.seconds + self.offset) % 86_400
        hour, minute = second // 3_600, second // 60 % 60
        year = date.year + years
        week = date.isocalendar()
        week_year = week.year + years
        yday, wday = date.timetuple().tm_yday, date.isoweekday() % 7
        return {
            "Y": (year, 5 if year < 0 else 4, "0"),
            "C": (year // 100, 2, "0"),
            "y": (year % 100, 2, "0"),
            "m": (date.month, 2, "0"),
            "d": (date.day, 2, "0"),
            "e": (date.day, 2, " "),
            "j": (yday, 3, "0"),
            "H": (hour, 2, "0"),
            "k": (hour, 2, " "),
            "I": (hour % 12 or 12, 2, "0"),
            "l": (hour % 12 or 12, 2, " "),
            "M": (minute, 2, "0"),
            "S": (second % 60, 2, "0"),
            "s": (self.seconds, 1, "0"),
            "u": (wday or 7, 1, "0"),
            "w": (wday, 1, "0"),
            "G": (week_year, 5 if week_year < 0 else 4, "0"),
            "g": (week_year % 100, 2, "0"),
            "V": (week.week, 2, "0"),
            "U": ((yday + 6 - wday) // 7, 2, "0"),
            "W": ((yday + 6 - (wday - 1) % 7) // 7, 2, "0"),
        }

    @cached_property
    def _texts(self) -> dict[str, str]:
        date, _ = self._day
        afternoon = self._numbers["H"][0] >= 12
        wday = self._numbers["w"][0]
        return {
            "A": DAY_NAMES[wday],
            "a": DAY_NAMES[wday][:3],
            "B": MONTH_NAMES[date.month - 1],
            "b": MONTH_NAMES[date.month - 1][:3],
            "h": MONTH_NAMES[date.month - 1][:3],
            "p": "PM" if afternoon else "AM",
            "P": "pm" if afternoon else "am",
            "Z": self.zone,
            "n": "\n",
            "t": "\t",
            "%": "%",
        }

    def _directive(self, match: re.Match[str]) -> str:
        flags, digits, modifier, colons, letter = match.groups()
        width = int(digits[:9]) if digits else None
        if width is not None and width > _MAX_LENGTH:
            raise _too_long()
        if (modifier and letter not in _WITH[modifier]) or (colons and letter != "z"):
            return match[0]
        padding = next((flag.replace("_", " ") for flag in reversed(flags) if flag in "-0_"), "")
        if letter in self._numbers:
            return _padded_number(*self._numbers[letter], padding, width)
        if letter in "NL":
            size = width or (9 if letter == "N" else 3)
            return f"{self.nanoseconds:09}".ljust(size, "0")[:size]
        if letter == "z":
            return self._zone_offset(len(colons), padding, width)
        if letter in _COMPOSITE:
            shown = self.strftime(_COMPOSITE[letter])
        elif letter in self._texts:
            shown = self._texts[letter]
        else:
            return match[0]
        change: Callable[[str], str] = str
        if "#" in flags:
            change = str.lower if letter in "pZ" else str if letter in _COMPOSITE else str.upper
        elif "^" in flags:
            change = str.upper
        shown = change(shown)
        if not shown:  # the name of a zone that has only an offset
            return ""
        return shown if padding == "-" else shown.rjust(width or 0, padding or " ")

    def _zone_offset(self, colons: int, padding: str, width: int | None) -> str:
        sign = "-" if self.offset < 0 else "+"
        hours, rest = divmod(abs(self.offset), 3_600)
        minutes, seconds = divmod(rest, 60)
        if colons == 3:
            colons = 2 if seconds else 1 if minutes else 4
        tail = {0: f"{minutes:02}", 1: f":{minutes:02}", 2: f":{minutes:02}:{seconds:02}", 4: ""}[colons]
        size = max((width or 0) - len(tail), 3)
        if padding == " ":
            return f"{sign}{hours}".rjust(size) + tail
        return sign + str(hours).rjust(size - 1, "0") + tail


def _padded_number(value: int, width: int, padding: str, flag: str, wanted: int | None) -> str:
    if flag == "-":
        return str(value)
    size = width if wanted is None else wanted
    if (flag or padding) == "0":
        return f"{value:0{size}}"
    return str(value).rjust(size)


def _too_long() -> ResourceLimitError:
    return ResourceLimitError("the format of a date is too wide; shorten the format", token=None)
