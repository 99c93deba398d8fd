"""The interface of the rate limiters, and the limiter of a single process."""

from __future__ import annotations

import itertools
import secrets
from abc import ABC, abstractmethod
from threading import Lock

from proxy.amplitude.sliding_window import WINDOW_SECONDS, Rate, Reservation, SlidingWindow, Slot
from proxy.monitoring.clock import Clock

NEVER = float("-inf")
JITTER_SECONDS = 0.05
"""How much the same time may differ between two replies of Redis, each of which took its time to arrive."""
_RECENT_SECONDS = 5.0


class RateLimiter(ABC):
    """Allows `per_minute` calls in any 60 seconds. Safe for threads.

    Each reservation ends by `cancel` when no call was sent, else by `complete`.
    """

    def __init__(self, per_minute: int, *, clock: Clock) -> None:
        self.rate = Rate.of(per_minute)
        self._clock = clock
        self._refused_at = NEVER

    @property
    def per_minute(self) -> int:
        """Return the number of calls that may be sent in any minute."""
        return self.rate.per_minute

    @property
    def interval(self) -> float:
        """Return the seconds between two even calls."""
        return self.rate.interval

    @property
    def spent(self) -> bool:
        """Return whether a call without cached data was refused recently, or the limiter is paused."""
        return self.paused or self._clock.monotonic() - self._refused_at < max(_RECENT_SECONDS, self.interval)

    def reserve(self, latest: float, *, burst: float = 1.0) -> Reservation | None:
        """Reserve the first free slot; return None when it is after `latest` (monotonic seconds).

        A `latest` in the past means now. `burst`: the share of the burst that may be used; calls that can wait
        leave it to those that cannot.
        """
        reservation = self._reserve(latest, burst)
        if reservation is None and burst >= 1:
            self._refused_at = self._clock.monotonic()
        return reservation

    @property
    @abstractmethod
    def used(self) -> int:
        """Return how many slots the calls of this process hold."""

    @property
    @abstractmethod
    def paused(self) -> bool:
        """Return whether nothing may be sent now. A slot that was reserved before must then not be used."""

    @abstractmethod
    def _reserve(self, latest: float, burst: float) -> Reservation | None: ...

    @abstractmethod
    def cancel(self, reservation: Reservation) -> bool:
        """Free a slot for which no call was sent. Return False when it was cancelled or completed before."""

    @abstractmethod
    def complete(self, reservation: Reservation, *, may_arrive_for: float = 0.0) -> bool:
        """Report the end of a call, failed or not: Amplitude counts both. Return False as `cancel` does.

        `may_arrive_for`: seconds for which an abandoned call may still reach Amplitude.
        """

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """Send nothing for some seconds, in no process: Amplitude returned 429, so another client uses the quota."""

    @abstractmethod
    def wait(self) -> float | None:
        """Return the seconds until the first free slot; None when it depends on calls in flight."""


class LocalRateLimiter(RateLimiter):
    """Limits the calls of this process. Also records the slots that this process holds in a quota shared by Redis."""

    def __init__(self, per_minute: int, *, clock: Clock) -> None:
        super().__init__(per_minute, clock=clock)
        self._lock = Lock()
        self._window = SlidingWindow()
        self._paused_until = NEVER
        self._id = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        """Return how many slots are recorded. Some of them may be free by now."""
        return len(self._window)

    @property
    def used(self) -> int:
        """Return how many slots the calls of this process hold."""
        with self._lock:
            self._window.forget(self._clock.monotonic())
            return len(self._window)

    @property
    def paused(self) -> bool:
        """Return whether nothing may be sent now."""
        return self._clock.monotonic() < self._paused_until - JITTER_SECONDS

    @property
    def paused_for(self) -> float:
        """Return the seconds until the end of the pause, 0 without one."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    def _reserve(self, latest: float, burst: float) -> Reservation | None:
        return self.reserve_at_rate(self.rate, latest, burst=burst)

    def reserve_at_rate(
        self, rate: Rate, latest: float, *, burst: float, not_before: float = NEVER
    ) -> Reservation | None:
        """Reserve the first free slot from `not_before` on, as if `rate` was the quota."""
        with self._lock:
            now = self._clock.monotonic()
            slot = self._first(rate, now, burst=burst, not_before=not_before)
            if slot is None or slot.at > max(latest, now):
                return None
            id = self.new_id()
            self._window.take(id, slot, rate)
        return Reservation(slot.at, slot.even, id, self)

    def cancel(self, reservation: Reservation) -> bool:
        """Free a slot for which no call was sent."""
        with self._lock:
            return self._window.cancel(reservation.id, self.rate)

    def complete(self, reservation: Reservation, *, may_arrive_for: float = 0.0) -> bool:
        """Hold the slot for another minute after the last moment at which the call may arrive."""
        with self._lock:
            now = self._clock.monotonic()
            self._window.forget(now)
            return self._window.complete(reservation.id, now + may_arrive_for + WINDOW_SECONDS)

    def pause(self, seconds: float, *, tolerance: float = 0.0) -> None:
        """Send nothing for some seconds. A present pause that ends up to `tolerance` seconds earlier stays as it is."""
        with self._lock:
            until = self._clock.monotonic() + seconds
            if until > self._paused_until + tolerance:
                self._paused_until = until

    def wait(self) -> float | None:
        """Return the seconds until the first free slot; None when it depends on calls in flight."""
        return self.wait_at_rate(self.rate)

    def wait_at_rate(self, rate: Rate, *, not_before: float = NEVER) -> float | None:
        """Return the seconds until the slot that `reserve_at_rate` would reserve."""
        with self._lock:
            now = self._clock.monotonic()
            slot = self._first(rate, now, not_before=not_before)
            return None if slot is None else max(0.0, slot.at - now)

    def new_id(self) -> str:
        """Return an id for a reservation, unique among all processes."""
        return f"{self._id}:{next(self._numbers)}"

    def hold(self, reservation: Reservation) -> None:
        """Record a slot that was reserved in Redis."""
        with self._lock:
            self._window.take(reservation.id, Slot(reservation.at, reservation.even), self.rate)

    def held(self, longest: float) -> list[tuple[str, float]]:
        """Return each reservation's id and in how many seconds its slot is free, if a call takes at most `longest`."""
        with self._lock:
            now = self._clock.monotonic()
            self._window.forget(now)
            return [(id, free_at - now) for id, free_at in self._window.held(longest)]

    def _first(self, rate: Rate, now: float, *, burst: float = 1.0, not_before: float) -> Slot | None:
        self._window.forget(now)
        return self._window.first(max(now, not_before, self._paused_until), rate, burst)
