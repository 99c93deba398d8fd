"""Chooses what enters the backlog and what is sent from it, one call at a time, with unused quota."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import NamedTuple

from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.amplitude.sliding_window import Reservation
from proxy.fetch.backlog import Backlog
from proxy.fetch.pending import NEVER, PendingPart
from proxy.monitoring.clock import Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import Identity
from proxy.storage.tiered import TieredStore

_log = logging.getLogger(__name__)


class BacklogCall(NamedTuple):
    """Parts of a user that are fetched from the backlog, and the reservation for their call."""

    identity: Identity
    parts: list[PendingPart]
    reservation: Reservation


class BacklogWorker:
    """Fills and drains the backlog. Starts no thread. Safe for threads."""

    def __init__(
        self,
        backlog: Backlog,
        store: TieredStore,
        rate_limiter: RateLimiter,
        circuit_breaker: CircuitBreaker,
        policy: FreshnessPolicy,
        *,
        clock: Clock,
    ) -> None:
        self._backlog = backlog
        self._store = store
        self._rate_limiter = rate_limiter
        self._circuit_breaker = circuit_breaker
        self._policy = policy
        self._clock = clock
        self._dropped_log = OncePerMinute(_log, "the backlog dropped users", clock)
        self._dropped_logged = 0

    @property
    def empty(self) -> bool:
        """Say whether no user waits."""
        return not len(self._backlog)

    def add(self, identity: Identity, refused: Collection[PendingPart]) -> None:
        """Put those `refused` parts into the backlog that are still worth fetching."""
        worthwhile = [
            pending
            for pending in refused
            if pending.requested
            and not pending.background
            and (pending.wanted_later or not pending.logs_exposure)
            and not self._store.forgotten(identity, pending.generation)
        ]
        for refresh in (False, True):
            requested = {pending.part: pending.requested_at for pending in worthwhile if pending.refresh is refresh}
            self._backlog.add(identity, requested, refresh=refresh)
        if dropped := self._backlog.dropped - self._dropped_logged:
            self._dropped_logged += dropped
            self._dropped_log.note("backlog", times=dropped, in_all=self._backlog.dropped)

    def next(self) -> BacklogCall | float:
        """Return the next call to send, or the seconds until another one may be possible."""
        if (pause := self._circuit_breaker.wait()) > 0:
            return pause
        generation = self._store.generation
        popped = self._backlog.pop()
        if popped is None:
            return 0.0
        identity, wanted = popped
        record, now = self._store.read(identity), self._clock.now()
        missing = {part: want for part, want in wanted.items() if not self._policy.is_fresh(record, part, now, NEVER)}
        if not missing:
            return 0.0
        reservation = self._rate_limiter.reserve(self._clock.monotonic(), burst=0.0)
        if reservation is None:
            if self._store.forgotten(identity, generation):
                return 0.0
            for refresh in (False, True):
                requested = {part: want.requested_at for part, want in missing.items() if want.refresh is refresh}
                self._backlog.add(identity, requested, refresh=refresh)
            return max(self._rate_limiter.wait() or 0.0, 0.01)
        parts = [
            PendingPart(
                part, wanted_later=True, refresh=want.refresh, requested_at=want.requested_at, generation=generation
            )
            for part, want in missing.items()
        ]
        return BacklogCall(identity, parts, reservation)
