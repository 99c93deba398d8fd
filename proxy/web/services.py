"""The services that views use."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from threading import Event
from typing import TYPE_CHECKING

from flask import Flask, Request, current_app, request

from proxy.amplitude.executor import CallExecutor
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.api.caller_keys import Accepted, KeyRing
from proxy.fetch.forget import ForgetService
from proxy.fetch.scheduler import FetchScheduler
from proxy.fetch.service import ProfileService
from proxy.monitoring.clock import Clock
from proxy.monitoring.history import History
from proxy.monitoring.logs import OncePerMinute
from proxy.monitoring.metrics import Metrics
from proxy.profile.aliases import Aliases
from proxy.storage.shared_snapshots import SharedSnapshots
from proxy.storage.tiered import TieredStore
from proxy.sync.event_stream import EventStream
from proxy.sync.relay import CurrentsRelay
from proxy.webhooks.ingest import UpdateIngester

if TYPE_CHECKING:
    from proxy.storage.redis.client import RedisClient
    from proxy.storage.redis.sync_runs import RedisSyncRuns
    from proxy.storage.redis.sync_state import RedisSyncState

_KEY = "connected-content-proxy"


@dataclass(frozen=True, slots=True)
class Services:
    """The objects that views use, built once.

    A data view may wait `wait_seconds` for missing parts. The server sets `draining` when it stops. Requests on open
    connections are still answered. `sync_state`: the state of the values sent to Braze, with Redis.
    """

    profiles: ProfileService
    scheduler: FetchScheduler
    executor: CallExecutor
    rate_limiter: RateLimiter
    braze_rate_limiter: RateLimiter | None
    store: TieredStore
    forget_service: ForgetService
    ingester: UpdateIngester
    event_stream: EventStream | None
    snapshots: SharedSnapshots
    currents_relay: CurrentsRelay | None
    sync_runs: RedisSyncRuns | None
    redis: RedisClient | None
    sync_state: RedisSyncState | None
    keyring: KeyRing
    networks: tuple[IPv4Network | IPv6Network, ...]
    trusted_proxy_hops: int
    refusals: OncePerMinute
    metrics: Metrics
    history: History
    backlog_max_users: int
    wait_seconds: float
    profile_api: bool
    aliases: Aliases
    text_properties: frozenset[str]
    demo_users: tuple[str, ...]
    clock: Clock
    accepted: Accepted = field(default_factory=Accepted)
    draining: Event = field(default_factory=Event)

    @property
    def may_have_copies(self) -> bool:
        """True if users are cached in this process, or if Redis is available and may have users."""
        redis_available = self.redis is not None and self.redis.unavailable_since is None
        return redis_available or self.store.memory.records > 0


def install(app: Flask, services: Services) -> None:
    """Attach `services` to `app`."""
    app.extensions[_KEY] = services


def installed(app: Flask) -> Services:
    """Return the services of `app`."""
    services: Services = app.extensions[_KEY]
    return services


def services() -> Services:
    """Return the services of the application that serves this request."""
    return installed(current_app)


def current_request() -> Request:
    """Return the request object. Each access through Flask's proxy `request` would cost a lookup."""
    unwrapped: Request = request._get_current_object()  # type: ignore[attr-defined]  # typed as the request itself
    return unwrapped
