"""Those for whom no call could be sent in time: they are told, and get the moments that nobody books."""

from __future__ import annotations

import logging
from collections.abc import Collection
from threading import Thread
from typing import Protocol

from proxy.amplitude.sliding_window import Reservation
from proxy.fetch.airfield import Airfield
from proxy.fetch.backlog import Backlog
from proxy.fetch.pending import NEVER, PendingPart
from proxy.monitoring.logs import OncePerMinute, request_id
from proxy.profile.errors import UpstreamError
from proxy.profile.parts import Identity

_log = logging.getLogger(__name__)

_LONGEST_NAP_SECONDS = 1.0  # of who empties the backlog: a stand-back may end early, a place be given back


class Queue(Protocol):
    """Who sends the calls."""

    def leave(self, identity: Identity, awaited: Collection[PendingPart], reservation: Reservation) -> None:
        """Send a call for `awaited` in a place that is booked; give it back when nothing is left to send."""


class BacklogWorker:
    """Safe for threads. Its own thread starts with the first that cannot go, and ends with the last."""

    def __init__(self, queue: Queue, airfield: Airfield, backlog: Backlog) -> None:
        self._queue = queue
        self._backlog = backlog
        self._under_way = airfield.under_way
        self._lock = airfield.under_way.lock
        self._store = airfield.store
        self._rate_limiter = airfield.rate_limiter
        self._circuit_breaker = airfield.circuit_breaker
        self._policy = airfield.policy
        self._now = airfield.now
        self._monotonic = airfield.monotonic
        self._sleep = airfield.sleep
        self._emptying = False
        self._closed = False
        self._told = OncePerMinute(_log, "the backlog dropped users", airfield.monotonic)
        self._dropped_told = 0

    def refuse(
        self, identity: Identity, awaited: Collection[PendingPart], fault: UpstreamError, *, call: int | None = None
    ) -> None:
        """Tell those who wait, and put what is still wanted into the backlog."""
        wanted = [
            one
            for one in awaited
            if one.asked
            and not one.background
            and (one.wanted_later or not one.exposes)
            and not self._store.forgotten(identity, one.generation)
        ]
        self._backlog.add(identity, {one.part: one.asked_at for one in wanted if not one.spare})
        self._backlog.add(identity, {one.part: one.asked_at for one in wanted if one.spare}, refresh=True)
        self._under_way.settle(identity, {one.part: fault for one in awaited}, call=call)
        if dropped := self._backlog.dropped - self._dropped_told:
            self._dropped_told += dropped
            self._told.note("backlog", times=dropped, in_all=self._backlog.dropped)
        with self._lock:
            if self._emptying or self._closed or not len(self._backlog):
                return
            self._emptying = True
        # Not of the pool, whose threads are waited for at the end of the process: the backlog may last for minutes.
        try:
            Thread(target=self._empty, name="backlog", daemon=True).start()
        except RuntimeError:  # none can be had just now; the next who is refused tries again
            self._emptying = False

    def close(self) -> None:
        """Send nothing more: what waits stays unsent."""
        with self._lock:
            self._closed = True

    def _empty(self) -> None:
        """Give the moments that nobody booked to the backlog until it is empty."""
        request_id.set(None)  # it is for no request, and least for the one that happened to start the thread
        while True:
            with self._lock:
                if self._closed or not len(self._backlog):
                    self._emptying = False
                    return
            try:
                nap = self._serve()
            except Exception:  # noqa: BLE001  # the backlog outlives a fault of ours
                _log.exception("the backlog could not be served")
                nap = _LONGEST_NAP_SECONDS
            if nap > 0:
                self._sleep(min(nap, _LONGEST_NAP_SECONDS))

    def _serve(self) -> float:
        """Send one call for who waits there, if one may go. Return the seconds until the next may."""
        if (pause := self._circuit_breaker.wait()) > 0:
            return pause
        generation = self._store.generation
        popped = self._backlog.pop()
        if popped is None:
            return 0.0
        identity, wanted = popped
        record, now = self._store.read(identity), self._now()
        wanted = {part: one for part, one in wanted.items() if not self._policy.is_fresh(record, part, now, NEVER)}
        if not wanted:
            return 0.0
        reservation = self._rate_limiter.reserve(self._monotonic(), burst=0.0)
        if reservation is None:
            if self._store.forgotten(identity, generation):
                return 0.0
            for refresh in (False, True):
                again = {part: one.at for part, one in wanted.items() if one.refresh is refresh}
                self._backlog.add(identity, again, refresh=refresh)
            return max(self._rate_limiter.wait() or 0.0, 0.01)
        awaited = [
            PendingPart(part, wanted_later=True, spare=one.refresh, asked_at=one.at, generation=generation)
            for part, one in wanted.items()
        ]
        self._queue.leave(identity, awaited, reservation)
        return 0.0
