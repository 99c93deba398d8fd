"""Parts on their way: each shared by all who want it, in failure as in success; and what one caller waits for."""

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


@dataclass(slots=True, eq=False)
class PendingPart:
    """One part on its way. Rides along, and nobody asked for it, until somebody does."""

    part: Part
    until: float = NEVER
    """When the last caller that waits leaves (monotonic seconds)."""
    wanted_later: bool = False
    """Whether somebody comes back for it (`on_error=retry`, or a copy was served that is to be refreshed)."""
    since: float = NEVER
    """What was said before (Unix seconds) is too old for a caller that waits."""
    spare: bool = True
    """Whether all who asked have a copy that may stand in."""
    asked_at: float = NEVER
    """When it was last asked for (monotonic seconds)."""
    generation: int = 0
    """Nothing is kept of a user who was forgotten after this (`Store.mark`) when it lands."""
    background: bool = False
    """Whether all who asked do so ahead of a send, and let everybody else go first."""
    ahead: bool = False
    """Whether somebody did."""
    landed: Future[Record] = field(default_factory=Future)
    call: int | None = None
    """The number of the call that carries it, once sent."""
    elsewhere: bool = False
    """Whether that is a call of another process."""

    @property
    def exposes(self) -> bool:
        """Say whether fetching it logs an exposure."""
        return self.part.section == "recommendations"

    @property
    def asked(self) -> bool:
        """Say whether it is wanted, and does not only ride along."""
        return self.wanted_later or self.until > NEVER


@dataclass(frozen=True, slots=True)
class Waiter:
    """What one caller waits for. `asked_first`: the parts that nobody had asked for before."""

    awaited: Mapping[Part, PendingPart]
    asked_first: frozenset[Part] = frozenset()

    def wait(self, seconds: float) -> None:
        """Return when everything has landed or failed, at the latest after `seconds`."""
        wait([one.landed for one in self.awaited.values()], timeout=max(0.0, seconds))

    def outcome(self, part: Part) -> Record | UpstreamError:
        """Return what became of `part` so far: the record that has it, or why it is not there."""
        one = self.awaited[part]
        if not one.landed.done():
            return UpstreamTimeout() if one.call is not None else QuotaExhausted()
        fault = one.landed.exception()
        return fault if isinstance(fault, UpstreamError) else one.landed.result()

    @property
    def opened(self) -> bool:
        """Say whether something is fetched for this caller first."""
        return any(not self.awaited[part].elsewhere for part in self.asked_first)

    @property
    def calls(self) -> int:
        """Return how many calls were sent for this ticket, or joined by it."""
        return len({one.call for one in self.awaited.values() if one.call is not None})


class PendingParts:
    """Every part on its way, by user. Call its methods while holding `lock`, but for `settle`, which takes it."""

    def __init__(self) -> None:
        self.lock = Condition()
        self._parts: dict[Identity, dict[Part, PendingPart]] = {}
        self._numbers = itertools.count(1)

    def of(self, identity: Identity) -> Mapping[Part, PendingPart]:
        """Return what is on its way for `identity`."""
        return self._parts.get(identity, {})

    def join(
        self, identity: Identity, wanted: Iterable[PendingPart]
    ) -> tuple[dict[Part, PendingPart], dict[Part, PendingPart]]:
        """Return who is awaited for each of `wanted`, and those of them that are new."""
        under_way = self.of(identity)
        awaited, new = {}, {}
        for one in wanted:
            if there := under_way.get(one.part):
                there.until = max(there.until, one.until)
                there.wanted_later |= one.wanted_later
                there.since = max(there.since, one.since)
                there.spare &= one.spare
                there.asked_at = max(there.asked_at, one.asked_at)
                there.background &= one.background
                there.ahead |= one.ahead
                awaited[one.part] = there
            else:
                awaited[one.part] = new[one.part] = one
        if new:
            self._parts.setdefault(identity, {}).update(new)
        return awaited, new

    def sent(self, identity: Identity, parts: Iterable[Part], wanted: Collection[Part]) -> int:
        """Note that one call carries `parts`, of which `wanted` were waiting for it. Return the call's number."""
        number = next(self._numbers)
        under_way = self._parts.setdefault(identity, {})
        for part in parts:
            # What rides along may be on its way in an earlier call already; those who wait for that one stay there.
            one = under_way.setdefault(part, PendingPart(part))
            if part in wanted or one.call is None:
                one.call = number
        return number

    def sent_elsewhere(self, awaited: Iterable[PendingPart]) -> int:
        """Note that a call of another process carries `awaited`. Return the call's number here."""
        number = next(self._numbers)
        for one in awaited:
            one.call, one.elsewhere = number, True
        return number

    def carried_by(self, identity: Identity, call: int) -> list[PendingPart]:
        """Return what is still awaited of a call."""
        return [one for one in self.of(identity).values() if one.call == call]

    def settle(self, identity: Identity, outcomes: Mapping[Part, Record | UpstreamError], *, call: int | None) -> None:
        """Tell those who wait: of a failure, those for what `call` carried (None: for what was not sent)."""
        with self.lock:
            under_way = self._parts.get(identity, {})
            # A part that came is there for all, whichever call they wait for; one that failed may come by another.
            settled = [
                under_way.pop(part)
                for part, outcome in outcomes.items()
                if part in under_way and (isinstance(outcome, Record) or under_way[part].call == call)
            ]
            if not under_way:
                self._parts.pop(identity, None)
        for one in settled:
            outcome = outcomes[one.part]
            if isinstance(outcome, UpstreamError):
                one.landed.set_exception(outcome)
            else:
                one.landed.set_result(outcome)
