"""Stores records, updates, snapshots and ready bodies in the memory of this process, within a maximum size. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from threading import Lock
from typing import NamedTuple

from proxy.monitoring.clock import Clock
from proxy.profile.freshness import Freshness, FreshnessPolicy, freshness
from proxy.profile.overlay import Accepted, apply_updates
from proxy.profile.parts import Identity
from proxy.profile.query import ProfileQuery
from proxy.profile.record import CLOCK_ERROR_SECONDS, EMPTY, Record, correct_times, merge
from proxy.profile.snapshot import Snapshot
from proxy.profile.updates import Updates, correct_arrivals, parse_updates, updates_since
from proxy.storage.id_digests import UNKEYED, IdDigester, member_of
from proxy.storage.lru import Entry, SizedLRU, size_of
from proxy.storage.packed_updates import merged_packed, read_packed, with_packed
from proxy.storage.ready_bodies import ReadyBodies, ReadyBody
from proxy.storage.snapshots import Snapshots
from proxy.storage.tombstones import REMEMBERED_SECONDS, Tombstones

_CHECKPOINT_EVERY = 500
"""Entries that a loop visits between two checkpoints. They take half a millisecond."""
_READY_SHARE = 16
"""Ready bodies get this fraction (1/16) of the memory. They serve repeated queries, and a campaign repeats none."""


class Hit(NamedTuple):
    """A fresh answer from memory.

    `ready`: the response body written earlier; `record` is then empty.
    `repeated`: whether the previous query of the identity was the same, so that keeping the body pays off.
    """

    record: Record
    freshness: Freshness
    ready: ReadyBody | None
    repeated: bool


class MemoryStore:
    """Caches records, and evicts the least recently used records first. Thread-safe.

    Long loops call `checkpoint` often and without the lock, so that other greenlets can run.
    """

    def __init__(
        self, *, max_bytes: int, policy: FreshnessPolicy, clock: Clock, digester: IdDigester = UNKEYED
    ) -> None:
        self.max_size = max_bytes
        """The maximum size in bytes."""
        self.digester = digester
        self.updates_usable_for = policy.updates_usable_for
        """Seconds for which updates are kept."""
        self.updates_announced = 0
        """The number of announcements of other processes, which is the number of calls of `cached_users`."""
        self._cache = SizedLRU(max_bytes - max_bytes // _READY_SHARE)
        self._ready = ReadyBodies(max_bytes // _READY_SHARE)
        # Users who were forgotten after the time of a snapshot are left out. It may be as old as pushed data.
        self._tombstones = Tombstones(clock, digester, max(REMEMBERED_SECONDS, policy.pushed))
        self.snapshots = Snapshots(policy, clock, digester)
        self._has_updates = False
        self._policy = policy
        self._clock = clock
        self._lock = Lock()

    @property
    def generation(self) -> int:
        """Return the number of times that users were forgotten.

        Read the generation before a request for data. `merge` and `push` skip users who were forgotten later.
        """
        return self._tombstones.generation

    def forgotten(self, identity: Identity, generation: int) -> bool:
        """Return whether `identity` was forgotten after `generation`."""
        with self._lock:
            return self._tombstones.forgotten_since(generation, identity)

    def forget(
        self,
        digests: Collection[bytes],
        moments: Mapping[bytes, float] | None = None,
        checkpoint: Callable[[], object] = lambda: None,
    ) -> set[bytes]:
        """Remove all records with an id in `digests` (see `IdDigester.ids`), and add tombstones.

        Return the digest of the pair of each removed identity.
        `moments`: the times at which the ids were forgotten (Unix seconds by digest), if not now.
        """
        with self._lock:
            self._tombstones.add(digests, moments)
            entries = list(self._cache.items())
            # Without a record, the ids that Amplitude returned for a body are unknown.
            self._ready.discard_others(self._cache)
            self.snapshots.forget(map(member_of, digests))
        dropped = set()
        for number, (identity, entry) in enumerate(entries):
            if number % _CHECKPOINT_EVERY == 0:
                checkpoint()
            if self.digester.ids(identity, Identity(entry.record.user_id, entry.record.device_id)).isdisjoint(digests):
                continue
            dropped.add(self.digester.pair(identity))
            with self._lock:
                current = self._cache.pop(identity, None)
                self._ready.discard(identity)
                # Updates belong to the user id only, and not to the device id of the record.
                if current and current.updates and self.digester.ids(identity).isdisjoint(digests):
                    self._keep(identity, EMPTY, current.updates)
        return dropped

    def read(self, identity: Identity) -> Record:
        """Return the cached record, fresh or stale; an empty record if none is cached."""
        with self._lock:
            entry = self._corrected(identity)
        return entry.record if entry else EMPTY

    def fresh(self, identity: Identity, query: ProfileQuery) -> Hit | None:
        """Return the answer if all parts are cached and fresh. Record `query` as the last query of the identity."""
        with self._lock:
            try:
                entry = self._cache[identity]
            except KeyError:
                return None
            number = query.number
            repeated = entry.last_query == number
            entry.last_query = number
            updates = self._updates(identity) if self._has_updates else None
            ready = self._ready.find(identity, number, updates) if repeated else None
        now = self._clock.now()
        # A body in the future is not used: the clock was set back, and `read` corrects the times.
        if ready is not None and ready.fetched_at - CLOCK_ERROR_SECONDS <= now < ready.fresh_until:
            return Hit(EMPTY, Freshness(max(0.0, now - ready.fetched_at), ready.fresh_until - now), ready, repeated)
        record = entry.record
        memberships = self.snapshots.memberships(identity, query, now)
        if updates is not None or memberships:
            record = with_packed(record, updates, query, memberships)
        fresh = freshness(record, query.parts, self._policy, now) if record.has_all(query.parts) else None
        return Hit(record, fresh, None, repeated) if fresh and fresh.ttl > 0 else None

    def keep_ready(self, identity: Identity, query: ProfileQuery, record: Record, body: bytes, etag: str) -> None:
        """Keep the response body of `record`, unless the cache has newer data now.

        When the memory for bodies is full, most bodies are not kept.
        """
        with self._lock:
            # The kept body did not answer this query. When the memory is full, it would keep the place of `body`.
            self._ready.discard(identity)
            if not self._ready.admits(body):
                return
            entry = self._cache.get(identity)
            updates = self._updates(identity)
            if entry is None:
                return
            snapshots = self.snapshots.memberships(identity, query, self._clock.now())
            current = with_packed(entry.record, updates, query, snapshots)
            if current is not record and current != record:
                return
            fetched_at = min(map(record.fetched_at, query.parts))
            expiries = [as_of + self.snapshots.fresh_for for as_of, _, overrides in snapshots.values() if overrides]
            fresh_until = min([*expiries, *(self._policy.ttl(record, part, 0.0) for part in query.parts)])
            self._ready.keep(identity, ReadyBody(body, etag, fetched_at, fresh_until, query.number, updates))

    def with_updates(
        self,
        identity: Identity,
        record: Record,
        query: ProfileQuery,
        *,
        snapshots: bool = True,
        accepted: Accepted = "certain",
    ) -> Record:
        """Return the `record` of `identity` with the updates of its user, and the snapshots, applied.

        `snapshots`: False if Redis may have a later update than the snapshots.
        `accepted`: see `apply_updates`.
        """
        memberships = self.snapshots.memberships(identity, query, self._clock.now()) if snapshots else {}
        with self._lock:
            updates = self._updates(identity)
        if updates is None and not memberships:
            return record
        unpacked = read_packed(updates)
        if accepted == "partial":  # a single old property must not hide the others
            unpacked = updates_since(unpacked, self._clock.now() - self.updates_usable_for)
        parsed = parse_updates(unpacked)
        if parsed.latest > self._clock.now() + CLOCK_ERROR_SECONDS:  # the clock was set back
            parsed = parse_updates(self._correct_updates(identity))
        return apply_updates(record, parsed, query, memberships, accepted)

    def install_snapshot(
        self,
        cohort_id: str,
        snapshot: Snapshot,
        checkpoint: Callable[[], object] = lambda: None,
        *,
        overwrite: bool = False,
    ) -> Snapshot | None:
        """Replace the cohort's snapshot. Return the installed snapshot; None if the current snapshot is newer.

        Users who were forgotten after `snapshot.as_of` are left out. `overwrite`: replace a newer snapshot too.
        """
        while True:
            with self._lock:
                generation = self.generation
                forgotten = self._tombstones.forgotten_after(snapshot.as_of)
            snapshot = snapshot.without(map(member_of, forgotten), checkpoint)
            with self._lock:
                if generation != self.generation:  # users were forgotten since
                    continue
                current = self.snapshots.get(cohort_id)
                # A time in the future comes from a wrong clock.
                if current and not overwrite and snapshot.as_of < current.as_of <= self._clock.now():
                    return None
                self.snapshots.install(cohort_id, snapshot)
                self._ready.clear()
                return snapshot

    def remove_snapshot(self, cohort_id: str) -> bool:
        """Remove the cohort's snapshot. Return whether a snapshot existed."""
        with self._lock:
            self._ready.clear()
            return self.snapshots.remove(cohort_id)

    def knows_updates(self, identity: Identity) -> bool:
        """Return whether the user of `identity` is cached, so that this process receives all updates of the user."""
        return Identity(identity.user_id, None) in self._cache

    def keep_empty(self, identity: Identity) -> None:
        """Cache the user of `identity`, so that later updates are announced. Redis has no data of the user."""
        user = Identity(identity.user_id, None)
        with self._lock:
            if user.user_id is not None and user not in self._cache:
                self._keep(user, EMPTY, None)

    def updates(self, user_id: str) -> Updates:
        """Return the cached updates of a user."""
        with self._lock:
            return read_packed(self._updates(Identity(user_id, None)))

    def push(
        self,
        updates: Collection[tuple[str, Updates]],
        generation: int,
        *,
        cached_only: bool = False,
        checkpoint: Callable[[], object] = lambda: None,
    ) -> Counter[str]:
        """Merge `updates` (user ids and their new updates) into the cached updates. Return the skipped users by reason.

        `cached_only`: ignore users who are not cached. Users are skipped if they were forgotten after `generation` or
        after the time of the update, or if their updates would become too large.
        """
        skipped: Counter[str] = Counter()
        now = self._clock.now()
        horizon = now - self.updates_usable_for
        last: Updates = {}
        last_packed: bytes | None = None
        for user_id, new in updates:
            checkpoint()
            new = correct_arrivals(new, now)  # another process may have stored them with a wrong clock
            identity = Identity(user_id, None)
            if cached_only and identity not in self._cache:
                continue
            with self._lock:
                if self._tombstones.forgotten_since(generation, identity):
                    skipped["forgotten"] += 1
                    continue
                forgotten_at = self._tombstones.forgotten_at(identity)
                if forgotten_at is not None:
                    new = updates_since(new, horizon, forgotten=forgotten_at)
                if not new:
                    skipped["forgotten"] += 1
                    continue
                entry = self._cache.get(identity)
                old = entry.updates if entry else None
                if old is None and new is last:
                    packed = last_packed  # the users of a cohort have the same updates and share one packed copy
                else:
                    packed = merged_packed(old, new, horizon)
                    if old is None:
                        last, last_packed = new, packed
                if packed is None:
                    skipped["too_large"] += 1
                elif packed != old:
                    self._has_updates = True
                    self._keep(identity, entry.record if entry else EMPTY, packed)
        return skipped

    def cached_users(
        self, selects: Callable[[str], bool], checkpoint: Callable[[], object] = lambda: None
    ) -> list[str]:
        """Return the cached user ids for which `selects` is true. Called when another process announces updates."""
        with self._lock:
            self.updates_announced += 1
            identities = list(self._cache)
        user_ids = set()
        for number, identity in enumerate(identities):
            if number % _CHECKPOINT_EVERY == 0:
                checkpoint()
            if identity.user_id is not None and selects(identity.user_id):
                user_ids.add(identity.user_id)
        return list(user_ids)

    def merge(self, identity: Identity, new: Record, generation: int | None = None) -> Record:
        """Merge `new` into the cached record, and return the merged record.

        Newer parts win; outdated parts are removed.
        `new` is ignored if the user was forgotten after `generation`. A record larger than the cache is not cached.
        """
        with self._lock:
            entry = self._corrected(identity)
            old = entry.record if entry else EMPTY
            returned = Identity(new.user_id, new.device_id)
            if new is EMPTY or (
                generation is not None and self._tombstones.forgotten_since(generation, identity, returned)
            ):
                return old
            record = self._policy.prune(merge(old, new), self._clock.now())
            self._keep(identity, record, entry.updates if entry else None)
            return record

    def _corrected(self, identity: Identity) -> Entry | None:
        """Return the entry, after correcting its times if the clock was set back. Requires the lock."""
        entry = self._cache.get(identity)
        if entry is not None:
            record = correct_times(entry.record, self._clock.now())
            if record is not entry.record:
                entry.record = record
                self._ready.discard(identity)
        return entry

    def _correct_updates(self, identity: Identity) -> Updates:
        """Correct the times of the user's updates after the clock was set back. Return the updates."""
        user = Identity(identity.user_id, None)
        with self._lock:
            entry = self._cache.get(user)
            updates = correct_arrivals(read_packed(entry.updates if entry else None), self._clock.now())
            if entry is not None and updates:
                self._keep(user, entry.record, merged_packed(None, updates, 0.0))
        return updates

    def _keep(self, identity: Identity, record: Record, updates: bytes | None) -> None:
        """Cache the record and the updates. Requires the lock."""
        self._ready.discard(identity)
        try:
            self._cache[identity] = Entry(record, size_of(identity, record, updates), updates)
        except ValueError:  # the entry is larger than the cache
            self._cache.pop(identity, None)

    def _updates(self, identity: Identity) -> bytes | None:
        """Return the user's packed updates, and mark them as recently used. Requires the lock."""
        if identity.user_id is None or not self._has_updates:
            return None
        entry = self._cache.get(identity if identity.device_id is None else Identity(identity.user_id, None))
        return entry.updates if entry else None

    @property
    def records(self) -> int:
        """Return the number of entries."""
        return len(self._cache)

    @property
    def size(self) -> int:
        """Return the bytes in use."""
        return int(self._cache.currsize) + self._ready.size

    @property
    def evicted(self) -> int:
        """Return the number of evicted entries."""
        return self._cache.evicted
