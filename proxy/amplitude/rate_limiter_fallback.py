"""Limits calls through Redis, and continues with a share of the quota while Redis is unavailable.

Without Redis, a process does not know which calls the other processes send. At first, no process reserves a call, until
all earlier calls have left the window. After that, each process uses its share: the quota divided by the last known
number of processes. When Redis returns, each process reports the calls that it sent.
"""

from __future__ import annotations

from proxy.amplitude.rate_limiter import Reservation
from proxy.amplitude.rate_limiter_redis import RedisRateLimiter
from proxy.amplitude.sliding_window import WINDOW_SECONDS, Rate
from proxy.storage.redis import RedisUnavailable


class FallbackRateLimiter(RedisRateLimiter):
    """Shares the quota through Redis. While Redis is unavailable, allows this process its share of the quota."""

    @property
    def used(self) -> int:
        """Return the number of held slots.

        While Redis is unavailable, the result is an estimate, as if every process held as many slots as this process.
        """
        if self._client.unavailable_since is None:
            return super().used
        return min(self._own_slots() * self.processes, self.rate.per_minute)

    @property
    def left(self) -> int:
        """Return the number of calls that can still be sent; while Redis is unavailable, an estimate as for `used`."""
        share = self._share()
        if share is None or self._stopped:
            return super().left
        return max(share[0].per_minute - self._own_slots(), 0) * self.processes

    @property
    def _stopped(self) -> bool:
        share = self._share()
        return super()._stopped or (share is not None and self._clock.monotonic() < share[1])

    def wait(self) -> float | None:
        """Return the seconds until the first free slot."""
        share = self._share()
        if share is None:
            return super().wait()
        rate, opens_at = share
        wait = self._wait_at(rate, opens_at)
        return max(rate.interval, self.paused_for) if wait is None else wait

    def _reserve(self, latest: float, burst: float) -> Reservation | None:
        try:
            return super()._reserve(latest, burst)
        except RedisUnavailable:
            share = self._share()
        if share is None:  # one late reply, or Redis is available again: the next request uses Redis
            return None
        rate, opens_at = share
        reservation = self._reserve_at(rate, latest, burst, opens_at)
        if reservation is not None:
            self._report_later()
        return reservation

    def _share(self) -> tuple[Rate, float] | None:
        """Return the share of this process, and the time from which it may be used; None while Redis is available."""
        unavailable_since = self._client.unavailable_since
        if unavailable_since is None:
            return None
        opens_at = unavailable_since + self._longest + WINDOW_SECONDS
        return Rate.of(self.rate.per_minute // self.processes), opens_at
