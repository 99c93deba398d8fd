"""The client of Braze, its rate limiter, the values that Braze accepted, and the forwarding of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.track import TrackClient
from proxy.composition.redis import cache_key_prefix, key_prefix, rate_limiter
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.monitoring.metrics import Metrics
from proxy.settings import Settings
from proxy.storage.id_digests import IdDigester
from proxy.sync.delivered_events import REMEMBERED_SECONDS, DeliveredEvents
from proxy.sync.event_stream import EventStream
from proxy.sync.owned_state import OwnedState
from proxy.sync.recent_values import RecentValues
from proxy.sync.state import AcceptedValues
from proxy.sync.stream_objects import Selection

if TYPE_CHECKING:
    from proxy.storage.redis.client import RedisClient
    from proxy.storage.redis.sync_state import RedisSyncState

_TIMEOUT_SECONDS = 10.0
_REQUEST_SHARE = 0.85
"""The part of a webhook's time limit that a request to Braze may take. The rest is for collecting more objects."""


class Forwarding(NamedTuple):
    """The forwarding of Amplitude's event stream to Braze.

    `stream`: None if nothing is forwarded. `register`: registers this process as a user of the limiter.
    """

    limiter: RateLimiter | None = None
    stream: EventStream | None = None
    register: Callable[[], None] = lambda: None


def braze_client(
    settings: Settings, *, timeout: float = _TIMEOUT_SECONDS, clock: Clock = SYSTEM_CLOCK
) -> TrackClient | None:
    """Return a client of Braze for these settings; None if nothing is written to Braze.

    `timeout`: seconds for a request, at most 10, because the rate limiter assumes this maximum.
    """
    if settings.braze_rest_endpoint is None or settings.braze_api_key is None:
        return None
    return TrackClient(
        settings.braze_rest_endpoint,
        settings.braze_api_key,
        create_users=settings.braze_create_users,
        timeout=min(timeout, _TIMEOUT_SECONDS),
        clock=clock,
    )


def braze_limiter(
    settings: Settings, redis: RedisClient | None, clock: Clock = SYSTEM_CLOCK
) -> tuple[RateLimiter, Callable[[], None]]:
    """Return the rate limiter for requests to Braze, and the function that registers this process as its user."""
    return rate_limiter(
        redis,
        key_prefix(settings) + b"braze:",
        settings.braze_requests_per_minute,
        timeout=_TIMEOUT_SECONDS,
        processes=settings.web_concurrency,
        clock=clock,
    )


def accepted_values(settings: Settings, state: RedisSyncState | None) -> AcceptedValues:
    """Return the values that Braze accepted: with Redis, of all processes and of `sync`."""
    recent = RecentValues()
    if state is None:
        return recent
    return OwnedState(state, recent, settings.braze_rest_endpoint or "", settings.braze_api_key or "")


def build_forwarding(
    settings: Settings,
    redis: RedisClient | None,
    values: AcceptedValues,
    metrics: Metrics,
    *,
    wait_seconds: float,
    clock: Clock,
) -> Forwarding:
    """Return the forwarding of Amplitude's event stream to Braze. `wait_seconds`: the time limit of a webhook."""
    if settings.braze_rest_endpoint is None:
        return Forwarding()
    limiter, register = braze_limiter(settings, redis, clock)
    stream = _event_stream(settings, redis, limiter, values, metrics, wait_seconds, clock)
    return Forwarding(limiter, stream, register)


def _event_stream(
    settings: Settings,
    redis: RedisClient | None,
    limiter: RateLimiter,
    values: AcceptedValues,
    metrics: Metrics,
    wait_seconds: float,
    clock: Clock,
) -> EventStream | None:
    selection = Selection(settings.forward_events, settings.forward_properties, settings.braze_app_id)
    # A request must end before the answer to Amplitude, so that the outcome is known.
    client = braze_client(settings, timeout=wait_seconds * _REQUEST_SHARE, clock=clock)
    if client is None or not selection:
        return None
    delivered = locks = None
    if redis is not None:
        # Imported only with Redis, as in `proxy/composition/redis.py`.
        from proxy.storage.redis.delivered_events import RedisDeliveredEvents
        from proxy.storage.redis.user_locks import RedisUserLocks

        prefix = cache_key_prefix(settings)
        delivered = RedisDeliveredEvents(redis, prefix, kept_for=REMEMBERED_SECONDS)
        # A request waits for the rate limit until the deadline, and then for Braze.
        longest = wait_seconds + _TIMEOUT_SECONDS
        locks = RedisUserLocks(redis, prefix, seconds=longest, digester=IdDigester(settings.redis_key_secret))
    return EventStream(
        selection,
        client,
        limiter,
        DeliveredEvents(delivered, clock=clock),
        values,
        batch_objects=settings.braze_batch_objects,
        locks=locks,
        on_outcome=metrics.forwarded,
        clock=clock,
    )
