"""Defines the updates that Amplitude pushes about a user: cohorts entered or left, and properties.

A value begins with its time, in eight bytes that sort like the times. The later value is therefore the greater value. A
merge takes the greater value, so order and repetition do not matter. If the sender's clock is ahead, the value also
contains the lead of that clock: the time orders the updates, but the age counts from the arrival. A whole set of
properties replaces all earlier values of all properties.

Properties that were pushed together are one field: the names, and a value with a line of JSON for each property. A
field is split only if pushes about the same user have different names.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from proxy.profile.json import write_json
from proxy.profile.record import CLOCK_ERROR_SECONDS

Updates = Mapping[bytes, bytes]
"""Values by field. A field is a cohort, a set of properties, or the floor: the time before which no property counts."""

REMOVED = b""
"""The value of a removed property."""
UNKNOWN = b"?"
"""Stands for the new value of a property if only Amplitude knows this value."""

_FLOOR = b"f"
_COHORT = b"c"
_SET = b"s"
_PROPERTY = b"p"
"""A single property, in the format of the previous version in Redis."""
_WHOLE = b"W"
"""The previous version, which has no sets, treats this value as "cleared" and fetches the properties."""
_PREVIOUS_WHOLE = b"w"
_IN, _OUT = b"1", b"0"
_MOMENT = struct.Struct(">d")
_SIZES = struct.Struct(">II")
_NO_ARRIVAL = float("inf")
_AHEAD = b"\xff"  # no value begins with it, as values are UTF-8
_NAMES = msgspec.json.Decoder(list[str])


MESSAGE_SECONDS = 86_400.0
"""Seconds for which a repeated message is recognised. Amplitude's last retry comes after four hours."""
MAX_BYTES = 64 * 1024
"""The maximum size of the packed updates of a user."""
MAX_FIELDS = 1_000
"""The maximum number of cohorts and properties in the updates of a user."""


def _moment(at: float, now: float) -> bytes:
    # The lead is stored, not the arrival: the first arrival of a repeated update counts, and has the greater lead.
    return _MOMENT.pack(at) + (_AHEAD + _MOMENT.pack(at - now) if at > now else b"")


def membership(cohort_id: str, is_in: bool, at: float, now: float = _NO_ARRIVAL) -> dict[bytes, bytes]:
    """Return the update that a user entered or left a cohort. `at`: its time. `now`: its arrival (Unix seconds)."""
    return {_COHORT + cohort_id.encode("utf-8", "replace"): _moment(at, now) + (_IN if is_in else _OUT)}


def properties(
    values: Mapping[str, bytes], at: float, now: float = _NO_ARRIVAL, *, whole: bool = False
) -> dict[bytes, bytes]:
    """Return the update of properties: JSON, REMOVED or UNKNOWN by name. `whole`: the user has no other properties."""
    lines = {write_json(name): value for name, value in values.items()}
    return property_lines(_joined(lines), _joined(lines.values()), at, now, whole=whole)


def property_lines(
    names: bytes, values: bytes, at: float, now: float = _NO_ARRIVAL, *, whole: bool = False
) -> dict[bytes, bytes]:
    """Return the same update as `properties`, without parsing. `names`, `values`: a line of JSON for each property."""
    moment = _moment(at, now)
    update = {_FLOOR: moment + _WHOLE} if whole else {}
    if names:
        update[_SET + names] = moment + values
    return update


def cleared(at: float, now: float = _NO_ARRIVAL) -> Updates:
    """Return the update that clears all property values before `at`. Only Amplitude knows the current values."""
    return {_FLOOR: _moment(at, now) + UNKNOWN}


def merged(old: Updates, new: Updates) -> Updates:
    """Merge two sets of updates. The later value wins; at the same time, the greater value wins."""
    result = dict(old)
    for field, value in new.items():
        result[field] = _later(field, result.get(field, b""), value)
    return _without_outdated(result)


def _later(field: bytes, value: bytes, other: bytes) -> bytes:
    if value and field[:1] == _SET and value != other:
        start = _content_start(value)
        if value[:start] == other[: _content_start(other)]:
            lines = zip(_lines(value[start:]), _lines(other[start:]), strict=False)
            return value[:start] + _joined(map(max, lines))
    return max(value, other)


def _without_outdated(updates: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Remove cleared properties, and properties with a later value in another set. Changes `updates` in place."""
    sets = [field for field in updates if field[:1] == _SET]
    if sets and (floor := updates.get(_FLOOR)):
        for field in sets:
            if updates[field][:8] < floor[:8]:
                del updates[field]
        sets = [field for field in sets if field in updates]
    if len(sets) < 2:
        return updates
    latest: dict[bytes, tuple[bytes, dict[bytes, bytes]]] = {}
    lines_by_set = []
    for value, field in sorted([(updates.pop(field), field) for field in sets], reverse=True):
        start = value[: _content_start(value)]
        lines: dict[bytes, bytes] = {}
        for name, line in zip(_lines(field[1:]), _lines(value[len(start) :]), strict=False):
            other_start, other_lines = latest.setdefault(name, (start, lines))
            if other_start == start:
                other_lines[name] = max(line, other_lines.get(name, b""))
        lines_by_set.append((start, lines))
    for start, lines in lines_by_set:
        if lines:
            updates[_SET + _joined(lines)] = start + _joined(lines.values())
    return updates


def _lines(text: bytes) -> list[bytes]:
    return text.split(b"\n")[:-1]


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"".join([line + b"\n" for line in lines])


def _content_start(value: bytes) -> int:
    return 17 if value[8:9] == _AHEAD and len(value) >= 17 else 8


def _arrived_at(value: bytes) -> float:
    """Return the time of a value, or its arrival if that is earlier."""
    at: float = _MOMENT.unpack_from(value)[0]
    return at if _content_start(value) == 8 else at - _MOMENT.unpack_from(value, 9)[0]


def correct_arrivals(updates: Updates, now: float) -> Updates:
    """Return the updates with the current time for each arrival that a wrong clock set in the future.

    The order of the updates stays. The new arrival is a little earlier than `now` (Unix seconds), and later than the
    time from `correct_times`. Return `updates` itself if no arrival is in the future.
    """
    if max(updates.values(), default=b"") < _MOMENT.pack(max(now, 0.0)):
        return updates
    latest, arrived = now + CLOCK_ERROR_SECONDS, now - CLOCK_ERROR_SECONDS / 2
    ahead = {
        field: _moment(_MOMENT.unpack_from(value)[0], arrived) + value[_content_start(value) :]
        for field, value in updates.items()
        if len(value) >= _MOMENT.size and _arrived_at(value) > latest
    }
    return {**updates, **ahead} if ahead else updates


def pack(updates: Updates) -> bytes:
    """Return the stored form of updates. The same fields give the same bytes, in any order."""
    return b"".join([_SIZES.pack(len(field), len(value)) + field + value for field, value in sorted(updates.items())])


def packed_size(updates: Updates) -> int:
    """Return the number of bytes of the packed updates."""
    return len(b"".join((*updates, *updates.values()))) + _SIZES.size * len(updates)


def too_large(updates: Updates) -> bool:
    """Return whether the updates exceed the maximum for one user."""
    count = sum([field.count(b"\n") if field[:1] == _SET else 1 for field in updates])
    return count > MAX_FIELDS or packed_size(updates) > MAX_BYTES


def updates_since(updates: Updates, moment: float, *, forgotten: float | None = None) -> Updates:
    """Return the updates at `moment` or later that arrived after `forgotten`.

    Return `updates` itself if none is removed.
    """
    least = _MOMENT.pack(max(moment, 0.0))
    if forgotten is None and min(updates.values(), default=least) >= least:
        return updates
    recent = {field: value for field, value in updates.items() if value >= least and len(value) >= _MOMENT.size}
    if forgotten is not None:
        recent = {field: value for field, value in recent.items() if _arrived_at(value) > forgotten}
    return updates if len(recent) == len(updates) else recent


def unpack(packed: bytes) -> Updates:
    """Return unpacked updates. Raises ValueError if `packed` is malformed or larger than MAX_BYTES."""
    if len(packed) > MAX_BYTES:
        raise ValueError("the packed updates are too large")
    updates: dict[bytes, bytes] = {}
    at = 0
    try:
        while at < len(packed):
            field_size, value_size = _SIZES.unpack_from(packed, at)
            start = at + _SIZES.size
            at = start + field_size + value_size
            field, value = packed[start : start + field_size], packed[start + field_size : at]
            if field[:1] == _PROPERTY:
                field = _SET + write_json(field[1:].decode(errors="replace")) + b"\n"
                value += b"\n"
            updates[field] = max(value, updates.get(field, b""))
    except struct.error:
        raise ValueError("the packed updates are malformed") from None
    return updates


class ParsedUpdates(NamedTuple):
    """The content of updates: times and values by cohort and property, and when a whole set was pushed or cleared."""

    cohorts: Mapping[str, tuple[float, bool]]
    properties: Mapping[str, tuple[float, bytes]]
    whole_at: float | None
    latest: float
    cleared_at: float | None = None


NO_UPDATES = ParsedUpdates({}, {}, None, float("-inf"))


def parse_updates(updates: Updates) -> ParsedUpdates:
    """Parse `updates`. Unknown fields are ignored."""
    cohorts: dict[str, tuple[float, bool]] = {}
    values: dict[str, tuple[float, bytes]] = {}
    whole_at = cleared_at = None
    latest = float("-inf")
    readable = {field: value for field, value in updates.items() if len(value) >= _MOMENT.size}
    for field, value in sorted(_without_outdated(readable).items()):
        at, content = _arrived_at(value), value[_content_start(value) :]
        match field[:1]:
            case b"c":
                cohorts[field[1:].decode(errors="replace")] = at, content == _IN
            case b"s":
                try:
                    names = _NAMES.decode(b"[" + field[1:-1].replace(b"\n", b",") + b"]")
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue  # another program wrote the field
                values |= {name: (at, line) for name, line in zip(names, _lines(content), strict=False)}
            case b"f" if content in (_WHOLE, _PREVIOUS_WHOLE):
                whole_at = at
            case b"f":
                cleared_at = at
        latest = max(latest, at)
    # Sorted, so that Liquid-safe names do not depend on the order of the pushes.
    return ParsedUpdates(cohorts, dict(sorted(values.items())), whole_at, latest, cleared_at)


def checksum(user_id: str) -> int:
    """Return a checksum of a user id. Processes announce updates by these checksums."""
    return zlib.crc32(user_id.encode("utf-8", "surrogatepass"))
