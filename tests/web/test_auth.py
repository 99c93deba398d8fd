"""Authentication: accepted credentials, refusals and protected routes."""

from __future__ import annotations

import base64
import logging
import re

import pytest
from flask.testing import FlaskClient

from proxy.api.caller_keys import SCOPES, Scope
from proxy.api.openapi.document import document
from proxy.app import create_app
from proxy.profile.parts import SECTIONS
from proxy.settings import Settings
from proxy.web import auth
from proxy.web.services import installed
from tests.support.fakes import FakeClock, FakeSource
from tests.support.openapi import scope_of

OLD, NEW, OTHER = "the-old-secret-16", "the-new-secret-16==", "visitor-else/s+x"
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
        {"Authorization": basic("stranger", OLD)},
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
            wrong = {"X-API-Key": "wrong-secret-of-visitor"}
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


def keyed(*scopes: str) -> dict[str, str]:
    """Return the settings with a key for each scope. Its secret is its name, repeated."""
    return {
        "AMPLITUDE_SECRET_KEY": "k",
        "PROXY_API_KEYS": ",".join(f"key-{scope}:{secret_of(scope)}:{scope}" for scope in scopes),
    }


def secret_of(scope: str) -> str:
    return (f"{scope}-" * 16)[:32]


NEEDED: dict[tuple[str, str], Scope | None] = {
    **{
        (f"/v1/{section}", method): "read"
        for section in (*SECTIONS, "profile", "userprofile")
        for method in ("GET", "HEAD", "POST")
    },
    ("/v1/profile", "DELETE"): "admin",
    ("/v1/webhooks/amplitude/cohorts", "POST"): "push",
    ("/v1/webhooks/amplitude/users", "POST"): "push",
    ("/v1/webhooks/braze/currents", "POST"): "push",
    ("/v1/snapshots", "GET"): "push",
    ("/v1/snapshots", "HEAD"): "push",
    ("/v1/snapshots/<cohort_id>", "PUT"): "push",
    ("/v1/snapshots/<cohort_id>", "DELETE"): "admin",
    **{
        (path, method): "read"
        for path in ("/playground", "/playground/frame", "/status", "/status.json", "/metrics")
        for method in ("GET", "HEAD")
    },
    ("/playground/render", "POST"): "read",
    **{
        (path, method): None
        for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/static/<name>")
        for method in ("GET", "HEAD")
    },
}
"""The scope that each route needs; None for a public route."""


@pytest.mark.contract("2 scopes")
def test_scopes__every_route_and_method__only_the_scopes_of_the_contract_pass(source: FakeSource) -> None:
    client = create_app(Settings.from_env(keyed(*SCOPES)), fetch=source.fetch).test_client()
    routes = {(rule.rule, method) for rule in client.application.url_map.iter_rules() for method in rule.methods or ()}
    assert routes == NEEDED.keys()
    for (path, method), needed in NEEDED.items():
        operation = document()["paths"].get(re.sub("<(.+)>", r"{\1}", path), {}).get(method.lower())
        assert operation is None or scope_of(operation) == needed, (path, method)
        for scope in (None, *SCOPES):
            headers = {"X-API-Key": secret_of(scope)} if scope else {}
            answer = client.open(re.sub("<.+>", "site.css", path), method=method, headers=headers)
            if needed is None or scope in (needed, "admin"):
                assert answer.status_code not in (401, 403, 500), (path, method, scope)
            elif scope is None:
                assert answer.status_code == 401, (path, method)
            else:
                assert answer.status_code == 403, (path, method, scope)
                if method != "HEAD":
                    problem = answer.get_json()
                    assert problem["code"] == "scope"
                    assert f"new-key NAME --scope {needed}" in problem["detail"]
    assert not source.calls


@pytest.mark.contract("2 scopes")
def test_scopes__refused_pushes__logged_once_a_minute_with_caller_scope_and_route_and_counted(
    source: FakeSource, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = keyed("admin") | {"BRAZE_SECRET": OLD}
    client = create_app(Settings.from_env(env), fetch=source.fetch, clock=clock).test_client()
    monkeypatch.setattr(logging.getLogger("proxy"), "propagate", True)  # tests that configure logging turn this off
    caplog.set_level(logging.INFO, "proxy")
    for number in range(4):
        push = client.post(
            "/v1/webhooks/amplitude/users",
            json={"user_id": "u"},
            headers={"X-API-Key": OLD},
            environ_base={"REMOTE_ADDR": f"192.0.2.{number}"},
        )
        assert push.status_code == 403
    client.delete("/v1/profile?user_id=u", headers={"X-API-Key": OLD})
    clock.advance(61)
    installed(client.application).refusals.tick()
    fields = ("why", "caller", "scope", "method", "route", "times")
    logged = [tuple(vars(record)[name] for name in fields) for record in caplog.records if record.name == auth.__name__]
    push_line = ("scope", "braze", "read", "POST", "/v1/webhooks/amplitude/users")
    assert logged == [(*push_line, 1), ("scope", "braze", "read", "DELETE", "/v1/profile", 1), (*push_line, 3)]
    assert OLD not in caplog.text
    admin = {"X-API-Key": secret_of("admin")}
    assert 'ccproxy_callers_refused_total{why="scope"} 5.0' in client.get("/metrics", headers=admin).text


@pytest.mark.contract("2 scopes")
def test_playground__read_key__renders_with_data(source: FakeSource) -> None:
    source.user_data = {"user_id": "u", "cohort_ids": ["c31"]}
    client = create_app(Settings.from_env(keyed("read")), fetch=source.fetch).test_client()
    template = "{% connected_content https://h.example/v1/cohorts?user_id=u :save c %}{{ c.cohort_ids | join: ',' }}"
    answer = client.post("/playground/render", json={"template": template}, headers={"X-API-Key": secret_of("read")})
    assert answer.get_json()["message"] == "c31"


@pytest.mark.contract("2 scopes")
def test_status__callers__names_and_scopes_without_secrets(source: FakeSource) -> None:
    env = keyed("read", "push") | {"ADMIN_SECRET": OLD, "BRAZE_SECRET": NEW}
    client = create_app(Settings.from_env(env), fetch=source.fetch).test_client()
    answer = client.get("/status.json", headers={"X-API-Key": secret_of("read")})
    assert [(caller["name"], caller["scope"]) for caller in answer.get_json()["callers"]] == [
        ("key-read", "read"),
        ("key-push", "push"),
        ("braze", "read"),
        ("admin", "admin"),
    ]
    assert not any(secret in answer.text for secret in (OLD, NEW, secret_of("push")))


@pytest.mark.contract("1 routes")
def test_routes__no_credentials__401_for_data_playground_metrics_and_status(client: FlaskClient) -> None:
    for rule in client.application.url_map.iter_rules():
        expected = 401 if rule.rule.startswith(("/v1/", "/playground", "/metrics", "/status")) else 200
        path = re.sub("<.+>", "site.css", rule.rule)
        for method in rule.methods or ():
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
