"""The connection to Redis, the names of its keys, and what is stored or shared there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.amplitude.executor import MAY_ARRIVE_SECONDS
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.freshness import FreshnessPolicy
from proxy.settings import Settings
from proxy.storage.id_digests import IdDigester

# All modules below are imported only with Redis, because the library takes longer to load than all others together.
if TYPE_CHECKING:
    from proxy.storage.redis.client import RedisClient
    from proxy.storage.redis.profiles import RedisProfiles
    from proxy.storage.redis.snapshots import RedisSnapshots
    from proxy.storage.redis.sync_runs import RedisSyncRuns
    from proxy.storage.redis.sync_state import RedisSyncState
    from proxy.storage.redis.updates import RedisUpdates

_THREAD_DELAY_SECONDS = 2.0
"""The maximum seconds between the reserved time of a call and its start, if the thread is delayed."""


@dataclass(frozen=True, slots=True)
class RedisStores:
    """The stores in Redis. Each is None without Redis."""

    profiles: RedisProfiles | None = None
    updates: RedisUpdates | None = None
    snapshots: RedisSnapshots | None = None
    sync_runs: RedisSyncRuns | None = None
    sync_state: RedisSyncState | None = None


def redis_client(settings: Settings, url: str, clock: Clock = SYSTEM_CLOCK) -> RedisClient:
    """Return a client of the Redis at `url`, which is REDIS_URL of these settings."""
    from proxy.storage.redis.client import RedisClient

    return RedisClient(url, verify=settings.redis_tls_verify, prefix=key_prefix(settings), clock=clock)


def redis_stores(settings: Settings, redis: RedisClient | None, policy: FreshnessPolicy) -> RedisStores:
    """Return the stores in this Redis."""
    if redis is None:
        return RedisStores()
    from proxy.storage.redis.profiles import RedisProfiles
    from proxy.storage.redis.snapshots import RedisSnapshots
    from proxy.storage.redis.sync_runs import RedisSyncRuns
    from proxy.storage.redis.sync_state import RedisSyncState
    from proxy.storage.redis.updates import RedisUpdates

    prefix, cache_prefix = key_prefix(settings), cache_key_prefix(settings)
    secret = settings.redis_key_secret
    digester = IdDigester(secret)
    longest = longest_call(settings.amplitude_timeout_seconds)
    usable_for = policy.updates_usable_for
    profiles = RedisProfiles(redis, cache_prefix, policy, longest=longest, digester=digester)
    return RedisStores(
        profiles,
        RedisUpdates(redis, cache_prefix, kept_for=usable_for, digester=digester),
        RedisSnapshots(redis, cache_prefix, forgotten_key=profiles.forgotten_key, usable_for=usable_for),
        RedisSyncRuns(redis, prefix),
        RedisSyncState(redis, prefix, cache_prefix, digester=digester, secret=secret),
    )


def rate_limiter(
    redis: RedisClient | None,
    prefix: bytes,
    per_minute: int,
    *,
    timeout: float,
    processes: int,
    clock: Clock,
    label: str = "",
) -> tuple[RateLimiter, Callable[[], None]]:
    """Return a rate limiter, and the function that registers this process as its user.

    All processes that use the same Redis and `prefix` share the limit. The function in `redis.set_registration` must
    call the second result. Without Redis, the second result does nothing.
    `timeout`: the maximum seconds of a call. `processes` and `label`: as for `RedisRateLimiter`.
    """
    if redis is None:
        return RateLimiter(per_minute, clock=clock), lambda: None
    from proxy.amplitude.rate_limiter_fallback import FallbackRateLimiter

    limiter = FallbackRateLimiter(
        redis,
        prefix,
        per_minute,
        clock=clock,
        longest=longest_call(timeout),
        processes=processes,
        label=label,
    )
    return limiter, limiter.register


def longest_call(timeout: float) -> float:
    """Return the seconds from the reserved time of a call until the call can no longer arrive."""
    return _THREAD_DELAY_SECONDS + timeout + MAY_ARRIVE_SECONDS


def differing_settings(settings: Settings, redis_url: str) -> list[str]:
    """Return the names among AMPLITUDE_SECRET_KEY and REDIS_KEY_SECRET whose values differ in the running services.

    Raises RedisUnavailable.
    """
    from proxy.amplitude import rate_limiter_redis

    # A client of its own, because the client of a service registers the process.
    client = redis_client(settings, redis_url)
    try:
        members = client.members_above(key_prefix(settings) + rate_limiter_redis.PROCESSES, time.time())
    finally:
        client.stop()
    return rate_limiter_redis.differing_settings(settings_label(settings), [process for process, _ in members])


def key_prefix(settings: Settings) -> bytes:
    """Return the prefix of all Redis keys, which is the same for all processes of an Amplitude project.

    The prefix does not depend on the credentials, which differ between processes during a rotation.
    """
    url = urlsplit(settings.amplitude_base_url)
    project = (url.scheme, url.netloc.lower().removesuffix(":443"), url.path, settings.amplitude_project)
    return b"ccp2:" + hashlib.sha256(repr(project).encode()).hexdigest()[:12].encode() + b":"


def cache_key_prefix(settings: Settings) -> bytes:
    """Return the prefix of the Redis keys of the cache. Processes with different secrets share only the quota."""
    secret = settings.redis_key_secret
    return key_prefix(settings) + (f"{_fingerprint(secret)}:".encode() if secret else b"")


def settings_label(settings: Settings) -> str:
    """Return digests of the settings that should be the same in all processes."""
    secrets = {"AMPLITUDE_SECRET_KEY": settings.amplitude_secret_key, "REDIS_KEY_SECRET": settings.redis_key_secret}
    if not settings.amplitude_profile_api:
        del secrets["AMPLITUDE_SECRET_KEY"]  # only `warm --cohort` needs the key
    return ",".join(f"{name}={_fingerprint(secret) if secret else 'none'}" for name, secret in secrets.items())


def _fingerprint(secret: str) -> str:
    return hashlib.blake2b(secret.encode(), digest_size=4, person=b"fingerprint").hexdigest()
