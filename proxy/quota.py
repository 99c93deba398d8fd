"""Books a moment for a call, or says that none comes in time. What this process sends, exactly.

Amplitude counts a call when it arrives there, which we cannot see: some time between our sending it and
hearing of it. So a call holds its place in the quota from the booking until a minute after its end; then
no 60 seconds, wherever they begin, can hold more arrivals than the quota, however long calls were on the way.

The pace: up to a tenth of the quota may go at once, whenever it was not spent in the last minute; all other
calls go evenly. A send is thus served a little at a time throughout, and never starves for the rest of a minute.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable
from threading import Lock

WINDOW_SECONDS = 60.0


class Booking:
    """One call's place: `at` is the moment (monotonic seconds) when it may be sent, not before."""

    __slots__ = ("at", "even")

    def __init__(self, at: float, *, even: bool) -> None:
        self.at = at
        self.even = even


class Quota:
    """`per_minute` calls in any 60 seconds. Safe for threads.

    Every booking must be given back: `cancel` when no call was sent, `ended` when one was.
    """

    def __init__(self, per_minute: int, *, monotonic: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._lock = Lock()
        self._open: set[Booking] = set()  # booked or on the way
        self._releases: list[float] = []  # sorted: when the ended calls leave the window
        self._closed_until = float("-inf")
        # An even call may go beside the burst, so the burst is one less than the tenth.
        self._burst = max(per_minute // 10 - 1, 0)
        self._bursts: deque[float] = deque()
        self.interval = WINDOW_SECONDS / (per_minute - self._burst)
        """Seconds between two even calls."""
        self._next_even = float("-inf")

    def book(self, latest: float, *, burst: bool = True) -> Booking | None:
        """Return a place at the first free moment, or None when that is after `latest` (monotonic seconds).

        This very moment is never too late: a `latest` that has passed asks for a place now. Without `burst`
        the place is an even one: what can wait leaves the burst to those who cannot.
        """
        with self._lock:
            now = self._monotonic()
            booking = self._first(now)
            if booking is None or booking.at > max(latest, now) or not (burst or booking.even):
                return None
            self._open.add(booking)
            if booking.even:
                self._next_even = booking.at + self.interval
            else:
                self._bursts.append(booking.at)
            return booking

    def cancel(self, booking: Booking) -> None:
        """Give back a place that no call was sent for."""
        with self._lock:
            self._open.discard(booking)
            if not booking.even:
                self._bursts.remove(booking.at)
            elif self._next_even == booking.at + self.interval:
                self._next_even = booking.at

    def ended(self, booking: Booking, *, may_arrive_for: float = 0.0) -> None:
        """Tell that the call has ended, well or not: Amplitude counts the failed ones too.

        `may_arrive_for`: seconds for which a call that was given up may still reach Amplitude.
        """
        with self._lock:
            if booking not in self._open:
                return
            self._open.remove(booking)
            insort(self._releases, self._monotonic() + may_arrive_for + WINDOW_SECONDS)

    def stand_back(self, seconds: float) -> None:
        """Send nothing for so long: Amplitude said 429, so others spend the organisation's quota too."""
        with self._lock:
            self._closed_until = max(self._closed_until, self._monotonic() + seconds)

    @property
    def closed(self) -> bool:
        """Say whether we stand back just now; a place booked before must then not be used."""
        return self._monotonic() < self._closed_until

    def wait(self) -> float | None:
        """Return the seconds until the first free moment; None when that depends on calls still on the way."""
        with self._lock:
            now = self._monotonic()
            booking = self._first(now)
            return None if booking is None else max(0.0, booking.at - now)

    def _first(self, now: float) -> Booking | None:
        del self._releases[: bisect_right(self._releases, now)]
        earliest = max(now, self._closed_until)
        # At a moment m, the open calls and those released after m hold places. How many too many are there?
        excess = len(self._open) + len(self._releases) + 1 - self._per_minute
        if excess > len(self._releases):
            return None
        if excess > 0:
            earliest = max(earliest, self._releases[excess - 1])
        if self._next_even <= earliest:
            return Booking(earliest, even=True)
        while self._bursts and self._bursts[0] <= earliest - WINDOW_SECONDS:
            self._bursts.popleft()
        if len(self._bursts) < self._burst:
            return Booking(earliest, even=False)
        return Booking(self._next_even, even=True)
