"""/healthz and /readyz."""

from __future__ import annotations

import json

import pytest
from flask import Flask
from flask.testing import FlaskClient

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
def test_healthz_says_ok(client: FlaskClient) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


@pytest.mark.contract("3 probes")
def test_readyz_spends_no_call_and_knows_nothing_before_the_first(client: FlaskClient, source: FakeSource) -> None:
    assert readyz(client) == (200, {"status": "ok", "upstream": "unknown", "quota": "ok"})
    assert not source.calls


@pytest.mark.contract("3 probes")
@pytest.mark.parametrize(
    ("fault", "upstream"),
    [(UpstreamRejected(), "rejected"), (UpstreamUnavailable(), "failing"), (UpstreamTimeout(), "failing")],
)
def test_an_outage_takes_us_out_of_rotation_only_while_nothing_can_be_answered(
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
    assert readyz(client)[1]["upstream"] == "unknown", "without calls nobody can tell for ever"


@pytest.mark.contract("3 probes")
def test_while_draining_readyz_takes_us_out_of_rotation_and_everything_else_is_answered(
    app: Flask, client: FlaskClient, caller: dict[str, str]
) -> None:
    fetch(client, caller)
    installed(app).draining.set()
    assert readyz(client) == (503, {"status": "draining", "upstream": "ok", "quota": "ok"})
    assert client.get("/healthz").status_code == 200
    assert json.loads(client.get("/v1/cohorts?user_id=another", headers=caller).data)["ok"]


def test_an_invalid_answer_is_no_reason_to_leave_the_rotation(
    client: FlaskClient, caller: dict[str, str], source: FakeSource
) -> None:
    source.fault = UpstreamInvalid()
    fetch(client, caller)
    assert readyz(client) == (200, {"status": "degraded", "upstream": "invalid", "quota": "ok"})


def test_a_small_quota_at_its_pace_is_not_spent(source: FakeSource, caller: dict[str, str], clock: FakeClock) -> None:
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "AMPLITUDE_REQUESTS_PER_MINUTE": "10"}
    app = create_app(Settings.from_env(env), fetch=source.fetch, clock=clock)
    fetch(app.test_client(), caller)
    assert readyz(app.test_client())[1]["quota"] == "ok"


def test_a_spent_quota_is_degraded(client: FlaskClient, caller: dict[str, str], source: FakeSource) -> None:
    source.fault = QuotaExhausted(retry_after=60)
    fetch(client, caller)
    assert readyz(client) == (200, {"status": "degraded", "upstream": "ok", "quota": "spent"})


def test_a_redis_that_is_gone_is_degraded_and_callers_are_answered_all_the_same(caller: dict[str, str]) -> None:
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "REDIS_URL": "redis://127.0.0.1:1"}
    client = create_app(Settings.from_env(env)).test_client()
    answer = client.get("/v1/cohorts?user_id=u", headers=caller)
    assert (answer.status_code, json.loads(answer.data)["error"]) == (200, "quota_exhausted")
    assert readyz(client) == (200, {"status": "degraded", "upstream": "unknown", "quota": "spent", "redis": "gone"})
    client.application.extensions["connected-content-proxy"].redis.stop()


def test_a_quota_that_sends_callers_away_is_spent_until_it_no_longer_does(
    source: FakeSource, caller: dict[str, str], clock: FakeClock
) -> None:
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "AMPLITUDE_REQUESTS_PER_MINUTE": "10"}
    client = create_app(Settings.from_env(env), fetch=source.fetch, clock=clock).test_client()
    for number in range(2):
        client.get(f"/v1/cohorts?user_id=u{number}&on_error=retry", headers=caller)
    assert readyz(client)[1]["quota"] == "spent"
    clock.advance(7)
    assert readyz(client)[1]["quota"] == "ok"


def test_what_was_wrong_last_is_wrong_until_a_call_succeeds_though_nobody_asks(
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
