"""Books a moment for a call, or says that none comes in time: for this process, or for all that share a Redis.

While Redis is gone nobody can see what the others send. So nothing is sent for one window, as long as what was sent
before may still be counted; then each process keeps to its share, the quota divided by the last known number of
processes. What it sent meanwhile it writes back when Redis returns.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from proxy.amplitude.sliding_window import WINDOW_SECONDS, Rate, Reservation, SlidingWindow
from proxy.storage.redis import RedisUnavailable

if TYPE_CHECKING:
    from proxy.amplitude.rate_limiter_redis import RedisRateLimiter

_REMEMBERED_SECONDS = 20.0
"""For so long the number of processes stays what it was at most."""
_OF_LATE_SECONDS = 5.0
_NEVER = float("-inf")
_JITTER_SECONDS = 0.05
"""By so much the same moment may seem later from one message of Redis to the next: each took its time to come."""
_REFUSED_SECONDS = 0.1
"""For so long the first free moment last heard of is believed in: a storm of misses asks no more often."""


class RateLimiter:
    """`per_minute` calls in any 60 seconds. Safe for threads.

    Every booking must be given back: `cancel` when no call was sent, `ended` when one was. `longest`: seconds from
    the booked moment until a call can no longer reach Amplitude. `processes`: how many there are at least.
    """

    def __init__(
        self,
        per_minute: int,
        *,
        monotonic: Callable[[], float],
        shared: RedisRateLimiter | None = None,
        longest: float = 0.0,
        processes: int = 1,
    ) -> None:
        self._rate = Rate.of(per_minute)
        self._monotonic = monotonic
        self._shared = shared
        self._longest = longest
        self._at_least = processes
        self._counts: deque[tuple[float, int]] = deque()  # when, and how many processes there were
        self._lock = Lock()
        self._window = SlidingWindow()  # of this process alone
        self._closed_until = _NEVER
        self._refused_at = _NEVER
        self._free_at = _NEVER  # the first free moment last heard of from the others, and when
        self._heard_at = _NEVER
        self._unseen = 0
        """What the others cannot know yet: calls sent while Redis was gone, or news of which it did not hear."""

    @property
    def interval(self) -> float:
        """Return the seconds between two even calls."""
        return self._rate.interval

    @property
    def per_minute(self) -> int:
        """Return the calls that may be sent in any minute."""
        return self._rate.per_minute

    @property
    def used(self) -> int:
        """Return how many places the calls of this process hold just now."""
        with self._lock:
            self._window.forget(self._monotonic())
            return len(self._window)

    def reserve(self, latest: float, *, burst: float = 1.0) -> Reservation | None:
        """Return a place at the first free moment, or None when that is after `latest` (monotonic seconds).

        This very moment is never too late: a `latest` that has passed asks for a place now. `burst`: the share
        of the burst that may be used up; what can wait leaves it to those who cannot.
        """
        if self._shared is None:
            with self._lock:
                reservation = self._book_here(latest, self._rate, burst=burst)
        else:
            try:
                reservation = self._book_with_others(self._shared, latest, burst=burst)
            except RedisUnavailable:
                reservation = self._book_alone(self._shared, latest, burst=burst)
        if reservation is None and burst >= 1:
            self._refused_at = self._monotonic()
        return reservation

    def cancel(self, reservation: Reservation) -> None:
        """Give back a place that no call was sent for."""
        with self._lock:
            self._window.cancel(reservation, self._rate)
            self._free_at = _NEVER
        if self._shared is not None:
            # If Redis is gone it is free again by itself, when a call could no longer be on its way.
            with contextlib.suppress(RedisUnavailable):
                self._shared.cancel(
                    reservation.id, reservation.at - self._monotonic(), self._rate, even=reservation.even
                )

    def complete(self, reservation: Reservation, *, may_arrive_for: float = 0.0) -> None:
        """Tell that the call has ended, well or not: Amplitude counts the failed ones too.

        `may_arrive_for`: seconds for which a call that was given up may still reach Amplitude.
        """
        with self._lock:
            first_told = self._window.complete(reservation, self._monotonic() + may_arrive_for + WINDOW_SECONDS)
        if first_told and self._shared is not None:
            self._tell(self._shared, reservation.id, free_in=may_arrive_for + WINDOW_SECONDS)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long, nor may the others: Amplitude said 429, so somebody else spends the quota too."""
        with self._lock:
            self._closed_until = max(self._closed_until, self._monotonic() + seconds)
        if self._shared is not None:
            self._tell(self._shared, "", stand_back=seconds)

    @property
    def paused(self) -> bool:
        """Say whether we stand back just now; a place booked before must then not be used."""
        return self._monotonic() < self._closed_until - _JITTER_SECONDS

    @property
    def spent(self) -> bool:
        """Say whether callers of whom there is nothing were sent away of late, or all are just now."""
        return self.paused or self._monotonic() - self._refused_at < max(_OF_LATE_SECONDS, self.interval)

    def wait(self) -> float | None:
        """Return the seconds until the first free moment; None when that depends on calls still on the way."""
        with self._lock:
            now = self._monotonic()
            if self._shared is not None:
                return max(0.0, self._closed_until - now, self._free_at - now)
            reservation = self._first(now, self._rate)
            return None if reservation is None else max(0.0, reservation.at - now)

    @property
    def processes(self) -> int:
        """Return how many processes share the quota, as far as is known."""
        return max([self._at_least, *(count for _, count in self._counts)])

    def register(self) -> None:
        """Be counted among the processes, and write back what they cannot know of. Raises Gone."""
        assert self._shared is not None, "alone there is nobody to enroll with"  # noqa: S101
        with self._lock:
            now = self._monotonic()
            self._window.forget(now)
            back, unseen = max(0.0, self._closed_until - now), self._unseen
        processes, closed_for = self._shared.register(self._held, stand_back=back, unseen=unseen > 0)
        with self._lock:
            if self._shared.gone_since is not None:
                self._free_at = _NEVER  # what was heard of it while it was gone
            self._stand_back_for(closed_for)
            self._unseen -= unseen
            # The most of late: who finds an empty Redis first is alone in it for a moment.
            self._counts.append((self._monotonic(), processes))
            while self._counts[0][0] < self._monotonic() - _REMEMBERED_SECONDS:
                self._counts.popleft()

    def _held(self) -> list[tuple[str, float]]:
        """Return each booking's id, and in how many seconds its place is free at the latest."""
        with self._lock:
            now = self._monotonic()
            self._window.forget(now)
            return [(id, at - now) for id, at in self._window.held(self._longest)]

    def _book_here(self, latest: float, rate: Rate, *, burst: float, not_before: float = _NEVER) -> Reservation | None:
        now = self._monotonic()
        reservation = self._first(max(now, not_before), rate, burst)
        if reservation is None or reservation.at > max(latest, now):
            return None
        if self._shared is not None:
            reservation.id = self._shared.new_id()
        self._window.take(reservation, rate)
        return reservation

    def _book_with_others(self, shared: RedisRateLimiter, latest: float, *, burst: float) -> Reservation | None:
        now = self._monotonic()
        if now < self._heard_at + _REFUSED_SECONDS and self._free_at > max(latest, now):
            return None
        found = shared.reserve(latest - now, self._rate, self._longest, burst=burst)
        if found is None and not shared.registered:
            self.register()
            found = shared.reserve(latest - now, self._rate, self._longest, burst=burst)
        if found is None:  # a new book, of which we have to hear first
            shared.register_soon()
            return None
        # After the answer, which is later than the moment that it counts from: never too early.
        with self._lock:
            now = self._heard_at = self._monotonic()
            self._free_at = now + found.wait
            self._stand_back_for(found.closed_for)
            if found.id is None:
                return None
            reservation = Reservation(now + found.wait, even=found.even, id=found.id)
            self._window.take(reservation, self._rate)
            return reservation

    def _book_alone(self, shared: RedisRateLimiter, latest: float, *, burst: float) -> Reservation | None:
        gone_since = shared.gone_since
        if gone_since is None:  # back already: the next who asks will be told
            return None
        share = Rate.of(self._rate.per_minute // self.processes)
        with self._lock:
            opens = gone_since + self._longest + WINDOW_SECONDS
            reservation = self._book_here(latest, share, burst=burst, not_before=opens)
            self._unseen += reservation is not None
            if reservation is None:
                first = self._first(max(self._monotonic(), opens), share)
                self._free_at = first.at if first else self._monotonic() + share.interval
            return reservation

    def _first(self, earliest: float, rate: Rate, burst: float = 1.0) -> Reservation | None:
        self._window.forget(self._monotonic())
        return self._window.first(max(earliest, self._closed_until), rate, burst)

    def _tell(self, shared: RedisRateLimiter, id: str, *, free_in: float = 0.0, stand_back: float = 0.0) -> None:
        try:
            closed_for = shared.complete(id, free_in, stand_back)
        except RedisUnavailable:
            with self._lock:
                self._unseen += 1
            return  # the ledger here has it, and it is written back
        with self._lock:
            self._stand_back_for(closed_for)

    def _stand_back_for(self, seconds: float) -> None:
        until = self._monotonic() + seconds
        if until > self._closed_until + _JITTER_SECONDS:
            self._closed_until = until
