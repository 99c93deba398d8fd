"""What Amplitude pushed about one user: cohorts they entered or left, and properties, each with its moment. Pure.

A value begins with the moment at which it was said, in eight bytes that sort
as moments do, so that the later word is the greater value, and to merge is to take the greater: whatever the order, and
however often. Of what a clock that is ahead of ours said, the value says by how much too: its moment orders what was
pushed, but it was not said later than it came. A set of properties that was pushed whole ends all that was said of any
property before.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

Updates = Mapping[bytes, bytes]
"""By field: a cohort, a property, or the floor, the moment before which no property has a say."""

REMOVED = b""
"""What is said of a property that was taken away."""
UNKNOWN = b"?"
"""What is said of a property that was changed to a value that only Amplitude knows."""

_FLOOR = b"f"
_COHORT = b"c"
_PROPERTY = b"p"
_WHOLE = b"w"
_IN, _OUT = b"1", b"0"
_MOMENT = struct.Struct(">d")
_SIZES = struct.Struct(">II")
_DEFLATED = b"x"  # how zlib begins, and nothing packed, which begins with four bytes of a size
_LONG = 512
_NEVER = float("inf")
_AHEAD = b"\xff"  # as nothing begins that is said, which is UTF-8


MESSAGE_SECONDS = 86_400.0
"""For so long a message is known to be a repeated one. Amplitude's last try comes after four hours."""
MAX_BYTES = 64 * 1024
MAX_FIELDS = 1_000
"""What is kept about one user at most, packed."""


def _moment(at: float, now: float) -> bytes:
    # The lead and not the moment it came: of a repeated one the first counts, which had the greater.
    return _MOMENT.pack(at) + (_AHEAD + _MOMENT.pack(at - now) if at > now else b"")


def membership(cohort_id: str, is_in: bool, at: float, now: float = _NEVER) -> dict[bytes, bytes]:
    """Return that the user was in the cohort at the moment `at` (Unix seconds), or was not; `now`: when that came."""
    return {_COHORT + _bytes(cohort_id): _moment(at, now) + (_IN if is_in else _OUT)}


def properties(
    values: Mapping[str, bytes], at: float, now: float = _NEVER, *, whole: bool = False
) -> dict[bytes, bytes]:
    """Return what was said of properties: JSON, GONE or UNSURE by name; `whole`: there are no others."""
    moment = _moment(at, now)
    each = {_PROPERTY + _bytes(name): moment + value for name, value in values.items()}
    return {_FLOOR: moment + _WHOLE} | each if whole else each


def cleared(at: float, now: float = _NEVER) -> dict[bytes, bytes]:
    """Return that nothing that was said of any property before `at` holds any more; what does, only Amplitude knows."""
    return {_FLOOR: _moment(at, now) + UNKNOWN}


def merged(old: Updates, news: Updates) -> Updates:
    """Return both in one, the later word winning; of two of one moment the greater, whichever came first."""
    both = dict(old)
    for field, value in news.items():
        if value > both.get(field, b""):
            both[field] = value
    if floor := both.get(_FLOOR):
        moment = floor[:8]
        both = {field: value for field, value in both.items() if field[:1] != _PROPERTY or value[:8] >= moment}
    return both


def said(value: bytes) -> tuple[float, bytes]:
    """Return when a field's value was said, at the latest when it came, and what."""
    at: float = _MOMENT.unpack_from(value)[0]
    if value[8:9] != _AHEAD or len(value) < 17:
        return at, value[8:]
    return at - _MOMENT.unpack_from(value, 9)[0], value[17:]


def pack(pushed: Updates) -> bytes:
    """Return it as it is sent and kept: the same for the same, whatever came first."""
    return b"".join([_SIZES.pack(len(field), len(value)) + field + value for field, value in sorted(pushed.items())])


def too_large(pushed: Updates) -> bool:
    """Say whether that is more than is kept about one user."""
    if len(pushed) > MAX_FIELDS:
        return True
    return sum(map(len, pushed)) + sum(map(len, pushed.values())) + _SIZES.size * len(pushed) > MAX_BYTES


def since(pushed: Updates, moment: float, *, forgotten: float | None = None) -> Updates:
    """Return what was said at `moment` or later, and later than the user was `forgotten`: the same if that is all."""
    least = _MOMENT.pack(max(moment, 0.0))
    if forgotten is None and min(pushed.values(), default=least) >= least:
        return pushed
    left = {field: value for field, value in pushed.items() if value >= least and len(value) >= _MOMENT.size}
    if forgotten is not None:
        left = {field: value for field, value in left.items() if said(value)[0] > forgotten}
    return pushed if len(left) == len(pushed) else left


def shrink(packed: bytes) -> bytes:
    """Return what was packed in fewer bytes, where that is worth the while."""
    return zlib.compress(packed, 1) if len(packed) >= _LONG else packed


def unpack(packed: bytes) -> Updates:
    """Return what was packed, shrunk or not. ValueError where that was something else, or too large."""
    try:
        if packed[:1] == _DEFLATED:
            reader = zlib.decompressobj()
            packed = reader.decompress(packed, MAX_BYTES + 1)
            if not reader.eof:
                raise ValueError("cut off, or more than is ever packed")
        if len(packed) > MAX_BYTES:
            raise ValueError("more than is ever packed")
        pushed, at = {}, 0
        while at < len(packed):
            field, value = _SIZES.unpack_from(packed, at)
            start = at + _SIZES.size
            at = start + field + value
            pushed[packed[start : start + field]] = packed[start + field : at]
    except (struct.error, zlib.error):
        raise ValueError("not what was packed") from None
    return pushed


class Known(NamedTuple):
    """The same, to be read: moments and what was said, by cohort and by property; when a whole set was pushed, or none
    was left."""

    cohorts: Mapping[str, tuple[float, bool]]
    properties: Mapping[str, tuple[float, bytes]]
    whole_at: float | None
    latest: float
    cleared_at: float | None = None


def known(pushed: Updates) -> Known:
    """Return what is known by `pushed`. A field that is none of ours is as good as not there."""
    cohorts: dict[str, tuple[float, bool]] = {}
    values: dict[str, tuple[float, bytes]] = {}
    whole_at = cleared_at = None
    latest = float("-inf")
    for field, value in sorted(pushed.items()):
        if len(value) < 8:
            continue
        at, word = said(value)
        name = field[1:].decode(errors="replace")
        match field[:1]:
            case b"c":
                cohorts[name] = at, word == _IN
            case b"p":
                values[name] = at, word
            case b"f" if word == _WHOLE:
                whole_at = at
            case b"f":
                cleared_at = at
        latest = max(latest, at)
    return Known(cohorts, values, whole_at, latest, cleared_at)


def checksum(user_id: str) -> int:
    """Return what stands for a user where processes tell each other of a push, the same in all of them."""
    return zlib.crc32(user_id.encode("utf-8", "surrogatepass"))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
