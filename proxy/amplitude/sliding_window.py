"""Computes when the next call may be sent. lua/reserve.lua and lua/cancel.lua have the same algorithm for Redis.

Amplitude counts a call when it arrives, at an unknown time between its start and its response. So a call holds a
slot of the quota from its reservation until a minute after its end. No 60 seconds can then contain more arrivals than
the quota, however long the calls take.

A tenth of the quota may be sent at once, if it was not used in the last minute. All other calls are evenly spaced, so
a large send is served continuously and does not wait for the rest of a minute.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rate:
    """How `per_minute` calls are spread: `burst` may be sent at once, the others every `interval` seconds."""

    per_minute: int
    burst: int
    interval: float

    @classmethod
    def of(cls, per_minute: int) -> Rate:
        """Return the rate of a quota, which may be 0."""
        # An even call may be sent together with the burst, so the burst is one less than the tenth.
        burst = max(per_minute // 10 - 1, 0)
        return cls(per_minute, burst, WINDOW_SECONDS / max(per_minute - burst, 1))


class Slot(NamedTuple):
    """When a call may be sent (monotonic seconds), and whether it is one of the even calls or part of the burst."""

    at: float
    even: bool


class SlidingWindow:
    """The slots that calls hold, by reservation id. Times are monotonic seconds. Not safe for threads."""

    def __init__(self) -> None:
        self._open: dict[str, Slot] = {}  # reserved or in flight
        self._ended: list[tuple[float, str]] = []  # sorted: when the slot is free again, and the reservation's id
        self._bursts: list[float] = []  # sorted
        self._next_even = float("-inf")

    def __len__(self) -> int:
        return len(self._open) + len(self._ended)

    def first(self, earliest: float, rate: Rate, burst: float = 1.0) -> Slot | None:
        """Return the first free slot from `earliest` on; None when it depends on calls in flight.

        `burst`: the share of the burst that may be used.
        """
        # At a time t, the open calls and those whose slot is free after t hold slots. How many too many are there?
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
        """Hold `slot` until it is cancelled or its call completes."""
        self._open[id] = slot
        if slot.even:
            self._next_even = max(self._next_even, slot.at + rate.interval)
        else:
            insort(self._bursts, slot.at)

    def cancel(self, id: str, rate: Rate) -> bool:
        """Free a slot for which no call was sent. Return False when it is not open."""
        slot = self._open.pop(id, None)
        if slot is None:
            return False
        if not slot.even:
            with suppress(ValueError):  # more than a minute old, and no longer listed
                self._bursts.remove(slot.at)
        elif self._next_even == slot.at + rate.interval:
            self._next_even = slot.at
        return True

    def complete(self, id: str, free_at: float) -> bool:
        """Hold a slot until `free_at`. Return False when it is not open."""
        if self._open.pop(id, None) is None:
            return False
        insort(self._ended, (free_at, id))
        return True

    def forget(self, now: float) -> None:
        """Remove the slots that are free by now, and the bursts older than a minute."""
        del self._bursts[: bisect_right(self._bursts, now - WINDOW_SECONDS)]
        del self._ended[: bisect_right(self._ended, (now, "\uffff"))]

    def held(self, longest: float) -> list[tuple[str, float]]:
        """Return each reservation's id and when its slot is free at the latest, if a call takes at most `longest`."""
        return [
            *((id, slot.at + longest + WINDOW_SECONDS) for id, slot in self._open.items()),
            *((id, free_at) for free_at, id in self._ended),
        ]
