"""get(): which parts are there, who waits for what, until when. The only conductor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from threading import BoundedSemaphore
from typing import Literal, NamedTuple

from proxy.fetch.pending import Waiter
from proxy.fetch.scheduler import FetchScheduler
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamInvalid
from proxy.profile.freshness import Freshness, FreshnessPolicy, freshness
from proxy.profile.parts import Identity, Part
from proxy.profile.query import ANY_QUERY, ProfileQuery
from proxy.profile.record import EMPTY, Record, merge
from proxy.storage.tiered import TieredStore

MAX_WAITING = 1000
"""Callers that may wait for calls at once. Each costs 23 KB, and so many can be told in time that nothing came: when
all give up at the same moment the last of 1,000 has its answer after 1.46 s, the last of 2,000 after 1.7 s."""


Forwarded = Literal["miss", "partial", "stale", "request"]


class ProfileResult(NamedTuple):
    """What can be said now.

    `record` holds those of the asked parts that are there; `error` is why the first other one is not, and
    `fault` why an old copy stands in. `forwarded` is why a call was wanted: None when the cache sufficed.
    `opened`: something was fetched for this caller first; `calls`: how many were sent or joined.
    """

    record: Record
    error: UpstreamError | None = None
    fault: UpstreamError | None = None
    forwarded: Forwarded | None = None
    opened: bool = False
    calls: int = 0
    freshness: Freshness | None = None

    @property
    def stale(self) -> bool:
        """Say whether some part is older than its freshness lifetime."""
        return self.freshness is not None and self.freshness.ttl < 0


class ProfileService:
    """Answers from what is kept; for what is missing waits for a flight, never beyond the caller's time."""

    def __init__(
        self,
        store: TieredStore,
        scheduler: FetchScheduler,
        policy: FreshnessPolicy,
        *,
        max_waiting: int = MAX_WAITING,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._policy = policy
        self._places = BoundedSemaphore(max_waiting)
        self._now = now
        self._monotonic = monotonic

    def get(
        self,
        identity: Identity,
        parts: Sequence[Part],
        *,
        until: float,
        wanted_later: bool = False,
        max_age: float | None = None,
        background: bool = False,
        query: ProfileQuery = ANY_QUERY,
    ) -> ProfileResult:
        """Return what is known of `parts` at `until` (monotonic seconds), earlier where nothing is gained by waiting.

        `wanted_later`: the caller comes back for what is missing (`on_error=retry`). `max_age`: the caller
        wants nothing older, in seconds, if Amplitude can answer. `background`: the caller prepares a send; it lets
        everybody else go first, and what it fetches is fresh for longer. `wish`: which cohorts and keys are of
        interest, for what was pushed about just those needs no call.
        """
        now = self._now()
        since = float("-inf") if max_age is None else now - max_age
        for find in (self._store.read, self._store.get):  # another process may have what this one lacks
            kept = find(identity)
            record = self._store.with_updates(identity, kept, query)
            held = self._held(record, parts, max_age, now)
            if held and (not background or all(self._policy.is_warm(record, part, now) for part in parts)):
                return held
        if kept.unknown_at is not None and record.unknown_at is None:
            since = max(since, math.nextafter(kept.unknown_at, math.inf))  # a later push says otherwise
        for part in parts:
            if part in kept.parts and not record.has(part):  # as does one that cleared it
                since = max(since, math.nextafter(kept.parts[part].fetched_at, math.inf))
        record = self._policy.prune(record, now)
        served, spent, behind = self._sorted(record, parts, since, now)
        if background:
            spent = [part for part in parts if not self._policy.is_warm(record, part, now)]
            served, behind = [part for part in parts if part not in spent], []
            since = max(since, now)  # a copy that is fresh only as usual will not do
        if not spent:
            if behind:
                self._scheduler.refresh(identity, behind)
            return ProfileResult(record, freshness=freshness(record, parts, self._policy, now))

        # Who asks for nothing old has reasons; any other copy stands in rather than keep a user waiting who has none.
        spare = [part for part in spent if record.has(part)] if max_age is None and not background else []
        waiter, outcomes = self._fetched(identity, spent, spare, behind, until, wanted_later, since, background)
        answer = record.only(served)
        error = fault = None
        for part, outcome in outcomes.items():
            if isinstance(outcome, Record):
                shown = self._store.with_updates(identity, outcome, query)
                answer = merge(answer, (shown if shown.has(part) else outcome).only([part]))
            elif record.has(part):
                answer = merge(answer, record.only([part]))
                fault = fault or outcome
            else:
                error = error or outcome
        if any(not answer.has(part) for part in parts):
            # Without a fault: two calls at once differed on whether the user is known, and the later word won.
            error = error or UpstreamInvalid("answers that contradict each other")
        else:
            error = None
        return ProfileResult(
            answer,
            error,
            fault,
            self._reason(record, parts, spent, now) if waiter.calls or error or fault else None,
            opened=waiter.opened,
            calls=waiter.calls,
            freshness=freshness(answer, parts, self._policy, self._now()),
        )

    def _held(self, record: Record, parts: Sequence[Part], max_age: float | None, now: float) -> ProfileResult | None:
        """Return the answer when `record` has all of `parts` freshly, which is what most requests find."""
        if not record.has_all(parts):
            return None
        held = freshness(record, parts, self._policy, now)
        if held is None or held.ttl <= 0 or (max_age is not None and held.age > max_age):
            return None
        return ProfileResult(record, freshness=held)

    def _sorted(
        self, record: Record, parts: Sequence[Part], since: float, now: float
    ) -> tuple[list[Part], list[Part], list[Part]]:
        """Return the parts served from what is kept, those a call is wanted for, and the served ones to refresh."""
        served, spent, behind = [], [], []
        for part in parts:
            left = self._policy.ttl(record, part, now)
            if left <= -self._policy.stale_while_revalidate or record.fetched_at(part) < since:
                spent.append(part)
                continue
            served.append(part)
            if left <= 0:
                behind.append(part)
        return served, spent, behind

    def _fetched(
        self,
        identity: Identity,
        parts: list[Part],
        spare: list[Part],
        behind: list[Part],
        until: float,
        wanted_later: bool,
        since: float,
        background: bool,
    ) -> tuple[Waiter, dict[Part, Record | UpstreamError]]:
        may_wait = self._places.acquire(blocking=False)
        try:
            # Who cannot wait still asks: what comes later is kept for the next try.
            leaves = until if may_wait else self._monotonic()
            waiter = self._scheduler.join(
                identity,
                parts,
                until=leaves,
                wanted_later=wanted_later,
                since=since,
                spare=spare,
                background=background,
            )
            if behind:  # after those who wait, and with luck in their flight
                self._scheduler.refresh(identity, behind)
            waiter.wait(leaves - self._monotonic())
        finally:
            if may_wait:
                self._places.release()
        outcomes = {part: waiter.outcome(part) for part in parts}
        if any(isinstance(outcome, QuotaExhausted) for outcome in outcomes.values()):
            # A call of somebody else's may have landed between our look and our asking.
            record, now = self._store.read(identity), self._now()
            for part in parts:
                if self._policy.is_fresh(record, part, now, since):
                    outcomes[part] = record
        return waiter, outcomes

    def _reason(self, record: Record, parts: Sequence[Part], spent: list[Part], now: float) -> Forwarded:
        if any(not record.has(part) for part in spent):
            return "partial" if any(record.has(part) for part in parts) else "miss"
        swr = self._policy.stale_while_revalidate
        if any(self._policy.ttl(record, part, now) <= -swr for part in spent):
            return "stale"
        return "request"


ANONYMOUS = ProfileResult(EMPTY)
"""What is said of nobody: a blank id."""
