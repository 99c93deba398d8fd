"""Services that share one Redis: which settings make them share the quota and the cache."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from proxy.amplitude import rate_limiter_redis
from proxy.app import create_app
from proxy.composition.redis import differing_settings
from proxy.profile.errors import UpstreamError, UpstreamUnavailable
from proxy.profile.parts import Identity
from proxy.settings import Settings
from proxy.storage.id_digests import UNKEYED
from proxy.web.services import installed
from tests.support.fakes import FakeClock, FakeSource
from tests.support.redis_server import RedisServer
from tests.support.service import KEYS, SECRET
from tests.support.wait import until

REDIS_SECRET = "0123456789abcdef" * 4
BASE = {"AMPLITUDE_SECRET_KEY": "secret-of-a-test", "PROXY_API_KEYS": KEYS}
ONE_SLOT = {"AMPLITUDE_REQUESTS_PER_MINUTE": "10"}
OTHER = {"AMPLITUDE_SECRET_KEY": "new-secret-of-a-test"}
CALLER = {"X-API-Key": SECRET}
started: list[Flask] = []


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def empty(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empty Redis. A new epoch of the quota begins after 0.05 s."""
    monkeypatch.setattr(rate_limiter_redis, "SETTLE_SECONDS", 0.05)
    with redis.Redis.from_url(server.url) as operator:
        operator.flushall()
    yield
    clients = []
    while started:
        services = installed(started.pop())
        services.scheduler.drain(10)
        if (client := services.redis) is not None:
            client.stop()
            clients.append(client)
    until(lambda: not any(client.stats().registers for client in clients), "the threads did not end")


def start(server: RedisServer, fault: UpstreamError | None = None, /, **variables: str) -> Flask:
    settings = Settings.from_env(BASE | {"REDIS_URL": server.url} | variables)
    source = FakeSource(FakeClock(time.time()))
    source.fault = fault
    app = create_app(settings, fetch=source.fetch)
    started.append(app)
    return app


def ask(client: FlaskClient, user: str) -> Any:
    return read(client, f"/v1/cohorts?user_id={user}")


def read(client: FlaskClient, path: str) -> Any:
    return json.loads(client.get(path, headers=CALLER).data)


def settled(*apps: Flask) -> None:
    """Wait until the services can reserve calls."""
    limiters = [installed(app).rate_limiter for app in apps]
    for limiter in limiters:
        limiter.reserve(0)  # starts the registration
    until(lambda: not any(limiter.paused for limiter in limiters), "the limiters are paused for ever")


def wait_for_call(app: Flask) -> None:
    until(lambda: "stored" in cache_status(app), "the call was not sent")


def cache_status(app: Flask) -> str:
    return app.test_client().get("/v1/cohorts?user_id=ava", headers={"X-API-Key": SECRET}).headers["Cache-Status"]


@pytest.mark.contract("4 redis")
@pytest.mark.parametrize(
    "variables",
    [
        OTHER,
        {"AMPLITUDE_API_KEY": "key-of-a-test"},
        {"AMPLITUDE_BASE_URL": "https://Profile-API.amplitude.com:443/"},
        {"REDIS_KEY_SECRET": REDIS_SECRET},
    ],
    ids=["another secret", "API key on one service", "another form of the URL", "another REDIS_KEY_SECRET"],
)
def test_quota__same_project_with_other_settings__shared(server: RedisServer, variables: dict[str, str]) -> None:
    first, second = start(server, **ONE_SLOT), start(server, **ONE_SLOT, **variables)
    settled(first, second)
    limiters = [installed(app).rate_limiter for app in (first, second)]
    until(lambda: limiters[0].reserve(0, burst=0) is not None, "no slot is free")
    assert limiters[1].reserve(0, burst=0) is None, "the first service took the only slot"


@pytest.mark.parametrize(
    "variables", [{"AMPLITUDE_PROJECT": "shop"}, {"AMPLITUDE_BASE_URL": "http://127.0.0.1:1"}], ids=["name", "URL"]
)
def test_quota_and_cache__another_project__not_shared(server: RedisServer, variables: dict[str, str]) -> None:
    first, second = start(server), start(server, **variables)
    settled(first, second)
    wait_for_call(first)
    until(lambda: "stored" in cache_status(second), "the user was found in the cache of the other project")


def test_cache__credentials_change__kept(server: RedisServer) -> None:
    first, second = start(server), start(server, **OTHER)
    settled(first, second)
    wait_for_call(first)
    assert "hit" in cache_status(second)


@pytest.mark.contract("4 redis")
def test_redis_keys__with_a_secret__differ_from_the_digests_that_anyone_can_calculate(server: RedisServer) -> None:
    plain, keyed = start(server), start(server, REDIS_KEY_SECRET=REDIS_SECRET)
    settled(plain, keyed)
    identity = Identity("ava", None)
    guesses = {UNKEYED.pair(identity), *UNKEYED.ids(identity)}
    push = {"user_id": "ava", "event_time": time.time(), "user_properties": {"plan": "gold"}}
    for app, readable in ((keyed, False), (plain, True)):
        wait_for_call(app)
        pushed = app.test_client().post("/v1/webhooks/amplitude/users", json=push, headers={"X-API-Key": SECRET})
        assert pushed.json is not None
        assert pushed.json["applied"] == 1
        with redis.Redis.from_url(server.url) as operator:
            keys = list(operator.scan_iter())
        names = b" ".join(keys)
        assert any(guess in names for guess in guesses) is readable
        assert b":user3:" in names
        assert b":pushed:" in names


def test_forget__with_a_secret__removes_the_record_from_redis_and_from_the_other_process(server: RedisServer) -> None:
    first, second = (start(server, REDIS_KEY_SECRET=REDIS_SECRET) for _ in range(2))
    settled(first, second)
    wait_for_call(first)
    assert "hit" in cache_status(second)
    answer = first.test_client().delete("/v1/profile?user_id=ava", headers={"X-API-Key": SECRET})
    assert answer.json is not None
    assert answer.json["records"] == 1
    memory = installed(second).store.memory
    until(lambda: not memory.read(Identity("ava", None)).parts, "the other process kept the user")
    with redis.Redis.from_url(server.url) as operator:
        assert not list(operator.scan_iter("*:user3:*"))


def test_cache__profile_api_was_turned_off__fetched_recommendation_is_missing(server: RedisServer) -> None:
    on, off = start(server), start(server, AMPLITUDE_PROFILE_API="off")
    settled(on)
    query = "/v1/profile?user_id=u&include=cohorts,recommendations&rec_id=r"
    answers = [app.test_client().get(query, headers={"X-API-Key": SECRET}).get_json() for app in (on, off, off)]
    assert [answer["error"] for answer in answers] == [None, "not_available", "not_available"]


def test_differing_settings__running_service__names_the_settings(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    settled(start(server))

    def differing(**variables: str) -> list[str]:
        return differing_settings(Settings.from_env(BASE | variables), server.url)

    assert differing() == []
    assert differing(AMPLITUDE_API_KEY="key-of-a-test") == []
    assert differing(**OTHER, REDIS_KEY_SECRET=REDIS_SECRET) == ["AMPLITUDE_SECRET_KEY", "REDIS_KEY_SECRET"]
    assert differing(**OTHER, AMPLITUDE_PROJECT="shop") == []
    assert differing(**OTHER, AMPLITUDE_PROFILE_API="off") == [], "only warm --cohort needs the key"
    assert not caplog.records
    settled(start(server, **OTHER))
    until(lambda: [record.getMessage() for record in caplog.records], "nothing was logged")
    assert caplog.records[0].getMessage() == "redis_settings_differ"
    assert caplog.records[0].__dict__["settings"] == "AMPLITUDE_SECRET_KEY"


@pytest.mark.contract("3 probes")
def test_readyz__restart_in_an_outage__degraded_while_redis_may_have_copies(server: RedisServer) -> None:
    client = start(server, UpstreamUnavailable()).test_client()
    until(lambda: ask(client, "u")["error"] == "upstream_unavailable", "no call was sent")
    assert client.get("/readyz").status_code == 200
    ready = read(client, "/readyz")
    assert (ready["status"], ready["upstream"]) == ("degraded", "failing")
    findings = read(client, "/status.json")["findings"]
    assert findings[0]["what"] == "Some calls to Amplitude fail"
    assert not any("Nothing is cached" in finding["meaning"] for finding in findings)


@pytest.mark.contract("3 status")
def test_status__redis_full__finding_and_metric(server: RedisServer) -> None:
    client = start(server).test_client()
    until(lambda: ask(client, "first")["ok"], "no call was sent")
    with redis.Redis.from_url(server.url) as operator:
        operator.config_set("maxmemory", 1)
        try:
            assert ask(client, "second")["ok"]
            until(lambda: read(client, "/readyz")["redis"] == "full", "Redis does not count as full")
            findings = read(client, "/status.json")["findings"]
            assert [finding["what"] for finding in findings] == ["Redis is full"]
            assert "ccproxy_redis_full 1.0" in client.get("/metrics", headers=CALLER).text
        finally:
            operator.config_set("maxmemory", 0)
