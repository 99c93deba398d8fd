"""Locks of users in Redis, which two processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.permissions import KEY_PREFIX
from proxy.storage.redis.user_locks import RedisUserLocks
from tests.support.redis_server import RedisServer

PREFIX = KEY_PREFIX + b"test:"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def clients(server: RedisServer) -> Iterator[tuple[RedisClient, RedisClient]]:
    clients = RedisClient(server.url), RedisClient(server.url)
    yield clients
    for client in clients:
        client.stop()


def test_hold__users_of_another_process__not_held_until_released(clients: tuple[RedisClient, RedisClient]) -> None:
    first, second = (RedisUserLocks(client, PREFIX, seconds=12) for client in clients)
    with first.hold({"ava", "ben"}) as held:
        assert held == {"ava", "ben"}
        with second.hold({"ben", "cleo"}) as others:
            assert others == {"cleo"}
        with second.hold({"ben"}) as others:
            assert others == set()
    with second.hold({"ava", "ben", "cleo"}) as held:
        assert held == {"ava", "ben", "cleo"}


def test_hold__process_killed__locks_expire(clients: tuple[RedisClient, RedisClient], server: RedisServer) -> None:
    locks = RedisUserLocks(clients[0], PREFIX, seconds=12)
    with locks.hold({"ava", "ben"}), redis.Redis.from_url(server.url) as administrator:
        keys = administrator.keys(PREFIX + b"sending:*")
        assert len(keys) == 2
        assert all(0 < administrator.pttl(key) <= 12_000 for key in keys)
    assert b"ava" not in b"".join(keys)


def test_hold__release_was_lost__same_process_locks_again(clients: tuple[RedisClient, RedisClient]) -> None:
    locks = RedisUserLocks(clients[0], PREFIX, seconds=12)
    with locks.hold({"ava"}), locks.hold({"ava"}) as locked_users:
        assert locked_users == {"ava"}


def test_hold__redis_is_down__raises(clients: tuple[RedisClient, RedisClient], server: RedisServer) -> None:
    locks = RedisUserLocks(clients[0], PREFIX, seconds=12)
    with locks.hold({"ava"}):
        server.stop()
    with pytest.raises(RedisUnavailable), locks.hold({"ava"}):
        pass
