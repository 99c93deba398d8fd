"""Stores the current snapshot of each cohort in the memory of this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from proxy.monitoring.clock import Clock
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, Identity
from proxy.profile.query import ProfileQuery
from proxy.profile.snapshot import Membership, Snapshot
from proxy.storage.id_digests import IdDigester

_NO_MEMBERSHIPS: Mapping[str, Membership] = {}


class InstalledSnapshot(NamedTuple):
    """Describes an installed snapshot. Times are Unix seconds."""

    cohort_id: str
    members: int
    as_of: float
    expires_at: float


class Snapshots:
    """The snapshots by cohort id. MemoryStore locks all changes; reading needs no lock."""

    def __init__(self, policy: FreshnessPolicy, clock: Clock, digester: IdDigester) -> None:
        self._usable_for = policy.updates_usable_for
        self._clock = clock
        self._digester = digester
        self._snapshots: dict[str, Snapshot] = {}
        self.fresh_for = policy.pushed
        """Seconds after `as_of` for which a snapshot is fresh."""

    def __bool__(self) -> bool:
        return bool(self._snapshots)

    def memberships(self, identity: Identity, query: ProfileQuery, now: float) -> Mapping[str, Membership]:
        """Return the user's membership in each requested cohort with a snapshot. No `cohort_ids`: in all cohorts."""
        snapshots = self._snapshots
        if not snapshots or identity.user_id is None or COHORTS not in query.parts:
            return _NO_MEMBERSHIPS
        oldest, recent = now - self._usable_for, now - self.fresh_for
        memberships = {}
        digest = None
        for cohort in query.requested_cohorts or snapshots:
            snapshot = snapshots.get(cohort)
            if snapshot is not None and snapshot.as_of > oldest:
                if digest is None:
                    digest = self._digester.member(identity.user_id)
                # The clock of the sender, or of Redis, may be ahead of this clock.
                as_of = snapshot.as_of if snapshot.as_of < now else now
                memberships[cohort] = Membership(as_of, digest in snapshot, as_of > recent)
        return memberships

    def get(self, cohort_id: str) -> Snapshot | None:
        """Return the cohort's snapshot; None if no snapshot can still answer a request."""
        snapshot = self._snapshots.get(cohort_id)
        return snapshot if snapshot is not None and self._usable(snapshot, self._clock.now()) else None

    def install(self, cohort_id: str, snapshot: Snapshot) -> None:
        """Replace the cohort's snapshot, and remove snapshots that are too old to answer a request."""
        now = self._clock.now()
        usable = {cohort: other for cohort, other in self._snapshots.items() if self._usable(other, now)}
        self._snapshots = {**usable, cohort_id: snapshot}

    def remove(self, cohort_id: str) -> bool:
        """Remove the cohort's snapshot. Return whether a snapshot existed."""
        existed = cohort_id in self._snapshots
        self._snapshots = {cohort: snapshot for cohort, snapshot in self._snapshots.items() if cohort != cohort_id}
        return existed

    def forget(self, digests: Iterable[int]) -> None:
        """Remove users from all snapshots."""
        forgotten = list(digests) if self._snapshots else []
        self._snapshots = {cohort: snapshot.without(forgotten) for cohort, snapshot in self._snapshots.items()}

    def installed(self) -> list[InstalledSnapshot]:
        """Return the snapshots that can still answer a request, sorted by cohort id."""
        now = self._clock.now()
        return [
            InstalledSnapshot(cohort, snapshot.members, snapshot.as_of, snapshot.as_of + self.fresh_for)
            for cohort, snapshot in sorted(self._snapshots.items())
            if self._usable(snapshot, now)
        ]

    def _usable(self, snapshot: Snapshot, now: float) -> bool:
        return snapshot.as_of + self._usable_for > now
