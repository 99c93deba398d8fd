"""JSON of many entries, read with pauses in which others have their turn. Pure: what a pause is, the caller says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy import strictjson

_AT_ONCE = 32 * 1024
"""Characters that are read, in half a millisecond, before others may have their turn."""
_SPACE = " \t\n\r"


def read(body: bytes, breathe: Callable[[], object]) -> Any:
    """Return the document in `body`, as strictjson reads it. ValueError when it is not JSON.

    An array, or an array in an object, is read by its entries; one entry is read in one go.
    """
    reading = _Reading(body.decode("utf-8"), breathe)
    document = reading.value(objects=1)
    if reading.next_is(""):
        return document
    raise ValueError("more than one document")


class _Reading:
    def __init__(self, text: str, breathe: Callable[[], object]) -> None:
        self._text = text
        self._breathe = breathe
        self._at = 0
        self._breathed_at = 0

    def next_is(self, sign: str) -> bool:
        """Say whether what follows, white space aside, begins with `sign`; the end is the empty one."""
        while (here := self._text[self._at : self._at + 1]) and here in _SPACE:
            self._at += 1
        return here == sign

    def value(self, *, objects: int) -> Any:
        """Return what follows: of `objects` within each other, member by member."""
        if self.next_is("["):
            entries: list[Any] = []
            self._each("]", lambda: entries.append(self._whole()))
            return entries
        if objects and self.next_is("{"):
            members: dict[str, Any] = {}

            def member() -> None:
                name = self._whole()
                if not isinstance(name, str):
                    raise ValueError("a name that is no text")
                self._take(":")
                members[name] = self.value(objects=objects - 1)

            self._each("}", member)
            return members
        return self._whole()

    def _each(self, end: str, read_one: Callable[[], None]) -> None:
        self._at += 1
        if self.next_is(end):
            self._at += 1
            return
        while True:
            read_one()
            if self._at - self._breathed_at >= _AT_ONCE:
                self._breathed_at = self._at
                self._breathe()
            if self.next_is(end):
                self._at += 1
                return
            self._take(",")

    def _take(self, sign: str) -> None:
        if not self.next_is(sign):
            raise ValueError(f"no {sign} where one must be")
        self._at += 1

    def _whole(self) -> Any:
        self.next_is("")  # the reader takes no white space before it
        value, self._at = strictjson.read_at(self._text, self._at)
        return value
