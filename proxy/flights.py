"""What is queued, sent and awaited for each user: one call where many ask, and those told whose parts have come.

A flight is queued at a booked moment. Until then whoever asks for more about the same user widens it; what it
carries is planned when it is sent. A part that is on its way is never asked again: later callers wait for it
too, and share its failure as they share its success. Callers never call Amplitude themselves.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock

from proxy.amplitude import Fetched
from proxy.errors import NoAnswer, QuotaExhausted, UpstreamInvalid, UpstreamRejected, UpstreamTimeout
from proxy.parts import Identity, Lifetimes, Part, Record
from proxy.plan import Call, plan
from proxy.quota import Booking, Quota
from proxy.store import Store
from proxy.telemetry import OncePerMinute

_log = logging.getLogger(__name__)

_MAY_ARRIVE_SECONDS = 1.0  # for a call that was given up: it may be in some buffer on the way
_FIRST_GUESS_SECONDS = 0.5  # of a typical call, until calls were measured


@dataclass(slots=True, eq=False)
class Awaited:
    """One part on its way, shared by all who wait for it."""

    part: Part
    until: float
    """When the last caller that waits leaves (monotonic seconds)."""
    wanted_later: bool
    """Whether somebody comes back for it (`on_error=retry`, or a copy was served that is to be refreshed)."""
    since: float
    """What was said before (Unix seconds) is too old for a caller that waits."""
    landed: Future[Record] = field(default_factory=Future)
    call: int | None = None
    """The number of the call that carries it, once sent."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a caller waits for. `opened`: some of it is fetched for this caller first, nobody had asked before."""

    awaited: Mapping[Part, Awaited]
    opened: bool

    def wait(self, seconds: float) -> None:
        """Return when everything has landed or failed, at the latest after `seconds`."""
        wait([one.landed for one in self.awaited.values()], timeout=max(0.0, seconds))

    def outcome(self, part: Part) -> Record | NoAnswer:
        """Return what became of `part` so far: the record that has it, or why it is not there."""
        one = self.awaited[part]
        if not one.landed.done():
            return UpstreamTimeout() if one.call is not None else QuotaExhausted()
        fault = one.landed.exception()
        return fault if isinstance(fault, NoAnswer) else one.landed.result()

    @property
    def calls(self) -> int:
        """Return how many calls were sent for this ticket, or joined by it."""
        return len({one.call for one in self.awaited.values() if one.call is not None})


@dataclass(slots=True, eq=False)
class _Flight:
    booking: Booking
    awaited: dict[Part, Awaited]


@dataclass(frozen=True, slots=True)
class _Sent:
    number: int
    call: Call


@dataclass(frozen=True, slots=True)
class LastCall:
    """How the last call ended: None when well, else the error word; and when (monotonic seconds)."""

    error: str | None
    at: float


class Flights:
    """Sends calls at booked moments from its own threads, which start with the first call."""

    def __init__(
        self,
        fetch: Callable[[Identity, Call], Fetched],
        store: Store,
        quota: Quota,
        lifetimes: Lifetimes,
        *,
        along: tuple[Part, ...],
        threads: int,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._fetch = fetch
        self._store = store
        self._quota = quota
        self._lifetimes = lifetimes
        self._along = along
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flight")
        self._lock = Lock()
        self._queued: dict[Identity, _Flight] = {}
        self._under_way: dict[Identity, dict[Part, Awaited]] = {}
        self._numbers = itertools.count(1)
        self._typical = _FIRST_GUESS_SECONDS
        self._faults = OncePerMinute(monotonic)
        self.last_call: LastCall | None = None

    def join(
        self,
        identity: Identity,
        parts: Iterable[Part],
        *,
        until: float,
        wanted_later: bool,
        since: float = float("-inf"),
        burst: bool = True,
    ) -> Ticket:
        """Return a ticket for `parts`: those on their way are joined, the others queued for a call in time.

        `until`: when the caller leaves (monotonic seconds). When no call can be sent in time, the parts that
        would need one fail at once with QuotaExhausted. `since`: a copy that another call brought meanwhile
        will do if it is no older than that (Unix seconds). `burst`: see `Quota.book`.
        """
        with self._lock:
            under_way = self._under_way.get(identity, {})
            tickets = {}
            fresh = {}
            for part in parts:
                if one := under_way.get(part):
                    one.until = max(one.until, until)
                    one.wanted_later |= wanted_later
                    one.since = max(one.since, since)
                else:
                    one = fresh[part] = Awaited(part, until, wanted_later, since)
                tickets[part] = one
            if fresh and (queued := self._queue(identity, fresh, burst=burst)):
                self._under_way.setdefault(identity, {}).update(queued)
        return Ticket(tickets, opened=bool(fresh))

    def refresh(self, identity: Identity, parts: Iterable[Part]) -> None:
        """Fetch `parts` again if a call can go this moment. Nobody waits for it, and nobody who waits waits longer."""
        self.join(identity, parts, until=self._monotonic(), wanted_later=True, burst=False)

    def drain(self, seconds: float) -> None:
        """Return when every call that was sent has landed and is kept, at the latest after `seconds`."""
        with self._lock:
            sent = [one.landed for parts in self._under_way.values() for one in parts.values() if one.call is not None]
        wait(sent, timeout=max(0.0, seconds))

    def _queue(self, identity: Identity, awaited: dict[Part, Awaited], *, burst: bool = True) -> dict[Part, Awaited]:
        """Widen the queued flight, or book one. Return what is queued; the rest has failed. Called under the lock."""
        if flight := self._queued.get(identity):
            accepted = {part: one for part, one in awaited.items() if not self._too_late(one, flight.booking)}
            for part in awaited.keys() - accepted.keys():
                awaited[part].landed.set_exception(QuotaExhausted(retry_after=self._quota.wait()))
            flight.awaited.update(accepted)
            return accepted
        # What can go now goes now, however slow calls are at present: what comes too late is still kept.
        leave_by = max(one.until for one in awaited.values()) - self._typical
        booking = self._quota.book(latest=leave_by, burst=burst)
        if booking is None:
            for one in awaited.values():
                one.landed.set_exception(QuotaExhausted(retry_after=self._quota.wait()))
            return {}
        flight = self._queued[identity] = _Flight(booking, dict(awaited))
        try:
            self._pool.submit(self._fly, identity, flight)
        except RuntimeError:  # no thread can be had; who comes next must not board a flight that never leaves
            del self._queued[identity]
            self._quota.cancel(booking)
            raise
        return awaited

    def _too_late(self, one: Awaited, booking: Booking) -> bool:
        """Say whether a recommendation would come when its message has gone: an exposure for nothing."""
        waits = booking.at > self._monotonic()
        wanted = one.part.section != "recommendations" or one.wanted_later
        return waits and not wanted and one.until - self._typical < booking.at

    def _fly(self, identity: Identity, flight: _Flight) -> None:
        sent: _Sent | None = None
        try:
            if (delay := flight.booking.at - self._monotonic()) > 0:
                self._sleep(delay)
            sent = self._board(identity, flight)
            if sent is None:
                self._quota.cancel(flight.booking)
            else:
                self._land(identity, sent, self._send(identity, sent.call, flight.booking))
        except Exception:  # noqa: BLE001  # whatever it was, those who wait must hear of it
            _log.exception("a flight failed on our side")
            self._quota.ended(flight.booking)
            with self._lock:
                if self._queued.get(identity) is flight:
                    del self._queued[identity]
            fault = UpstreamInvalid("a fault of ours")
            self._settle(identity, dict.fromkeys(flight.awaited, fault), call=None)
            if sent is not None:
                self._land(identity, sent, fault)

    def _board(self, identity: Identity, flight: _Flight) -> _Sent | None:
        """Close the flight to newcomers and decide what is sent; what needs no call, or another, is seen to."""
        outcomes: dict[Part, Record | NoAnswer] = {}
        sent = None
        with self._lock:
            del self._queued[identity]
            # Under the lock, or a call might land between the look and the decision; the store does no I/O.
            record, now = self._store.read(identity), self._now()
            wanted = flight.awaited
            for part, one in wanted.items():
                # Its message has gone: a call now would log an exposure for nothing.
                gone = part.section == "recommendations" and one.until < self._monotonic() and not one.wanted_later
                if self._lifetimes.answers(record, part, now, one.since):
                    outcomes[part] = record
                elif gone or self._quota.closed:
                    outcomes[part] = QuotaExhausted(retry_after=self._quota.wait())
            riders = [part for part in self._along if part not in outcomes]
            calls = plan([part for part in wanted if part not in outcomes], riders)
            if calls:
                sent = self._mark_sent(identity, calls[0], wanted)
            later = {part: wanted[part] for call in calls[1:] for part in call.parts}
            if later:
                refused = later.keys() - self._queue(identity, later).keys()
                self._forget(identity, dict.fromkeys(refused, QuotaExhausted()), call=None)
        self._settle(identity, outcomes, call=None)
        return sent

    def _mark_sent(self, identity: Identity, call: Call, wanted: Mapping[Part, Awaited]) -> _Sent:
        number = next(self._numbers)
        under_way = self._under_way.setdefault(identity, {})
        for part in call.parts:
            # What rides along may be on its way in an earlier call already; those who wait for that one stay there.
            one = under_way.setdefault(part, Awaited(part, self._monotonic(), wanted_later=False, since=float("-inf")))
            if part in wanted or one.call is None:
                one.call = number
        return _Sent(number, call)

    def _send(self, identity: Identity, call: Call, booking: Booking) -> Fetched | NoAnswer:
        started = self._monotonic()
        outcome: Fetched | NoAnswer | None = None
        try:
            outcome = self._fetch(identity, call)
        except NoAnswer as fault:
            outcome = fault
        finally:
            given_up = isinstance(outcome, UpstreamTimeout)
            self._quota.ended(booking, may_arrive_for=_MAY_ARRIVE_SECONDS if given_up else 0.0)
        ended = self._monotonic()
        if isinstance(outcome, Fetched):
            # Failures tell nothing of how long an answer takes, and after an outage callers may hope again at once.
            self._typical += 0.2 * (ended - started - self._typical)
        self.last_call = LastCall(outcome.word if isinstance(outcome, NoAnswer) else None, ended)
        if isinstance(outcome, NoAnswer):
            if isinstance(outcome, QuotaExhausted):
                self._quota.stand_back(outcome.retry_after or 0.0)
            if times := self._faults.note(outcome.word):
                # Wrong credentials end by no retry: somebody must mend them.
                level = logging.ERROR if isinstance(outcome, UpstreamRejected) else logging.WARNING
                told = {"error": outcome.word, "why": str(outcome), "times": times}
                _log.log(level, "no answer from Amplitude", extra=told)
        return outcome

    def _land(self, identity: Identity, sent: _Sent, outcome: Fetched | NoAnswer) -> None:
        outcomes: dict[Part, Record | NoAnswer]
        if isinstance(outcome, NoAnswer):
            outcomes = dict.fromkeys(sent.call.parts, outcome)
        else:
            # Kept before it is forgotten here: whoever comes in between finds one or the other.
            self._store.merge(identity, outcome.record)
            outcomes = {part: outcome.faults.get(part, outcome.record) for part in sent.call.parts}
        self._settle(identity, outcomes, call=sent.number)

    def _settle(self, identity: Identity, outcomes: Mapping[Part, Record | NoAnswer], *, call: int | None) -> None:
        """Tell those who wait: of a failure, those for what `call` carried (None: for what was not sent)."""
        with self._lock:
            settled = self._forget(identity, outcomes, call=call)
        for one in settled:
            outcome = outcomes[one.part]
            if isinstance(outcome, NoAnswer):
                one.landed.set_exception(outcome)
            else:
                one.landed.set_result(outcome)

    def _forget(
        self, identity: Identity, outcomes: Mapping[Part, Record | NoAnswer], *, call: int | None
    ) -> list[Awaited]:
        under_way = self._under_way.get(identity, {})
        # A part that came is there for all, whichever call they wait for; one that failed may still come by another.
        forgotten = [
            under_way.pop(part)
            for part, outcome in outcomes.items()
            if part in under_way and (isinstance(outcome, Record) or under_way[part].call == call)
        ]
        if not under_way:
            self._under_way.pop(identity, None)
        return forgotten
