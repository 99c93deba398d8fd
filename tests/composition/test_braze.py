"""The rate limiter for requests to Braze, which processes share through Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.amplitude import rate_limiter_redis
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.app import create_app
from proxy.composition.braze import braze_client, braze_limiter
from proxy.composition.redis import redis_client
from proxy.monitoring.clock import SYSTEM_CLOCK
from proxy.settings import Settings
from proxy.storage.redis.client import RedisClient
from proxy.web import services
from tests.support.fakes import FakeClock
from tests.support.redis_server import RedisServer
from tests.support.wait import until

BRAZE = {"BRAZE_REST_ENDPOINT": "http://127.0.0.1:1", "BRAZE_API_KEY": "key", "BRAZE_REQUESTS_PER_MINUTE": "10"}


def settings_with(**variables: str) -> Settings:
    required = {"AMPLITUDE_SECRET_KEY": "amplitude-secret", "PROXY_API_KEYS": "braze:0123456789abcdef"}
    return Settings.from_env(required | BRAZE | variables)


@pytest.fixture
def valkey(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """Yield a server. A new epoch of the quota begins after 0.05 s."""
    monkeypatch.setattr(rate_limiter_redis, "SETTLE_SECONDS", 0.05)
    with RedisServer() as server:
        yield server


class Command:
    """The Redis and the limiter of a process that only writes to Braze, such as `sync`."""

    def __init__(self, url: str) -> None:
        settings = settings_with(REDIS_URL=url)
        self.redis: RedisClient = redis_client(settings, url)
        self.limiter, register = braze_limiter(settings, self.redis)
        self.redis.set_registration(register)
        self.redis.start()


def reserve_all(limiter: RateLimiter, seconds: float = 50) -> int:
    """Reserve slots until none is free in the next `seconds`. Return their number."""
    until_then = SYSTEM_CLOCK.monotonic() + seconds
    count = 0
    while limiter.reserve(until_then):
        count += 1
    return count


@pytest.mark.slow
def test_braze_limiter__service_and_command_with_one_redis__share_the_limit_and_leave_amplitudes(
    valkey: RedisServer,
) -> None:
    app_services = services.installed(create_app(settings_with(REDIS_URL=valkey.url)))
    redis, of_service = app_services.redis, app_services.braze_rate_limiter
    assert redis is not None
    assert of_service is not None
    redis.start()
    command = Command(valkey.url)
    for limiter in (app_services.rate_limiter, of_service, command.limiter):
        until(lambda: limiter.reserve(SYSTEM_CLOCK.monotonic()) is not None, "no slot is free")  # noqa: B023
    assert reserve_all(of_service) + reserve_all(command.limiter) == 8
    assert app_services.rate_limiter.reserve(SYSTEM_CLOCK.monotonic()) is not None
    assert app_services.rate_limiter.rate.per_minute == 600
    redis.stop()
    command.redis.stop()


def test_braze_limiter__pause_in_one_process__stops_the_other(valkey: RedisServer) -> None:
    first, second = Command(valkey.url), Command(valkey.url)
    for command in (first, second):
        until(lambda: command.limiter.reserve(SYSTEM_CLOCK.monotonic() + 10) is not None, "no slot is free")  # noqa: B023
    first.limiter.pause(50)
    until(lambda: second.limiter.paused, "the other process was not paused")
    assert second.limiter.paused_for > 40
    first.redis.stop()
    second.redis.stop()


def test_braze_limiter__redis_unavailable__share_of_the_limit_after_the_window() -> None:
    clock = FakeClock()
    settings = settings_with(REDIS_URL="redis://127.0.0.1:1", WEB_CONCURRENCY="2")
    redis = redis_client(settings, "redis://127.0.0.1:1", clock)
    limiter, _ = braze_limiter(settings, redis, clock)
    redis.stop()
    assert limiter.reserve(clock()) is None
    clock.advance(80)
    reserved = 0
    while limiter.reserve(clock() + 59):
        reserved += 1
    assert reserved == 5


def test_braze_limiter__without_redis__limit_of_the_process() -> None:
    limiter, register = braze_limiter(settings_with(), None)
    register()
    assert reserve_all(limiter, 60) == 10


def test_services__without_braze__no_limiter_and_no_client(settings: Settings) -> None:
    assert services.installed(create_app(settings)).braze_rate_limiter is None
    assert braze_client(settings) is None
