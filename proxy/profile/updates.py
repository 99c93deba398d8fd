"""Updates that Amplitude pushed about one user: cohorts entered or left, and properties, each with its time.

A value begins with its time, in eight bytes that sort as times do. The later value is therefore the greater one, and
a merge takes the greater one, in any order and however often. A value from a clock ahead of ours also holds the lead
of that clock: its time orders the updates, but its age counts from its arrival. A set of properties that was pushed
whole replaces all earlier values of any property.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

Updates = Mapping[bytes, bytes]
"""By field: a cohort, a property, or the floor, the time before which no value of a property counts."""

REMOVED = b""
"""The value of a property that was removed."""
UNKNOWN = b"?"
"""The value of a property that was changed to a value that only Amplitude knows."""

_FLOOR = b"f"
_COHORT = b"c"
_PROPERTY = b"p"
_WHOLE = b"w"
_IN, _OUT = b"1", b"0"
_MOMENT = struct.Struct(">d")
_SIZES = struct.Struct(">II")
_DEFLATED = b"x"  # how zlib begins, and nothing packed, which begins with four bytes of a size
_LONG = 512
_NO_ARRIVAL = float("inf")
_AHEAD = b"\xff"  # no value begins with it, as values are UTF-8


MESSAGE_SECONDS = 86_400.0
"""How long a repeated message is recognised. Amplitude's last retry comes after four hours."""
MAX_BYTES = 64 * 1024
MAX_FIELDS = 1_000
"""The maximum for one user, packed."""


def _moment(at: float, now: float) -> bytes:
    # The lead and not the arrival: of a repeated update the first arrival counts, which has the greater lead.
    return _MOMENT.pack(at) + (_AHEAD + _MOMENT.pack(at - now) if at > now else b"")


def membership(cohort_id: str, is_in: bool, at: float, now: float = _NO_ARRIVAL) -> dict[bytes, bytes]:
    """Return the update that a user is in a cohort, or is not. at: its time; now: its arrival (Unix seconds)."""
    return {_COHORT + _bytes(cohort_id): _moment(at, now) + (_IN if is_in else _OUT)}


def properties(
    values: Mapping[str, bytes], at: float, now: float = _NO_ARRIVAL, *, whole: bool = False
) -> dict[bytes, bytes]:
    """Return updates of properties: JSON, REMOVED or UNKNOWN by name. whole: the user has no other properties."""
    moment = _moment(at, now)
    each = {_PROPERTY + _bytes(name): moment + value for name, value in values.items()}
    return {_FLOOR: moment + _WHOLE} | each if whole else each


def cleared(at: float, now: float = _NO_ARRIVAL) -> dict[bytes, bytes]:
    """Return the update that all property values before `at` are void, and only Amplitude knows the present ones."""
    return {_FLOOR: _moment(at, now) + UNKNOWN}


def merged(old: Updates, new: Updates) -> Updates:
    """Merge two sets of updates: the later value wins; of two with the same time, the greater one."""
    both = dict(old)
    for field, value in new.items():
        if value > both.get(field, b""):
            both[field] = value
    if floor := both.get(_FLOOR):
        moment = floor[:8]
        both = {field: value for field, value in both.items() if field[:1] != _PROPERTY or value[:8] >= moment}
    return both


def said(value: bytes) -> tuple[float, bytes]:
    """Return the time of a field's value, at the latest its arrival, and the value."""
    at: float = _MOMENT.unpack_from(value)[0]
    if value[8:9] != _AHEAD or len(value) < 17:
        return at, value[8:]
    return at - _MOMENT.unpack_from(value, 9)[0], value[17:]


def pack(pushed: Updates) -> bytes:
    """Return the updates as they are sent and stored: the same bytes for the same updates, in any order."""
    return b"".join([_SIZES.pack(len(field), len(value)) + field + value for field, value in sorted(pushed.items())])


def too_large(pushed: Updates) -> bool:
    """Tell whether the updates exceed the maximum for one user."""
    if len(pushed) > MAX_FIELDS:
        return True
    return sum(map(len, pushed)) + sum(map(len, pushed.values())) + _SIZES.size * len(pushed) > MAX_BYTES


def since(pushed: Updates, moment: float, *, forgotten: float | None = None) -> Updates:
    """Return the updates at `moment` or later, and later than `forgotten`; `pushed` itself if that is all of it."""
    least = _MOMENT.pack(max(moment, 0.0))
    if forgotten is None and min(pushed.values(), default=least) >= least:
        return pushed
    recent = {field: value for field, value in pushed.items() if value >= least and len(value) >= _MOMENT.size}
    if forgotten is not None:
        recent = {field: value for field, value in recent.items() if said(value)[0] > forgotten}
    return pushed if len(recent) == len(pushed) else recent


def shrink(packed: bytes) -> bytes:
    """Return packed updates compressed, where they are long."""
    return zlib.compress(packed, 1) if len(packed) >= _LONG else packed


def unpack(packed: bytes) -> Updates:
    """Return packed updates, compressed or not, as they were. Raises ValueError for anything else, and for too many."""
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
    """Updates as read: times and values by cohort and by property, and when a whole set was pushed, or cleared."""

    cohorts: Mapping[str, tuple[float, bool]]
    properties: Mapping[str, tuple[float, bytes]]
    whole_at: float | None
    latest: float
    cleared_at: float | None = None


def known(pushed: Updates) -> Known:
    """Return the content of `pushed`. Unknown fields are ignored."""
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
    """Return a number for a user, the same in all processes, with which they notify each other of a push."""
    return zlib.crc32(user_id.encode("utf-8", "surrogatepass"))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
