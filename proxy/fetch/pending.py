"""Pending parts: parts that are queued or being fetched, each shared by every caller that waits for it."""

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
"""Earlier than any time."""


@dataclass(slots=True, eq=False)
class PendingPart:
    """One part that is queued or being fetched. With the defaults no caller wants it: it only rides along."""

    part: Part
    until: float = NEVER
    """The latest deadline of the callers that wait (monotonic seconds)."""
    wanted_later: bool = False
    """Whether the part is still wanted after `until`: a caller uses `on_error=retry`, or a served copy is refreshed."""
    min_fetched_at: float = NEVER
    """A copy fetched before this time (Unix seconds) is too old for a caller that waits."""
    refresh: bool = True
    """Whether every caller has a cached copy."""
    requested_at: float = NEVER
    """The time of the last request (monotonic seconds)."""
    generation: int = 0
    """`TieredStore.generation` at the first request: the result is not cached if the user was forgotten since."""
    background: bool = False
    """Whether every caller prepares a send and lets all other callers go first."""
    warm: bool = False
    """Whether any caller does: the result is fresh for `CACHE_WARM_SECONDS`."""
    future: Future[Record] = field(default_factory=Future)
    call: int | None = None
    """The number of the call that carries the part, once sent."""
    remote: bool = False
    """Whether another process makes that call."""

    @property
    def requested(self) -> bool:
        """Say whether a caller wants the part."""
        return self.wanted_later or self.until > NEVER

    def useless_at(self, moment: float) -> bool:
        """Say whether no caller wants the part any more at `moment`, and fetching it would log an exposure."""
        return self.part.section == "recommendations" and not self.wanted_later and self.until < moment


@dataclass(frozen=True, slots=True)
class Waiter:
    """The parts that one caller waits for. `first_requested`: those that no earlier caller had requested."""

    parts: Mapping[Part, PendingPart]
    first_requested: frozenset[Part] = frozenset()

    def wait(self, seconds: float) -> None:
        """Return when every part has arrived or failed, at the latest after `seconds`."""
        wait([pending.future for pending in self.parts.values()], timeout=max(0.0, seconds))

    def outcome(self, part: Part) -> Record | UpstreamError:
        """Return the record that has `part`, or why there is none so far."""
        pending = self.parts[part]
        if not pending.future.done():
            return UpstreamTimeout() if pending.call is not None else QuotaExhausted()
        fault = pending.future.exception()
        return fault if isinstance(fault, UpstreamError) else pending.future.result()

    @property
    def opened(self) -> bool:
        """Say whether this caller was the first to request a part that this process fetches."""
        return any(not self.parts[part].remote for part in self.first_requested)

    @property
    def calls(self) -> int:
        """Return the number of calls that were sent for this caller or joined by it."""
        return len({pending.call for pending in self.parts.values() if pending.call is not None})


class PendingParts:
    """All pending parts by user. Hold `lock` when calling any method except `settle`, which takes it."""

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
        """Merge `wanted` into the pending parts. Return the pending part of each, and those that are new."""
        known = self.of(identity)
        joined, new = {}, {}
        for request in wanted:
            if pending := known.get(request.part):
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
        """Record that one call carries `parts`, of which `wanted` were queued for it. Return the call's number."""
        number = next(self._numbers)
        known = self._parts.setdefault(identity, {})
        for part in parts:
            # An earlier call may carry a part that rides along; its callers keep waiting for that call.
            pending = known.setdefault(part, PendingPart(part))
            if part in wanted or pending.call is None:
                pending.call = number
        return number

    def mark_remote(self, parts: Iterable[PendingPart]) -> int:
        """Record that a call of another process carries `parts`. Return the number that the call has here."""
        number = next(self._numbers)
        for pending in parts:
            pending.call, pending.remote = number, True
        return number

    def carried_by(self, identity: Identity, call: int) -> list[PendingPart]:
        """Return the parts of a call that have no outcome yet."""
        return [pending for pending in self.of(identity).values() if pending.call == call]

    def settle(self, identity: Identity, outcomes: Mapping[Part, Record | UpstreamError], *, call: int | None) -> None:
        """Give callers the outcomes of parts. A failure only applies to parts carried by `call` (None: by no call)."""
        with self.lock:
            known = self._parts.get(identity, {})
            # A record serves every caller, whichever call it waits for. A failed part may still come by another call.
            settled = [
                known.pop(part)
                for part, outcome in outcomes.items()
                if part in known and (isinstance(outcome, Record) or known[part].call == call)
            ]
            if not known:
                self._parts.pop(identity, None)
        for pending in settled:
            outcome = outcomes[pending.part]
            if isinstance(outcome, UpstreamError):
                pending.future.set_exception(outcome)
            else:
                pending.future.set_result(outcome)
