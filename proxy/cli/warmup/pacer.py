"""Paces calls to a rate."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition

_AT_ONCE = 8

_LOOK_SECONDS = 0.25
"""Between looks of who waits for a place at whether it is to stop."""


class Pacer:
    """Lets `per_minute` calls go, evenly but for a few at once. Safe for threads.

    A question takes the place of one call; `cost` corrects that when it is known what it cost. Who waits is let go
    as soon as a question turns out to have cost nothing: what is fresh already is passed over quickly.
    """

    def __init__(self, per_minute: float, *, monotonic: Callable[[], float]) -> None:
        self._interval = 60.0 / per_minute
        self._monotonic = monotonic
        self._changed = Condition()
        self._next = monotonic()

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Return when the next call may go, or, without its place, soon after it was `stopped`."""
        with self._changed:
            while not stopped() and (seconds := self.take()) > 0:
                self._changed.wait(min(seconds, _LOOK_SECONDS))

    def take(self) -> float:
        """Take the next call's place and return 0, or return the seconds until there may be one."""
        now = self._monotonic()
        # What was not used up to now is lost: a pause must not end in a storm.
        following = max(self._next, now - (_AT_ONCE - 1) * self._interval)
        if following > now:
            return following - now
        self._next = following + self._interval
        return 0.0

    def cost(self, calls: int) -> None:
        """Tell how many calls a question that has waited cost in truth."""
        with self._changed:
            self._next += (calls - 1) * self._interval
            self._changed.notify_all()
