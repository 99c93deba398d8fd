"""Keeps the pending parts: parts that are queued or being fetched. All callers of a part share one entry."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from threading import Condition

from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamTimeout
from proxy.profile.parts import Identity, Part
from proxy.profile.record import Record

NEVER = float("-inf")
"""A time before all others."""


@dataclass(slots=True, eq=False)
class PendingPart:
    """A part that is queued or being fetched. The defaults describe an extra part, which no caller requested."""

    part: Part
    until: float = NEVER
    """The latest deadline of all waiting callers (monotonic seconds)."""
    wanted_later: bool = False
    """Whether the part is still needed after `until`: a caller uses `on_error=retry`, or a served copy is refreshed."""
    min_fetched_at: float = NEVER
    """A copy fetched before this time (Unix seconds) is too old for a waiting caller."""
    refresh: bool = True
    """Whether every caller has a cached copy."""
    requested_at: float = NEVER
    """The time of the last request (monotonic seconds)."""
    generation: int = 0
    """`MemoryStore.generation` at the first request. If the user was forgotten later, the result is not cached."""
    background: bool = False
    """Whether every caller warms the cache. All other callers take priority."""
    warm: bool = False
    """Whether any caller warms the cache. The result is then fresh for `CACHE_WARM_SECONDS`."""
    future: Future[Record] = field(default_factory=Future)
    call: int | None = None
    """The number of the call that carries the part; None before the call is sent."""
    remote: bool = False
    """Whether another process sent that call."""

    @property
    def requested(self) -> bool:
        """Return whether any caller requested the part."""
        return self.wanted_later or self.until > NEVER

    def useless_at(self, moment: float) -> bool:
        """Return whether no caller needs the part at `moment` and a fetch would log an exposure."""
        return self.part.section == "recommendations" and not self.wanted_later and self.until < moment


@dataclass(frozen=True, slots=True)
class Waiter:
    """The parts that one caller waits for. `first_requested`: the parts that no earlier caller requested."""

    parts: Mapping[Part, PendingPart]
    first_requested: frozenset[Part] = frozenset()

    def wait(self, seconds: float) -> None:
        """Wait until every part has arrived or failed, for at most `seconds`."""
        wait([pending.future for pending in self.parts.values()], timeout=max(0.0, seconds))

    def outcome(self, part: Part) -> Record | UpstreamError:
        """Return the record that contains `part`, or the reason why the part is missing."""
        pending = self.parts[part]
        if not pending.future.done():
            return UpstreamTimeout() if pending.call is not None else QuotaExhausted()
        fault = pending.future.exception()
        return fault if isinstance(fault, UpstreamError) else pending.future.result()

    @property
    def started_fetch(self) -> bool:
        """Return whether this caller was the first to request a part that this process fetches."""
        return any(not self.parts[part].remote for part in self.first_requested)

    @property
    def calls(self) -> int:
        """Return the number of calls that were sent for this caller or that this caller joined."""
        return len({pending.call for pending in self.parts.values() if pending.call is not None})


class PendingParts:
    """All pending parts by user. Callers hold `lock` for every method except `settle`, which acquires `lock`."""

    def __init__(self) -> None:
        self.lock = Condition()
        self._parts: dict[Identity, dict[Part, PendingPart]] = {}
        self._numbers = itertools.count(1)

    def of(self, identity: Identity) -> Mapping[Part, PendingPart]:
        """Return the pending parts of `identity`."""
        return self._parts.get(identity, {})

    def join(
        self, identity: Identity, wanted: Iterable[PendingPart]
    ) -> tuple[dict[Part, PendingPart], dict[Part, PendingPart]]:
        """Merge `wanted` into the pending parts. Return the pending part of each, and the new pending parts."""
        user_parts = self.of(identity)
        joined, new = {}, {}
        for request in wanted:
            if pending := user_parts.get(request.part):
                pending.until = max(pending.until, request.until)
                pending.wanted_later |= request.wanted_later
                pending.min_fetched_at = max(pending.min_fetched_at, request.min_fetched_at)
                pending.refresh &= request.refresh
                pending.requested_at = max(pending.requested_at, request.requested_at)
                pending.background &= request.background
                pending.warm |= request.warm
                joined[request.part] = pending
            else:
                joined[request.part] = new[request.part] = request
        if new:
            self._parts.setdefault(identity, {}).update(new)
        return joined, new

    def mark_sent(self, identity: Identity, parts: Iterable[Part], wanted: Collection[Part]) -> int:
        """Record that one call carries `parts`.

        `wanted`: the parts queued for this call. Return the number of the call.
        """
        number = next(self._numbers)
        user_parts = self._parts.setdefault(identity, {})
        for part in parts:
            # If an earlier call carries this extra part, the callers of the part keep waiting for that call.
            pending = user_parts.setdefault(part, PendingPart(part))
            if part in wanted or pending.call is None:
                pending.call = number
        return number

    def mark_remote(self, parts: Iterable[PendingPart]) -> int:
        """Record that a call of another process carries `parts`.

        Return a number for the call, unique in this process.
        """
        number = next(self._numbers)
        for pending in parts:
            pending.call, pending.remote = number, True
        return number

    def carried_by(self, identity: Identity, call: int) -> list[PendingPart]:
        """Return the parts of a call that are still pending."""
        return [pending for pending in self.of(identity).values() if pending.call == call]

    def settle(self, identity: Identity, outcomes: Mapping[Part, Record | UpstreamError], *, call: int | None) -> None:
        """Pass outcomes to the callers.

        A failure applies only to parts that `call` carries (None: parts without a call).
        """
        with self.lock:
            user_parts = self._parts.get(identity, {})
            # A record serves every caller, even one that waits for another call. Another call may still fetch a failed
            # part.
            settled = [
                user_parts.pop(part)
                for part, outcome in outcomes.items()
                if part in user_parts and (isinstance(outcome, Record) or user_parts[part].call == call)
            ]
            if not user_parts:
                self._parts.pop(identity, None)
        for pending in settled:
            outcome = outcomes[pending.part]
            if isinstance(outcome, UpstreamError):
                pending.future.set_exception(outcome)
            else:
                pending.future.set_result(outcome)
