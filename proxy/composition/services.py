"""Builds all services from the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from proxy.amplitude.calls import Call
from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.client import Fetched
from proxy.amplitude.executor import CallExecutor
from proxy.api.caller_keys import KeyRing
from proxy.composition.amplitude import amplitude_client, amplitude_limiter, currents_relay, fetch_threads
from proxy.composition.braze import accepted_values, build_forwarding
from proxy.composition.gauges import connect_metrics
from proxy.composition.redis import RedisStores, redis_client, redis_stores
from proxy.fetch.backlog import Backlog
from proxy.fetch.forget import ForgetService
from proxy.fetch.scheduler import FetchScheduler
from proxy.fetch.service import ProfileService
from proxy.monitoring.clock import Clock
from proxy.monitoring.history import History
from proxy.monitoring.metrics import Metrics
from proxy.profile.aliases import Aliases
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity
from proxy.settings import Settings
from proxy.storage.shared_snapshots import SharedSnapshots
from proxy.storage.tiered import TieredStore
from proxy.web import auth
from proxy.web.services import Services
from proxy.webhooks.ingest import UpdateIngester

_MARGIN_SECONDS = 0.12
"""Seconds of the deadline that are reserved for the start of the request and for writing the answer."""


def build_services(settings: Settings, fetch: Callable[[Identity, Call], Fetched] | None, clock: Clock) -> Services:
    """Return the services for these settings. Starts no thread and opens no connection.

    `fetch`: replaces calls to Amplitude in tests.
    """
    policy, wait_seconds = _freshness_policy(settings), _wait_seconds(settings)
    redis = None if settings.redis_url is None else redis_client(settings, settings.redis_url, clock)
    stores = redis_stores(settings, redis, policy)
    store = _tiered_store(settings, policy, stores, clock)
    metrics = Metrics()
    limiter, register_limiter = amplitude_limiter(settings, redis, clock)
    circuit_breaker = CircuitBreaker(clock)
    executor = CallExecutor(
        fetch or amplitude_client(settings).fetch, limiter, circuit_breaker, clock=clock, on_ended=metrics.called
    )
    backlog = Backlog(max_users=settings.backlog_max_users, max_age=settings.backlog_max_age_seconds, clock=clock)
    scheduler = FetchScheduler(
        executor,
        store,
        limiter,
        circuit_breaker,
        backlog,
        policy,
        extra_parts=settings.fetch_along,
        threads=fetch_threads(settings),
        clock=clock,
    )
    values = accepted_values(settings, stores.sync_state)
    forget_service = ForgetService(store, backlog, stores.profiles, stores.snapshots, values.forget)
    ingester = UpdateIngester(store.memory, stores.updates, clock=clock)
    snapshots = SharedSnapshots(store.memory, stores.snapshots, clock=clock)
    forwarding = build_forwarding(settings, redis, values, metrics, wait_seconds=wait_seconds, clock=clock)

    def register() -> None:
        register_limiter()
        forwarding.register()
        forget_service.catch_up()
        ingester.catch_up()
        snapshots.catch_up()

    if redis is not None:
        redis.set_registration(register)
    services = Services(
        profiles=ProfileService(store, scheduler, policy, profile_api=settings.amplitude_profile_api, clock=clock),
        scheduler=scheduler,
        executor=executor,
        rate_limiter=limiter,
        braze_rate_limiter=forwarding.limiter,
        store=store,
        forget_service=forget_service,
        ingester=ingester,
        event_stream=forwarding.stream,
        snapshots=snapshots,
        currents_relay=currents_relay(settings, clock),
        sync_runs=stores.sync_runs,
        redis=redis,
        sync_state=stores.sync_state,
        keyring=KeyRing(settings.caller_keys),
        networks=settings.allowed_networks,
        trusted_proxy_hops=settings.trusted_proxy_hops,
        refusals=auth.refusals(clock),
        metrics=metrics,
        history=History(metrics, clock=clock),
        backlog_max_users=settings.backlog_max_users,
        wait_seconds=wait_seconds,
        profile_api=settings.amplitude_profile_api,
        aliases=Aliases(settings.aliases),
        text_properties=settings.text_properties,
        demo_users=settings.playground_demo_users,
        clock=clock,
    )
    connect_metrics(services, circuit_breaker, backlog)
    return services


def _tiered_store(settings: Settings, policy: FreshnessPolicy, stores: RedisStores, clock: Clock) -> TieredStore:
    return TieredStore(
        max_bytes=int(settings.cache_max_mb * 1024 * 1024),
        policy=policy,
        clock=clock,
        shared=stores.profiles,
        # Redis may have other parts from the time before the Profile API was turned off.
        only=None if settings.amplitude_profile_api else (PROPERTIES, COHORTS),
    )


def _freshness_policy(settings: Settings) -> FreshnessPolicy:
    policy = FreshnessPolicy(
        fresh=settings.cache_fresh_seconds,
        negative=settings.cache_negative_seconds,
        stale_while_revalidate=settings.cache_stale_while_revalidate_seconds,
        stale_if_error=settings.cache_stale_if_error_seconds,
        warm=settings.cache_warm_seconds,
        pushed=settings.cache_pushed_seconds,
    )
    if settings.amplitude_profile_api:
        return policy
    # Nothing is refreshed, so all data has the lifetimes of pushed data.
    return replace(policy, fresh=policy.pushed, warm=policy.pushed, stale_while_revalidate=policy.stale_if_error)


def _wait_seconds(settings: Settings) -> float:
    return max(0.0, settings.response_deadline_seconds - _MARGIN_SECONDS)
