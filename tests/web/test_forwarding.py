"""`POST /v1/webhooks/amplitude/users` with forwarding to the emulated Braze."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy.app import create_app
from proxy.sandbox.braze_api import BrazeApi
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from proxy.settings import Settings
from proxy.storage.weighted_semaphore import Busy
from proxy.web import services
from tests.conftest import KEYS, SECRET
from tests.support.fakes import FakeSource

AT = datetime.now(UTC).replace(microsecond=123_000) - timedelta(minutes=1)
USERS = "/v1/webhooks/amplitude/users"
EVENT = {
    "user_id": "u1",
    "event_type": "Order",
    "event_time": AT.strftime("%Y-%m-%d %H:%M:%S.%f"),
    "uuid": "5d6f0c1e",
    "event_properties": {"total": 12.5},
    "user_properties": {"plan": "gold", "points": "420"},
}


@pytest.fixture
def braze() -> Iterator[Sandbox]:
    with Sandbox(braze=BrazeApi(known_users="all")) as sandbox:
        yield sandbox


def new_client(braze: Sandbox, source: FakeSource, **variables: str) -> FlaskClient:
    forwarding = {"FORWARD_EVENTS": "Order", "FORWARD_PROPERTIES": "plan"} | variables
    settings = Settings.from_env(
        {
            "AMPLITUDE_SECRET_KEY": "k",
            "PROXY_API_KEYS": KEYS,
            "BRAZE_REST_ENDPOINT": braze.url,
            "BRAZE_API_KEY": braze.braze.key,
            "BRAZE_APP_ID": "app-1",
            **{name: value for name, value in forwarding.items() if value},
        }
    )
    return create_app(settings, fetch=source.fetch).test_client()


@pytest.fixture
def client(braze: Sandbox, source: FakeSource) -> FlaskClient:
    return new_client(braze, source)


def post(client: FlaskClient, body: Any, path: str = USERS) -> TestResponse:
    return client.post(path, json=body, headers={"X-API-Key": SECRET})


@pytest.fixture
def full_stream(client: FlaskClient) -> Iterator[ExitStack]:
    """Occupy all places for messages in progress."""
    stream = services.installed(client.application).event_stream
    assert stream is not None
    with ExitStack() as places:
        with suppress(Busy):
            while True:
                places.enter_context(stream.admit())
        yield places


def metrics(client: FlaskClient) -> dict[str, float]:
    text = client.get("/metrics", headers={"X-API-Key": SECRET}).text
    lines = (line for line in text.splitlines() if line.startswith("ccproxy_forwarded_objects_total{"))
    return {line.partition("{")[2].partition("}")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.contract("7 event stream")
def test_webhook__selected_event_and_property__at_braze_before_the_answer(braze: Sandbox, client: FlaskClient) -> None:
    answer = post(client, EVENT)
    assert (answer.status_code, answer.json) == (
        200,
        {
            "applied": 1,
            "skipped": 0,
            "skipped_by_reason": {},
            "unapplied_properties": 0,
            "duplicate": False,
            "forwarded": {"accepted": 2},
        },
    )
    (event,) = braze.braze.details("events")
    assert {name: event[name] for name in ("external_id", "app_id", "name", "time", "properties")} == {
        "external_id": "u1",
        "app_id": "app-1",
        "name": "Order",
        "time": AT.isoformat(timespec="milliseconds"),
        "properties": {"total": 12.5},
    }
    assert braze.braze.attributes("u1") == {"plan": "gold"}
    assert metrics(client) == {
        'kind="events",outcome="accepted"': 1,
        'kind="attributes",outcome="accepted"': 1,
    }


@pytest.mark.parametrize(
    ("events", "properties", "expected"),
    [("Order", "", (1, {})), ("", "plan", (0, {"plan": "gold"})), ("*", "*", (1, {"plan": "gold", "points": 420}))],
)
def test_webhook__only_one_forward_setting__forwards_only_this_kind(
    braze: Sandbox, source: FakeSource, events: str, properties: str, expected: tuple[int, dict[str, Any]]
) -> None:
    post(new_client(braze, source, FORWARD_EVENTS=events, FORWARD_PROPERTIES=properties), EVENT)
    assert (len(braze.braze.details("events")), braze.braze.attributes("u1")) == expected


def test_webhook__braze_fails__503_and_the_next_attempt_is_no_duplicate(braze: Sandbox, client: FlaskClient) -> None:
    braze.braze.faults.set(Fault("status", status=503))
    failed = post(client, EVENT)
    assert (failed.status_code, failed.json and failed.json["code"]) == (503, "not_delivered")
    assert int(failed.headers["Retry-After"]) >= 1
    braze.braze.faults.set(None)
    again = post(client, EVENT)
    assert again.status_code == 200
    assert again.json is not None
    assert (again.json["duplicate"], again.json["forwarded"]) == (False, {"accepted": 2})
    repeated = post(client, EVENT)
    assert repeated.json is not None
    assert (repeated.json["duplicate"], repeated.json["forwarded"]) == (True, {"duplicate": 1, "unchanged": 1})
    assert len(braze.braze.details("events")) == 1


@pytest.mark.parametrize("kind", ["wrong-key", "no-permission"])
def test_webhook__braze_refuses_the_key__503(braze: Sandbox, client: FlaskClient, kind: str) -> None:
    braze.braze.faults.set(Fault(kind))  # type: ignore[arg-type]  # one of the kinds
    assert post(client, EVENT).status_code == 503


def test_webhook__braze_returns_429__503_with_retry_after_of_braze(braze: Sandbox, client: FlaskClient) -> None:
    braze.braze.faults.set(Fault("429-retry-after", seconds=40, times=1))
    assert 39 <= int(post(client, EVENT).headers["Retry-After"]) <= 40
    # No request is sent before the time in Braze's answer.
    assert post(client, EVENT).status_code == 503
    assert braze.braze.report()["requests"] == 1


def test_webhook__braze_hangs__503_within_the_deadline(braze: Sandbox, client: FlaskClient) -> None:
    braze.braze.faults.set(Fault("hang-accepted", seconds=10, times=1))
    assert post(client, EVENT).status_code == 503
    outcomes = metrics(client)
    assert outcomes['kind="events",outcome="uncertain"'] == 1


def test_webhook__braze_rejects_the_object__200_and_counted_as_rejected(braze: Sandbox, client: FlaskClient) -> None:
    braze.braze.faults.set(Fault("object-errors", user_id="u1"))
    answer = post(client, EVENT)
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["forwarded"] == {"rejected": 2}


def test_webhook__user_without_an_id_or_event_from_currents__skipped_and_counted(
    braze: Sandbox, source: FakeSource
) -> None:
    client = new_client(braze, source, FORWARD_EVENTS="*")
    anonymous = {name: value for name, value in EVENT.items() if name != "user_id"}
    answer = post(client, [anonymous, EVENT | {"event_type": "[Braze] Email Open", "user_properties": {}}])
    assert answer.json is not None
    assert answer.json["forwarded"] == {"no_user_id": 1, "from_braze": 1}
    assert braze.braze.report()["requests"] == 0


def test_webhook__forward_false__stored_and_not_forwarded(braze: Sandbox, client: FlaskClient) -> None:
    answer = post(client, EVENT, f"{USERS}?forward=false")
    assert answer.json is not None
    assert answer.json["applied"] == 1
    assert "forwarded" not in answer.json
    assert braze.braze.report()["requests"] == 0
    wrong = post(client, EVENT, f"{USERS}?forward=no")
    assert (wrong.status_code, wrong.json and wrong.json["parameter"]) == (400, "forward")


def test_webhook__large_array__forwarded_in_batches(braze: Sandbox, client: FlaskClient) -> None:
    answer = post(client, [EVENT | {"user_id": f"u{n}", "uuid": str(n)} for n in range(500)])
    assert answer.status_code == 200
    assert len(braze.braze.details("events")) == 500
    assert braze.braze.report()["requests"] <= 20


def test_webhook__event_without_properties__not_reported_as_skipped(client: FlaskClient) -> None:
    answer = post(client, {name: value for name, value in EVENT.items() if name != "user_properties"})
    assert answer.json is not None
    assert (answer.json["applied"], answer.json["skipped"], answer.json["forwarded"]) == (0, 0, {"accepted": 1})


def test_webhook__memory_of_waiting_bodies_is_full__503(braze: Sandbox, client: FlaskClient) -> None:
    stream = services.installed(client.application).event_stream
    assert stream is not None
    with stream.reserve_memory(32 * 1024 * 1024):
        answer = post(client, EVENT)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert post(client, EVENT).status_code == 200
    assert len(braze.braze.details("events")) == 1


def comparable(answer: TestResponse) -> tuple[int, dict[str, object], dict[str, str]]:
    """Return what must be equal for two refused messages: all but the id of the request, and the reason."""
    assert answer.json is not None
    headers = dict(answer.headers) | {"X-Request-ID": "", "Content-Length": ""}
    return answer.status_code, answer.json | {"detail": ""}, headers


def test_webhook__too_many_messages_in_progress__same_answer_and_log_line_as_when_braze_fails(
    braze: Sandbox, client: FlaskClient, full_stream: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refused = post(client, EVENT)
    full_stream.close()
    assert braze.braze.report()["requests"] == 0
    braze.braze.faults.set(Fault("status", status=503, times=1))
    failed = post(client, EVENT)
    assert comparable(refused) == comparable(failed)
    assert refused.status_code == 503
    assert "too many messages" in refused.text
    names = ("method", "route", "status", "caller", "code")
    lines = [
        {name: vars(record).get(name) for name in names} for record in caplog.records if record.message == "request"
    ]
    expected = {"method": "POST", "route": USERS, "status": 503, "caller": "braze", "code": "not_delivered"}
    assert lines == [expected, expected]
    counted = 'ccproxy_webhook_messages_total{hook="users",outcome="failed"} 2.0'
    assert counted in client.get("/metrics", headers={"X-API-Key": SECRET}).text
    assert post(client, EVENT).status_code == 200


@pytest.mark.usefixtures("full_stream")
def test_webhook__too_many_messages_in_progress__requests_without_forwarding_are_answered(client: FlaskClient) -> None:
    assert post(client, EVENT, f"{USERS}?forward=false").status_code == 200
    assert client.post(USERS, json=EVENT, headers={"X-API-Key": "wrong"}).status_code == 401
    assert post(client, EVENT, f"{USERS}?forward=no").status_code == 400
    assert client.get(USERS, headers={"X-API-Key": SECRET}).status_code == 405


def test_webhook__query_that_is_not_utf_8__400(client: FlaskClient) -> None:
    for query in ("forward=%ff", "forward=true&forward=false"):
        answer = post(client, EVENT, f"{USERS}?{query}")
        assert (answer.status_code, answer.json and answer.json["code"]) == (400, "invalid_parameter")
    odd_bytes = client.post(
        USERS, json=EVENT, headers={"X-API-Key": SECRET}, environ_overrides={"QUERY_STRING": "\xff"}
    )
    assert odd_bytes.status_code == 400


def test_webhook__array_too_long_to_forward__413_with_the_fix_and_nothing_stored(
    braze: Sandbox, client: FlaskClient
) -> None:
    users = [{"user_id": f"u{number}", "user_properties": {"plan": "gold"}} for number in range(5_001)]
    refused = post(client, users)
    assert (refused.status_code, refused.json and refused.json["code"]) == (413, "body_too_large")
    assert "forward=false" in refused.text
    assert braze.braze.report()["requests"] == 0
    stored = post(client, users, f"{USERS}?forward=false")
    assert (stored.status_code, stored.json and stored.json["applied"]) == (200, 5_001)
