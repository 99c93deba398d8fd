"""What goes by a call when it is about to be sent, what it brought, and what another process brings instead.

Planning happens here and not when somebody asks, so that all that was asked meanwhile goes by one call. A part is
leased before it is fetched: what another process has under way is waited for, and taken over should that one give up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from proxy.amplitude.calls import Call, plan_calls
from proxy.amplitude.client import Fetched
from proxy.fetch.airfield import Airfield
from proxy.fetch.pending import NEVER, PendingPart
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamInvalid, UpstreamTimeout
from proxy.profile.parts import Identity, Part
from proxy.profile.record import EMPTY, Record

_log = logging.getLogger(__name__)

_FOLLOW_SECONDS = 0.05  # between looks at what another process fetches


@dataclass(frozen=True, slots=True)
class InFlightCall:
    """A call on its way: its number among those here, and whether it is the probe of an outage."""

    number: int
    call: Call
    probe: bool
    generation: int


class Queue(Protocol):
    """Where what cannot go now waits for another moment."""

    def refuse(
        self, identity: Identity, awaited: Collection[PendingPart], fault: UpstreamError, *, call: int | None = None
    ) -> None:
        """Tell those who wait, and put what is still wanted into the backlog."""

    def again(self, identity: Identity, awaited: dict[Part, PendingPart]) -> None:
        """Queue `awaited`, which this process is to fetch, for a call of its own."""

    def start(self, work: Callable[..., None], *args: object) -> None:
        """Do `work` on a thread of its own."""


class Dispatcher:
    """Safe for threads."""

    def __init__(self, queue: Queue, airfield: Airfield, *, along: tuple[Part, ...]) -> None:
        self._queue = queue
        self._under_way = airfield.under_way
        self._lock = airfield.under_way.lock
        self._store = airfield.store
        self._rate_limiter = airfield.rate_limiter
        self._circuit_breaker = airfield.circuit_breaker
        self._policy = airfield.policy
        self._along = along
        self._now = airfield.now
        self._monotonic = airfield.monotonic
        self._sleep = airfield.sleep

    def prepare(self, identity: Identity, wanted: Mapping[Part, PendingPart]) -> InFlightCall | None:
        """Decide what is sent; what needs no call, or another, is seen to."""
        record, now = self._store.read(identity), self._now()
        riders = [part for part in self._along if not self._policy.is_fresh(record, part, now, NEVER)]
        boarding = self._store.lease(identity, {*wanted, *riders})
        outcomes: dict[Part, Record | UpstreamError] = {
            part: failed for part, failed in boarding.faults.items() if part in wanted
        }
        fault: UpstreamError = QuotaExhausted(retry_after=self._rate_limiter.wait())
        going, elsewhere = [], []
        with self._lock:
            # Under the lock, or a call might land between the look and the decision; reading does no I/O.
            record, now = self._store.read(identity), self._now()
            for part, one in wanted.items():
                if self._policy.is_fresh(record, part, now, one.since):
                    outcomes[part] = record
                elif part in outcomes:
                    continue
                elif part not in boarding.granted:
                    elsewhere.append(one)
                elif self._too_late(one):
                    outcomes[part] = fault
                else:
                    going.append(part)
            refused: list[Part] = []
            probe = False
            if going and self._rate_limiter.paused:
                going, refused = [], going
            elif going:
                try:
                    probe = self._circuit_breaker.begin()
                except UpstreamError as lasting:
                    going, refused, fault = [], going, lasting
            calls = plan_calls(going, [part for part in riders if part in boarding.granted and part not in outcomes])
            sent = None
            if calls:
                generation = min(wanted[part].generation for part in going)
                sent = InFlightCall(self._under_way.sent(identity, calls[0].parts, wanted), calls[0], probe, generation)
            later = {part: wanted[part] for call in calls[1:] for part in call.parts}
            number = self._under_way.sent_elsewhere(elsewhere)
        try:
            self._under_way.settle(identity, outcomes, call=None)
            if refused:
                self._queue.refuse(identity, [wanted[part] for part in refused], fault)
            if any(one.background for one in later.values()):  # it waits for its place, and the first call need not
                self._queue.start(self._queue.again, identity, later)
            elif later:
                self._queue.again(identity, later)
            if elsewhere:
                self._queue.start(self._follow, identity, elsewhere, number)
            if unsent := boarding.granted - later.keys() - (sent.call.parts if sent else frozenset()):
                self._store.save(identity, EMPTY, unsent)
        except Exception:  # noqa: BLE001  # what is marked as sent must be sent
            _log.exception("what goes by another call could not be seen to")
        return sent

    def _too_late(self, one: PendingPart) -> bool:
        """Say whether a recommendation's message has gone: a call now would log an exposure for nothing."""
        return one.exposes and not one.wanted_later and one.until < self._monotonic()

    def complete(self, identity: Identity, sent: InFlightCall, outcome: Fetched | UpstreamError) -> None:
        """Keep what a call brought, and tell those who wait for it."""
        parts = sent.call.parts
        if isinstance(outcome, Fetched):
            # Kept before it is forgotten here: whoever comes in between finds one or the other.
            with self._lock:
                ahead = any(one.ahead for one in self._under_way.carried_by(identity, sent.number))
            record = outcome.record.warm() if ahead else outcome.record
            self._store.save(identity, record, parts, generation=sent.generation)
            said = {part: outcome.faults.get(part, record) for part in parts}
            self._under_way.settle(identity, said, call=sent.number)
            return
        self._store.save(identity, EMPTY, parts, outcome.word)
        if isinstance(outcome, QuotaExhausted):
            with self._lock:
                carried = self._under_way.carried_by(identity, sent.number)
            # What only rode along is not worth a call.
            self._queue.refuse(identity, [one for one in carried if one.asked], outcome, call=sent.number)
        self._under_way.settle(identity, dict.fromkeys(parts, outcome), call=sent.number)

    def _follow(self, identity: Identity, awaited: list[PendingPart], number: int) -> None:
        """Wait for what another process fetches, for as long as somebody waits; fetch it here if that one gives up."""
        try:
            while awaited:
                left = max(one.until for one in awaited) - self._monotonic()
                if left <= 0:
                    self._queue.refuse(identity, awaited, UpstreamTimeout(), call=number)
                    return
                self._sleep(min(left, _FOLLOW_SECONDS))
                awaited = self._looked_after(identity, awaited, number)
        except Exception:  # noqa: BLE001  # those who wait must hear of it
            _log.exception("a call of another process could not be followed")
            fault = UpstreamInvalid("a fault of ours")
            self._under_way.settle(identity, dict.fromkeys((one.part for one in awaited), fault), call=number)

    def _looked_after(self, identity: Identity, awaited: list[PendingPart], number: int) -> list[PendingPart]:
        """Settle what has come or failed, and take over what nobody fetches any more. Return what is left."""
        boarding = self._store.lease(identity, [one.part for one in awaited])
        record, now = self._store.read(identity), self._now()
        outcomes: dict[Part, Record | UpstreamError] = dict(boarding.faults)
        for one in awaited:
            if self._policy.is_fresh(record, one.part, now, one.since):
                outcomes[one.part] = record
        self._under_way.settle(identity, outcomes, call=number)
        left = [one for one in awaited if one.part not in outcomes]
        ours = {one.part: one for one in left if one.part in boarding.granted}
        if unwanted := boarding.granted - ours.keys():
            self._store.save(identity, EMPTY, unwanted)
        with self._lock:
            for one in ours.values():
                one.call, one.elsewhere = None, False
        if ours:
            self._queue.again(identity, ours)
        return [one for one in left if one.part not in ours]
