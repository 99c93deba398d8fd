"""The client of Redis: which errors count as an outage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient
from tests.support.redis_server import RedisServer


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.BlockingConnectionPool]:
    """Return the pool of the next client. It has a single connection."""
    with RedisServer() as server:
        pool = redis.BlockingConnectionPool.from_url(server.url, max_connections=1, timeout=0.01)
        monkeypatch.setattr(redis.BlockingConnectionPool, "from_url", lambda *_, **__: pool)
        yield pool
        pool.disconnect()


def test_client__all_connections_in_use__only_the_command_fails(pool: redis.BlockingConnectionPool) -> None:
    client = RedisClient("redis://replaced-by-the-pool")
    connection = pool.get_connection()  # type: ignore[no-untyped-call]
    with pytest.raises(RedisUnavailable):
        client.field_count(b"ccp2:test")
    assert client.unavailable_since is None
    pool.release(connection)  # type: ignore[no-untyped-call]
    assert client.field_count(b"ccp2:test") == 0
    client.stop()
