"""Decides which parts to fetch just before a call is sent, and stores the result of the call.

Calls are planned this late so that one call carries every part requested until then. A part is leased before the call.
If another process that shares the Redis already fetches the part, this process waits for that call instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.amplitude.calls import Call, plan_calls
from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.client import Fetched
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.fetch.pending import NEVER, PendingPart, PendingParts
from proxy.monitoring.clock import Clock
from proxy.profile.errors import QuotaExhausted, UpstreamError
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import Identity, Part
from proxy.profile.record import EMPTY, Record
from proxy.storage.tiered import TieredStore


@dataclass(frozen=True, slots=True)
class SentCall:
    """A call in progress.

    `number`: unique in this process; `trial`: whether the call is a trial of the circuit breaker.
    """

    number: int
    call: Call
    trial: bool
    generation: int


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """A call of another process.

    `number`: unique in this process; `parts`: the parts that callers of this process need.
    """

    number: int
    parts: Sequence[PendingPart]


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision for each part of a batch."""

    call: SentCall | None
    """The call to send now."""
    settled: Mapping[Part, Record | UpstreamError]
    """The outcomes of parts that need no call."""
    next_call: Mapping[Part, PendingPart]
    """Leased parts that do not fit into the call and need another call."""
    refused: Sequence[PendingPart]
    """Parts that cannot be fetched now."""
    fault: UpstreamError
    """The reason for `refused`."""
    followed: RemoteCall | None
    """Parts that another process fetches."""
    released: frozenset[Part]
    """Leased parts that no longer need a call."""


class Dispatcher:
    """Turns queued parts into calls, and the results of calls into cached records. Thread-safe."""

    def __init__(
        self,
        pending: PendingParts,
        store: TieredStore,
        rate_limiter: RateLimiter,
        circuit_breaker: CircuitBreaker,
        policy: FreshnessPolicy,
        *,
        extra_parts: tuple[Part, ...],
        clock: Clock,
    ) -> None:
        self._pending = pending
        self._store = store
        self._rate_limiter = rate_limiter
        self._circuit_breaker = circuit_breaker
        self._policy = policy
        self._extra_parts = extra_parts
        self._clock = clock

    def prepare(self, identity: Identity, wanted: Mapping[Part, PendingPart]) -> Decision:
        """Decide how to handle each of the `wanted` parts, and mark the parts of the call as sent."""
        record, now = self._store.memory.read(identity), self._clock.now()
        extra_parts = [part for part in self._extra_parts if not self._policy.is_fresh(record, part, now, NEVER)]
        lease = self._store.lease(identity, {*wanted, *extra_parts})
        settled: dict[Part, Record | UpstreamError] = {
            part: fault for part, fault in lease.faults.items() if part in wanted
        }
        fault: UpstreamError = QuotaExhausted(retry_after=self._rate_limiter.wait())
        to_fetch: list[Part] = []
        refused: list[Part] = []
        remote: list[PendingPart] = []
        trial = False
        with self._pending.lock:
            # The record is read under the lock, so that no call completes between the read and the decision. No I/O is
            # allowed.
            record, now = self._store.memory.read(identity), self._clock.now()
            for part, pending in wanted.items():
                if self._policy.is_fresh(record, part, now, pending.min_fetched_at):
                    settled[part] = record
                elif part in settled:
                    continue
                elif part not in lease.granted:
                    remote.append(pending)
                elif pending.useless_at(self._clock.monotonic()):
                    settled[part] = fault
                else:
                    to_fetch.append(part)
            if to_fetch and self._rate_limiter.paused:
                to_fetch, refused = [], to_fetch
            elif to_fetch:
                try:
                    trial = self._circuit_breaker.begin()
                except UpstreamError as outage:
                    to_fetch, refused, fault = [], to_fetch, outage
            calls = plan_calls(
                to_fetch, [part for part in extra_parts if part in lease.granted and part not in settled]
            )
            call = None
            if calls:
                generation = min(wanted[part].generation for part in to_fetch)
                number = self._pending.mark_sent(identity, calls[0].parts, wanted)
                call = SentCall(number, calls[0], trial, generation)
            next_call = {part: wanted[part] for planned in calls[1:] for part in planned.parts}
            followed = RemoteCall(self._pending.mark_remote(remote), remote) if remote else None
        return Decision(
            call,
            settled,
            next_call,
            [wanted[part] for part in refused],
            fault,
            followed,
            released=lease.granted - next_call.keys() - (call.call.parts if call else frozenset()),
        )

    def complete(self, identity: Identity, sent_call: SentCall, outcome: Fetched | UpstreamError) -> list[PendingPart]:
        """Cache the result of a call and pass it to the callers.

        Return the parts that failed with 429 and stay pending.
        """
        parts = sent_call.call.parts
        if isinstance(outcome, Fetched):
            with self._pending.lock:
                warm = any(pending.warm for pending in self._pending.carried_by(identity, sent_call.number))
            record = outcome.record.warm() if warm else outcome.record
            # The record is cached first, so that a new caller finds either the pending part or the cached record.
            self._store.save(identity, record, parts, generation=sent_call.generation)
            settled = {part: outcome.faults.get(part, record) for part in parts}
            self._pending.settle(identity, settled, call=sent_call.number)
            return []
        self._store.save(identity, EMPTY, parts, outcome.word)
        refused: list[PendingPart] = []
        if isinstance(outcome, QuotaExhausted):
            with self._pending.lock:
                carried = self._pending.carried_by(identity, sent_call.number)
                refused = [pending for pending in carried if pending.requested]
        failed = parts - {pending.part for pending in refused}
        self._pending.settle(identity, dict.fromkeys(failed, outcome), call=sent_call.number)
        return refused

    def poll(self, identity: Identity, remote: RemoteCall) -> tuple[RemoteCall, dict[Part, PendingPart]]:
        """Settle the parts of a remote call that have arrived or failed.

        Return the remaining parts, and the parts that the other process gave up and that this process now leases.
        """
        lease = self._store.lease(identity, [pending.part for pending in remote.parts])
        record, now = self._store.memory.read(identity), self._clock.now()
        outcomes: dict[Part, Record | UpstreamError] = dict(lease.faults)
        for pending in remote.parts:
            if self._policy.is_fresh(record, pending.part, now, pending.min_fetched_at):
                outcomes[pending.part] = record
        self._pending.settle(identity, outcomes, call=remote.number)
        unsettled = [pending for pending in remote.parts if pending.part not in outcomes]
        abandoned = {pending.part: pending for pending in unsettled if pending.part in lease.granted}
        if unneeded := lease.granted - abandoned.keys():
            self._store.save(identity, EMPTY, unneeded)
        with self._pending.lock:
            for pending in abandoned.values():
                pending.call, pending.remote = None, False
        remaining = [pending for pending in unsettled if pending.part not in abandoned]
        return RemoteCall(remote.number, remaining), abandoned
