"""Freshness policy: how long each cached part is fresh, stale, or gone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from proxy.profile.parts import PROPERTIES, Part
from proxy.profile.record import EMPTY, CachedPart, Record

_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class FreshnessPolicy:
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

    def ttl(self, record: Record, part: Part, now: float) -> float:
        """Return the seconds for which `part` stays fresh, negative or zero when it is not."""
        if record.unknown_at is not None:
            return record.unknown_at + self.negative - now
        kept = record.parts.get(part)
        return self.ttl_of(kept, now) if kept is not None else float("-inf")

    def ttl_of(self, kept: CachedPart, now: float) -> float:
        """Return the seconds for which `kept` stays fresh, negative or zero when it is not."""
        usual = self.fresh * (1 - _JITTER * (kept.fetched_at * 1000 % 1))
        if kept.pushed:
            usual = max(usual, self.pushed)
        return kept.fetched_at + (max(usual, self.warm) if kept.warm else usual) - now

    @property
    def max_age(self) -> float:
        """Return the seconds for which a part may be of any use at all."""
        return self._use(warm=True)

    def usable_for(self, record: Record) -> float:
        """Return the seconds for which the parts of `record` may be of any use from when they were said."""
        return self._use(warm=any(kept.warm for kept in record.parts.values()))

    @property
    def updates_usable_for(self) -> float:
        """Return the seconds for which what was pushed may be of any use: to answer, or to change what is kept."""
        longest = max(self.fresh, self.warm, self.pushed)
        return longest + max(self.stale_while_revalidate, self.stale_if_error)

    def _use(self, *, warm: bool) -> float:
        fresh = max(self.fresh, self.warm) if warm else self.fresh
        return fresh + max(self.stale_while_revalidate, self.stale_if_error)

    def is_fresh(self, record: Record, part: Part, now: float, since: float) -> bool:
        """Say whether the record has `part` freshly, and said no earlier than `since` (Unix seconds)."""
        return self.ttl(record, part, now) > 0 and record.fetched_at(part) >= since

    def is_warm(self, record: Record, part: Part, now: float) -> bool:
        """Say whether `part` was fetched ahead of a send, or pushed, and is still fresh by that."""
        kept = record.parts.get(part)
        return kept is not None and (kept.warm or kept.pushed) and self.ttl(record, part, now) > 0

    def prune(self, record: Record, now: float) -> Record:
        """Return the record without what may not be served any more, not even as a spare."""
        if record.unknown_at is not None:
            return record if self.ttl(record, PROPERTIES, now) > 0 else EMPTY
        end = -max(self.stale_while_revalidate, self.stale_if_error)
        live = [part for part, kept in record.parts.items() if self.ttl_of(kept, now) > end]
        return record if len(live) == len(record.parts) else record.only(live)


class Freshness(NamedTuple):
    """How old an answer is and for how long it stays fresh, in seconds; `left` is not positive for a stale one."""

    age: float
    ttl: float


def freshness(record: Record, parts: Collection[Part], policy: FreshnessPolicy, now: float) -> Freshness | None:
    """Return the age of the oldest and the least time left of any of `parts` that are there; None without one."""
    if record.unknown_at is not None:
        return Freshness(max(0.0, now - record.unknown_at), policy.ttl(record, PROPERTIES, now)) if parts else None
    oldest = left = float("inf")
    last: object = None
    for part in parts:
        kept = record.parts.get(part)
        if kept is not None and (said := kept[1:]) != last:  # what one call brought is fresh for the same time
            last, its_left = said, policy.ttl_of(kept, now)
            oldest = kept.fetched_at if kept.fetched_at < oldest else oldest
            left = its_left if its_left < left else left
    return Freshness(max(0.0, now - oldest), left) if oldest < float("inf") else None
