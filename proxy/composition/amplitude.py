"""The client of Amplitude, its rate limiter, the number of calls at once, and the relay of Braze Currents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.amplitude.client import AmplitudeClient
from proxy.amplitude.ingestion import BatchClient
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.amplitude.sliding_window import WINDOW_SECONDS
from proxy.composition.redis import key_prefix, rate_limiter, settings_label
from proxy.monitoring.clock import Clock
from proxy.settings import Settings
from proxy.sync.relay import CurrentsRelay

if TYPE_CHECKING:
    from proxy.storage.redis.client import RedisClient

_MAX_FETCH_THREADS = 256


def amplitude_client(settings: Settings) -> AmplitudeClient:
    """Return a client of Amplitude for these settings."""
    return AmplitudeClient(
        settings.amplitude_base_url,
        settings.amplitude_secret_key,
        settings.amplitude_api_key,
        timeout=settings.amplitude_timeout_seconds,
        connections=fetch_threads(settings),
        accept_mapped_users=settings.accept_mapped_users,
    )


def amplitude_limiter(
    settings: Settings, redis: RedisClient | None, clock: Clock
) -> tuple[RateLimiter, Callable[[], None]]:
    """Return the rate limiter for calls to Amplitude, and the function that registers this process as its user."""
    return rate_limiter(
        redis,
        key_prefix(settings),
        settings.amplitude_requests_per_minute,
        timeout=settings.amplitude_timeout_seconds,
        processes=settings.web_concurrency,
        clock=clock,
        label=settings_label(settings),
    )


def fetch_threads(settings: Settings) -> int:
    """Return how many calls can be reserved or in progress at once: a burst, and the evenly spaced calls."""
    per_second = settings.amplitude_requests_per_minute / WINDOW_SECONDS
    longest = settings.response_deadline_seconds + settings.amplitude_timeout_seconds
    return min(_MAX_FETCH_THREADS, settings.amplitude_requests_per_minute // 10 + int(per_second * longest) + 8)


def currents_relay(settings: Settings, clock: Clock) -> CurrentsRelay | None:
    """Return the relay of Braze Currents to Amplitude; None without the API key of Amplitude."""
    if settings.amplitude_api_key is None:
        return None
    client = BatchClient(settings.ingest_url, settings.amplitude_api_key, clock=clock)
    return CurrentsRelay(client, timeout=settings.amplitude_timeout_seconds, clock=clock)
