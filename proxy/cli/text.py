"""Numbers and times as text."""

from __future__ import annotations


def spoken(minutes: int) -> str:
    """Return a time as people say it: 45 min, 3 h 29 min."""
    hours, rest = divmod(minutes, 60)
    return " ".join(filter(None, [f"{hours} h" if hours else "", f"{rest} min" if rest or not hours else ""]))


def counted(number: int, noun: str) -> str:
    """Return a number of things as people say it: 1 call, 2,000 calls."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"
