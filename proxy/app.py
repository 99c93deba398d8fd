"""Builds the services from the settings, and then the Flask application (composition root)."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Flask

from proxy.amplitude.calls import Call
from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.client import AmplitudeClient, Fetched
from proxy.amplitude.executor import MAY_ARRIVE_SECONDS, CallExecutor
from proxy.amplitude.ingestion import BatchClient
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.amplitude.sliding_window import WINDOW_SECONDS
from proxy.api.caller_keys import KeyRing
from proxy.braze.track import TrackClient
from proxy.fetch.backlog import Backlog
from proxy.fetch.forget import ForgetService
from proxy.fetch.scheduler import FetchScheduler
from proxy.fetch.service import ProfileService
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.monitoring.history import History
from proxy.monitoring.metrics import Metrics
from proxy.profile.aliases import Aliases
from proxy.profile.errors import UpstreamRejected
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity
from proxy.settings import Settings
from proxy.storage.id_digests import IdDigester
from proxy.storage.shared_snapshots import SharedSnapshots
from proxy.storage.tiered import TieredStore
from proxy.sync.delivered_events import REMEMBERED_SECONDS, DeliveredEvents
from proxy.sync.event_stream import EventStream, StreamStats
from proxy.sync.owned_state import OwnedState
from proxy.sync.recent_values import RecentValues
from proxy.sync.relay import CurrentsRelay, RelayStats
from proxy.sync.state import AcceptedValues
from proxy.sync.stream_objects import Selection
from proxy.web import (
    auth,
    currents,
    data_middleware,
    errors,
    forget,
    health,
    profiles,
    request_body,
    request_log,
    services,
    snapshots,
    webhooks,
)
from proxy.web.flask_app import ServiceFlask
from proxy.web.pages import assets, docs, playground, status
from proxy.webhooks.ingest import UpdateIngester

if TYPE_CHECKING:
    from proxy.storage.redis.client import RedisClient

_MARGIN_SECONDS = 0.12
"""Seconds of the deadline that are reserved for the start of the request and for writing the answer."""
_MAX_FETCH_THREADS = 256
_REQUEST_SHARE = 0.85
"""The part of a webhook's time limit that a request to Braze may take. The rest is for collecting more objects."""
_THREAD_DELAY_SECONDS = 2.0
"""The maximum seconds between the reserved time of a call and its start, if the thread is delayed."""
_BRAZE_TIMEOUT_SECONDS = 10.0


def create_app(
    settings: Settings | None = None,
    *,
    fetch: Callable[[Identity, Call], Fetched] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Flask:
    """Return the application. Starts no thread, opens no connection and does not configure logging.

    `settings`: by default read from the environment; raises SettingsError if the environment is invalid.
    `fetch` replaces calls to Amplitude, and `clock` replaces the system clock, in tests.
    """
    settings = settings or Settings.from_env(os.environ)
    app = ServiceFlask("proxy", static_folder=None, template_folder="web/pages/templates")
    # One byte over the limit: Werkzeug silently truncates a body without a length; the extra byte shows the excess.
    app.config["MAX_CONTENT_LENGTH"] = request_body.MAX_BODY_BYTES + 1
    # Braze follows no redirects, so a trailing or double slash must not redirect.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app_services = _services(settings, fetch, clock)
    services.install(app, app_services)
    request_log.install(app, app_services)
    auth.install(app, app_services)
    errors.install(app)
    for module in (profiles, forget, webhooks, currents, snapshots, health, assets, docs, playground, status):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(snapshots.removal)
    data_middleware.install(app, app_services)
    return app


def amplitude(settings: Settings) -> AmplitudeClient:
    """Return a client of Amplitude for these settings."""
    return AmplitudeClient(
        settings.amplitude_base_url,
        settings.amplitude_secret_key,
        settings.amplitude_api_key,
        timeout=settings.amplitude_timeout_seconds,
        connections=_fetch_threads(settings),
        accept_mapped_users=settings.accept_mapped_users,
    )


def braze(
    settings: Settings, *, timeout: float = _BRAZE_TIMEOUT_SECONDS, clock: Clock = SYSTEM_CLOCK
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
        timeout=min(timeout, _BRAZE_TIMEOUT_SECONDS),
        clock=clock,
    )


def braze_limiter(
    settings: Settings, redis: RedisClient | None, clock: Clock = SYSTEM_CLOCK
) -> tuple[RateLimiter, Callable[[], None]]:
    """Return the rate limiter for requests to Braze, and the function that registers this process as its user.

    All processes with the same Redis share the limit. The function in `redis.set_registration` must call the second
    result. Without Redis, the second result does nothing.
    """
    if redis is None:
        return RateLimiter(settings.braze_requests_per_minute, clock=clock), lambda: None
    # Imported only with Redis, as in `redis_client`.
    from proxy.amplitude.rate_limiter_fallback import FallbackRateLimiter

    limiter = FallbackRateLimiter(
        redis,
        _prefix(settings) + b"braze:",
        settings.braze_requests_per_minute,
        clock=clock,
        longest=_longest_call(_BRAZE_TIMEOUT_SECONDS),
        processes=settings.web_concurrency,
    )
    return limiter, limiter.register


def redis_client(settings: Settings, url: str, clock: Clock = SYSTEM_CLOCK) -> RedisClient:
    """Return a client of the Redis at `url`, which is REDIS_URL of these settings."""
    # Imported only with Redis, because the library takes longer to load than all other modules together.
    from proxy.storage.redis.client import RedisClient

    return RedisClient(url, verify=settings.redis_tls_verify, prefix=_prefix(settings), clock=clock)


def _services(settings: Settings, fetch: Callable[[Identity, Call], Fetched] | None, clock: Clock) -> services.Services:
    fetch = fetch or amplitude(settings).fetch
    policy = FreshnessPolicy(
        fresh=settings.cache_fresh_seconds,
        negative=settings.cache_negative_seconds,
        stale_while_revalidate=settings.cache_stale_while_revalidate_seconds,
        stale_if_error=settings.cache_stale_if_error_seconds,
        warm=settings.cache_warm_seconds,
        pushed=settings.cache_pushed_seconds,
    )
    if not settings.amplitude_profile_api:
        # Nothing is refreshed, so all data has the lifetimes of pushed data.
        policy = replace(policy, fresh=policy.pushed, warm=policy.pushed, stale_while_revalidate=policy.stale_if_error)
    longest = _longest_call(settings.amplitude_timeout_seconds)
    limiter = RateLimiter(settings.amplitude_requests_per_minute, clock=clock)
    redis = redis_limiter = records = updates = redis_snapshots = sent = sync_runs = None
    if settings.redis_url is not None:
        # Imported only with Redis, as in `redis_client`.
        from proxy.amplitude.rate_limiter_fallback import FallbackRateLimiter
        from proxy.storage.redis.profiles import RedisProfiles
        from proxy.storage.redis.snapshots import RedisSnapshots
        from proxy.storage.redis.sync_runs import RedisSyncRuns
        from proxy.storage.redis.sync_state import RedisSentState
        from proxy.storage.redis.updates import RedisUpdates

        redis = redis_client(settings, settings.redis_url, clock)
        prefix, digester = _cache_prefix(settings), IdDigester(settings.redis_key_secret)
        records = RedisProfiles(redis, prefix, policy, longest=longest, digester=digester)
        limiter = redis_limiter = FallbackRateLimiter(
            redis,
            _prefix(settings),
            settings.amplitude_requests_per_minute,
            clock=clock,
            longest=longest,
            processes=settings.web_concurrency,
            label=_label(settings),
        )
        updates = RedisUpdates(redis, prefix, kept_for=policy.updates_usable_for, digester=digester)
        redis_snapshots = RedisSnapshots(
            redis, prefix, forgotten_key=records.forgotten_key, usable_for=policy.updates_usable_for
        )
        sync_runs = RedisSyncRuns(redis, _prefix(settings))
        sent = RedisSentState(redis, _prefix(settings), prefix, digester=digester, secret=settings.redis_key_secret)
    store = TieredStore(
        max_bytes=int(settings.cache_max_mb * 1024 * 1024),
        policy=policy,
        clock=clock,
        shared=records,
        # Redis may have other parts from the time before the Profile API was turned off.
        only=None if settings.amplitude_profile_api else (PROPERTIES, COHORTS),
    )
    circuit_breaker = CircuitBreaker(clock)
    metrics = Metrics()
    relay = _currents_relay(settings, clock)
    executor = CallExecutor(fetch, limiter, circuit_breaker, clock=clock, on_ended=metrics.called)
    backlog = Backlog(max_users=settings.backlog_max_users, max_age=settings.backlog_max_age_seconds, clock=clock)
    metrics.set_reader(
        lambda: {
            "quota_calls_used": limiter.used,
            "quota_calls_left": limiter.left,
            "quota_calls_limit": limiter.rate.per_minute,
            "quota_closed": limiter.paused,
            "backlog_users": len(backlog),
            "backlog_dropped": backlog.dropped,
            "cache_bytes": store.memory.size,
            "cache_max_bytes": store.memory.max_size,
            "cache_records": store.memory.records,
            "cache_evictions": store.memory.evicted,
            "upstream_outage": circuit_breaker.fault is not None,
            "upstream_rejected": isinstance(circuit_breaker.fault, UpstreamRejected),
            **_forward_gauges(event_stream, braze_rate_limiter),
            **_relay_gauges(relay),
            "redis_gone": redis is not None and redis.unavailable_since is not None,
            "redis_full": redis is not None and redis.full,
        }
    )
    if sync_runs is not None:
        metrics.set_sync_runs_reader(sync_runs.read)
    metrics.set_snapshots_reader(
        lambda: [
            (snapshot.cohort_id, snapshot.members, max(0.0, clock.now() - snapshot.as_of))
            for snapshot in store.memory.snapshots.installed()
        ]
    )
    accepted_values: AcceptedValues = RecentValues()
    if sent is not None:
        connection = settings.braze_rest_endpoint or "", settings.braze_api_key or ""
        accepted_values = OwnedState(sent, accepted_values, *connection)
    forget_service = ForgetService(store, backlog, records, redis_snapshots, accepted_values.forget)
    ingester = UpdateIngester(store.memory, updates, clock=clock)
    shared_snapshots = SharedSnapshots(store.memory, redis_snapshots, clock=clock)
    braze_rate_limiter: RateLimiter | None = None
    event_stream: EventStream | None = None
    if settings.braze_rest_endpoint is not None:
        braze_rate_limiter, register_braze_limiter = braze_limiter(settings, redis, clock)
        event_stream = _event_stream(settings, redis, braze_rate_limiter, accepted_values, metrics, clock)
    else:
        register_braze_limiter = None
    if redis is not None and redis_limiter is not None:
        register_limiter = redis_limiter.register

        def register() -> None:
            register_limiter()
            if register_braze_limiter is not None:
                register_braze_limiter()
            forget_service.catch_up()
            ingester.catch_up()
            shared_snapshots.catch_up()

        redis.set_registration(register)
    scheduler = FetchScheduler(
        executor,
        store,
        limiter,
        circuit_breaker,
        backlog,
        policy,
        extra_parts=settings.fetch_along,
        threads=_fetch_threads(settings),
        clock=clock,
    )
    return services.Services(
        profiles=ProfileService(store, scheduler, policy, profile_api=settings.amplitude_profile_api, clock=clock),
        scheduler=scheduler,
        executor=executor,
        rate_limiter=limiter,
        braze_rate_limiter=braze_rate_limiter,
        store=store,
        forget_service=forget_service,
        ingester=ingester,
        event_stream=event_stream,
        snapshots=shared_snapshots,
        currents_relay=relay,
        sync_runs=sync_runs,
        redis=redis,
        sent=sent,
        keyring=KeyRing(settings.caller_keys),
        networks=settings.allowed_networks,
        trusted_proxy_hops=settings.trusted_proxy_hops,
        refusals=auth.refusals(clock),
        metrics=metrics,
        history=History(metrics, clock=clock),
        backlog_max_users=settings.backlog_max_users,
        wait_seconds=_wait_seconds(settings),
        profile_api=settings.amplitude_profile_api,
        aliases=Aliases(settings.aliases),
        text_properties=settings.text_properties,
        demo_users=settings.playground_demo_users,
        clock=clock,
    )


def _event_stream(
    settings: Settings,
    redis: RedisClient | None,
    limiter: RateLimiter,
    accepted_values: AcceptedValues,
    metrics: Metrics,
    clock: Clock,
) -> EventStream | None:
    """Return the forwarding of Amplitude's event stream to Braze; None if nothing is forwarded."""
    selection = Selection(settings.forward_events, settings.forward_properties, settings.braze_app_id)
    # A request must end before the answer to Amplitude, so that the outcome is known.
    client = braze(settings, timeout=_wait_seconds(settings) * _REQUEST_SHARE, clock=clock)
    if client is None or not selection:
        return None
    delivered = None
    if redis is not None:
        from proxy.storage.redis.delivered_events import RedisDeliveredEvents

        delivered = RedisDeliveredEvents(redis, _cache_prefix(settings), kept_for=REMEMBERED_SECONDS)
    return EventStream(
        selection,
        client,
        limiter,
        DeliveredEvents(delivered, clock=clock),
        accepted_values,
        batch_objects=settings.braze_batch_objects,
        on_outcome=metrics.forwarded,
        clock=clock,
    )


def _wait_seconds(settings: Settings) -> float:
    return max(0.0, settings.response_deadline_seconds - _MARGIN_SECONDS)


def _longest_call(timeout: float) -> float:
    """Return the seconds from the reserved time of a call until the call can no longer arrive."""
    return _THREAD_DELAY_SECONDS + timeout + MAY_ARRIVE_SECONDS


def _forward_gauges(stream: EventStream | None, limiter: RateLimiter | None) -> dict[str, float]:
    stats = StreamStats() if stream is None else stream.stats()
    return {
        "braze_refused": stats.is_refused,
        "braze_pause_seconds": limiter.paused_for if limiter is not None and limiter.paused else 0,
        "forward_waiting": stats.waiting,
        "forward_accepted_timestamp_seconds": stats.accepted_at or 0,
        "forward_failed_timestamp_seconds": stats.failed_at or 0,
    }


def _relay_gauges(relay: CurrentsRelay | None) -> dict[str, float]:
    stats = RelayStats() if relay is None else relay.stats()
    return {
        "currents_rejected": stats.is_rejected,
        "currents_accepted_timestamp_seconds": stats.accepted_at or 0,
        "currents_failed_timestamp_seconds": stats.failed_at or 0,
    }


def _currents_relay(settings: Settings, clock: Clock) -> CurrentsRelay | None:
    if settings.amplitude_api_key is None:
        return None
    client = BatchClient(settings.ingest_url, settings.amplitude_api_key, clock=clock)
    return CurrentsRelay(client, timeout=settings.amplitude_timeout_seconds, clock=clock)


def differing_settings(settings: Settings, redis_url: str) -> list[str]:
    """Return the names among AMPLITUDE_SECRET_KEY and REDIS_KEY_SECRET whose values differ in the running services.

    Raises RedisUnavailable.
    """
    from proxy.amplitude import rate_limiter_redis

    # A client of its own, because the client of a service registers the process.
    client = redis_client(settings, redis_url)
    try:
        members = client.members_above(_prefix(settings) + rate_limiter_redis.PROCESSES, time.time())
    finally:
        client.stop()
    return rate_limiter_redis.differing_settings(_label(settings), [process for process, _ in members])


def _prefix(settings: Settings) -> bytes:
    """Return the prefix of all Redis keys, which is the same for all processes of an Amplitude project.

    The prefix does not depend on the credentials, which differ between processes during a rotation.
    """
    url = urlsplit(settings.amplitude_base_url)
    project = (url.scheme, url.netloc.lower().removesuffix(":443"), url.path, settings.amplitude_project)
    return b"ccp2:" + hashlib.sha256(repr(project).encode()).hexdigest()[:12].encode() + b":"


def _cache_prefix(settings: Settings) -> bytes:
    """Return the prefix of the Redis keys of the cache. Processes with different secrets share only the quota."""
    secret = settings.redis_key_secret
    return _prefix(settings) + (f"{_fingerprint(secret)}:".encode() if secret else b"")


def _label(settings: Settings) -> str:
    """Return digests of the settings that should be the same in all processes."""
    secrets = {"AMPLITUDE_SECRET_KEY": settings.amplitude_secret_key, "REDIS_KEY_SECRET": settings.redis_key_secret}
    if not settings.amplitude_profile_api:
        del secrets["AMPLITUDE_SECRET_KEY"]  # only `warm --cohort` needs the key
    return ",".join(f"{name}={_fingerprint(secret) if secret else 'none'}" for name, secret in secrets.items())


def _fingerprint(secret: str) -> str:
    return hashlib.blake2b(secret.encode(), digest_size=4, person=b"fingerprint").hexdigest()


def _fetch_threads(settings: Settings) -> int:
    """Return how many calls can be reserved or in progress at once: a burst, and the evenly spaced calls."""
    per_second = settings.amplitude_requests_per_minute / WINDOW_SECONDS
    longest = settings.response_deadline_seconds + settings.amplitude_timeout_seconds
    return min(_MAX_FETCH_THREADS, settings.amplitude_requests_per_minute // 10 + int(per_second * longest) + 8)
