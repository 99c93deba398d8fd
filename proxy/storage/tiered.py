"""The memory, and behind it Redis, where there is one.

Redis is asked for what the memory does not hold fresh, and told what was fetched. While it is gone the memory goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from proxy.profile.errors import UpstreamError
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import Identity, Part
from proxy.profile.record import EMPTY, Record
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import RedisUnavailable

if TYPE_CHECKING:
    from proxy.storage.redis.profiles import Found, RedisProfiles


@dataclass(frozen=True, slots=True)
class Boarding:
    """The parts that this process is to fetch, and why those failed that another has just tried to."""

    granted: frozenset[Part]
    faults: Mapping[Part, UpstreamError] = field(default_factory=dict)


class TieredStore(MemoryStore):
    """The memory of this process, which the other processes add to. Safe for threads.

    `look`, `board` and `land` may be a round trip to Redis; all else is as in any memory.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        policy: FreshnessPolicy,
        now: Callable[[], float],
        shared: RedisProfiles | None = None,
    ) -> None:
        super().__init__(max_bytes=max_bytes, policy=policy, now=now)
        self._shared = shared

    def get(self, identity: Identity) -> Record:
        """Return what is kept here or by the other processes; what they had is here from now on."""
        if self._shared is None:
            return self.read(identity)
        generation, told = self.generation, -1
        try:
            # Whom others tell of a push to while we look, of that user we may have been told before there was one here.
            while told != self.told:
                told = self.told
                record = self._found(identity, self._shared.read(identity), generation)
        except RedisUnavailable:
            return self.read(identity)
        return record

    def lease(self, identity: Identity, parts: Collection[Part]) -> Boarding:
        """Look, and say which of `parts` this process is to fetch, because no other does. `land` ends that."""
        if self._shared is not None:
            generation = self.generation
            try:
                found = self._shared.lease(identity, parts)
            except RedisUnavailable:
                pass
            else:
                self._found(identity, found.found, generation)
                return Boarding(found.granted, found.faults)
        return Boarding(frozenset(parts))

    def _found(self, identity: Identity, found: Found, generation: int) -> Record:
        if found.pushed and identity.user_id is not None:
            self.push([(identity.user_id, found.pushed)], generation)
        return self.merge(identity, found.record, generation)

    def save(
        self, identity: Identity, news: Record, parts: Collection[Part], word: str = "", generation: int | None = None
    ) -> None:
        """Keep what was fetched of `parts`, here and for the others; `word`: why nothing was.

        Nothing is kept of who was forgotten after `mark`.
        """
        if generation is not None and self.forgotten(identity, generation):
            news = EMPTY
        record = self.merge(identity, news, generation)
        if self._shared is not None:
            # Ids that Amplitude returned once outlive an answer without them.
            told = replace(news, user_id=record.user_id, device_id=record.device_id) if news is not EMPTY else news
            with contextlib.suppress(RedisUnavailable):
                self._shared.save(identity, told, parts, self._now(), word)
