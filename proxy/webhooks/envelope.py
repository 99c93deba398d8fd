"""Reads the JSON document of a webhook: splits it into users, and decodes one user at a time, within limits.

msgspec splits 8 MiB into raw users in 5 to 10 ms. But msgspec rejects the whole document if a single user contains NaN,
half of a surrogate pair, or too deep nesting. This module then splits the document itself, at a tenth of the speed, so
that one invalid user does not affect the others. No library finds the end of an invalid user: the standard library's
`raw_decode` fails on nesting, and builds all values of a user before their number is known.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from json import JSONDecodeError
from typing import Any, NamedTuple, TypeVar

import msgspec

from proxy.profile.json import TooDeep, read_json

MAX_ENTRIES = 50_000
"""The maximum number of users in a document, including the members of the objects around them."""
MAX_VALUES = 500_000
"""The maximum number of values in a document. Each value takes a hundred bytes."""
MAX_CHARACTERS = 512 * 1024
"""The maximum length of a user, which is decoded in at most five milliseconds."""
_SIGNS_PER_VALUE = 3
"""A comma and two brackets. The slower path processes this number of signs for each of MAX_VALUES, in 0.4 s."""
_SIGNS_AT_ONCE = 1_000
_SHALLOW = 100
"""A document with fewer brackets never nests too deeply."""
_LONG_INTEGER = b"0" * 4_000
"""`read_json` keeps a longer integer as text."""
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_WHITE_SPACE = b" \t\n\r"

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_VALUE = msgspec.json.Decoder()
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NAME = re.compile(rb"(" + _STRING + rb")[ \t\n\r]*:", re.DOTALL)
# Matches up to the next comma or bracket outside of strings. JSON has at most a name and a value in between. If there
# are more strings, or a string has no end, the pattern ends at a quote.
_NEXT_SIGN = re.compile(rb'[^"\[\]{},]*+(?:' + _STRING + rb'[^"\[\]{},]*+){0,2}+(.|\Z)', re.DOTALL)
_DEPTHS = {b"[": 1, b"{": 1, b"]": -1, b"}": -1, b",": 0}


_Raws = TypeVar("_Raws", list[msgspec.Raw], dict[str, msgspec.Raw])


class SkippedValue(NamedTuple):
    """Replaces a value that was skipped."""

    reason: str


TOO_LARGE = SkippedValue("too_large")


class TooMany(Exception):
    """The document has more than MAX_ENTRIES entries or MAX_VALUES values."""


def read(body: bytes | bytearray, checkpoint: Callable[[], object]) -> Any:
    """Decode `body`. Raises ValueError if the body is not JSON, and TooMany.

    An array, alone or in an object, is returned as an iterator that decodes one entry at a time. An entry becomes a
    `SkippedValue` if it is too large, nests too deeply or contains NaN. Any other value that is too large also becomes
    a `SkippedValue`.
    """
    if body.startswith(BOM_UTF8):
        body = body[len(BOM_UTF8) :]
    body.decode()  # rejects invalid UTF-8, because msgspec does not check strings that it skips
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
        # Each value except the first follows a separator. Values are counted exactly only if there are more separators.
        self._is_small = separators < MAX_VALUES

    def document(self, data: bytes | bytearray | msgspec.Raw, *, objects: int) -> Any:
        """Decode `data`. Up to `objects` nested objects are decoded member by member."""
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
        # All entries are decoded first, because a syntax error in any entry invalidates the document.
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
            return SkippedValue("nested_too_deeply")
        except ValueError:
            return SkippedValue("not_json")

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
        """Yield the raw entries of an array or members of an object. Raises ValueError.

        Only the ends of entries are parsed.
        """
        if not data.endswith(b"}" if data.startswith(b"{") else b"]"):
            raise ValueError("the closing bracket is missing")
        depth, start = 0, 1
        for number, match in enumerate(_NEXT_SIGN.finditer(data)):
            if number % _SIGNS_AT_ONCE == 0:
                self._checkpoint()
                if number > _SIGNS_PER_VALUE * MAX_VALUES:
                    raise TooMany
            sign, end = match[1], match.end()
            if sign not in _DEPTHS:
                raise ValueError("a string or the document has no end")
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
        raise ValueError("a name or its colon is missing")
    return read_json(name[1]), text[name.end() :].strip(_WHITE_SPACE)


def _decode(data: bytes) -> Any:
    """Decode a value as `read_json` does. If the result is the same, msgspec decodes it in a third of the time."""
    is_shallow = data.count(b"[") + data.count(b"{") < _SHALLOW
    if is_shallow and (len(data) < len(_LONG_INTEGER) or _LONG_INTEGER not in data.translate(_DIGITS_AS_ZERO)):
        with suppress(msgspec.DecodeError):
            return _VALUE.decode(data)
    return read_json(data)


def _values(value: Any) -> int:
    """Return the number of values, including nested values."""
    if not isinstance(value, dict | list):
        return 1
    return 1 + sum(map(_values, value.values() if isinstance(value, dict) else value))


def _drain(entries: deque[Any]) -> Iterator[Any]:
    """Yield each entry and release its memory. All entries together would double the memory in use."""
    while entries:
        yield entries.popleft()
