"""The code and the parameter of problems, in answers and in log lines."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.profile.errors import UpstreamTimeout
from proxy.settings import Settings
from proxy.storage.redis import RedisUnavailable
from proxy.storage.weighted_semaphore import Busy
from proxy.web.services import installed
from tests.conftest import KEYS, SECRET
from tests.support.fakes import FakeClock, FakeSource

Lines = Callable[[str], list[dict[str, Any]]]

FORM = "application/x-www-form-urlencoded"
COHORTS = "/v1/webhooks/amplitude/cohorts"
USERS = "/v1/webhooks/amplitude/users"
RENDER = "/playground/render"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Return a function that returns the fields of the log lines with an event."""
    monkeypatch.setattr(logging.getLogger("proxy"), "propagate", True)  # tests that configure logging turn this off
    caplog.set_level(logging.DEBUG, "proxy")
    return lambda event: [vars(record) for record in caplog.records if record.msg == event]


@pytest.mark.contract("1 problem codes")
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "parameter"),
    [
        ("GET", "/v1/cohorts", {}, 400, "missing_parameter", None),
        ("GET", "/v1/recommendations?user_id=ava", {}, 400, "missing_parameter", "rec_id"),
        ("GET", "/v1/propensities?user_id=ava", {}, 400, "missing_parameter", "prediction_id"),
        ("GET", "/v1/profile?user_id=ava", {}, 400, "missing_parameter", "include"),
        ("GET", "/v1/userprofile?user_id=ava&get_recs=true", {}, 400, "missing_parameter", "rec_id"),
        ("GET", "/v1/userprofile?user_id=ava&get_propensity=true", {}, 400, "missing_parameter", "prediction_id"),
        ("DELETE", "/v1/profile", {}, 400, "missing_parameter", None),
        ("DELETE", "/v1/profile?user_id=", {}, 400, "missing_parameter", None),
        ("GET", "/v1/profile?user_id=ava&include=nonsense", {}, 400, "invalid_parameter", "include"),
        ("GET", "/v1/cohorts?user_id=a%00b", {}, 400, "invalid_parameter", "user_id"),
        ("GET", "/v1/cohorts?user_id=a&on_error=maybe", {}, 400, "invalid_parameter", "on_error"),
        ("GET", f"/v1/cohorts?user_id=a&cohort_id={'x' * 513}", {}, 400, "invalid_parameter", "cohort_id"),
        ("GET", "/v1/userprofile?user_id=a&get_recs=maybe", {}, 400, "invalid_parameter", "get_recs"),
        ("GET", "/v1/cohorts?user_id=%FF", {}, 400, "invalid_parameter", None),
        ("POST", "/v1/cohorts", {"json": {"user_id": ["a"]}}, 400, "invalid_parameter", "user_id"),
        ("POST", "/v1/cohorts", {"json": {"user_id": "a", "cohort_id": [[]]}}, 400, "invalid_parameter", "cohort_id"),
        ("GET", "/v1/cohorts?user_id=a&user_id=a", {}, 400, "repeated_parameter", "user_id"),
        ("POST", "/v1/cohorts?user_id=a", {"data": {"user_id": "a"}}, 400, "repeated_parameter", "user_id"),
        ("POST", "/v1/cohorts", {"data": '{"user_id": 1, "user_id": 1}'}, 400, "repeated_parameter", "user_id"),
        ("POST", "/v1/cohorts", {"data": '{"user_id": 1, "x@y": 1, "x@y": 2}'}, 400, "repeated_parameter", None),
        ("POST", "/v1/cohorts", {"data": "{"}, 400, "invalid_body", None),
        ("POST", "/v1/cohorts", {"data": '{"user_id": NaN}'}, 400, "invalid_body", None),
        ("POST", "/v1/cohorts", {"json": []}, 400, "invalid_body", None),
        ("POST", "/v1/cohorts", {"data": "x" * 17_000}, 413, "body_too_large", None),
        ("POST", "/v1/cohorts", {"data": "x", "content_type": "text/plain"}, 415, "unsupported_media_type", None),
        ("PUT", "/v1/cohorts?user_id=a", {}, 405, "method_not_allowed", None),
        ("GET", "/v1/nonsense", {}, 404, "not_found", None),
        ("GET", "/static/nonsense", {}, 404, "not_found", None),
        ("POST", COHORTS, {"data": "{"}, 400, "invalid_body", None),
        ("POST", COHORTS, {"json": []}, 400, "invalid_body", None),
        ("POST", COHORTS, {"json": {}}, 400, "invalid_body", "cohort_id"),
        ("POST", COHORTS, {"json": {"cohort_id": "c"}}, 400, "invalid_body", "in_cohort"),
        ("POST", COHORTS, {"json": {"cohort_id": "c", "in_cohort": True}}, 400, "invalid_body", "computed_time"),
        (
            "POST",
            COHORTS,
            {"json": {"cohort_id": "c", "in_cohort": True, "computed_time": 1692206763}},
            400,
            "invalid_body",
            "users",
        ),
        ("POST", USERS, {"json": "text"}, 400, "invalid_body", None),
        ("POST", USERS, {"json": [{}] * 50_001}, 413, "body_too_large", None),
        ("POST", USERS, {"data": "x" * (8 * 1024 * 1024 + 1)}, 413, "body_too_large", None),
        ("POST", USERS, {"data": {"user_id": "a"}, "content_type": FORM}, 415, "unsupported_media_type", None),
        ("POST", RENDER, {"data": "{"}, 400, "invalid_body", None),
        ("POST", RENDER, {"json": {}}, 400, "missing_parameter", "template"),
        ("POST", RENDER, {"json": {"template": "", "user_id": 1}}, 400, "invalid_parameter", "user_id"),
        ("POST", RENDER, {"json": {"template": "", "device_id": 1}}, 400, "invalid_parameter", "device_id"),
        ("POST", RENDER, {"json": {"template": "x" * 524_288}}, 413, "body_too_large", None),
        ("POST", RENDER, {"data": {"template": ""}, "content_type": FORM}, 415, "unsupported_media_type", None),
    ],
)
def test_problem__each_invalid_request__code_and_parameter_in_answer_and_log(
    client: FlaskClient,
    caller: dict[str, str],
    lines: Lines,
    method: str,
    path: str,
    body: dict[str, Any],
    status: int,
    code: str,
    parameter: str | None,
) -> None:
    if isinstance(body.get("data"), str):
        body = {"content_type": "application/json", **body}
    answer = client.open(path, method=method, headers=caller, **body)
    problem = answer.get_json(force=True)
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert (problem["status"], problem["code"], problem.get("parameter")) == (status, code, parameter)
    (line,) = lines("request")
    assert (line["status"], line["code"], line.get("parameter")) == (status, code, parameter)


class Broken(io.RawIOBase):
    """A body whose connection breaks."""

    def readable(self) -> bool:
        return True

    def readinto(self, _: Any) -> int:
        raise ConnectionResetError


@pytest.mark.parametrize("path", ["/v1/cohorts", COHORTS, RENDER])
@pytest.mark.parametrize("stream", [io.BytesIO(b"{"), Broken()], ids=["short", "broken"])
def test_problem__incomplete_body__invalid_body(
    client: FlaskClient, caller: dict[str, str], path: str, stream: io.IOBase
) -> None:
    answer = client.post(
        path,
        headers=caller,
        content_type="application/json",
        environ_overrides={"wsgi.input": stream, "CONTENT_LENGTH": "100"},
    )
    problem = answer.get_json(force=True)
    assert (answer.status_code, problem["code"]) == (400, "invalid_body")
    assert problem["detail"] == "the body could not be read; correct its Content-Length or Transfer-Encoding"


@pytest.mark.contract("1 problem codes")
@pytest.mark.parametrize(
    ("path", "headers", "address", "status", "code", "why"),
    [
        ("/v1/cohorts", {}, "192.0.2.9", 401, "unauthorized", "credentials"),
        ("/metrics", {"X-API-Key": "wrong"}, "192.0.2.9", 401, "unauthorized", "credentials"),
        ("/v1/cohorts", {}, "198.51.100.1", 403, "forbidden_network", "address"),
        ("/v1/cohorts", {"Sec-Fetch-Site": "same-site"}, "192.0.2.9", 403, "cross_site", "cross_site"),
        (COHORTS, {"Sec-Fetch-Site": "cross-site"}, "192.0.2.9", 403, "cross_site", "cross_site"),
        (RENDER, {"Origin": "https://elsewhere.example"}, "192.0.2.9", 403, "cross_site", "cross_site"),
    ],
)
def test_problem__refused_caller__code_in_answer_and_in_one_line_a_minute(
    source: FakeSource,
    clock: FakeClock,
    lines: Lines,
    path: str,
    headers: dict[str, str],
    address: str,
    status: int,
    code: str,
    why: str,
) -> None:
    settings = Settings.from_env(
        {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "ALLOWED_NETWORKS": "192.0.2.0/24"}
    )
    client = create_app(settings, fetch=source.fetch, clock=clock).test_client()
    if code == "cross_site":
        headers = {"X-API-Key": SECRET, **headers}
    method = "POST" if path in (COHORTS, RENDER) else "GET"

    def ask() -> None:
        answer = client.open(path, method=method, headers=headers, environ_base={"REMOTE_ADDR": address})
        assert (answer.status_code, answer.get_json(force=True)["code"]) == (status, code)

    for _ in range(3):
        ask()
    clock.advance(61)
    ask()
    assert not lines("request")
    logged = [(line["code"], line["why"], line["address"], line["times"]) for line in lines("caller_refused")]
    assert logged == [(code, why, address, 1), (code, why, address, 3)]


@pytest.mark.contract("1 problem codes")
def test_problem__no_answer_for_retry__no_answer(
    client: FlaskClient, caller: dict[str, str], source: FakeSource, lines: Lines
) -> None:
    source.fault = UpstreamTimeout()
    answer = client.get("/v1/cohorts?user_id=ava&on_error=retry", headers=caller)
    assert (answer.status_code, answer.get_json(force=True)["code"]) == (500, "no_answer")
    assert [line["code"] for line in lines("request")] == ["no_answer"]


@pytest.mark.parametrize(("error", "code"), [(RedisUnavailable(), "internal"), (Busy(), "busy")])
def test_problem__webhook_not_stored__internal_or_busy(
    app: Flask, caller: dict[str, str], monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(installed(app).ingester, "push", fail)
    answer = app.test_client().post(USERS, headers=caller, json={"user_id": "ava"})
    assert (answer.status_code, answer.get_json(force=True)["code"]) == (500, code)


def test_problem__user_not_forgotten_in_redis__internal(
    app: Flask, caller: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RedisUnavailable

    monkeypatch.setattr(installed(app).forget_service, "forget", fail)
    answer = app.test_client().delete("/v1/profile?user_id=ava", headers=caller)
    assert (answer.status_code, answer.get_json(force=True)["code"]) == (500, "internal")


@pytest.mark.contract("1 problem codes")
def test_problem__unexpected_exception__internal(
    app: Flask, caller: dict[str, str], monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(type(installed(app).profiles), "get", fail)
    answer = app.test_client().get("/v1/cohorts?user_id=ava", headers=caller)
    assert (answer.status_code, answer.get_json(force=True)["code"]) == (500, "internal")
    assert [line["code"] for line in lines("request")] == ["internal"]
