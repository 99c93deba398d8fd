"""Combines two cache tiers: the memory of this process and, optionally, a Redis that all processes share.

Redis is read if memory has no fresh copy. Fetched data is written to both tiers. While Redis is unavailable, only
memory is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.monitoring.clock import Clock
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import Identity, Part
from proxy.profile.record import EMPTY, Record, merge_remote
from proxy.storage.id_digests import UNKEYED
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import Lease, RedisUnavailable, StoredProfile

if TYPE_CHECKING:
    from proxy.storage.redis.profiles import RedisProfiles


class TieredStore:
    """The cache for all other packages. Thread-safe.

    `only`: the parts to read from Redis, by default all.
    `memory`: the first tier. The methods of this class also use Redis and may take a round trip.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        policy: FreshnessPolicy,
        clock: Clock,
        shared: RedisProfiles | None = None,
        only: Collection[Part] | None = None,
    ) -> None:
        digester = shared.digester if shared is not None else UNKEYED
        self.memory = MemoryStore(max_bytes=max_bytes, policy=policy, clock=clock, digester=digester)
        self._redis = shared
        self._only = only
        self._clock = clock

    def get(self, identity: Identity) -> Record:
        """Merge the record from Redis into the record in memory, and return the merged record."""
        if self._redis is None:
            return self.memory.read(identity)
        generation, announced = self.memory.generation, -1
        try:
            # Updates announced during the read may be missing, because the user was not in memory. Then read again.
            while announced != self.memory.updates_announced:
                announced = self.memory.updates_announced
                record = self._keep(identity, self._redis.read(identity), generation)
                if self.memory.snapshots:
                    self.memory.keep_empty(identity)
        except RedisUnavailable:
            return self.memory.read(identity)
        return record

    def knows_updates(self, identity: Identity) -> bool:
        """Return whether memory has all updates of the user, so that Redis has no later update."""
        return self._redis is None or self.memory.knows_updates(identity)

    def lease(self, identity: Identity, parts: Collection[Part]) -> Lease:
        """Update the record in memory from Redis, and lease the `parts` that no other process fetches.

        `save` ends the leases.
        """
        if self._redis is None:
            return Lease(frozenset(parts))
        generation = self.memory.generation
        try:
            stored, lease = self._redis.lease(identity, parts)
        except RedisUnavailable:
            return Lease(frozenset(parts))
        self._keep(identity, stored, generation)
        return lease

    def _keep(self, identity: Identity, stored: StoredProfile, generation: int) -> Record:
        if stored.updates and identity.user_id is not None:
            self.memory.push([(identity.user_id, stored.updates)], generation)
        shared = stored.record if self._only is None else stored.record.only(self._only)
        record = merge_remote(shared, self.memory.read(identity), self._clock.now())
        return self.memory.merge(identity, record, generation)

    def save(
        self, identity: Identity, new: Record, parts: Collection[Part], word: str = "", generation: int | None = None
    ) -> None:
        """Save fetched data in both tiers, and end the leases of `parts`.

        `word`: the error word of a failed call. The data is not saved if the user was forgotten after `generation`.
        """
        if generation is not None and self.memory.forgotten(identity, generation):
            new = EMPTY
        record = self.memory.merge(identity, new, generation)
        if self._redis is not None:
            if new is not EMPTY:
                # Keep the ids that Amplitude returned earlier, even if this response has none.
                new = replace(new, user_id=record.user_id, device_id=record.device_id)
            with contextlib.suppress(RedisUnavailable):
                self._redis.save(identity, new, parts, self._clock.now(), word)
