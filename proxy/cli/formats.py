"""Numbers and times as text."""

from __future__ import annotations


def format_minutes(minutes: int) -> str:
    """Return a duration in hours and minutes: 45 min, 3 h 29 min."""
    hours, rest = divmod(minutes, 60)
    return " ".join(filter(None, [f"{hours} h" if hours else "", f"{rest} min" if rest or not hours else ""]))


def printable(text: str) -> str:
    """Return `text` for a terminal. Text with control characters is escaped, because a terminal would run them."""
    return text if text.isprintable() else repr(text)


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 call, 2,000 calls."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"
