"""Limits requests to a rate."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition

_BURST = 8
_POLL_SECONDS = 0.25
"""Interval at which a waiting thread checks whether to stop."""


class Pacer:
    """Allows `per_minute` calls, evenly spaced except for a small burst. Safe for threads.

    A request reserves the time of one call, and `complete` corrects the reservation when the number of calls is known.
    If a request made no call, a waiting thread continues at once, so cached users are skipped fast.
    """

    def __init__(self, per_minute: float, *, monotonic: Callable[[], float]) -> None:
        self._interval = 60.0 / per_minute
        self._monotonic = monotonic
        self._changed = Condition()
        self._next = monotonic()

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Wait until the next call may be sent. If `stopped` becomes true, return soon without a reservation."""
        with self._changed:
            while not stopped() and (seconds := self.reserve()) > 0:
                self._changed.wait(min(seconds, _POLL_SECONDS))

    def reserve(self) -> float:
        """Reserve the next call and return 0, or return the seconds until a call may be available."""
        now = self._monotonic()
        # Unused time does not accumulate, so that a pause does not cause a larger burst.
        scheduled = max(self._next, now - (_BURST - 1) * self._interval)
        if scheduled > now:
            return scheduled - now
        self._next = scheduled + self._interval
        return 0.0

    def complete(self, calls: int) -> None:
        """Record how many calls a request made."""
        with self._changed:
            self._next += (calls - 1) * self._interval
            self._changed.notify_all()
