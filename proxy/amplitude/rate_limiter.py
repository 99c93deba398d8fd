"""The rate limiter of one process, and the base of those that share the quota with other processes."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass, field
from threading import Lock

from proxy.amplitude.sliding_window import WINDOW_SECONDS, Rate, SlidingWindow, Slot
from proxy.monitoring.clock import Clock

NEVER = float("-inf")
JITTER_SECONDS = 0.05
"""How much the same time may differ between two replies of Redis, each of which took its time to arrive."""
_RECENT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """A slot for one call, which may be sent from `at` (monotonic seconds) on.

    As a context manager, it gives the slot back at the end of the block unless `complete` was called.
    """

    at: float
    even: bool
    id: str
    """Unique among all processes."""
    limiter: RateLimiter = field(repr=False, compare=False)

    def complete(self, *, may_arrive_for: float = 0.0) -> bool:
        """Report the end of the call, failed or not: Amplitude counts both. Return False if it had ended before.

        `may_arrive_for`: seconds for which an abandoned call may still reach Amplitude.
        """
        return self.limiter.complete(self, may_arrive_for)

    def cancel(self) -> bool:
        """Give the slot back, as no call was sent. Return False after `complete` or `cancel`."""
        return self.limiter.cancel(self)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class RateLimiter:
    """Allows `per_minute` calls in any 60 seconds. Safe for threads.

    `with limiter.reserve(latest) as reservation:` is the one way to spend quota. A subclass takes its slots from the
    quota of several processes and records here those that this process holds.
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
        """Return how many slots the calls of this process hold."""
        with self._lock:
            self._window.forget(self._clock.monotonic())
            return len(self._window)

    @property
    def recorded(self) -> int:
        """Return how many slots take up memory. Some of them may be free by now."""
        return len(self._window)

    @property
    def paused(self) -> bool:
        """Return whether nothing may be sent now. A slot that was reserved before must then not be used."""
        return self._clock.monotonic() < self._paused_until - JITTER_SECONDS

    @property
    def paused_for(self) -> float:
        """Return the seconds until the end of the pause, 0 without one."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    @property
    def spent(self) -> bool:
        """Return whether a call without cached data was refused recently, or the limiter is paused."""
        return self.paused or self._clock.monotonic() - self._refused_at < max(_RECENT_SECONDS, self.rate.interval)

    def reserve(self, latest: float, *, burst: float = 1.0) -> Reservation | None:
        """Reserve the first free slot; return None when it is after `latest` (monotonic seconds).

        A `latest` in the past means now. `burst`: the share of the burst that may be used; calls that can wait
        leave it to those that cannot.
        """
        reservation = self._reserve(latest, burst)
        if reservation is None and burst >= 1:
            self._refused_at = self._clock.monotonic()
        return reservation

    def pause(self, seconds: float) -> None:
        """Send nothing for some seconds, in no process: Amplitude returned 429, so another client uses the quota."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    def wait(self) -> float | None:
        """Return the seconds until the first free slot; None when it depends on calls in flight."""
        return self._wait_at(self.rate)

    def cancel(self, reservation: Reservation) -> bool:
        """Free the slot; see `Reservation.cancel`."""
        with self._lock:
            return self._window.cancel(reservation.id, self.rate)

    def complete(self, reservation: Reservation, may_arrive_for: float) -> bool:
        """Hold the slot for another minute after the last moment at which the call may arrive."""
        with self._lock:
            now = self._clock.monotonic()
            self._window.forget(now)
            return self._window.complete(reservation.id, now + may_arrive_for + WINDOW_SECONDS)

    def _reserve(self, latest: float, burst: float) -> Reservation | None:
        return self._reserve_at(self.rate, latest, burst)

    def _reserve_at(self, rate: Rate, latest: float, burst: float, not_before: float = NEVER) -> Reservation | None:
        """Reserve the first free slot from `not_before` on, as if `rate` was the quota."""
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
        """Record a slot that was reserved. Needs the lock."""
        self._window.take(id, slot, rate)
        return Reservation(slot.at, slot.even, id, self)
