"""Parts, records and lifetimes: what is asked, what is kept about a user, and for how long it is fresh.

Pure. A request asks for parts, a call brings several, a record keeps each by itself with its own time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

Section = Literal["recommendations", "properties", "cohorts", "computations", "propensities"]
SECTIONS: tuple[Section, ...] = get_args(Section)


class Identity(NamedTuple):
    """The pair a record is kept under, as asked: trimmed, blanks dropped."""

    user_id: str | None
    device_id: str | None


class Part(NamedTuple):
    """The smallest thing that is fetched and kept by itself. What `id` and `type` mean depends on the section."""

    section: Section
    id: str = ""
    type: str | None = None


PROPERTIES = Part("properties")
COHORTS = Part("cohorts")


def recommendation(rec_id: str, rec_type: str | None = None) -> Part:
    """Return the part of one `rec_id`; an absent `rec_type` is a type of its own (it obeys the experiment)."""
    return Part("recommendations", rec_id, rec_type)


def computations(comp_ids: Iterable[str] = ()) -> Part:
    """Return the part of exactly this set of ids, in whatever order; of all computations without any.

    A `comp_id` is not the name under which its value comes back, so one set never answers another.
    """
    return Part("computations", ",".join(sorted(comp_ids)))


def prediction(prediction_id: str, propensity_type: str = "score") -> Part:
    """Return the part of one prediction, as a score or as a percentile (`pct`)."""
    return Part("propensities", prediction_id, propensity_type)


class Kept(NamedTuple):
    """What Amplitude said of one part, as `columns` writes it, and when (Unix seconds)."""

    value: bytes
    at: float
    warm: bool = False
    """Whether it was fetched ahead of a send, and is to be fresh until then."""
    pushed: bool = False
    """Whether Amplitude pushed it unasked. Never of what is kept: only of what is made of it for one answer."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept about one user: parts, or that Amplitude does not know the user. Never both."""

    parts: Mapping[Part, Kept] = field(default_factory=dict)
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

    def said_at(self, part: Part) -> float:
        """Return when Amplitude said so (Unix seconds). KeyError where `has` is false."""
        return self.unknown_at if self.unknown_at is not None else self.parts[part].at

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
        if part not in parts or kept.at >= parts[part].at:
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
    return max((kept.at for kept in record.parts.values()), default=float("-inf"))


_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """For how many seconds what was kept may be served, and how (RFC 5861). Applied on reading.

    A part is fresh for `fresh`; for `stale_while_revalidate` after that it is served at once and refreshed
    behind; for `stale_if_error` after it went stale it is a spare, to stand in when Amplitude cannot answer.
    That a user is unknown is served for `negative`, and never stale.

    Each copy is fresh for up to a tenth less than `fresh`, or what a campaign fetched together would go stale
    together. How much less lies in the moment at which it was said, below the millisecond: as good as dice, and
    the same in every process. What was fetched ahead of a send is fresh for the whole of `warm`, and what was pushed
    for the whole of `pushed`.
    """

    fresh: float
    negative: float
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    warm: float = 0.0
    pushed: float = 0.0

    def left(self, record: Record, part: Part, now: float) -> float:
        """Return the seconds for which `part` stays fresh, negative or zero when it is not."""
        if record.unknown_at is not None:
            return record.unknown_at + self.negative - now
        kept = record.parts.get(part)
        return self.left_of(kept, now) if kept is not None else float("-inf")

    def left_of(self, kept: Kept, now: float) -> float:
        """Return the seconds for which `kept` stays fresh, negative or zero when it is not."""
        usual = self.fresh * (1 - _JITTER * (kept.at * 1000 % 1))
        if kept.pushed:
            usual = max(usual, self.pushed)
        return kept.at + (max(usual, self.warm) if kept.warm else usual) - now

    @property
    def whole(self) -> float:
        """Return the seconds for which a part may be of any use at all."""
        return self._use(warm=True)

    def use(self, record: Record) -> float:
        """Return the seconds for which the parts of `record` may be of any use from when they were said."""
        return self._use(warm=any(kept.warm for kept in record.parts.values()))

    @property
    def pushed_use(self) -> float:
        """Return the seconds for which what was pushed may be of any use: to answer, or to change what is kept."""
        longest = max(self.fresh, self.warm, self.pushed)
        return longest + max(self.stale_while_revalidate, self.stale_if_error)

    def _use(self, *, warm: bool) -> float:
        fresh = max(self.fresh, self.warm) if warm else self.fresh
        return fresh + max(self.stale_while_revalidate, self.stale_if_error)

    def answers(self, record: Record, part: Part, now: float, since: float) -> bool:
        """Say whether the record has `part` freshly, and said no earlier than `since` (Unix seconds)."""
        return self.left(record, part, now) > 0 and record.said_at(part) >= since

    def warmed(self, record: Record, part: Part, now: float) -> bool:
        """Say whether `part` was fetched ahead of a send, or pushed, and is still fresh by that."""
        kept = record.parts.get(part)
        return kept is not None and (kept.warm or kept.pushed) and self.left(record, part, now) > 0

    def pruned(self, record: Record, now: float) -> Record:
        """Return the record without what may not be served any more, not even as a spare."""
        if record.unknown_at is not None:
            return record if self.left(record, PROPERTIES, now) > 0 else EMPTY
        end = -max(self.stale_while_revalidate, self.stale_if_error)
        live = [part for part, kept in record.parts.items() if self.left_of(kept, now) > end]
        return record if len(live) == len(record.parts) else record.only(live)


class Freshness(NamedTuple):
    """How old an answer is and for how long it stays fresh, in seconds; `left` is not positive for a stale one."""

    age: float
    left: float


def freshness(record: Record, parts: Collection[Part], lifetimes: Lifetimes, now: float) -> Freshness | None:
    """Return the age of the oldest and the least time left of any of `parts` that are there; None without one."""
    if record.unknown_at is not None:
        return Freshness(max(0.0, now - record.unknown_at), lifetimes.left(record, PROPERTIES, now)) if parts else None
    oldest = left = float("inf")
    last: object = None
    for part in parts:
        kept = record.parts.get(part)
        if kept is not None and (said := kept[1:]) != last:  # what one call brought is fresh for the same time
            last, its_left = said, lifetimes.left_of(kept, now)
            oldest = kept.at if kept.at < oldest else oldest
            left = its_left if its_left < left else left
    return Freshness(max(0.0, now - oldest), left) if oldest < float("inf") else None
