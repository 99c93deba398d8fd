"""The FreeMarker templates of the webhook guide, rendered by FreeMarker, and Amplitude's default payloads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support import freemarker
from tests.support.docs import fragment
from tests.support.fakes import FakeClock, FakeSource

COHORT_TEMPLATE, USER_TEMPLATE = (fragment(f"template {kind}").block("ftl") for kind in ("cohorts", "users"))
AT = 1_692_206_763
AWKWARD: dict[str, Any] = {
    "name": 'John "Johnny" Doe\n\\ </script> ${user} é 🎽',
    "points": 1234567.5,
    "visits": 12345678901,
    "vip": True,
    "sizes": ["38", 40, False, ["x"]],
    "nested": {"a b": {"c": [1]}, "none": None},
    "none": None,
    "gp:city": "São Paulo",
}
COHORT: dict[str, Any] = {
    "cohort_name": "My Test Cohort",
    "cohort_id": "7khm89cz",
    "in_cohort": True,
    "computed_time": f"{AT}",
    "message_id": "9baaa88f-9d46-4ee5-a946-be0c6aea0046::enter::0",
    "users": [
        {"user_id": "user_one@example.com", "user_properties": {"name": "Jane Smith", "country": "US"}},
        {"user_id": 'user "two"', "user_properties": AWKWARD},
        {"user_id": "user_three@example.com"},
    ],
}
EVENT: dict[str, Any] = {
    "app": 123456,
    "amplitude_id": 987654321,
    "user_id": "user_one@example.com",
    "device_id": "a-device",
    "event_id": 1,
    "event_type": "click event",
    "event_time": "2023-08-16 17:26:03.000000",
    "client_event_time": "2023-08-16 17:26:01.000000",
    "server_upload_time": "2023-08-16 17:26:04.000000",
    "uuid": "bf0b9b2a-304d-11e6-934f-22000b56058f",
    "$insert_id": "a-1",
    "event_properties": {"button": "buy"},
    "user_properties": AWKWARD,
    "group_properties": {},
    "groups": {},
    "paying": None,
    "data": {},
}
IDENTIFY: dict[str, Any] = {
    "user_id": "user_two@example.com",
    "user_properties": {"$set": {"name": "Jane Smith"}, "$unset": {"country": "-"}, "$add": {"visits": 1}},
    "time": AT * 1000,
}
PLAIN = {name.removeprefix("gp:"): value for name, value in AWKWARD.items()}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(AT + 60.0)


def push(client: FlaskClient, caller: dict[str, str], hook: str, body: str) -> dict[str, Any]:
    answer = client.post(
        f"/v1/webhooks/amplitude/{hook}", data=body.encode(), content_type="application/json", headers=caller
    )
    assert answer.status_code == 200, answer.text
    assert answer.json is not None
    return dict(answer.json)


def get(client: FlaskClient, caller: dict[str, str], path: str, **query: str) -> dict[str, Any]:
    answer = client.get(f"/v1/{path}", query_string=query, headers=caller)
    assert answer.headers["X-Amplitude-Calls"] == "0", answer.text
    assert answer.headers["Age"] == "60"
    assert answer.json is not None
    return dict(answer.json)


@pytest.fixture
def needs_freemarker() -> None:
    if reason := freemarker.missing():
        pytest.skip(reason)


@pytest.mark.contract("3 webhook templates")
def test_default_payload__cohort__stored_without_a_template(
    client: FlaskClient, caller: dict[str, str], source: FakeSource
) -> None:
    assert push(client, caller, "cohorts", json.dumps(COHORT))["applied"] == 3
    for user in ("user_one@example.com", 'user "two"', "user_three@example.com"):
        assert get(client, caller, "cohorts", user_id=user, cohort_id="7khm89cz")["is_member"]
    answer = get(client, caller, "properties", user_id="user_one@example.com", keys="name,country")
    assert answer["properties"] == {"name": "Jane Smith", "country": "US"}
    assert not source.calls


@pytest.mark.contract("3 webhook templates")
def test_default_payload__events_and_users__stored_without_a_template(
    client: FlaskClient, caller: dict[str, str]
) -> None:
    pushed = push(client, caller, "users", json.dumps(EVENT))
    assert (pushed["applied"], pushed["unapplied_properties"]) == (1, 0)
    assert push(client, caller, "users", json.dumps(EVENT))["duplicate"]
    answer = get(client, caller, "properties", user_id="user_one@example.com", keys="name,points,sizes,city")
    assert answer["properties"] == {name: PLAIN[name] for name in ("name", "points", "sizes", "city")}
    pushed = push(client, caller, "users", json.dumps(IDENTIFY))
    assert (pushed["applied"], pushed["unapplied_properties"]) == (1, 1)
    answer = get(client, caller, "properties", user_id="user_two@example.com", keys="name,country")
    assert answer["properties"] == {"name": "Jane Smith", "country": None}


@pytest.mark.contract("3 webhook templates")
def test_cohort_template__awkward_values__stored_unchanged(
    client: FlaskClient, caller: dict[str, str], needs_freemarker: None
) -> None:
    body = freemarker.render(COHORT_TEMPLATE, COHORT)
    assert json.loads(body)["users"][1] == {"user_id": 'user "two"', "user_properties": AWKWARD}
    pushed = push(client, caller, "cohorts", body)
    assert (pushed["applied"], pushed["skipped"], pushed["unapplied_properties"]) == (3, 0, 0)
    assert push(client, caller, "cohorts", body)["duplicate"]
    assert get(client, caller, "cohorts", user_id='user "two"', cohort_id="7khm89cz")["is_member"]
    keys = ",".join(PLAIN)
    assert get(client, caller, "properties", user_id='user "two"', keys=keys)["properties"] == PLAIN


@pytest.mark.contract("3 webhook templates")
def test_user_template__awkward_values__stored_as_a_complete_set(
    client: FlaskClient, caller: dict[str, str], needs_freemarker: None
) -> None:
    body = freemarker.render(USER_TEMPLATE, EVENT)
    pushed = push(client, caller, "users", body)
    assert (pushed["applied"], pushed["skipped"], pushed["unapplied_properties"]) == (1, 0, 0)
    assert get(client, caller, "properties", user_id="user_one@example.com")["properties"] == PLAIN
    assert push(client, caller, "users", body)["duplicate"]


def test_user_template__user_not_logged_in__skipped(
    client: FlaskClient, caller: dict[str, str], needs_freemarker: None
) -> None:
    anonymous = {name: value for name, value in EVENT.items() if name in ("device_id", "event_time")}
    pushed = push(client, caller, "users", freemarker.render(USER_TEMPLATE, anonymous))
    assert (pushed["applied"], pushed["skipped_by_reason"]) == (0, {"no_user_id": 1})
