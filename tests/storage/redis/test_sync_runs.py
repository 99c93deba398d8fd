"""The totals of the runs of `sync` in a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.monitoring.sync_runs import SyncRun, SyncRuns
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.sync_runs import RedisSyncRuns
from tests.storage.redis.test_processes import running, shared_server
from tests.support.redis_server import RedisServer

__all__ = ["running", "shared_server"]  # fixtures

FIRST = SyncRun(1_000.5, "complete", users_sent=10, users_unchanged=90, values=25, requests=2)
SECOND = SyncRun(2_000.0, "failed", error="Braze returned status 401", users_sent=1, users_failed=2, requests=1)


@pytest.fixture
def client(running: RedisServer) -> Iterator[RedisClient]:
    client = RedisClient(running.url)
    yield client
    client.stop()


def runs_of(client: RedisClient, prefix: bytes = b"ccp2:test:") -> RedisSyncRuns:
    return RedisSyncRuns(client, prefix)


def test_read__no_run__none(client: RedisClient) -> None:
    assert runs_of(client).read() is None


def test_record_run__by_several_processes__last_run_and_totals(client: RedisClient) -> None:
    runs_of(client).record_run(FIRST)
    assert runs_of(client).read() == SyncRuns(
        FIRST, {"complete": 1}, {"sent": 10, "unchanged": 90, "failed": 0}, values=25, requests=2
    )
    runs_of(client).record_run(SECOND)
    runs_of(client).record_run(SECOND)
    totals = SyncRuns(
        SECOND, {"complete": 1, "failed": 2}, {"sent": 12, "unchanged": 90, "failed": 4}, values=25, requests=4
    )
    assert runs_of(client).read() == totals
    assert runs_of(client, b"ccp2:other:").read() is None


def test_read__redis_stops__last_known_totals() -> None:
    with RedisServer() as redis:
        client = RedisClient(redis.url)
        runs = runs_of(client)
        runs.record_run(FIRST)
        before = runs.read()
    assert runs.read() == before is not None
    client.stop()


def test_read__totals_of_another_version__none_and_replaced_by_the_next_run(client: RedisClient) -> None:
    for stored in (b"{}", b"no JSON"):
        client.put_fields(b"ccp2:test:sync-runs", {"runs": stored}, 60)
        assert runs_of(client).read() is None
    runs_of(client).record_run(FIRST)
    stored_runs = runs_of(client).read()
    assert stored_runs is not None
    assert stored_runs.last == FIRST
