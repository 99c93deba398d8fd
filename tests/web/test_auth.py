"""Authentication: accepted credentials, refusals and protected routes."""

from __future__ import annotations

import base64
import logging

import pytest
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.settings import Settings
from tests.support.fakes import FakeClock, FakeSource

OLD, NEW, OTHER = "the-old-secret-16", "the-new-secret-16==", "somebody-else/s+x"
PATH = "/v1/cohorts?user_id=u"


@pytest.fixture
def client(source: FakeSource) -> FlaskClient:
    keys = f"braze:{OLD},braze:{NEW},ops:{OTHER}"
    settings = Settings.from_env({"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": keys})
    return create_app(settings, fetch=source.fetch).test_client()


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


@pytest.mark.contract("2 authentication")
@pytest.mark.parametrize("secret", [OLD, NEW, OTHER])
def test_credentials__each_of_four_schemes__accepted(client: FlaskClient, secret: str) -> None:
    name = "ops" if secret == OTHER else "braze"
    for headers in (
        {"Authorization": basic(name, secret)},
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": f"Api-Key {secret}"},
        {"X-API-Key": secret},
        {"Authorization": f"bearer {secret}"},
        {"Authorization": basic(name, secret).replace("Basic", "BASIC")},
    ):
        assert client.get(PATH, headers=headers).status_code == 200, headers


@pytest.mark.contract("1 status 401")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong-wrong-wrong"},
        {"Authorization": basic("ops", OLD)},
        {"Authorization": basic("", OLD)},
        {"Authorization": basic("nobody", OLD)},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Digest {OLD}"},
        {"Authorization": OLD},
        {"Authorization": 'Bearer realm="x"'},
        {"Authorization": "Bearer caf\u00e9-caf\u00e9-caf\u00e9-x"},
        {"Authorization": "Bearer wrong", "X-API-Key": OLD},
    ],
)
def test_credentials__missing_or_wrong__401_on_every_request(
    client: FlaskClient, source: FakeSource, headers: dict[str, str]
) -> None:
    for _ in range(3):
        answer = client.get(PATH, headers=headers)
        assert answer.status_code == 401
        assert answer.content_type == "application/problem+json"
        assert answer.headers["WWW-Authenticate"].startswith('Basic realm="')
    assert not source.calls


@pytest.mark.contract("1 status 401")
def test_refusals__several_addresses__logged_once_a_minute_with_a_count(
    settings: Settings,
    source: FakeSource,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = create_app(settings, fetch=source.fetch, clock=clock).test_client()
    monkeypatch.setattr(logging.getLogger("proxy"), "propagate", True)  # tests that configure logging turn this off
    caplog.set_level(logging.INFO, "proxy")

    def send_wrong_secret(address: str, times: int) -> None:
        for _ in range(times):
            wrong = {"X-API-Key": "wrong-secret-of-somebody"}
            assert client.get(PATH, headers=wrong, environ_base={"REMOTE_ADDR": address}).status_code == 401

    send_wrong_secret("192.0.2.1", 5)
    send_wrong_secret("192.0.2.2", 1)
    clock.advance(61)
    send_wrong_secret("192.0.2.1", 2)
    logged = [(record.address, record.times) for record in caplog.records if record.msg == "caller_refused"]  # type: ignore[attr-defined]
    assert logged == [("192.0.2.1", 1), ("192.0.2.2", 1), ("192.0.2.1", 5)]
    assert len(caplog.records) == len(logged)
    assert "wrong-secret" not in caplog.text


@pytest.mark.contract("2 authentication")
def test_authorization__valid_with_wrong_x_api_key__accepted(client: FlaskClient) -> None:
    assert client.get(PATH, headers={"Authorization": f"Bearer {OLD}", "X-API-Key": "wrong"}).status_code == 200


@pytest.mark.contract("1 routes")
def test_routes__no_credentials__401_for_data_playground_metrics_and_status(client: FlaskClient) -> None:
    for rule in client.application.url_map.iter_rules():
        expected = 401 if rule.rule.startswith(("/v1/", "/playground", "/metrics", "/status")) else 200
        method = "GET" if "GET" in (rule.methods or ()) else "POST"
        path = rule.rule.replace("<name>", "site.css")
        assert client.open(path, method=method).status_code == expected, rule.rule


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("", 403), ("same-origin", 200), ("none", 200)]
)
def test_data_route__browser_request_from_another_site__403_without_a_call(
    client: FlaskClient, source: FakeSource, site: str, status: int
) -> None:
    headers = {"X-API-Key": OLD, "Sec-Fetch-Site": site}
    assert client.get(PATH, headers=headers).status_code == status
    assert len(source.calls) == (status == 200)
    assert client.delete("/v1/profile?user_id=u", headers=headers).status_code == status


def test_webhook_route__browser_request_from_another_site__403(client: FlaskClient) -> None:
    headers = {"X-API-Key": OLD, "Sec-Fetch-Site": "same-site"}
    answer = client.post("/v1/webhooks/amplitude/cohorts", json={}, headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.get_json()["detail"]
