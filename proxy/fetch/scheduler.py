"""When a call is sent for whom: one call where many ask, at a booked moment, planned when it is about to be sent.

A flight is queued at a booked moment. Until then whoever asks for more about the same user widens it. A part that
is on its way is never asked again, by no process that shares a Redis. Callers never call Amplitude themselves. What
no call can be sent for in time goes into the backlog, which takes the moments that nobody booked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.executor import CallExecutor
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.amplitude.sliding_window import Reservation
from proxy.fetch.airfield import Airfield
from proxy.fetch.backlog import Backlog
from proxy.fetch.backlog_worker import BacklogWorker
from proxy.fetch.dispatch import Dispatcher, InFlightCall
from proxy.fetch.pending import NEVER, PendingPart, PendingParts, Waiter
from proxy.monitoring.logs import request_id
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamInvalid
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import Identity, Part
from proxy.profile.record import EMPTY
from proxy.storage.tiered import TieredStore

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05  # between looks at who joined a flight that has no place yet
_SHORTEST_NAP_SECONDS = 0.02  # of who waits for a place ahead of a send


@dataclass(slots=True, eq=False)
class _Flight:
    awaited: dict[Part, PendingPart]
    reservation: Reservation | None = None
    """None while it is being booked."""


def _as(id: str | None, work: Callable[..., None], *args: object) -> None:
    """Do `work`; its log lines name the request that it is for, and not the one that happened to start the thread."""
    request_id.set(id)
    work(*args)


class FetchScheduler:
    """Sends calls from its own threads, which start with the first."""

    def __init__(
        self,
        executor: CallExecutor,
        store: TieredStore,
        rate_limiter: RateLimiter,
        circuit_breaker: CircuitBreaker,
        backlog: Backlog,
        policy: FreshnessPolicy,
        *,
        along: tuple[Part, ...],
        threads: int,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._executor = executor
        self._store = store
        self._rate_limiter = rate_limiter
        self._circuit_breaker = circuit_breaker
        self._monotonic = monotonic
        self._sleep = sleep
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flight")
        self._under_way = PendingParts()
        self._lock = self._under_way.lock
        airfield = Airfield(self._under_way, store, rate_limiter, circuit_breaker, policy, now, monotonic, sleep)
        self._departures = Dispatcher(self, airfield, along=along)
        self._standby = BacklogWorker(self, airfield, backlog)
        self._queued: dict[Identity, _Flight] = {}
        self._flying = 0

    def join(
        self,
        identity: Identity,
        parts: Iterable[Part],
        *,
        until: float,
        wanted_later: bool,
        since: float = NEVER,
        spare: Collection[Part] = (),
        background: bool = False,
    ) -> Waiter:
        """Return a ticket for `parts`: those on their way are joined, the others queued for a call in time.

        `until`: when the caller leaves (monotonic seconds). When no call can be sent in time, the parts that
        would need one fail at once and wait in the backlog. `since`: a copy that another call brought meanwhile
        will do if it is no older than that (Unix seconds). `spare`: those of `parts` of which the caller has a copy.
        For them alone only a place is taken that is free this moment, of half the burst, or none where nobody waits:
        users of whom there is nothing come first. `background`: ahead of a send, for which a place is taken only
        when it is free this moment and nobody else waits for it; what finds none is not sent later, for the caller
        comes again.
        """
        generation = self._store.generation
        with self._lock:
            now = self._monotonic()
            wanted = [
                PendingPart(
                    part,
                    until,
                    wanted_later,
                    since,
                    part in spare,
                    asked_at=now,
                    generation=generation,
                    background=background,
                    ahead=background,
                )
                for part in parts
            ]
            awaited, new = self._under_way.join(identity, wanted)
            flight = self._widened(identity, new)
            left_behind = self._left_behind(self._queued.get(identity))
        if flight:
            self._book(identity, flight)
        if left_behind:
            self.refuse(identity, left_behind, QuotaExhausted(retry_after=self._rate_limiter.wait()))
        return Waiter(awaited, frozenset(new))

    def refresh(self, identity: Identity, parts: Collection[Part]) -> None:
        """Fetch `parts`, of which copies are served, again at a moment nobody booked. Nobody waits for it."""
        self.join(identity, parts, until=self._monotonic(), wanted_later=True, spare=parts)

    def drain(self, seconds: float) -> None:
        """Return when what callers wait for has landed, at the latest after `seconds`. The backlog stays unsent."""
        self._standby.close()
        with self._lock:
            self._lock.wait_for(lambda: not self._flying and not self._queued, timeout=seconds)

    # What is queued.

    def _widened(self, identity: Identity, awaited: dict[Part, PendingPart]) -> _Flight | None:
        """Put `awaited` into the queued flight, or return a new one that is to be booked. Called under the lock."""
        if not awaited:
            return None
        if flight := self._queued.get(identity):
            flight.awaited.update(awaited)
            return None
        flight = self._queued[identity] = _Flight(dict(awaited))
        return flight

    def _book(self, identity: Identity, flight: _Flight, leased: Collection[Part] = ()) -> None:
        """Find a moment for `flight`; without one, those who wait are told and it waits in the backlog.

        `leased`: parts that this process is to fetch, for the others; without a moment they are given back.
        """
        try:
            reservation, fault = self._moment_for(flight)
        except Exception:  # noqa: BLE001  # or whoever comes next would board what never leaves
            _log.exception("a call could not be booked")
            reservation, fault = None, UpstreamInvalid("a fault of ours")
        with self._lock:
            if reservation is None:
                del self._queued[identity]
                self._lock.notify_all()
                left_behind = list(flight.awaited.values())
            else:
                flight.reservation = reservation
                left_behind = self._left_behind(flight)
        if left_behind:
            self.refuse(identity, left_behind, fault or QuotaExhausted(retry_after=self._rate_limiter.wait()))
        if reservation is not None:
            self._take_off(identity, flight, reservation)
        elif leased:
            self._store.save(identity, EMPTY, leased)

    def _moment_for(self, flight: _Flight) -> tuple[Reservation | None, UpstreamError | None]:
        """Return a booking, or why there is none."""
        asked = None
        while True:
            if fault := self._circuit_breaker.open_fault():
                return None, fault
            with self._lock:
                awaited = list(flight.awaited.values())
            spare, background = all(one.spare for one in awaited), all(one.background for one in awaited)
            leaves = max(one.until for one in awaited)
            if (spare, background, leaves) == asked:
                return None, QuotaExhausted(retry_after=self._rate_limiter.wait())
            now = self._monotonic()
            # What can go now goes now, however slow calls are at present: what comes too late is still kept.
            latest = now if spare or background else leaves - self._executor.typical
            burst = 1.0 if not spare else 0.5 if leaves > now else 0.0
            reservation = self._rate_limiter.reserve(latest, burst=0.0 if background else burst)
            if reservation is not None:
                return reservation, None
            if background and now < leaves:
                # A place that was booked ahead would stand before who comes meanwhile; so it is waited for without one.
                nap = min(max(self._rate_limiter.wait() or 0.0, _SHORTEST_NAP_SECONDS), _LOOK_SECONDS)
                self._sleep(min(nap, leaves - now))
            else:
                # Who widened the flight meanwhile may wait for longer, or have no copy: then it is worth another look.
                asked = spare, background, leaves

    def _left_behind(self, flight: _Flight | None) -> list[PendingPart]:
        """Take those recommendations off that would come when their message has gone. Called under the lock."""
        if flight is None or flight.reservation is None or flight.reservation.at <= self._monotonic():
            return []
        leaves = flight.reservation.at + self._executor.typical
        late = [one for one in flight.awaited.values() if one.exposes and not one.wanted_later and one.until < leaves]
        for one in late:
            del flight.awaited[one.part]
        return late

    def _take_off(self, identity: Identity, flight: _Flight, reservation: Reservation) -> None:
        with self._lock:
            self._flying += 1
        try:
            self._pool.submit(_as, request_id.get(), self._fly, identity, flight, reservation)
        except RuntimeError:  # no thread can be had, or the process ends; nobody may board what never leaves
            self._leave_queue(identity, flight)
            self._rate_limiter.cancel(reservation)
            self._landed()
            self.refuse(identity, list(flight.awaited.values()), QuotaExhausted())

    def _leave_queue(self, identity: Identity, flight: _Flight) -> None:
        """Let nobody board any more. Who wants the same parts still waits for them."""
        with self._lock:
            if self._queued.get(identity) is flight:
                del self._queued[identity]
                self._lock.notify_all()

    def _landed(self) -> None:
        with self._lock:
            self._flying -= 1
            self._lock.notify_all()

    # What could not be sent, or not by this call.

    def refuse(
        self, identity: Identity, awaited: Collection[PendingPart], fault: UpstreamError, *, call: int | None = None
    ) -> None:
        """Tell those who wait, and put what is still wanted into the backlog."""
        self._standby.refuse(identity, awaited, fault, call=call)

    def leave(self, identity: Identity, awaited: Collection[PendingPart], reservation: Reservation) -> None:
        """Send a call for `awaited` in a place that is booked; give it back when nothing is left to send."""
        with self._lock:
            _, new = self._under_way.join(identity, awaited)
            flight = self._widened(identity, new)
            if flight:
                flight.reservation = reservation
        if flight:
            self._take_off(identity, flight, reservation)
        else:
            self._rate_limiter.cancel(reservation)

    def again(self, identity: Identity, awaited: dict[Part, PendingPart]) -> None:
        """Queue `awaited`, which this process is to fetch, for a call of its own; else give the leases back."""
        with self._lock:
            flight = self._widened(identity, awaited)
        if flight:
            self._book(identity, flight, leased=awaited.keys())

    def start(self, work: Callable[..., None], *args: object) -> None:
        """Do `work` on a thread of the pool. Raises RuntimeError when there is none."""
        self._pool.submit(_as, request_id.get(), work, *args)

    # What is sent.

    def _fly(self, identity: Identity, flight: _Flight, reservation: Reservation) -> None:
        sent: InFlightCall | None = None
        try:
            if (delay := reservation.at - self._monotonic()) > 0:
                self._sleep(delay)
            self._leave_queue(identity, flight)
            sent = self._departures.prepare(identity, flight.awaited)
            if sent is None:
                self._rate_limiter.cancel(reservation)
            else:
                self._departures.complete(
                    identity, sent, self._executor.execute(identity, sent.call, reservation, probe=sent.probe)
                )
        except Exception:  # noqa: BLE001  # whatever it was, those who wait must hear of it
            _log.exception("a flight failed on our side")
            fault = UpstreamInvalid("a fault of ours")
            self._rate_limiter.complete(reservation)
            self._leave_queue(identity, flight)
            self._under_way.settle(identity, dict.fromkeys(flight.awaited, fault), call=None)
            if sent is not None:
                self._circuit_breaker.record(fault, probe=sent.probe)
                self._under_way.settle(identity, dict.fromkeys(sent.call.parts, fault), call=sent.number)
        finally:
            self._landed()
