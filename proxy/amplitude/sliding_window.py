"""Computes when the next call may be sent. lua/reserve.lua and lua/cancel.lua implement the same algorithm for Redis.

Amplitude counts a call when it arrives, at an unknown time between its start and its response. A call therefore holds
a slot of the quota from its reservation until one minute after its end. Then no 60 seconds contain more arrivals than
the quota, regardless of how long calls take.

A tenth of the quota may be sent at once if it was not used in the last minute. All other calls are evenly spaced, so
that a large send is served continuously.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Spreads `per_minute` calls: `burst` calls may be sent at once, and the others every `interval` seconds."""

    per_minute: int
    burst: int
    interval: float

    @classmethod
    def of(cls, per_minute: int) -> Rate:
        """Return the rate for a quota, which may be 0."""
        # An even call may be sent together with the burst, so the burst is one call less than a tenth.
        burst = max(per_minute // 10 - 1, 0)
        return cls(per_minute, burst, WINDOW_SECONDS / max(per_minute - burst, 1))


class Slot(NamedTuple):
    """The time from which a call may be sent (monotonic seconds). `even`: evenly spaced; else part of the burst."""

    at: float
    even: bool


class SlidingWindow:
    """The slots that calls hold, by reservation id. Times are monotonic seconds. Not thread-safe."""

    def __init__(self) -> None:
        self._open: dict[str, Slot] = {}  # reserved or in progress
        self._ended: list[tuple[float, str]] = []  # sorted: when the slot becomes free, and the reservation id
        self._bursts: list[float] = []  # sorted
        self._next_even = float("-inf")

    def __len__(self) -> int:
        return len(self._open) + len(self._ended)

    def first(self, earliest: float, rate: Rate, burst: float = 1.0) -> Slot | None:
        """Return the first free slot from `earliest` on; None if the slot depends on calls in progress.

        `burst`: the share of the burst that may be used.
        """
        # Open calls and ended calls whose slot is not yet free hold slots. `excess`: how many of them must become free.
        excess = len(self) + 1 - rate.per_minute
        if excess > len(self._ended):
            return None
        if excess > 0:
            earliest = max(earliest, self._ended[excess - 1][0])
        if self._next_even <= earliest:
            return Slot(earliest, even=True)
        recent_bursts = len(self._bursts) - bisect_right(self._bursts, earliest - WINDOW_SECONDS)
        if recent_bursts < int(rate.burst * burst):
            return Slot(earliest, even=False)
        return Slot(self._next_even, even=True)

    def take(self, id: str, slot: Slot, rate: Rate) -> None:
        """Hold `slot` until `cancel` or `complete`."""
        self._open[id] = slot
        if slot.even:
            self._next_even = max(self._next_even, slot.at + rate.interval)
        else:
            insort(self._bursts, slot.at)

    def cancel(self, id: str, rate: Rate) -> bool:
        """Free a slot for which no call was sent. Return False if the slot is not open."""
        slot = self._open.pop(id, None)
        if slot is None:
            return False
        if not slot.even:
            with suppress(ValueError):  # older than a minute and no longer listed
                self._bursts.remove(slot.at)
        elif self._next_even == slot.at + rate.interval:
            self._next_even = slot.at
        return True

    def complete(self, id: str, free_at: float) -> bool:
        """Hold a slot until `free_at`. Return False if the slot is not open."""
        if self._open.pop(id, None) is None:
            return False
        insort(self._ended, (free_at, id))
        return True

    def forget(self, now: float) -> None:
        """Remove free slots, and bursts older than a minute."""
        del self._bursts[: bisect_right(self._bursts, now - WINDOW_SECONDS)]
        del self._ended[: bisect_right(self._ended, (now, "\uffff"))]

    def slots(self, longest: float) -> list[tuple[str, float]]:
        """Return the id and the latest end of each slot. `longest`: the maximum seconds of a call."""
        return [
            *((id, slot.at + longest + WINDOW_SECONDS) for id, slot in self._open.items()),
            *((id, free_at) for free_at, id in self._ended),
        ]
