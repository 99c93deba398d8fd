"""Parses text values from an operator, such as comma-separated lists, and reports faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class BadValue(ValueError):
    """An invalid value. Each of `faults` completes a sentence that begins with the name of the value.

    A fault never repeats a value that may be secret. `example`: the valid value that was probably meant.
    """

    def __init__(self, *faults: str, example: str | None = None) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults
        self.example = example


def split_list(value: str) -> list[str]:
    """Return the entries of a comma-separated list, without blank entries."""
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def parse_list(value: str, parse: Callable[[int, str], T]) -> tuple[T, ...]:
    """Return `parse(number, entry)` of each entry that is not blank. Numbers begin at 1.

    Raises BadValue with the faults of all entries.
    """
    parsed: list[T] = []
    faults: list[str] = []
    for number, entry in enumerate(value.split(","), start=1):
        if entry.strip():
            try:
                parsed.append(parse(number, entry.strip()))
            except BadValue as error:
                faults += error.faults
    if faults:
        raise BadValue(*faults)
    return tuple(parsed)
