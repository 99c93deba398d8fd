"""The real service with Redis, over HTTP: a user read from Redis is then in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
import requests

from proxy.app import create_app
from proxy.sandbox.server import Sandbox
from proxy.settings import Settings
from proxy.web.services import installed
from tests.conftest import KEYS, SECRET, Service
from tests.support.redis_server import RedisServer
from tests.support.service import StartService
from tests.support.wait import request_lines, until

USERS = {"GET": "user-1", "POST": "user-2", "POST after GET": "user-3"}
KEY = {"X-API-Key": SECRET}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def service(start_module_service: StartService, server: RedisServer) -> Iterator[Service]:
    """Return a service. This process stores USERS in its Redis."""
    with Sandbox() as sandbox:
        settings = {"AMPLITUDE_BASE_URL": sandbox.url, "AMPLITUDE_SECRET_KEY": sandbox.secret_key}
        shared = {"REDIS_URL": server.url, "PROXY_API_KEYS": KEYS}
        service = start_module_service(sandbox, **shared)
        app = create_app(Settings.from_env(settings | shared))
        writer = app.test_client()

        def stored() -> bool:
            return all(read(writer.get(path(user), headers=KEY).json) for user in USERS.values())

        until(stored, "the users were not fetched")
        app_services = installed(app)
        app_services.scheduler.drain(10)
        assert app_services.redis is not None
        app_services.redis.stop()
        yield service


def path(user: str) -> str:
    return f"/v1/profile?user_id={user}&include=cohorts,properties"


def read(answer: Any) -> bool:
    return bool(answer["ok"] and answer["found"])


def ask(service: Service, method: str, user: str) -> requests.Response:
    if method == "GET":
        return service.get(path(user))
    body = {"user_id": user, "include": "cohorts,properties"}
    return requests.post(f"{service.url}/v1/profile", json=body, headers=KEY, timeout=10)


@pytest.mark.contract("1 cache-status")
@pytest.mark.parametrize("kind", USERS)
def test_user__read_from_redis_and_deleted_there__next_answers_from_memory(
    service: Service, server: RedisServer, kind: str
) -> None:
    user, methods = USERS[kind], list(reversed(kind.split(" after ")))
    calls, hits = len(service.sandbox.calls), counted_hits(service)
    answers = [ask(service, methods[0], user)]
    with redis.Redis.from_url(server.url) as operator:
        records = {key: operator.hgetall(key) for key in operator.scan_iter("*:user*:*")}
        assert len(records) == len(USERS)
        operator.delete(*records)
        answers += [ask(service, methods[-1], user), ask(service, methods[-1], user)]
        for key, record in records.items():
            operator.hset(key, mapping=record)
    assert all(read(answer.json()) for answer in answers)
    assert len({answer.content for answer in answers}) == 1
    for answer, line in zip(answers, request_lines(service.log, *answers), strict=True):
        assert answer.headers["X-Amplitude-Calls"] == "0"
        assert answer.headers["Cache-Status"].startswith("connected-content-proxy; hit; ttl=")
        assert line["cache"].startswith("hit; ttl=")
        assert line["calls"] == 0
    assert counted_hits(service) == hits + 3
    assert len(service.sandbox.calls) == calls


def counted_hits(service: Service) -> float:
    """Return how many data requests the metrics count as answered from the cache."""
    lines = service.get("/metrics").text.splitlines()
    counts = [line for line in lines if "ccproxy_requests_total{" in line and 'cache="hit"' in line]
    return sum(float(line.split()[-1]) for line in counts)
