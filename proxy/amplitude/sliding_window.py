"""The places in the quota that calls of one process hold, and the first free one. Pure.

Amplitude counts a call when it arrives there, which we cannot see: some time between our sending it and
hearing of it. So a call holds its place in the quota from the booking until a minute after its end; then
no 60 seconds, wherever they begin, can hold more arrivals than the quota, however long calls were on the way.

The pace: up to a tenth of the quota may go at once, whenever it was not spent in the last minute; all other
calls go evenly. A send is thus served a little at a time throughout, and never starves for the rest of a minute.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass

WINDOW_SECONDS = 60.0


class Reservation:
    """One call's place: `at` is the moment (monotonic seconds) when it may be sent, not before."""

    __slots__ = ("at", "even", "id")

    def __init__(self, at: float, *, even: bool, id: str = "") -> None:
        self.at = at
        self.even = even
        self.id = id
        """By which other processes know it."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How `per_minute` calls are spread: `burst` may go at once, the others at `interval` (seconds)."""

    per_minute: int
    burst: int
    interval: float

    @classmethod
    def of(cls, per_minute: int) -> Rate:
        """Return the pace of a quota; 0 is none at all."""
        # An even call may go beside the burst, so the burst is one less than the tenth.
        burst = max(per_minute // 10 - 1, 0)
        return cls(per_minute, burst, WINDOW_SECONDS / max(per_minute - burst, 1))


class SlidingWindow:
    """Moments are monotonic seconds. Not safe for threads: `Quota` is."""

    def __init__(self) -> None:
        self._open: set[Reservation] = set()  # booked or on the way
        self._ended: list[tuple[float, str]] = []  # sorted: when the place is free again, and the booking's id
        self._bursts: list[float] = []  # sorted
        self._next_even = float("-inf")

    def __len__(self) -> int:
        return len(self._open) + len(self._ended)

    def first(self, earliest: float, rate: Rate, burst: float = 1.0) -> Reservation | None:
        """Return the first place from `earliest` on, not taken yet; None when that depends on calls on the way.

        `burst`: the share of the burst that may be used up.
        """
        # At a moment m, the open calls and those free after m hold places. How many too many are there?
        excess = len(self) + 1 - rate.per_minute
        if excess > len(self._ended):
            return None
        if excess > 0:
            earliest = max(earliest, self._ended[excess - 1][0])
        if self._next_even <= earliest:
            return Reservation(earliest, even=True)
        del self._bursts[: bisect_right(self._bursts, earliest - WINDOW_SECONDS)]
        if len(self._bursts) < int(rate.burst * burst):
            return Reservation(earliest, even=False)
        return Reservation(self._next_even, even=True)

    def take(self, reservation: Reservation, rate: Rate) -> None:
        """Let `booking` hold its place until it is cancelled, or a minute after it ended."""
        self._open.add(reservation)
        if reservation.even:
            self._next_even = max(self._next_even, reservation.at + rate.interval)
        else:
            insort(self._bursts, reservation.at)

    def cancel(self, reservation: Reservation, rate: Rate) -> None:
        """Give back a place that no call was sent for."""
        if reservation not in self._open:
            return
        self._open.remove(reservation)
        if not reservation.even:
            self._bursts.remove(reservation.at)
        elif self._next_even == reservation.at + rate.interval:
            self._next_even = reservation.at

    def complete(self, reservation: Reservation, free_at: float) -> bool:
        """Let `booking` hold its place until `free_at`. Return False when that was told before."""
        if reservation not in self._open:
            return False
        self._open.remove(reservation)
        insort(self._ended, (free_at, reservation.id))
        return True

    def forget(self, now: float) -> None:
        """Forget the places that are free by now, and the bursts that count no more."""
        del self._bursts[: bisect_right(self._bursts, now - WINDOW_SECONDS)]
        del self._ended[: bisect_right(self._ended, (now, "\uffff"))]

    def held(self, longest: float) -> list[tuple[str, float]]:
        """Return each booking's id and when its place is free at the latest, if a call takes `longest` at most."""
        return [
            *((one.id, one.at + longest + WINDOW_SECONDS) for one in self._open),
            *((id, at) for at, id in self._ended),
        ]
