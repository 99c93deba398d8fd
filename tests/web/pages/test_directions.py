"""/status.json about the three directions, with the emulated Braze and a Batch API over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.monitoring.sync_runs import SyncRun
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from proxy.settings import Settings
from proxy.web.services import installed
from tests.conftest import KEYS, SECRET
from tests.support.batch_upstream import API_KEY, BatchUpstream, Reply, braze_event
from tests.support.fakes import FakeClock, FakeSource
from tests.support.redis_server import RedisServer

HEADERS = {"X-API-Key": SECRET}
EVENT = {"user_id": "ava", "event_type": "Order", "uuid": "1"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(float(round(time.time())))


@pytest.fixture
def upstream() -> Iterator[BatchUpstream]:
    with BatchUpstream(lambda _: Reply()) as upstream:
        yield upstream


@pytest.fixture
def app(braze_sandbox: Sandbox, upstream: BatchUpstream, source: FakeSource, clock: FakeClock) -> Flask:
    return new_app(braze_sandbox, upstream, source, clock)


def new_app(
    braze_sandbox: Sandbox, upstream: BatchUpstream, source: FakeSource, clock: FakeClock, **variables: str
) -> Flask:
    settings = {
        "AMPLITUDE_SECRET_KEY": "k",
        "AMPLITUDE_API_KEY": API_KEY,
        "AMPLITUDE_INGEST_URL": upstream.url,
        "PROXY_API_KEYS": KEYS,
        "BRAZE_REST_ENDPOINT": braze_sandbox.url,
        "BRAZE_API_KEY": braze_sandbox.braze.key,
        "BRAZE_BATCH_OBJECTS": "1",  # a full request does not wait for others, which needs a clock that runs
        "FORWARD_EVENTS": "*",
        **variables,
    }
    return create_app(Settings.from_env(settings), fetch=source.fetch, clock=clock)


def status(client: FlaskClient) -> dict[str, Any]:
    answer = client.get("/status.json", headers=HEADERS)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.get_json()
    return body


def push(client: FlaskClient, uuid: str) -> int:
    return client.post("/v1/webhooks/amplitude/users", json={**EVENT, "uuid": uuid}, headers=HEADERS).status_code


def relay(client: FlaskClient, id: str) -> int:
    body = {"events": [braze_event(id)]}
    return client.post("/v1/webhooks/braze/currents", json=body, headers=HEADERS).status_code


@pytest.mark.contract("3 status")
def test_status__directions_switched_off__null(source: FakeSource) -> None:
    settings = Settings.from_env({"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS})
    client = create_app(settings, fetch=source.fetch).test_client()
    assert status(client)["directions"] == {"event_stream": None, "currents": None, "sync": None}


@pytest.mark.contract("3 status")
def test_status__nothing_sent_yet__cards_without_times(client: FlaskClient) -> None:
    assert status(client)["directions"] == {
        "event_stream": {
            "accepted_at": None, "failed_at": None, "failure": None, "refused": False, "paused_until": None,
            "waiting": 0, "outcomes": {},
        },
        "currents": {"accepted_at": None, "failed_at": None, "failure": None, "rejected": False, "outcomes": {}},
        "sync": None,
    }  # fmt: skip


@pytest.mark.contract("3 status")
def test_status__event_stream__times_reasons_and_outcomes(
    client: FlaskClient, braze_sandbox: Sandbox, clock: FakeClock
) -> None:
    status(client)
    accepted_at = round(clock())
    assert push(client, "1") == 200
    clock.advance(100)
    braze_sandbox.braze.faults.set(Fault("no-permission", times=1))
    assert push(client, "2") == 503
    body = status(client)
    stream = body["directions"]["event_stream"]
    assert (stream["accepted_at"], stream["failed_at"], stream["refused"]) == (accepted_at, round(clock()), True)
    assert "users.track" in stream["failure"]
    assert stream["outcomes"] == {"accepted": 1, "refused": 1}
    assert "Braze refuses the API key" in body["findings"][0]["what"]

    clock.advance(100)
    braze_sandbox.braze.faults.set(Fault("429-retry-after", seconds=30, times=1))
    assert push(client, "2") == 503
    body = status(client)
    assert abs(body["directions"]["event_stream"]["paused_until"] - clock() - 30) <= 1
    assert "Braze's rate limit is reached" in [finding["what"] for finding in body["findings"]]

    clock.advance(100)
    assert push(client, "2") == 200
    body = status(client)
    assert (body["directions"]["event_stream"]["paused_until"], body["findings"][0]["level"]) == (None, "good")


@pytest.mark.contract("3 status")
def test_status__currents__times_reasons_and_outcomes(
    client: FlaskClient, upstream: BatchUpstream, clock: FakeClock
) -> None:
    status(client)
    accepted_at = round(clock())
    assert relay(client, "1") == 200
    clock.advance(100)
    upstream.reply = lambda _: Reply(400, {"code": 400, "error": f"Invalid API key: {API_KEY}"})
    assert relay(client, "2") == 503
    currents = status(client)["directions"]["currents"]
    assert (currents["accepted_at"], currents["failed_at"], currents["rejected"]) == (accepted_at, round(clock()), True)
    assert currents["failure"]
    assert API_KEY not in currents["failure"]
    assert currents["outcomes"] == {"accepted": 1, "not_delivered": 1}


@pytest.mark.contract("3 status")
def test_status__sync_with_redis__last_run_totals_and_findings(
    braze_sandbox: Sandbox, upstream: BatchUpstream, source: FakeSource
) -> None:
    clock = FakeClock(float(round(time.time())))
    with RedisServer() as redis:
        app = new_app(braze_sandbox, upstream, source, clock, REDIS_URL=redis.url)
        client, runs, server = app.test_client(), installed(app).sync_runs, installed(app).redis
        assert runs is not None
        assert server is not None
        assert status(client)["directions"]["sync"] == {"last": None, "runs": {}}
        runs.record_run(SyncRun(clock() - 60, "complete", users_sent=3, users_unchanged=7, values=4, requests=1))
        body = status(client)
        assert body["directions"]["sync"]["last"]["users_unchanged"] == 7
        assert "sync" not in body["findings"][0]["what"]
        clock.advance(27 * 3600)
        whats = [finding["what"] for finding in status(client)["findings"]]
        assert "The last run of sync was 27 hours ago" in whats
        runs.record_run(SyncRun(clock(), "failed", error="Braze returned status 401"))
        body = status(client)
        assert body["directions"]["sync"]["runs"] == {"complete": 1, "failed": 1}
        assert body["directions"]["sync"]["last"]["error"] == "Braze returned status 401"
        assert "The last run of sync failed" in [finding["what"] for finding in body["findings"]]
        server.stop()
