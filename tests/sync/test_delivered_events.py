"""Accepted events, in the memory of a process and in Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.delivered_events import RedisDeliveredEvents
from proxy.sync.delivered_events import MAX_EVENTS, REMEMBERED_SECONDS, DeliveredEvents
from tests.support.fakes import FakeClock
from tests.support.redis_server import RedisServer

FIRST, SECOND, THIRD = 7, 2**64 - 1, 12_345_678_901


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def shared(server: RedisServer) -> RedisDeliveredEvents:
    return RedisDeliveredEvents(RedisClient(server.url), b"test:", kept_for=REMEMBERED_SECONDS)


def test_known__event_in_this_process__until_six_hours_later(clock: FakeClock) -> None:
    events = DeliveredEvents(clock=clock)
    events.add([FIRST, SECOND])
    assert events.known([FIRST, SECOND, THIRD]) == {FIRST, SECOND}
    clock.advance(REMEMBERED_SECONDS - 60)
    events.add([THIRD])
    assert events.known([FIRST, SECOND, THIRD]) == {FIRST, SECOND, THIRD}
    clock.advance(3600)
    assert events.known([FIRST, SECOND, THIRD]) == {THIRD}


def test_known__more_events_than_the_limit__oldest_are_removed(clock: FakeClock) -> None:
    events = DeliveredEvents(clock=clock)
    for start in range(0, MAX_EVENTS + 200_000, 50_000):
        events.add(range(start, start + 50_000))
    assert len(events) <= MAX_EVENTS
    assert events.known([0, MAX_EVENTS + 199_999]) == {MAX_EVENTS + 199_999}


def test_known__event_of_another_process__found_in_redis(redis: RedisServer, clock: FakeClock) -> None:
    here, there = (DeliveredEvents(shared(redis), clock=clock) for _ in range(2))
    here.add([FIRST, SECOND])
    assert there.known([FIRST, SECOND, THIRD]) == {FIRST, SECOND}


def test_redis__event__expires_after_six_hours(redis: RedisServer) -> None:
    shared(redis).add([FIRST])
    with Redis.from_url(redis.url) as client:
        (key,) = client.keys("test:*")
        assert REMEMBERED_SECONDS - 60 < client.ttl(key) <= REMEMBERED_SECONDS


def test_add__redis_unavailable__raises_and_records_in_this_process(redis: RedisServer, clock: FakeClock) -> None:
    events = DeliveredEvents(shared(redis), clock=clock)
    redis.stop()
    with pytest.raises(RedisUnavailable):
        events.add([FIRST])
    assert events.known([FIRST]) == {FIRST}
