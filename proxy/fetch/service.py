"""Answers profile requests: decides which parts are fresh, which to fetch, and how long to wait."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import BoundedSemaphore
from typing import Literal, NamedTuple

from proxy.fetch.pending import NEVER, Waiter
from proxy.fetch.scheduler import FetchScheduler
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.errors import NotAvailable, QuotaExhausted, UpstreamError, UpstreamInvalid
from proxy.profile.freshness import Freshness, FreshnessPolicy, freshness
from proxy.profile.parts import COHORTS, Identity, Part
from proxy.profile.query import ANY_QUERY, ProfileQuery
from proxy.profile.record import EMPTY, Record, merge
from proxy.storage.ready_bodies import ReadyBody
from proxy.storage.tiered import TieredStore

MAX_WAITING = 1000
"""The number of callers that may wait for calls at once. Each takes 23 KB. If all callers time out at the same moment,
the last of 1,000 is answered after 1.46 s, and the last of 2,000 after 1.7 s."""

_ANONYMOUS = Identity(None, None)

Forwarded = Literal["miss", "partial", "stale", "request"]


class ProfileResult(NamedTuple):
    """The result of a profile request: a ready body or a record.

    `record`: the requested parts that could be served.
    `error`: why the first missing part is missing.
    `fault`: why an old copy was served instead of a new copy.
    `forwarded`: why a call was needed; None if the cache had all parts.
    `started_fetch`: whether this request was the first for a fetched part.
    `calls`: how many calls were sent or joined.
    `ready`: the response body written earlier for the same query; `record` is then empty.
    `repeated`: whether the user's last request had the same query, so that keeping the response body pays off.
    """

    record: Record
    error: UpstreamError | None = None
    fault: UpstreamError | None = None
    forwarded: Forwarded | None = None
    started_fetch: bool = False
    calls: int = 0
    freshness: Freshness | None = None
    ready: ReadyBody | None = None
    repeated: bool = False

    @property
    def stale(self) -> bool:
        """Return whether a part is older than its freshness lifetime."""
        return self.freshness is not None and self.freshness.ttl < 0


ANONYMOUS = ProfileResult(EMPTY)
"""The result of a request without an id."""


class ProfileService:
    """Serves cached parts and waits for missing parts, never beyond the caller's deadline.

    `profile_api`: False to serve only pushed and exported data, and to send no calls.
    """

    def __init__(
        self,
        store: TieredStore,
        scheduler: FetchScheduler,
        policy: FreshnessPolicy,
        *,
        profile_api: bool = True,
        max_waiting: int = MAX_WAITING,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._policy = policy
        self._profile_api = profile_api
        self._waiting = BoundedSemaphore(max_waiting)
        self._clock = clock

    def get(
        self,
        identity: Identity,
        parts: Sequence[Part],
        *,
        until: Callable[[], float],
        wanted_later: bool = False,
        max_age: float | None = None,
        background: bool = False,
        query: ProfileQuery = ANY_QUERY,
    ) -> ProfileResult:
        """Return `parts` of a profile by the time `until()`, or earlier if waiting cannot help.

        `until`: returns monotonic seconds. Called only before a call to Amplitude, because it takes a microsecond.
        `wanted_later`: the caller retries for missing parts (`on_error=retry`).
        `max_age`: the caller accepts no copy older than this (seconds) if Amplitude can answer.
        `background`: the caller warms the cache. All other callers take priority, and the result is fresh for longer.
        `query`: the requested cohorts and keys. If all of them were pushed, no call is needed.
        """
        if identity == _ANONYMOUS:
            return ANONYMOUS
        if max_age is None and not background and parts is query.parts and (hit := self.fresh(identity, query)):
            return hit
        if not self._profile_api:
            max_age, background = None, False  # no newer copy can be fetched
        now = self._clock.now()
        min_fetched_at = NEVER if max_age is None else now - max_age
        # Memory first, then Redis. A snapshot must not hide a later update that is only in Redis.
        lookups = (self._store.memory.read, self._store.knows_updates(identity)), (self._store.get, True)
        for lookup, knows_updates in lookups:
            stored = lookup(identity)
            if stored is EMPTY and not knows_updates:
                continue  # only Redis may have data
            updated = self._store.memory.with_updates(
                identity, stored, query, snapshots=knows_updates, accepted="certain" if self._profile_api else "pushed"
            )
            record = self._policy.prune(updated, now)
            settled = knows_updates and (max_age is not None or background) and self._settled(identity, query, now)
            needed, to_refresh = self._not_fresh(record, parts, min_fetched_at, now, background, settled)
            if not needed and not to_refresh:
                return ProfileResult(record, freshness=freshness(record, parts, self._policy, now))
        if not self._profile_api:
            missing = not record.has_all(parts)
            if missing:
                updated = self._store.memory.with_updates(identity, stored, query, accepted="partial")
                record = self._policy.prune(updated, now)
            return self._without_calls(record.only(parts), missing, parts, now)
        if stored.unknown_at is not None and updated.unknown_at is None:
            # A later pushed update shows that the user is known.
            min_fetched_at = max(min_fetched_at, math.nextafter(stored.unknown_at, math.inf))
        for part in parts:
            if part in stored.parts and not updated.has(part):  # cleared by a pushed update
                min_fetched_at = max(min_fetched_at, math.nextafter(stored.parts[part].fetched_at, math.inf))
        needed, to_refresh = self._not_fresh(record, parts, min_fetched_at, now, background, settled)
        if not needed:
            self._scheduler.refresh(identity, to_refresh)
            return ProfileResult(record, freshness=freshness(record, parts, self._policy, now))
        if background:
            min_fetched_at = max(min_fetched_at, now)  # warming needs a copy with the longer lifetime

        # A cached copy is better than a long wait, unless the caller rules out old copies.
        cached = [part for part in needed if record.has(part)] if max_age is None and not background else []
        waiter, outcomes = self._fetch(
            identity, needed, cached, to_refresh, until(), wanted_later, min_fetched_at, background
        )
        answer = record.only([part for part in parts if part not in needed])
        error = fault = None
        for part, outcome in outcomes.items():
            if isinstance(outcome, Record):
                updated = self._store.memory.with_updates(identity, outcome, query)
                answer = merge(answer, (updated if updated.has(part) else outcome).only([part]))
            elif record.has(part):
                answer = merge(answer, record.only([part]))
                fault = fault or outcome
            else:
                error = error or outcome
        if any(not answer.has(part) for part in parts):
            # No part failed: two concurrent calls disagreed on whether the user is known, and the later answer won.
            error = error or UpstreamInvalid("two concurrent answers contradict each other")
        else:
            error = None
        return ProfileResult(
            answer,
            error,
            fault,
            self._forwarded(record, parts, needed, now) if waiter.calls or error or fault else None,
            started_fetch=waiter.started_fetch,
            calls=waiter.calls,
            freshness=freshness(answer, parts, self._policy, self._clock.now()),
        )

    def fresh(self, identity: Identity, query: ProfileQuery) -> ProfileResult | None:
        """Return the parts of `query` if all of them are fresh in memory, else None."""
        hit = self._store.memory.fresh(identity, query)
        if hit is None:
            return None
        return ProfileResult(hit.record, freshness=hit.freshness, ready=hit.ready, repeated=hit.repeated)

    def _without_calls(self, record: Record, missing: bool, parts: Sequence[Part], now: float) -> ProfileResult:
        """Return the stored `parts`, fresh or stale. `missing`: whether some of them are not available."""
        return ProfileResult(
            record,
            NotAvailable() if missing else None,
            forwarded=("partial" if record.parts else "miss") if missing else None,
            freshness=freshness(record, parts, self._policy, now),
        )

    def keep_body(self, identity: Identity, query: ProfileQuery, result: ProfileResult, body: bytes, etag: str) -> None:
        """Keep the response `body` of `result` if the same request is likely to be repeated."""
        if result.repeated:
            self._store.memory.keep_ready(identity, query, result.record, body, etag)

    def _settled(self, identity: Identity, query: ProfileQuery, now: float) -> bool:
        """Return whether recent snapshots have all requested cohorts. A fetched answer does not override them."""
        snapshots = self._store.memory.snapshots.memberships(identity, query, now)
        requested = query.requested_cohorts
        return bool(requested) and all(cohort in snapshots and snapshots[cohort].overrides for cohort in requested)

    def _not_fresh(
        self, record: Record, parts: Sequence[Part], min_fetched_at: float, now: float, background: bool, settled: bool
    ) -> tuple[list[Part], list[Part]]:
        """Return the parts that need a call, and the stale parts that are served and then refreshed.

        `settled`: a call cannot change the cohorts in `record`.
        """
        if settled and COHORTS in record.parts:
            parts = [part for part in parts if part != COHORTS]
        if background:
            return [part for part in parts if not self._policy.is_warm(record, part, now)], []
        needed, to_refresh = [], []
        for part in parts:
            ttl = self._policy.ttl(record, part, now)
            if ttl <= -self._policy.stale_while_revalidate or record.fetched_at(part) < min_fetched_at:
                needed.append(part)
            elif ttl <= 0:
                to_refresh.append(part)
        return needed, to_refresh

    def _fetch(
        self,
        identity: Identity,
        parts: list[Part],
        cached: list[Part],
        to_refresh: list[Part],
        until: float,
        wanted_later: bool,
        min_fetched_at: float,
        background: bool,
    ) -> tuple[Waiter, dict[Part, Record | UpstreamError]]:
        may_wait = self._waiting.acquire(blocking=False)
        try:
            # A caller that may not wait still requests the parts, so that they are cached for a retry.
            deadline = until if may_wait else self._clock.monotonic()
            waiter = self._scheduler.join(
                identity,
                parts,
                until=deadline,
                wanted_later=wanted_later,
                min_fetched_at=min_fetched_at,
                refresh=cached,
                background=background,
            )
            if to_refresh:  # after the needed parts, so that they can join the same batch
                self._scheduler.refresh(identity, to_refresh)
            waiter.wait(deadline - self._clock.monotonic())
        finally:
            if may_wait:
                self._waiting.release()
        outcomes = {part: waiter.outcome(part) for part in parts}
        if any(isinstance(outcome, QuotaExhausted) for outcome in outcomes.values()):
            # Another caller's call may have completed between the cache lookup and the join.
            record, now = self._store.memory.read(identity), self._clock.now()
            for part in parts:
                if self._policy.is_fresh(record, part, now, min_fetched_at):
                    outcomes[part] = record
        return waiter, outcomes

    def _forwarded(self, record: Record, parts: Sequence[Part], needed: list[Part], now: float) -> Forwarded:
        if any(not record.has(part) for part in needed):
            return "partial" if any(record.has(part) for part in parts) else "miss"
        stale_while_revalidate = self._policy.stale_while_revalidate
        if any(self._policy.ttl(record, part, now) <= -stale_while_revalidate for part in needed):
            return "stale"
        return "request"
