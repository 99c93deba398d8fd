"""/healthz and /readyz."""

from __future__ import annotations

import json

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy import __version__
from proxy.app import create_app
from proxy.profile.errors import QuotaExhausted, UpstreamInvalid, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from proxy.settings import Settings
from proxy.web.services import installed
from tests.conftest import KEYS
from tests.support.fakes import FakeClock, FakeSource


def fetch(client: FlaskClient, caller: dict[str, str], user: str = "u") -> None:
    client.get(f"/v1/cohorts?user_id={user}", headers=caller)


def readyz(client: FlaskClient) -> tuple[int, dict[str, str]]:
    answer = client.get("/readyz")
    return answer.status_code, json.loads(answer.data)


@pytest.mark.contract("3 probes")
def test_healthz__running__200_ok(client: FlaskClient) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


@pytest.mark.contract("3 probes")
def test_healthz__credentials__version_only_for_right_ones(client: FlaskClient, caller: dict[str, str]) -> None:
    assert client.get("/healthz", headers=caller).json == {"status": "ok", "version": __version__}
    wrong = client.get("/healthz", headers={"X-API-Key": "a-wrong-secret-of-a-test"})
    assert (wrong.status_code, wrong.json) == (200, {"status": "ok"})
    assert 'callers_refused_total{why="credentials"} 1.0' in client.get("/metrics", headers=caller).text


@pytest.mark.contract("3 probes")
def test_readyz__before_the_first_call__upstream_unknown_and_no_call(client: FlaskClient, source: FakeSource) -> None:
    assert readyz(client) == (200, {"status": "ok", "upstream": "unknown", "quota": "ok"})
    assert not source.calls


@pytest.mark.contract("3 probes")
@pytest.mark.parametrize(
    ("fault", "upstream"),
    [(UpstreamRejected(), "rejected"), (UpstreamUnavailable(), "failing"), (UpstreamTimeout(), "failing")],
)
def test_readyz__outage__503_without_cached_users_and_degraded_with_them(
    client: FlaskClient, caller: dict[str, str], source: FakeSource, fault: Exception, upstream: str, clock: FakeClock
) -> None:
    source.fault = fault
    fetch(client, caller)
    assert readyz(client) == (503, {"status": "unavailable", "upstream": upstream, "quota": "ok"})

    source.fault = None
    clock.advance(1)
    fetch(client, caller)
    assert readyz(client)[1]["status"] == "ok"
    source.fault = fault
    fetch(client, caller, "another")
    assert readyz(client) == (200, {"status": "degraded", "upstream": upstream, "quota": "ok"})
    clock.advance(61)
    assert readyz(client)[1]["upstream"] == "unknown", "without calls, the last outcome counts for a minute"


@pytest.mark.contract("3 probes")
def test_readyz__draining__503_while_other_routes_answer(
    app: Flask, client: FlaskClient, caller: dict[str, str]
) -> None:
    fetch(client, caller)
    installed(app).draining.set()
    assert readyz(client) == (503, {"status": "draining", "upstream": "ok", "quota": "ok"})
    assert client.get("/healthz").status_code == 200
    assert json.loads(client.get("/v1/cohorts?user_id=another", headers=caller).data)["ok"]


def test_readyz__invalid_answer__200_degraded(client: FlaskClient, caller: dict[str, str], source: FakeSource) -> None:
    source.fault = UpstreamInvalid()
    fetch(client, caller)
    assert readyz(client) == (200, {"status": "degraded", "upstream": "invalid", "quota": "ok"})


def test_readyz__small_quota_used_at_its_pace__quota_ok(
    source: FakeSource, caller: dict[str, str], clock: FakeClock
) -> None:
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "AMPLITUDE_REQUESTS_PER_MINUTE": "10"}
    app = create_app(Settings.from_env(env), fetch=source.fetch, clock=clock)
    fetch(app.test_client(), caller)
    assert readyz(app.test_client())[1]["quota"] == "ok"


def test_readyz__quota_spent__200_degraded(client: FlaskClient, caller: dict[str, str], source: FakeSource) -> None:
    source.fault = QuotaExhausted(retry_after=60)
    fetch(client, caller)
    assert readyz(client) == (200, {"status": "degraded", "upstream": "ok", "quota": "spent"})


def test_readyz__redis_unreachable__200_degraded_and_data_routes_answer(caller: dict[str, str]) -> None:
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "REDIS_URL": "redis://127.0.0.1:1"}
    client = create_app(Settings.from_env(env)).test_client()
    answer = client.get("/v1/cohorts?user_id=u", headers=caller)
    assert (answer.status_code, json.loads(answer.data)["error"]) == (200, "quota_exhausted")
    assert readyz(client) == (200, {"status": "degraded", "upstream": "unknown", "quota": "spent", "redis": "gone"})
    client.application.extensions["connected-content-proxy"].redis.stop()


def test_readyz__quota_refuses_requests__spent_until_a_call_is_possible(
    source: FakeSource, caller: dict[str, str], clock: FakeClock
) -> None:
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "AMPLITUDE_REQUESTS_PER_MINUTE": "10"}
    client = create_app(Settings.from_env(env), fetch=source.fetch, clock=clock).test_client()
    for number in range(2):
        client.get(f"/v1/cohorts?user_id=u{number}&on_error=retry", headers=caller)
    assert readyz(client)[1]["quota"] == "spent"
    clock.advance(7)
    assert readyz(client)[1]["quota"] == "ok"


def test_status_findings__no_requests_after_a_fault__kept_until_a_call_succeeds(
    client: FlaskClient, caller: dict[str, str], source: FakeSource, clock: FakeClock
) -> None:
    def problems() -> list[str]:
        return [finding["what"] for finding in client.get("/status.json", headers=caller).get_json()["findings"]]

    source.fault = UpstreamRejected()
    client.get("/v1/cohorts?user_id=a", headers=caller)
    clock.advance(3600)
    assert problems() == ["Amplitude rejects this service's credentials"]
    source.fault = None
    client.get("/v1/cohorts?user_id=b", headers=caller)
    clock.advance(120)
    assert problems() == ["All is well"]
