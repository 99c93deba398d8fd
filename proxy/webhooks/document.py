"""Reads the JSON document of a webhook: split by msgspec, then decoded one user at a time, within limits.

msgspec splits 8 MiB into raw users in 5 to 10 ms. It refuses a whole document for NaN, half of a surrogate pair or
nesting beyond the recursion limit in a single user. Such a document is split here, at a tenth of the speed, so that one
broken user does not cost the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from json import JSONDecodeError
from typing import Any, NamedTuple

import msgspec

from proxy.profile.json import TooDeep, read_json

MAX_ENTRIES = 50_000
"""Users, and members of the objects around them, in one document."""
MAX_VALUES = 500_000
"""Values within them: each takes a hundred bytes."""
MAX_CHARACTERS = 512 * 1024
"""Length of one user, who is decoded in five milliseconds at most."""
_MAX_SIGNS = 3 * MAX_VALUES
"""Brackets and commas that the slower path looks at, in 0.4 s: a comma and two brackets a value."""
_SIGNS_AT_ONCE = 1_000
_SHALLOW = 100
"""Fewer brackets than this never nest too deeply."""
_LONG_INTEGER = b"0" * 4_000
"""`read_json` keeps an integer of more characters as text."""
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_WHITE_SPACE = b" \t\n\r"

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_VALUE = msgspec.json.Decoder()
# In text whose escaped quotes are masked: up to the next comma or bracket outside of strings. Between two of them JSON
# has a name and a value at most; of more strings, or one without an end, the pattern finds the quote.
_NEXT_SIGN = re.compile(rb'[^"\[\]{},]*+(?:"[^"]*+"[^"\[\]{},]*+){0,2}+([\[\]{},]|"|\Z)')


class Unread(NamedTuple):
    """Takes the place of a value that was skipped."""

    reason: str


TOO_LARGE = Unread("too_large")


class TooMany(Exception):
    """The document has more entries, or values within them, than allowed."""


def read(body: bytes | bytearray, checkpoint: Callable[[], object]) -> Any:
    """Decode `body`. Raises ValueError if it is not JSON, and TooMany.

    An array, alone or in an object, is returned as an iterator that decodes one entry at a time. An entry that is too
    large, nests too deeply or contains NaN is an `Unread`, and so is any other value that is too large.
    """
    body.decode()  # refuses what is not UTF-8: msgspec does not look into strings that it skips
    return _Reader(body, checkpoint).document(body.strip(_WHITE_SPACE), objects=1)


class _Reader:
    def __init__(self, body: bytes | bytearray, checkpoint: Callable[[], object]) -> None:
        self._checkpoint = checkpoint
        self._entries = 0
        self._values = 0
        separators = 0
        for separator in b",", b"[", b"{":
            separators += body.count(separator)
            checkpoint()
        # Every value but the first follows one of these. Only a document that has more of them is counted exactly.
        self._is_small = separators < MAX_VALUES

    def document(self, data: bytes | bytearray | msgspec.Raw, *, objects: int) -> Any:
        """Decode `data`. Up to `objects` objects within each other are decoded by their members."""
        first = bytes(memoryview(data)[:1])
        if first == b"[":
            return self._array(data)
        if objects and first == b"{":
            return {name: self.document(value, objects=objects - 1) for name, value in self._members(data)}
        return self._value(bytes(data))

    def _array(self, data: bytes | bytearray | msgspec.Raw) -> Iterator[Any]:
        if self._is_small:
            with suppress(msgspec.DecodeError, RecursionError):
                raws = _ARRAY.decode(data)
                self._count(len(raws))
                return map(self._entry, map(bytes, raws))
        # All of them, since a syntax error in any refuses the document.
        return _drain([self._entry(entry) for _, entry in self._split(bytes(data))])

    def _members(self, data: bytes | bytearray | msgspec.Raw) -> Iterator[tuple[str, bytes | msgspec.Raw]]:
        if self._is_small:
            with suppress(msgspec.DecodeError, RecursionError):
                members = _OBJECT.decode(data)
                self._count(len(members))
                return iter(members.items())
        return self._split(bytes(data))

    def _count(self, entries: int) -> None:
        self._entries += entries
        if self._entries > MAX_ENTRIES:
            raise TooMany

    def _entry(self, data: bytes) -> Any:
        self._checkpoint()
        try:
            return self._value(data)
        except JSONDecodeError:
            raise
        except TooDeep:
            return Unread("nested_too_deeply")
        except ValueError:
            return Unread("not_json")

    def _value(self, data: bytes) -> Any:
        if len(data) > MAX_CHARACTERS and len(data.decode()) > MAX_CHARACTERS:
            return TOO_LARGE
        value = _decode(data)
        if not self._is_small:
            self._values += _values(value)
            if self._values > MAX_VALUES:
                raise TooMany
        return value

    def _split(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield name and value of each member of an object, or of each entry of an array, which has no name.

        Only where a value ends is looked at, not what it is. Raises ValueError.
        """
        is_object = data.startswith(b"{")
        if not data.endswith(b"}" if is_object else b"]"):
            raise ValueError("the end is missing")
        masked = data.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        for start, end in self._parts(masked):
            self._count(1)
            name = ""
            if is_object:
                name_end = masked.index(b'"', masked.index(b'"', start) + 1) + 1
                name = read_json(data[start:name_end])
                start = masked.index(b":", name_end) + 1
                if masked[name_end : start - 1].strip(_WHITE_SPACE):
                    raise ValueError("no colon behind a name")
            yield name, data[start:end].strip(_WHITE_SPACE)

    def _parts(self, masked: bytes) -> Iterator[tuple[int, int]]:
        """Yield where each part of the array or object begins and ends."""
        depth, start = 0, 1
        for number, match in enumerate(_NEXT_SIGN.finditer(masked)):
            if number % _SIGNS_AT_ONCE == 0:
                self._checkpoint()
                if number > _MAX_SIGNS:
                    raise TooMany
            sign, end = match[1], match.end()
            if sign == b",":
                if depth == 1:
                    yield start, end - 1
                    start = end
            elif sign in (b"[", b"{"):
                depth += 1
            elif sign in (b"]", b"}"):
                depth -= 1
                if depth == 0:
                    break
            else:
                raise ValueError("a string without an end, or no end")
        if end < len(masked):
            raise ValueError("more than one document")
        if start > 1 or masked[1 : end - 1].strip(_WHITE_SPACE):
            yield start, end - 1


def _decode(data: bytes) -> Any:
    """Decode one value as `read_json` does: by msgspec, in a third of the time, where that makes no difference."""
    is_shallow = data.count(b"[") + data.count(b"{") < _SHALLOW
    if is_shallow and (len(data) < len(_LONG_INTEGER) or _LONG_INTEGER not in data.translate(_DIGITS_AS_ZERO)):
        with suppress(msgspec.DecodeError):
            return _VALUE.decode(data)
    return read_json(data)


def _values(value: Any) -> int:
    """Count the values within each other."""
    if not isinstance(value, dict | list):
        return 1
    return 1 + sum(map(_values, value.values() if isinstance(value, dict) else value))


def _drain(entries: list[Any]) -> Iterator[Any]:
    """Yield each entry and release it: together they take as much memory as the data that is read from them."""
    entries.reverse()
    while entries:
        yield entries.pop()
