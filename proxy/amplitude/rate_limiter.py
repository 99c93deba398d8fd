"""Limits the calls of one process. Base class of the rate limiters that share the quota with other processes."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass, field
from threading import Lock

from proxy.amplitude.sliding_window import WINDOW_SECONDS, Rate, SlidingWindow, Slot
from proxy.monitoring.clock import Clock

NEVER = float("-inf")
JITTER_SECONDS = 0.05
"""Tolerance for comparing a time from two replies of Redis, whose network delays differ."""
_RECENT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """A slot of the quota for one call, which may be sent from `at` (monotonic seconds) on.

    A `with` block cancels the reservation at its end, unless `complete` was called.
    """

    at: float
    even: bool
    id: str
    """Unique across all processes."""
    limiter: RateLimiter = field(repr=False, compare=False)

    def complete(self, *, may_arrive_for: float = 0.0) -> bool:
        """Report the end of a call. Return False if the reservation has already ended.

        Report failed calls too, because Amplitude counts them. `may_arrive_for`: seconds for which an abandoned call
        may still reach Amplitude.
        """
        return self.limiter.complete(self, may_arrive_for)

    def cancel(self) -> bool:
        """Free the slot, because no call was sent. Return False after `complete` or `cancel`."""
        return self.limiter.cancel(self)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class RateLimiter:
    """Allows `per_minute` calls in any 60 seconds. Thread-safe.

    `with limiter.reserve(latest) as reservation:` is the only way to use quota. Subclasses take slots from the quota
    of several processes, and record the slots of this process in the base class.
    """

    def __init__(self, per_minute: int, *, clock: Clock) -> None:
        self.rate = Rate.of(per_minute)
        self._clock = clock
        self._lock = Lock()
        self._window = SlidingWindow()
        self._paused_until = NEVER
        self._refused_at = NEVER
        self._id = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    @property
    def used(self) -> int:
        """Return the number of slots that the calls of all processes with the same quota hold."""
        return self._own_slots()

    @property
    def left(self) -> int:
        """Return the number of calls that can still be sent in this minute; 0 while no call is sent."""
        return 0 if self._stopped else max(self.rate.per_minute - self.used, 0)

    @property
    def recorded(self) -> int:
        """Return the number of slots in memory, including slots that became free recently."""
        return len(self._window)

    @property
    def paused(self) -> bool:
        """Return whether no call may be sent now, not even with an earlier reservation."""
        return self._clock.monotonic() < self._paused_until - JITTER_SECONDS

    @property
    def paused_for(self) -> float:
        """Return the seconds until the end of the pause; 0 without a pause."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    @property
    def spent(self) -> bool:
        """Return whether a call for a user without cached data was refused recently, or no call is sent now."""
        return self._stopped or self._clock.monotonic() - self._refused_at < max(_RECENT_SECONDS, self.rate.interval)

    @property
    def _stopped(self) -> bool:
        """Return whether no call is sent now, even if slots are free."""
        return self.paused

    def reserve(self, latest: float, *, burst: float = 1.0) -> Reservation | None:
        """Reserve the first free slot. Return None if the slot is after `latest` (monotonic seconds).

        A `latest` in the past means now. `burst`: the share of the burst that may be used, from 0 to 1. Calls that can
        wait use less than 1 and leave the burst to urgent calls.
        """
        reservation = self._reserve(latest, burst)
        if reservation is None and burst >= 1:
            self._refused_at = self._clock.monotonic()
        return reservation

    def pause(self, seconds: float) -> None:
        """Send no call for `seconds`, because Amplitude returned 429."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    def wait(self) -> float | None:
        """Return the seconds until the first free slot; None if the slot depends on calls in progress."""
        return self._wait_at(self.rate)

    def cancel(self, reservation: Reservation) -> bool:
        """Free the slot. See `Reservation.cancel`."""
        with self._lock:
            return self._window.cancel(reservation.id, self.rate)

    def complete(self, reservation: Reservation, may_arrive_for: float) -> bool:
        """Hold the slot until one minute after the latest possible arrival of the call."""
        with self._lock:
            now = self._clock.monotonic()
            self._window.forget(now)
            return self._window.complete(reservation.id, now + may_arrive_for + WINDOW_SECONDS)

    def _own_slots(self) -> int:
        with self._lock:
            self._window.forget(self._clock.monotonic())
            return len(self._window)

    def _reserve(self, latest: float, burst: float) -> Reservation | None:
        return self._reserve_at(self.rate, latest, burst)

    def _reserve_at(self, rate: Rate, latest: float, burst: float, not_before: float = NEVER) -> Reservation | None:
        """Reserve the first free slot from `not_before` on, with `rate` as the quota."""
        with self._lock:
            now = self._clock.monotonic()
            slot = self._first(rate, now, burst, not_before)
            if slot is None or slot.at > max(latest, now):
                return None
            return self._hold(self._new_id(), slot, rate)

    def _wait_at(self, rate: Rate, not_before: float = NEVER) -> float | None:
        """Return the seconds until the slot that `_reserve_at` would reserve."""
        with self._lock:
            now = self._clock.monotonic()
            slot = self._first(rate, now, 1.0, not_before)
            return None if slot is None else max(0.0, slot.at - now)

    def _first(self, rate: Rate, now: float, burst: float, not_before: float) -> Slot | None:
        self._window.forget(now)
        return self._window.first(max(now, not_before, self._paused_until), rate, burst)

    def _new_id(self) -> str:
        return f"{self._id}:{next(self._numbers)}"

    def _hold(self, id: str, slot: Slot, rate: Rate) -> Reservation:
        """Record a reserved slot. Requires the lock."""
        self._window.take(id, slot, rate)
        return Reservation(slot.at, slot.even, id, self)
