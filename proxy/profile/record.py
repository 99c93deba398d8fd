"""Parts, records and lifetimes: what is asked, what is kept about a user, and for how long it is fresh.

Pure. A request asks for parts, a call brings several, a record keeps each by itself with its own time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.profile.parts import Part


class CachedPart(NamedTuple):
    """What Amplitude said of one part, as `columns` writes it, and when (Unix seconds)."""

    value: bytes
    fetched_at: float
    warm: bool = False
    """Whether it was fetched ahead of a send, and is to be fresh until then."""
    pushed: bool = False
    """Whether Amplitude pushed it unasked. Never of what is kept: only of what is made of it for one answer."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept about one user: parts, or that Amplitude does not know the user. Never both."""

    parts: Mapping[Part, CachedPart] = field(default_factory=dict)
    unknown_at: float | None = None
    user_id: str | None = None
    device_id: str | None = None
    unknown_status: int = 400
    """The HTTP status with which Amplitude said "unknown", which it does not document."""

    def has(self, part: Part) -> bool:
        """Say whether this answers `part`, be it only by "unknown"."""
        return self.unknown_at is not None or part in self.parts

    def has_all(self, parts: Iterable[Part]) -> bool:
        """Say whether this answers each of `parts`."""
        return self.unknown_at is not None or all(map(self.parts.__contains__, parts))

    def fetched_at(self, part: Part) -> float:
        """Return when Amplitude said so (Unix seconds). KeyError where `has` is false."""
        return self.unknown_at if self.unknown_at is not None else self.parts[part].fetched_at

    def only(self, parts: Iterable[Part]) -> Record:
        """Return the record with no other parts than these."""
        kept = {part: self.parts[part] for part in parts if part in self.parts}
        return Record(kept, self.unknown_at, self.user_id, self.device_id, self.unknown_status)

    def warm(self) -> Record:
        """Return the record as fetched ahead of a send."""
        parts = {part: kept._replace(warm=True) for part, kept in self.parts.items()}
        return Record(parts, self.unknown_at, self.user_id, self.device_id, self.unknown_status)


EMPTY = Record()


def merge(old: Record, new: Record) -> Record:
    """Return both in one, the later word winning: part by part, and "unknown" against all parts."""
    if old is EMPTY:
        return new
    if old.unknown_at is not None or new.unknown_at is not None:
        return new if _last_said(new) >= _last_said(old) else old
    parts = dict(old.parts)
    for part, kept in new.parts.items():
        if part not in parts or kept.fetched_at >= parts[part].fetched_at:
            parts[part] = kept
    later, earlier = (new, old) if _last_said(new) >= _last_said(old) else (old, new)
    return Record(
        parts,
        None,
        later.user_id if later.user_id is not None else earlier.user_id,
        later.device_id if later.device_id is not None else earlier.device_id,
    )


def _last_said(record: Record) -> float:
    if record.unknown_at is not None:
        return record.unknown_at
    return max((kept.fetched_at for kept in record.parts.values()), default=float("-inf"))
