"""Reads dates in text as Ruby's `Time.parse` does, in UTC: the day comes first in `01/02/2026`.

Outside fact: the notations that Ruby reads, and their order. tests/liquid/test_dates_as_ruby.py compares both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from typing import cast

from proxy.liquid.moment import DAY_NAMES, MONTH_NAMES, Moment, days_to
from proxy.liquid.ruby import RubyError

_MONTHS = "|".join(name[:3].lower() for name in MONTH_NAMES)
_MONTH = rf"({_MONTHS})"
_DAY = "|".join(name[:3].lower() for name in DAY_NAMES)
_ERA = r"(c(?:e|\.e\.)|b(?:ce|\.c\.e\.)|a(?:d|\.d\.)|b(?:c|\.c\.))"
_TIME = r"""
    ( (?: \d+\s*:\s*\d+ (?:\s*:\s*\d+(?:[,.]\d*)?)? | \d+\s*h(?:\s*\d+m?(?:\s*\d+s?)?)? ) (?:\s*[ap](?:m\b|\.m\.))?
    | \d+\s*[ap](?:m\b|\.m\.) )
    (?: \s* ( (?:gmt|utc?)?[-+]\d+(?:[,.:]\d+(?::\d+)?)? | [a-z.\s]+(?:standard|daylight)\stime\b | [a-z]+(?:\sdst)?\b )
    )?"""
_CLOCK = r"(\d+)\s*h?(?:\s*:?\s*(\d+)m?(?:\s*:?\s*(\d+)(?:[,.](\d*))?s?)?)?(?:\s*([ap])(?:m\b|\.m\.))?"
_DIGITS = r"([-+]?)(\d{2,14})(?:\s*t?\s*(\d{2,6})?(?:[,.](\d*))?)?\s*(z\b|[-+]\d{1,4}\b)?"
_ZONES = {"utc": 0, "z": 0, "ut": 0, "gmt": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6} | {
    "pst": -8,
    "pdt": -7,
}
_MILITARY = "yxwvutsrqpon abcdefghiklm"
_OFFSET = re.compile(r"([-+])(\d\d)(?:(:?)(\d\d)(?:\3(\d\d))?)?")
_ERAS = {"m": 1867, "t": 1911, "s": 1925, "h": 1988, "r": 2018}
_MAX_INT = 2**31 - 1
_UNITS = ("year", "mon", "mday", "hour", "min", "sec")


def moment_of(text: str, now: float) -> Moment | None:
    """Return the moment that a text names, or None. `text`: in lower case. `now`: Unix time, for missing parts."""
    reader = _Reader(text)
    fields = reader.read()
    if not any(name in fields for name in (*_UNITS, "yday")):
        return None
    offset = _offset(reader.zone)
    if "yday" in fields and not {"mon", "mday"} & fields.keys() and not _from_yday(fields, now):
        return None
    today = datetime.fromtimestamp(now + (offset or 0), UTC)
    present = (today.year, today.month, today.day, today.hour, today.minute, today.second)
    values: list[int] = []
    named = False
    for unit, current, least in zip(_UNITS, present, (0, 1, 1, 0, 0, 0), strict=True):
        # Before the largest unit that the text names, the present counts.
        named = named or unit in fields
        values.append(fields.get(unit, least if named else current))
    year, month, day, hour, minute, second = values
    if not (1 <= month <= 12 and abs(offset or 0) < 86_400):
        return None
    clock = hour * 3_600 + minute * 60 + second
    if offset:
        # Ruby checks the time after it is converted to UTC.
        days, clock = divmod(clock - offset, 86_400)
        hour, minute = 0, minute if offset % 3_600 == 0 else 0
        year, month, day = _shifted(year, month, day, days, ends=offset < 0)
    if not (1 <= day <= 31 and minute <= 59 and second <= 60 and (hour <= 23 or clock == 86_400)):
        return None
    seconds = (days_to(year, month) + day - 1) * 86_400 + clock
    return Moment(seconds, int(reader.fraction * 10**9), offset or 0, "" if offset else "UTC")


def _shifted(year: int, month: int, day: int, days: int, *, ends: bool) -> tuple[int, int, int]:
    """Return a date after or before a number of days. If the month ends, a day after it is the first of the next."""
    if not days:
        return year, month, day
    day += days
    if day < 1:
        year, month = (year - 1, 12) if month == 1 else (year, month - 1)
        return year, month, _month_days(year, month)
    if ends and day > _month_days(year, month):
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        return year, month, 1
    return year, month, day


def _month_days(year: int, month: int) -> int:
    return days_to(year + month // 12, month % 12 + 1) - days_to(year, month)


def _from_yday(fields: dict[str, int], now: float) -> bool:
    """Set month and day from the day of the year. Return whether the year has this day."""
    year = fields.get("year", datetime.fromtimestamp(now, UTC).year)
    yday = fields["yday"]
    month = next((month for month in range(12, 0, -1) if days_to(year, month) - days_to(year, 1) < yday), 0)
    if not month or yday > days_to(year + 1, 1) - days_to(year, 1):
        return False
    fields["mon"], fields["mday"] = month, yday - (days_to(year, month) - days_to(year, 1))
    return True


def _offset(zone: str) -> int | None:
    """Return the offset of a zone in seconds; None for an unknown zone, which Ruby takes for the local zone."""
    if zone in _ZONES:
        return _ZONES[zone] * 3_600
    if len(zone) == 1 and zone in _MILITARY:
        return (_MILITARY.index(zone) - 12) * 3_600
    if match := _OFFSET.fullmatch(zone):
        seconds = int(match[2]) * 3_600 + int(match[4] or 0) * 60 + int(match[5] or 0)
        return -seconds if match[1] == "-" else seconds
    return None


class _Reader:
    """Reads one notation after the other. Each removes its text, so that a later notation sees the rest."""

    def __init__(self, text: str) -> None:
        self.rest = re.sub(r"[^-+',./:@\w\[\]]+|_+", " ", text)
        self.fields: dict[str, int] = {}
        self.zone = ""
        self.fraction = Fraction(0)
        self.two_digits = True  # a year of two digits is in this century or the last

    def read(self) -> dict[str, int]:
        """Return the fields that the text names."""
        self._take(rf"\b(?:{_DAY})[^-/\d\s]*", lambda match: None)
        self._take(_TIME, self._time)
        dates: tuple[tuple[str, Callable[[re.Match[str]], None]], ...] = (
            (
                rf"('?\d+)[^-\d\s]*\s*{_MONTH}[^-\d\s']*(?:\s*{_ERA}?\s*('?-?\d+(?:(?:st|nd|rd|th)\b)?))?",
                lambda match: self._date(match[4], _month(match[2]), match[1], match[3]),
            ),
            (
                rf"\b{_MONTH}[^-\d\s']*\s*('?\d+)[^-\d\s']*(?:\s*,?\s*{_ERA}?\s*('?-?\d+))?",
                lambda match: self._date(match[4], _month(match[1]), match[2], match[3]),
            ),
            (r"('?[-+]?\d+)-(\d+)-('?-?\d+)", lambda match: self._date(*match.groups())),
            (r"\b([mtshr])(\d+)\.(\d+)\.(\d+)", self._era),
            (
                rf"('?-?\d+)-{_MONTH}[^-/.]*-('?-?\d+)",
                lambda match: self._date(match[3], _month(match[2]), match[1]),
            ),
            (
                rf"\b{_MONTH}[^-/.]*-('?-?\d+)(?:-('?-?\d+))?",
                lambda match: self._date(match[3], _month(match[1]), match[2]),
            ),
            (r"('?-?\d+)/\s*('?\d+)(?:\D\s*('?-?\d+))?", lambda match: self._date(*match.groups())),
            (r"('?-?\d+)\.\s*('?\d+)\.\s*('?-?\d+)", lambda match: self._date(*match.groups())),
            (r"\b(?:\d{2}|\d{4})?-?w\d{2}(?:-?\d)?\b", lambda match: None),
            (r"-w-\d\b", lambda match: None),
            (r"--(\d{2})?-(\d{2})\b", lambda match: self._set(mon=match[1], mday=match[2])),
            (r"--(\d{2})(\d{2})?\b", lambda match: self._set(mon=match[1], mday=match[2])),
            (
                r"(?<![,.])\b(\d{2}|\d{4})-(\d{3})\b",
                lambda match: self._set(year=match[1], yday=match[2]),
            ),
            (r"(?<!\d)\b-(\d{3})\b", lambda match: self._set(yday=match[1])),
            (r"'(\d+)\b", lambda match: self._set(year=match[1])),
            (rf"\b{_MONTH}\S*", lambda match: self._set(mon=_month(match[1]))),
            (r"(\d+)(?:st|nd|rd|th)\b", lambda match: self._set(mday=match[1])),
            (_DIGITS, self._digits),
        )
        any(self._take(pattern, use) for pattern, use in dates)
        fields = self.fields
        if self._take(r"\b(?:bc\b|bce\b|b\.c\.|b\.c\.e\.)", lambda match: None) and "year" in fields:
            fields["year"] = 1 - fields["year"]
        if fragment := re.fullmatch(r"\s*(\d{1,2})\s*", self.rest):
            value = int(fragment[1])
            if "hour" in fields and "mday" not in fields and 1 <= value <= 31:
                fields["mday"] = value
            if "mday" in fields and "hour" not in fields and value <= 24:
                fields["hour"] = value
        if self.two_digits and 0 <= fields.get("year", -1) <= 99:
            fields["year"] += 1900 if fields["year"] >= 69 else 2000
        return fields

    def _take(self, pattern: str, use: Callable[[re.Match[str]], None]) -> bool:
        match = re.search(pattern, self.rest, re.ASCII | re.VERBOSE if pattern == _TIME else re.ASCII)
        if match is None:
            return False
        self.rest = self.rest[: match.start()] + " " + self.rest[match.end() :]
        use(match)
        return True

    def _set(self, **fields: str | None) -> None:
        if any(name != "year" and value and int(value) > _MAX_INT for name, value in fields.items()):
            raise RubyError("internal")
        self.fields |= {name: int(value) for name, value in fields.items() if value is not None}

    def _time(self, match: re.Match[str]) -> None:
        clock = cast(re.Match[str], re.match(_CLOCK, match[1], re.ASCII))
        self._set(hour=clock[1], min=clock[2], sec=clock[3])
        if clock[5]:
            self.fields["hour"] = self.fields["hour"] % 12 + 12 * (clock[5] == "p")
        self._set_fraction(clock[4])
        self.zone = match[2] or ""

    def _set_fraction(self, digits: str | None) -> None:
        if digits:
            self.fraction = Fraction(int(digits), 10 ** len(digits))

    def _era(self, match: re.Match[str]) -> None:
        self._set(mon=match[3], mday=match[4])
        self.fields["year"] = int(match[2]) + _ERAS[match[1]]

    def _date(self, year: str | None, month: str | None, day: str | None, era: str | None = None) -> None:
        """Set three parts of a date, which change places by their length: a part of three digits is a year."""
        if year and month and not day:
            year, month, day = day, year, month
        if not year and day and (len(day) > 2 or day.startswith("'")):
            year, day = day, year
        if year and (ordinal := re.search(r"(\d+)(.+)", year)) and not ordinal[2].isdigit():
            year, day = day, ordinal[1]
        if month and (month.startswith("'") or len(month) > 2):
            year, month, day = month, day, year
        if day and (day.startswith("'") or len(day) > 2):
            year, day = day, year
        if year and (digits := re.search(r"([-+])?(\d+)", year)):
            if digits[1] or len(digits[2]) > 2:
                self.two_digits = False
            self.fields["year"] = int(digits[0])
            if era and era.startswith("b"):
                self.fields["year"] = 1 - self.fields["year"]
        for name, part in (("mon", month), ("mday", day)):
            if part and (digits := re.search(r"\d+", part)):
                self._set(**{name: digits[0]})

    def _digits(self, match: re.Match[str]) -> None:
        """Set the fields of a run of digits by its length. With a fraction, the last two digits are seconds."""
        sign, date, clock, fraction, zone = match.groups()
        size = len(date)
        names: tuple[tuple[str, int], ...]
        if clock is None and fraction is not None:
            names = (("sec", 2), ("min", 2), ("hour", 2), ("mday", 2), ("mon", 2), ("year", 4))
            self._set(**_cut_from_end(date, names))
        elif size == 2:
            self._set(mday=date)
        elif size == 4:
            self._set(mon=date[:2], mday=date[2:])
        elif size == 6:
            self._set(year=sign + date[:2], mon=date[2:4], mday=date[4:])
        elif size in (3, 5, 7):
            self._set(year=(sign + date[:-3]) if size > 3 else None, yday=date[-3:])
        elif size in (8, 10, 12, 14):
            self.two_digits = False
            parts = [date[at : at + 2] or None for at in range(4, 14, 2)]
            self._set(year=sign + date[:4], mon=parts[0], mday=parts[1], hour=parts[2], min=parts[3], sec=parts[4])
        if clock and len(clock) in (2, 4, 6):
            if fraction is not None:
                self._set(**_cut_from_end(clock, (("sec", 2), ("min", 2), ("hour", 2))))
            else:
                self._set(hour=clock[:2], min=clock[2:4] or None, sec=clock[4:] or None)
        self._set_fraction(fraction)
        self.zone = zone or self.zone


def _cut_from_end(digits: str, names: tuple[tuple[str, int], ...]) -> dict[str, str | None]:
    fields: dict[str, str | None] = {}
    for name, size in names:
        if digits:
            fields[name], digits = digits[-size:], digits[:-size]
    return fields


def _month(name: str) -> str:
    return str(_MONTHS.split("|").index(name) + 1)
