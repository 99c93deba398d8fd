"""get(): which parts are there, who waits for what, until when. The only conductor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Literal

from proxy.errors import NoAnswer, QuotaExhausted
from proxy.flights import Flights, Ticket
from proxy.parts import EMPTY, Freshness, Identity, Lifetimes, Part, Record, freshness, merge
from proxy.store import Store

MAX_WAITING = 128
"""Callers that may wait for calls at once. Each holds a thread, and cached answers need some too."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What can be said now.

    `record` holds those of the asked parts that are there; `error` is why the first other one is not.
    `forwarded`: None when everything was fresh in the cache, "miss" when nothing was, "partial" else.
    `opened`: something was fetched for this caller first; `calls`: how many were sent or joined.
    """

    record: Record
    error: NoAnswer | None
    forwarded: Literal["miss", "partial"] | None
    opened: bool
    calls: int
    freshness: Freshness | None


class Profiles:
    """Answers from what is kept; for what is missing waits for a flight, never beyond the caller's time."""

    def __init__(
        self,
        store: Store,
        flights: Flights,
        lifetimes: Lifetimes,
        *,
        max_waiting: int = MAX_WAITING,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._flights = flights
        self._lifetimes = lifetimes
        self._places = BoundedSemaphore(max_waiting)
        self._now = now
        self._monotonic = monotonic

    def get(self, identity: Identity, parts: Sequence[Part], *, until: float, wanted_later: bool = False) -> Answer:
        """Return what is known of `parts` at `until` (monotonic seconds), earlier where nothing is gained by waiting.

        `wanted_later`: the caller comes back for what is missing (`on_error=retry`).
        """
        record = self._lifetimes.pruned(self._store.read(identity), self._now())
        missing = [part for part in parts if not record.has(part)]
        if not missing:
            return self._answer(parts, record, None, forwarded=None)
        outcomes: dict[Part, Record | NoAnswer] = dict.fromkeys(missing, QuotaExhausted())
        ticket = Ticket({}, opened=False)
        if self._places.acquire(blocking=False):
            try:
                ticket = self._flights.join(identity, missing, until=until, wanted_later=wanted_later)
                ticket.wait(until - self._monotonic())
            finally:
                self._places.release()
            outcomes = {part: ticket.outcome(part) for part in missing}
        some_fresh = len(missing) < len(parts)
        for outcome in outcomes.values():
            if isinstance(outcome, Record):
                record = merge(record, outcome)
        error = next((outcomes[part] for part in missing if not record.has(part)), None)
        return self._answer(
            parts,
            record,
            error if isinstance(error, NoAnswer) else None,
            forwarded="partial" if some_fresh else "miss",
            ticket=ticket,
        )

    def _answer(
        self,
        parts: Sequence[Part],
        record: Record,
        error: NoAnswer | None,
        *,
        forwarded: Literal["miss", "partial"] | None,
        ticket: Ticket | None = None,
    ) -> Answer:
        return Answer(
            record,
            error,
            forwarded,
            opened=ticket.opened if ticket else False,
            calls=ticket.calls if ticket else 0,
            freshness=freshness(record, parts, self._lifetimes, self._now()),
        )


NOTHING = Answer(EMPTY, None, None, opened=False, calls=0, freshness=None)
"""What is said of nobody: a blank id."""
