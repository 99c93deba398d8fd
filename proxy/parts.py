"""Parts, records and lifetimes: what is asked, what is kept about a user, and for how long it is fresh.

Pure. A request asks for parts, a call brings several, a record keeps each by itself with its own time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

Section = Literal["recommendations", "properties", "cohorts"]
SECTIONS: tuple[Section, ...] = get_args(Section)


class Identity(NamedTuple):
    """The pair a record is kept under, as asked: trimmed, blanks dropped."""

    user_id: str | None
    device_id: str | None


class Part(NamedTuple):
    """The smallest thing that is fetched and kept by itself; `id` and `type` belong to recommendations."""

    section: Section
    id: str = ""
    type: str | None = None


PROPERTIES = Part("properties")
COHORTS = Part("cohorts")


def recommendation(rec_id: str, rec_type: str | None = None) -> Part:
    """Return the part of one `rec_id`; an absent `rec_type` is a type of its own (it obeys the experiment)."""
    return Part("recommendations", rec_id, rec_type)


class Kept(NamedTuple):
    """What Amplitude said of one part, as compact JSON, and when (Unix seconds)."""

    value: bytes
    at: float


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept about one user: parts, or that Amplitude does not know the user. Never both."""

    parts: Mapping[Part, Kept] = field(default_factory=dict)
    unknown_at: float | None = None
    user_id: str | None = None
    device_id: str | None = None

    def has(self, part: Part) -> bool:
        """Say whether this answers `part`, be it only by "unknown"."""
        return self.unknown_at is not None or part in self.parts

    def said_at(self, part: Part) -> float:
        """Return when Amplitude said so (Unix seconds). KeyError where `has` is false."""
        return self.unknown_at if self.unknown_at is not None else self.parts[part].at


EMPTY = Record()


def pack(value: Any) -> bytes:
    """Return `value` as compact JSON in UTF-8. A lone surrogate, which UTF-8 cannot hold, becomes "?"."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def merge(old: Record, new: Record) -> Record:
    """Return both in one, the later word winning: part by part, and "unknown" against all parts."""
    if old.unknown_at is not None or new.unknown_at is not None:
        return new if _last_said(new) >= _last_said(old) else old
    parts = dict(old.parts)
    for part, kept in new.parts.items():
        if part not in parts or kept.at >= parts[part].at:
            parts[part] = kept
    later = new if _last_said(new) >= _last_said(old) else old
    return Record(parts, None, later.user_id, later.device_id)


def _last_said(record: Record) -> float:
    if record.unknown_at is not None:
        return record.unknown_at
    return max((kept.at for kept in record.parts.values()), default=float("-inf"))


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """For how many seconds a part, and the word that a user is unknown, may be served. Applied on reading."""

    fresh: float
    negative: float

    def left(self, record: Record, part: Part, now: float) -> float:
        """Return the seconds for which `part` stays fresh, negative or zero when it is not."""
        if record.unknown_at is not None:
            return record.unknown_at + self.negative - now
        kept = record.parts.get(part)
        return kept.at + self.fresh - now if kept else float("-inf")

    def usable(self, record: Record, parts: Iterable[Part], now: float) -> list[Part]:
        """Return those of `parts` that the record answers freshly."""
        return [part for part in parts if self.left(record, part, now) > 0]

    def pruned(self, record: Record, now: float) -> Record:
        """Return the record without what may not be served any more."""
        if record.unknown_at is not None:
            return record if self.left(record, PROPERTIES, now) > 0 else EMPTY
        live = self.usable(record, record.parts, now)
        if len(live) == len(record.parts):
            return record
        return Record({part: record.parts[part] for part in live}, None, record.user_id, record.device_id)


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old an answer is and for how long it stays fresh, in seconds."""

    age: float
    left: float


def freshness(record: Record, parts: Collection[Part], lifetimes: Lifetimes, now: float) -> Freshness | None:
    """Return the age of the oldest and the least time left of any of `parts` that are there; None without one."""
    there = [part for part in parts if record.has(part)]
    if not there:
        return None
    return Freshness(
        age=max(0.0, now - min(record.said_at(part) for part in there)),
        left=min(lifetimes.left(record, part, now) for part in there),
    )
