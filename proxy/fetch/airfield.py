"""What all share that have to do with a call: the book of places, what is on its way, what is kept, and the clocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.fetch.pending import PendingParts
from proxy.profile.freshness import FreshnessPolicy
from proxy.storage.tiered import TieredStore


@dataclass(frozen=True, slots=True)
class Airfield:
    """One for a process. `now`: Unix seconds, for ages; `monotonic` and `sleep`: for waiting."""

    under_way: PendingParts
    store: TieredStore
    rate_limiter: RateLimiter
    circuit_breaker: CircuitBreaker
    policy: FreshnessPolicy
    now: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
