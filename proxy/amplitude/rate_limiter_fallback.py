"""The rate limiter that goes on while Redis is unavailable.

Without Redis, no process sees what the others send. So nothing is sent for one window, in which earlier calls may
still count. Then each process keeps to its share: the quota divided by the last known number of processes. When Redis
returns, each process reports what it sent.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from proxy.amplitude.rate_limiter import LocalRateLimiter, RateLimiter
from proxy.amplitude.rate_limiter_redis import RedisRateLimiter
from proxy.amplitude.sliding_window import WINDOW_SECONDS, Rate, Reservation
from proxy.monitoring.clock import Clock
from proxy.storage.redis import RedisUnavailable


class FallbackRateLimiter(RateLimiter):
    """Uses `redis`; while that is unavailable, a share of the quota by `local`, on which `redis` is built."""

    def __init__(self, redis: RedisRateLimiter, local: LocalRateLimiter, *, clock: Clock) -> None:
        super().__init__(redis.per_minute, clock=clock)
        self._redis = redis
        self._local = local

    @property
    def used(self) -> int:
        """Return how many slots the calls of this process hold."""
        return self._local.used

    @property
    def paused(self) -> bool:
        """Return whether nothing may be sent now, as far as this process knows."""
        return self._local.paused

    @property
    def processes(self) -> int:
        """Return how many processes share the quota, as far as is known."""
        return self._redis.processes

    def _reserve(self, latest: float, burst: float) -> Reservation | None:
        try:
            reservation = self._redis.reserve(latest, burst=burst)
        except RedisUnavailable:
            reservation = self._reserve_share(latest, burst)
        return reservation and replace(reservation, limiter=self)

    def _reserve_share(self, latest: float, burst: float) -> Reservation | None:
        share = self._share()
        if share is None:  # a single late reply, or available again: the next request uses Redis
            return None
        rate, opens_at = share
        reservation = self._local.reserve_at_rate(rate, latest, burst=burst, not_before=opens_at)
        if reservation is not None:
            self._redis.report_later()
        return reservation

    def cancel(self, reservation: Reservation) -> bool:
        """Free a slot for which no call was sent."""
        try:
            return self._redis.cancel(reservation)
        except RedisUnavailable:
            return True

    def complete(self, reservation: Reservation, *, may_arrive_for: float = 0.0) -> bool:
        """Hold the slot for another minute after the last moment at which the call may arrive."""
        try:
            return self._redis.complete(reservation, may_arrive_for=may_arrive_for)
        except RedisUnavailable:
            return True

    def pause(self, seconds: float) -> None:
        """Send nothing for some seconds, in no process that Redis reaches."""
        with suppress(RedisUnavailable):
            self._redis.pause(seconds)

    def wait(self) -> float | None:
        """Return the seconds until the first free slot."""
        share = self._share()
        if share is None:
            return self._redis.wait()
        rate, opens_at = share
        wait = self._local.wait_at_rate(rate, not_before=opens_at)
        return max(rate.interval, self._local.paused_for) if wait is None else wait

    def _share(self) -> tuple[Rate, float] | None:
        """Return the rate of this process without Redis, and when it begins (monotonic seconds); None with Redis."""
        gone_since = self._redis.gone_since
        if gone_since is None:
            return None
        return Rate.of(self.per_minute // self.processes), gone_since + self._redis.longest + WINDOW_SECONDS
