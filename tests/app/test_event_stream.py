"""Forwarding of the event stream by several processes that share a Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from redis import Redis

from proxy.sandbox.server import Sandbox
from tests.conftest import SECRET, Service
from tests.support.redis_server import RedisServer
from tests.support.wait import until

FORWARDING = {"FORWARD_EVENTS": "*", "FORWARD_PROPERTIES": "plan", "BRAZE_CREATE_USERS": "true"}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def post(service: Service, uuid: str, plan: str, seconds_ago: float = 10, user_id: str = "u1") -> dict[str, int]:
    body = {
        "user_id": user_id,
        "event_type": "Order",
        "event_time": int((time.time() - seconds_ago) * 1000),
        "uuid": uuid,
        "user_properties": {"plan": plan},
    }
    url = f"{service.url}/v1/webhooks/amplitude/users"
    answer = requests.post(url, json=body, headers={"X-API-Key": SECRET}, timeout=20)
    assert answer.status_code == 200, answer.text
    forwarded: dict[str, int] = answer.json()["forwarded"]
    return forwarded


@pytest.fixture
def start(start_service: Callable[..., Service], braze_sandbox: Sandbox, redis: RedisServer) -> Callable[..., Service]:
    connection = {"BRAZE_REST_ENDPOINT": braze_sandbox.url, "BRAZE_API_KEY": braze_sandbox.braze.key}
    with Redis.from_url(redis.url) as client:
        client.flushall()
    return lambda **variables: start_service(
        braze_sandbox, **FORWARDING | connection | {"REDIS_URL": redis.url} | variables
    )


@pytest.mark.slow
@pytest.mark.contract("7 event stream")
def test_event_stream__two_services_and_a_restart__each_event_and_value_once(
    start: Callable[..., Service], braze_sandbox: Sandbox
) -> None:
    first, second = start(), start()
    assert post(first, "a", "gold") == {"accepted": 2}
    assert post(second, "a", "gold") == {"duplicate": 1, "unchanged": 1}
    assert post(second, "b", "silver", seconds_ago=60) == {"accepted": 1, "outdated": 1}
    first.process.kill()
    restarted = start()
    assert post(restarted, "b", "gold", seconds_ago=5) == {"duplicate": 1, "unchanged": 1}
    assert len(braze_sandbox.braze.details("events")) == 2
    assert braze_sandbox.braze.attributes("u1") == {"plan": "gold"}


@pytest.mark.contract("7 event stream")
def test_event_stream__user_in_two_services_at_once__one_request_after_the_other_and_each_event_once(
    start: Callable[..., Service], braze_sandbox: Sandbox
) -> None:
    first, second = start(RESPONSE_DEADLINE_SECONDS="10"), start(RESPONSE_DEADLINE_SECONDS="10")
    braze_sandbox.braze.latency = 0.5
    with ThreadPoolExecutor(3) as pool:
        older = pool.submit(post, first, "a", "gold", seconds_ago=20)
        until(lambda: braze_sandbox.braze.report()["requests"] == 1)
        repeated = pool.submit(post, second, "a", "gold", seconds_ago=20)
        newer = pool.submit(post, second, "b", "silver", seconds_ago=10)
    assert older.result() == newer.result() == {"accepted": 2}
    assert repeated.result() in ({"duplicate": 1, "unchanged": 1}, {"duplicate": 1, "outdated": 1})
    assert braze_sandbox.braze.report()["overlapping_users"] == 0
    assert braze_sandbox.braze.attributes("u1") == {"plan": "silver"}
    assert len(braze_sandbox.braze.details("events")) == 2


def test_event_stream__user_forgotten__values_sent_again(start: Callable[..., Service]) -> None:
    service = start()
    post(service, "a", "gold")
    forgotten = requests.delete(f"{service.url}/v1/profile?user_id=u1", headers={"X-API-Key": SECRET}, timeout=10)
    assert forgotten.status_code == 200
    assert post(service, "b", "gold", seconds_ago=-1) == {"accepted": 2}


def test_event_stream__state_of_another_connection__own_values(
    start: Callable[..., Service], braze_sandbox: Sandbox
) -> None:
    post(start(), "a", "gold")
    braze_sandbox.braze.key = "new-key"
    service = start(BRAZE_API_KEY="new-key")
    # Nothing is known about the workspace of the other key.
    assert post(service, "b", "gold") == {"accepted": 2}
    assert post(service, "c", "gold") == {"accepted": 1, "unchanged": 1}
    assert "sync_state_of_another_connection" in service.log.read_text()
