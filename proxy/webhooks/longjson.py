"""JSON of many entries, read with pauses in which others have their turn. Pure: what a pause is, the caller says."""

from __future__ import annotations

import re
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any, NamedTuple

from proxy.profile.json import TooDeep, read_json_at

MOST = 50_000
"""Entries and members that are read of one document."""
MOST_VALUES = 500_000
"""Values within them: each takes a hundred bytes."""
_MOST_PASSED = 2 * MOST_VALUES
"""Texts, arrays and objects that are passed over unread: each takes a microsecond. A value may have a name."""
_AT_ONCE = 32 * 1024
"""Characters that are read, in half a millisecond, before others may have their turn."""
_LONGEST = 512 * 1024
"""Characters of one entry that are read, in five milliseconds."""
_SPACE = re.compile(r"[ \t\n\r]*")
_SPACE_AT_ONCE = 256 * 1024
_PIECE = re.compile(r'[^"\[\]{}]{1,32768}|"|[\[\]{}]')
_TEXT = re.compile(r'(?:[^"\\]|\\.){0,8192}', re.DOTALL)
_NUMBER_END = 4
"""A number that ends so near to the end of a piece may go on behind it: `1.5e+10`."""


class Unread(NamedTuple):
    """What stands for an entry that was passed over, and why."""

    why: str


TOO_LARGE = Unread("too_large")


class TooMany(Exception):
    """More entries, or values within them, than are read."""


def read(body: bytes | bytearray, checkpoint: Callable[[], object]) -> Any:
    """Return the document in `body`, as strictjson reads it. ValueError when it is not JSON, or TooMany.

    An array, or an array in an object, is read by its entries; one entry is read in one go. One that is too large for
    that is passed over, and so is one entry of several that cannot be passed on, as `NaN` or one that nests too deeply.
    """
    reading = _Reading(body.decode("utf-8"), checkpoint)
    document = reading.value(objects=1)
    if reading.next_is(""):
        return document
    raise ValueError("more than one document")


class _Reading:
    def __init__(self, text: str, checkpoint: Callable[[], object]) -> None:
        self._text = text
        self._breathe = checkpoint
        self._at = 0
        self._breathed_at = 0
        self._read = 0
        self._values = 0
        self._passed = 0
        self._piece = text[:_LONGEST]
        self._piece_at = 0

    def next_is(self, sign: str) -> bool:
        """Say whether what follows, white space aside, begins with `sign`; the end is the empty one."""
        while (here := self._text[self._at : self._at + 1]) and here in " \t\n\r":
            found = _SPACE.match(self._text, self._at, self._at + _SPACE_AT_ONCE)
            assert found is not None  # noqa: S101  # be it of nothing
            self._at = found.end()
            self._pause()
        return here == sign

    def value(self, *, objects: int) -> Any:
        """Return what follows: of `objects` within each other, member by member."""
        if self.next_is("["):
            entries: list[Any] = []
            self._each("]", lambda: entries.append(self._entry()))
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
            self._read += 1
            if self._read > MOST:
                raise TooMany
            read_one()
            self._pause()
            if self.next_is(end):
                self._at += 1
                return
            self._take(",")

    def _pause(self) -> None:
        if self._at - self._breathed_at >= _AT_ONCE:
            self._breathed_at = self._at
            self._breathe()

    def _take(self, sign: str) -> None:
        if not self.next_is(sign):
            raise ValueError(f"no {sign} where one must be")
        self._at += 1

    def _entry(self) -> Any:
        self.next_is("")
        begin = self._at
        try:
            return self._whole()
        except JSONDecodeError:
            raise
        except ValueError as error:  # it is JSON, or nearly: where it ends is known, and the others are read
            self._at = begin
            self._pass()
            return Unread("nested_too_deeply" if isinstance(error, TooDeep) else "not_json")

    def _whole(self) -> Any:
        self.next_is("")  # the reader takes no white space before it
        at = self._at - self._piece_at
        begin, failed = self._at, False
        # An error is looked at again in the largest piece: it may be that of the piece's end.
        for again in (False, True):
            if again or at >= len(self._piece):
                self._piece_at, at = self._at, 0
                self._piece = self._text[self._at : self._at + _LONGEST]
            last = self._piece_at + len(self._piece) == len(self._text)
            try:
                value, end, values = read_json_at(self._piece, at)
            except JSONDecodeError:
                if last:
                    raise
                # The error itself is not kept: with its traceback it would be a reference cycle that holds the body.
                failed = True
                continue
            failed = False
            if last or end + _NUMBER_END <= len(self._piece) or self._piece[end - 1] in '"]}':
                self._at = self._piece_at + end
                self._values += values
                if self._values > MOST_VALUES:
                    raise TooMany
                return value
        self._pass()
        if failed and self._at - begin <= len(self._piece):
            raise JSONDecodeError("not JSON", "", 0)
        return TOO_LARGE

    def _pass(self) -> None:
        """Pass over what follows, up to where it ends."""
        depth = 0
        while True:
            if depth == 0 and self._text[self._at : self._at + 1] in ("", ",", ":", "]", "}"):
                return
            found = _PIECE.match(self._text, self._at)
            if found is None:
                raise ValueError("an end within an entry")
            piece = found[0]
            if depth == 0 and piece[0] not in '"[{':  # a number, or a word
                self._at += len(re.split(r"[,:\s]", piece, maxsplit=1)[0])
                if self._at < found.end():
                    return
                continue
            self._at = found.end()
            if piece in '"[{':
                self._passed += 1
                if self._passed > _MOST_PASSED:
                    raise TooMany
            if piece == '"':
                self._pass_text()
            elif piece in "[{":
                depth += 1
            elif piece in "]}":
                depth -= 1
            self._pause()
            if depth == 0 and piece[-1] in '"]}':
                return

    def _pass_text(self) -> None:
        while self._text[self._at : self._at + 1] != '"':
            found = _TEXT.match(self._text, self._at)
            if found is None or found.end() == self._at:
                raise ValueError("an end within a text")
            self._at = found.end()
            self._pause()
        self._at += 1
