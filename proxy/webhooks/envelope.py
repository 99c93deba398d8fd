"""Reads the JSON document of a webhook: split by msgspec, then decoded one user at a time, within limits.

msgspec splits 8 MiB into raw users in 5 to 10 ms. It refuses a whole document for NaN, half of a surrogate pair or
nesting beyond the recursion limit in a single user. Such a document is split here, at a tenth of the speed, so that one
broken user does not cost the others. No library finds the end of such a user: the standard library's `raw_decode` also
fails on nesting, and has built all values of a user before their number is known.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from json import JSONDecodeError
from typing import Any, NamedTuple, TypeVar

import msgspec

from proxy.profile.json import TooDeep, read_json

MAX_ENTRIES = 50_000
"""Users, and members of the objects around them, in one document."""
MAX_VALUES = 500_000
"""Values within them: each takes a hundred bytes."""
MAX_CHARACTERS = 512 * 1024
"""Length of one user, who is decoded in five milliseconds at most."""
_SIGNS_PER_VALUE = 3
"""A comma and two brackets: so many for each of MAX_VALUES are looked at by the slower path, in 0.4 s."""
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
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NAME = re.compile(rb"(" + _STRING + rb")[ \t\n\r]*:", re.DOTALL)
# Up to the next comma or bracket outside of strings. Between two of them JSON has a name and a value at most; of more
# strings, or one without an end, the pattern finds the quote.
_NEXT_SIGN = re.compile(rb'[^"\[\]{},]*+(?:' + _STRING + rb'[^"\[\]{},]*+){0,2}+(.|\Z)', re.DOTALL)
_DEPTHS = {b"[": 1, b"{": 1, b"]": -1, b"}": -1, b",": 0}


_Raws = TypeVar("_Raws", list[msgspec.Raw], dict[str, msgspec.Raw])


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
        self._checkpoint()
        first = bytes(memoryview(data)[:1])
        if first == b"[":
            return self._array(data)
        if objects and first == b"{":
            return {name: self.document(value, objects=objects - 1) for name, value in self._members(data)}
        return self._value(bytes(data))

    def _array(self, data: bytes | bytearray | msgspec.Raw) -> Iterator[Any]:
        entries = self._raws(_ARRAY, data)
        if entries is not None:
            return map(self._entry, map(bytes, entries))
        # All of them, since a syntax error in any refuses the document.
        return _drain(deque(map(self._entry, self._split(bytes(data)))))

    def _members(self, data: bytes | bytearray | msgspec.Raw) -> Iterable[tuple[str, bytes | msgspec.Raw]]:
        members = self._raws(_OBJECT, data)
        return members.items() if members is not None else map(_member, self._split(bytes(data)))

    def _raws(self, decoder: msgspec.json.Decoder[_Raws], data: bytes | bytearray | msgspec.Raw) -> _Raws | None:
        if self._is_small:
            with suppress(msgspec.DecodeError, RecursionError):
                raws = decoder.decode(data)
                self._count(len(raws))
                return raws
        return None

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

    def _split(self, data: bytes) -> Iterator[bytes]:
        """Yield the entries of an array, or the members of an object, without looking at anything but where they end.

        Raises ValueError.
        """
        if not data.endswith(b"}" if data.startswith(b"{") else b"]"):
            raise ValueError("the end is missing")
        depth, start = 0, 1
        for number, match in enumerate(_NEXT_SIGN.finditer(data)):
            if number % _SIGNS_AT_ONCE == 0:
                self._checkpoint()
                if number > _SIGNS_PER_VALUE * MAX_VALUES:
                    raise TooMany
            sign, end = match[1], match.end()
            if sign not in _DEPTHS:
                raise ValueError("a string without an end, or no end")
            depth += _DEPTHS[sign]
            if depth == 0 or (depth == 1 and sign == b","):
                part = data[start : end - 1].strip(_WHITE_SPACE)
                if part or depth or start > 1:
                    self._count(1)
                    yield part
                start = end
            if depth == 0:
                break
        if start < len(data):
            raise ValueError("more than one document")


def _member(text: bytes) -> tuple[str, bytes]:
    name = _NAME.match(text)
    if name is None:
        raise ValueError("no name, or no colon behind it")
    return read_json(name[1]), text[name.end() :].strip(_WHITE_SPACE)


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


def _drain(entries: deque[Any]) -> Iterator[Any]:
    """Yield each entry and release it: together they take as much memory as the data that is read from them."""
    while entries:
        yield entries.popleft()
