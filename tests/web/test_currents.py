"""`POST /v1/webhooks/braze/currents`: the answers to Braze, for all kinds of requests and of answers from Amplitude."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy.api.openapi.document import document
from proxy.app import create_app
from proxy.settings import Settings
from proxy.web.services import installed
from tests.support.batch_upstream import API_KEY, BatchUpstream, Events, Reply, braze_event
from tests.support.fakes import FakeClock, FakeSource
from tests.support.service import SECRET

ROUTE = "/v1/webhooks/braze/currents"
LIMIT = 8 * 1024 * 1024
PUSH_SECRET = "a-secret-of-the-connector"
RESULT = {"accepted": 0, "skipped": 0, "skipped_by_reason": {}, "repeated": 0}
ENVIRONMENT = {
    "AMPLITUDE_SECRET_KEY": "k",
    "AMPLITUDE_API_KEY": API_KEY,
    "PROXY_API_KEYS": f"admin:{SECRET},currents:{PUSH_SECRET}:push",
    "ALLOWED_NETWORKS": "192.0.2.0/24",
}


@pytest.fixture
def upstream() -> Iterator[BatchUpstream]:
    with BatchUpstream() as upstream:
        yield upstream


@pytest.fixture
def settings(upstream: BatchUpstream) -> Settings:
    return Settings.from_env(ENVIRONMENT | {"AMPLITUDE_INGEST_URL": upstream.url})


def post(client: FlaskClient, body: Any, secret: str = PUSH_SECRET, **headers: str) -> TestResponse:
    """Send a body as Braze does."""
    sent = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return client.post(
        ROUTE, data=sent, content_type="application/json", headers={"Authorization": f"Bearer {secret}"} | headers
    )


def batch(*ids: str) -> dict[str, Any]:
    return {"events": [braze_event(id) for id in ids]}


def status_json(client: FlaskClient) -> dict[str, Any]:
    answer = client.get("/status.json", headers={"X-API-Key": SECRET}, environ_overrides={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.json is not None
    return dict(answer.json)


@pytest.mark.contract("8 answers")
def test_currents__events__relayed_from_any_address_with_a_push_key(
    client: FlaskClient, upstream: BatchUpstream
) -> None:
    answer = post(client, batch("1", "2"))
    assert (answer.status_code, answer.json) == (200, RESULT | {"accepted": 2})
    assert answer.headers["Cache-Control"] == "no-store"
    (sent,) = upstream.requests
    assert sent["api_key"] == API_KEY
    assert [event["event_type"] for event in sent["events"]] == ["[Braze] Email Open"] * 2


def test_currents__example_of_the_openapi_document__documented_answer(client: FlaskClient) -> None:
    operation = document()["paths"][ROUTE]["post"]
    answer = post(client, operation["requestBody"]["content"]["application/json"]["example"])
    assert answer.json == operation["responses"]["200"]["content"]["application/json"]["example"]


@pytest.mark.contract("8 answers")
@pytest.mark.parametrize("body", [b"", b" \n", b"{}", b'{"events": []}', b'{"events":[],"more":1}'])
def test_currents__connection_test_of_braze__200_or_401(
    client: FlaskClient, upstream: BatchUpstream, body: bytes
) -> None:
    assert (post(client, body).status_code, post(client, body, "wrong").status_code) == (200, 401)
    assert client.post(ROUTE, headers={"Authorization": f"Bearer {PUSH_SECRET}"}).status_code == 200
    assert upstream.requests == []


@pytest.mark.contract("8 answers")
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"3",
        b"\xff",
        b'{"event": []}',
        b'{"events": {}}',
        b'{"events": null}',
        b'{"events": [1}',
        b"[" * 9999,
    ],
)
def test_currents__body_of_another_format__400(client: FlaskClient, upstream: BatchUpstream, body: bytes) -> None:
    answer = post(client, body)
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_body")
    assert 'send {"events": [...]}' in answer.json["detail"]
    assert upstream.requests == []


@pytest.mark.contract("8 events")
def test_currents__unreadable_events__skipped_and_counted(client: FlaskClient, upstream: BatchUpstream) -> None:
    good = json.dumps(braze_event("1"))
    nested = "[" * 200 + "]" * 200
    broken = [good.replace("1700000000", "NaN"), good.replace('"s"', nested), "3", '{"events": []}']
    anonymous = json.dumps(braze_event("2", user={"user_id": "of Braze"}))
    answer = post(client, f'{{"events": [{", ".join([*broken, anonymous, good])}]}}'.encode())
    skipped = {"skipped": 5, "skipped_by_reason": {"unreadable": 4, "no_id": 1}}
    assert (answer.status_code, answer.json) == (200, RESULT | skipped | {"accepted": 1})
    assert upstream.sent == [["1"]]


@pytest.mark.contract("8 events")
def test_currents__events_of_900_kb_and_more_than_a_hundred__accepted(
    client: FlaskClient, upstream: BatchUpstream
) -> None:
    large = braze_event("large", properties={"text": "é" * 450_000})
    answer = post(client, {"events": [large, *batch(*map(str, range(300)))["events"]]})
    assert answer.json == RESULT | {"accepted": 301}
    assert upstream.requests[0]["events"][0]["event_properties"]["text"] == "é" * 450_000


@pytest.mark.contract("8 answers")
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("length", ["known", "unknown"])
def test_currents__8_mib_or_larger__200_or_413(
    client: FlaskClient, upstream: BatchUpstream, zipped: bool, length: str
) -> None:
    def body(size: int) -> bytes:
        text = json.dumps(batch("1")).encode()
        return gzip.compress(text.ljust(size), 1) if zipped else text.ljust(size)

    for size, status in ((LIMIT, 200), (LIMIT + 1, 413)):
        headers = {"Authorization": f"Bearer {PUSH_SECRET}"} | ({"Content-Encoding": "gzip"} if zipped else {})
        environ = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True} if length == "unknown" else {}
        answer = client.post(ROUTE, data=body(size), headers=headers, environ_overrides=environ)
        assert answer.status_code == status
    assert upstream.sent == [["1"]]


@pytest.mark.contract("8 answers")
@pytest.mark.parametrize(
    ("coding", "body"), [("gzip", b"not gzip"), ("gzip", gzip.compress(b"{}" * 99, mtime=0)[:-9]), ("br", b"")]
)
def test_currents__unreadable_compression__400(client: FlaskClient, coding: str, body: bytes) -> None:
    answer = post(client, body, **{"Content-Encoding": coding})
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_body")


@pytest.mark.contract("8 answers")
@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (Reply(429, {}, {"Retry-After": "7"}), "7"),
        (Reply(500, {}), "30"),
        (Reply(401, {}), "30"),
        (Reply(403, {}), "30"),
        (Reply(404, {}), "30"),
        (Reply(302, b"", {"Location": "/"}), "30"),
        (Reply(resets=True), "30"),
        (Reply(200, b"no json"), "30"),
    ],
)
def test_currents__amplitude_fails__503_with_retry_after(
    client: FlaskClient, upstream: BatchUpstream, reply: Reply, seconds: str
) -> None:
    upstream.reply = lambda _: reply
    answer = post(client, batch("1"))
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"], answer.headers["Retry-After"]) == (503, "not_delivered", seconds)
    upstream.reply = lambda _: Reply()
    assert post(client, batch("1")).json == RESULT | {"accepted": 1}


@pytest.mark.contract("8 answers")
def test_currents__amplitude_hangs__503_after_the_timeout(upstream: BatchUpstream, clock: FakeClock) -> None:
    upstream.reply = lambda _: Reply(hangs=True)
    environment = ENVIRONMENT | {"AMPLITUDE_INGEST_URL": upstream.url, "AMPLITUDE_TIMEOUT_SECONDS": "0.1"}
    client = create_app(Settings.from_env(environment), clock=clock).test_client()
    assert post(client, batch("1")).status_code == 503


@pytest.mark.contract("8 answers")
def test_currents__rejected_api_key__503_and_reported_in_status_log_and_metric(
    client: FlaskClient, upstream: BatchUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert status_json(client)["findings"][0]["level"] == "good"
    upstream.reply = lambda _: Reply(400, {"code": 400, "error": f"Invalid API key: {API_KEY}"})
    answer = post(client, batch("1"))
    assert answer.json is not None
    assert answer.status_code == 503
    assert "set AMPLITUDE_API_KEY" in answer.json["detail"]
    status = status_json(client)
    assert "Amplitude rejects the API key" in status["findings"][0]["what"]
    assert status["now"]["currents_rejected"] == 1
    (line,) = (record for record in caplog.records if record.msg == "currents_not_relayed")
    assert (line.levelname, line.__dict__["error"]) == ("ERROR", "upstream_rejected")
    assert not any(secret in repr(record.__dict__) for record in caplog.records for secret in (API_KEY, "user-of-1"))
    upstream.reply = lambda _: Reply()
    assert post(client, batch("1")).status_code == 200
    assert status_json(client)["findings"][0]["level"] == "good"


@pytest.mark.contract("8 answers")
def test_currents__no_api_key__503_names_the_setting_and_wrong_credentials_get_401(source: FakeSource) -> None:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "AMPLITUDE_API_KEY"}
    client = create_app(Settings.from_env(environment), fetch=source.fetch).test_client()
    for body in (b"", batch("1")):
        answer = post(client, body)
        assert answer.json is not None
        assert (answer.status_code, answer.json["code"]) == (503, "not_delivered")
        assert "AMPLITUDE_API_KEY" in answer.json["detail"]
        assert answer.headers["Retry-After"]
        assert post(client, body, "wrong").status_code == 401


def test_currents__too_many_batches__503_and_released_afterwards(
    client: FlaskClient, app: Flask, upstream: BatchUpstream
) -> None:
    relay = installed(app).currents_relay
    assert relay is not None
    with relay.reserve_memory(24 * 1024 * 1024):
        answer = post(client, batch("1"))
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"], answer.headers["Retry-After"]) == (503, "busy", "1")
    for body in (batch("1"), b"{", b" " * (LIMIT + 1)):
        post(client, body)
    with relay.reserve_memory(24 * 1024 * 1024):
        pass


def test_currents__body_without_a_length__takes_only_its_size_while_it_is_sent(
    client: FlaskClient, app: Flask, upstream: BatchUpstream
) -> None:
    relay = installed(app).currents_relay
    assert relay is not None

    def reply(_: Events) -> Reply:
        with relay.reserve_memory(23 * 1024 * 1024):
            return Reply()

    upstream.reply = reply
    body = json.dumps(batch("1")).encode()
    environ = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    headers = {"Authorization": f"Bearer {PUSH_SECRET}"}
    assert client.post(ROUTE, data=body, headers=headers, environ_overrides=environ).status_code == 200


@pytest.mark.contract("8 events")
def test_currents__batches__counted_by_outcome_and_not_as_data_answers(
    client: FlaskClient, upstream: BatchUpstream, clock: FakeClock
) -> None:
    status_json(client)
    upstream.reply = lambda _: Reply(503, {})
    post(client, batch("1", "2"))
    upstream.reply = lambda _: Reply()
    post(client, {"events": [*batch("1", "2")["events"], 3]})
    options: dict[str, Any] = {"headers": {"X-API-Key": SECRET}, "environ_overrides": {"REMOTE_ADDR": "192.0.2.1"}}
    text = client.get("/metrics", **options).text
    for outcome, count in {"accepted": 2, "unreadable": 1, "not_delivered": 2}.items():
        assert f'ccproxy_currents_events_total{{outcome="{outcome}"}} {count}.0' in text
    clock.advance(10)
    assert status_json(client)["hour"]["answer_ms"]["median"] == [None]
