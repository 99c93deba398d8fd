"""Defines the record of a user, which contains the cached parts with their fetch times, and merges records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from proxy.profile.parts import Part


class CachedPart(NamedTuple):
    """The value of a part in the form of `encoding`, and the time of its fetch (Unix seconds)."""

    value: bytes
    fetched_at: float
    warm: bool = False
    """Whether the part was warmed, and is fresh for `CACHE_WARM_SECONDS`."""
    pushed: bool = False
    """Whether a webhook pushed the value. Set only in the record for one answer, never in storage."""
    unlisted: bool = False
    """Whether the value comes only from snapshots that do not list the user, so the user may be unknown to Amplitude.
    Set only in the record for one answer.
    """


@dataclass(slots=True)
class Record:
    """The cached parts of a user, or the fact that Amplitude does not know the user (`unknown_at`).

    Never both in storage. In the record for one answer, an unknown user may have the cohorts of snapshots.
    No code changes a record. The class is not frozen, because a frozen record takes 0.5 microseconds more to create.
    """

    parts: Mapping[Part, CachedPart] = field(default_factory=dict)
    unknown_at: float | None = None
    user_id: str | None = None
    device_id: str | None = None
    unknown_status: int = 400
    """The HTTP status of Amplitude's "unknown user" answer. Amplitude does not document the status."""

    @property
    def found(self) -> bool:
        """Return whether Amplitude knows the user."""
        # Not all() with a generator, which takes three times as long.
        for cached in self.parts.values():  # noqa: SIM110
            if not cached.unlisted:
                return True
        return False

    def has(self, part: Part) -> bool:
        """Return whether the record answers `part`, even with "unknown user"."""
        return self.unknown_at is not None or part in self.parts

    def has_all(self, parts: Iterable[Part]) -> bool:
        """Return whether the record answers all `parts`."""
        return self.unknown_at is not None or all(map(self.parts.__contains__, parts))

    def fetched_at(self, part: Part) -> float:
        """Return when `part` was fetched (Unix seconds). Raises KeyError if the record does not answer the part."""
        return self.unknown_at if self.unknown_at is not None else self.parts[part].fetched_at

    def only(self, parts: Iterable[Part]) -> Record:
        """Return a copy of the record with only these parts; the record itself if the user is unknown."""
        if self.unknown_at is not None:
            return self
        cached = {part: self.parts[part] for part in parts if part in self.parts}
        return replace(self, parts=cached)

    def warm(self) -> Record:
        """Return a copy of the record with all parts marked as warmed."""
        return replace(self, parts={part: cached._replace(warm=True) for part, cached in self.parts.items()})


EMPTY = Record()


CLOCK_ERROR_SECONDS = 5.0
"""Seconds by which the clocks of two machines may differ. A time that is further ahead comes from a wrong clock."""


def limited(record: Record, latest: float, instead: float) -> Record:
    """Return the record with `instead` for each time after `latest` (Unix seconds)."""
    if _latest(record) <= latest:
        return record
    if record.unknown_at is not None:
        return replace(record, unknown_at=instead)
    return replace(
        record,
        parts={
            part: cached if cached.fetched_at <= latest else cached._replace(fetched_at=instead)
            for part, cached in record.parts.items()
        },
    )


def correct_times(record: Record, now: float) -> Record:
    """Return the record with the current time for each time that a wrong clock set in the future.

    The corrected time is a little earlier than `now` (Unix seconds). Otherwise the copy could answer a request for a
    newer copy.
    """
    return limited(record, now + CLOCK_ERROR_SECONDS, now - CLOCK_ERROR_SECONDS)


def merge_remote(record: Record, known: Record, now: float) -> Record:
    """Return what to merge into the `known` record from the `record` of another process.

    A copy with a time in the future does not replace a known copy, because its age is unknown.
    """
    latest = now + CLOCK_ERROR_SECONDS
    if _latest(record) <= latest:
        return record
    if record.unknown_at is not None or known.unknown_at is not None:
        return correct_times(record, now) if known is EMPTY else EMPTY
    usable = [part for part, cached in record.parts.items() if cached.fetched_at <= latest or part not in known.parts]
    return correct_times(record.only(usable), now)


def merge(old: Record, new: Record) -> Record:
    """Merge two records. The later value of each part wins. "Unknown user" competes with all parts together."""
    if old is EMPTY:
        return new
    if old.unknown_at is not None or new.unknown_at is not None:
        return new if _latest(new) >= _latest(old) else old
    parts = dict(old.parts)
    for part, cached in new.parts.items():
        if part not in parts or cached.fetched_at >= parts[part].fetched_at:
            parts[part] = cached
    later, earlier = (new, old) if _latest(new) >= _latest(old) else (old, new)
    return Record(
        parts,
        None,
        later.user_id if later.user_id is not None else earlier.user_id,
        later.device_id if later.device_id is not None else earlier.device_id,
    )


def _latest(record: Record) -> float:
    if record.unknown_at is not None:
        return record.unknown_at
    return max((cached.fetched_at for cached in record.parts.values()), default=float("-inf"))
