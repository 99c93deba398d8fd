"""The service with AMPLITUDE_PROFILE_API=off: it serves only pushed and exported data, and sends no calls."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.api.openapi.document import document
from proxy.app import create_app
from proxy.settings import Settings, SettingsError
from tests.support.fakes import FakeClock, FakeSource
from tests.support.openapi import faults_in
from tests.support.service import KEYS

OFF = {"AMPLITUDE_PROFILE_API": "off", "PROXY_API_KEYS": KEYS}


@pytest.fixture
def app(source: FakeSource, clock: FakeClock) -> Flask:
    return create_app(Settings.from_env(OFF), fetch=source.fetch, clock=clock)


@pytest.fixture
def ask(client: FlaskClient, caller: dict[str, str], source: FakeSource) -> Any:
    def send(path: str, status: int = 200, **headers: str) -> Any:
        response = client.get(f"/v1/{path}", headers=caller | headers)
        assert (response.status_code, source.calls) == (status, [])
        return response

    return send


def push(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock, *, whole: bool = True, **properties: object
) -> None:
    user = {"user_id": "ava", "user_properties": properties, "event_time": clock.now(), "whole": whole}
    response = client.post("/v1/webhooks/amplitude/users", json=user, headers=caller)
    assert response.get_json()["applied"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "recommendations?rec_id=r",
        "properties",
        "cohorts",
        "computations",
        "propensities?prediction_id=p",
        "profile?include=properties,cohorts",
    ],
)
@pytest.mark.parametrize("on_error", ["default", "retry"])
def test_data__nothing_was_pushed__not_available_with_200(ask: Any, path: str, on_error: str) -> None:
    response = ask(f"{path}{'&' if '?' in path else '?'}user_id=ava&on_error={on_error}")
    answer = response.get_json()
    assert (answer["ok"], answer["found"], answer["error"]) == (False, False, "not_available")
    assert response.headers["Cache-Status"].endswith("fwd=miss; detail=not_available")
    assert response.headers["Cache-Control"] == "no-store"


def test_cohorts__some_of_the_requested_are_known__these_are_answered(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock, ask: Any
) -> None:
    lines = {"Content-Type": "application/x-ndjson"}
    assert client.put("/v1/snapshots/c31", data=b'"ava"\n', headers=caller | lines).status_code == 200
    message = {"cohort_id": "c7", "in_cohort": False, "computed_time": clock.now(), "users": [{"user_id": "ava"}]}
    assert client.post("/v1/webhooks/amplitude/cohorts", json=message, headers=caller).status_code == 200
    response = ask("cohorts?user_id=ava&cohort_id=c99,c31,c7")
    answer = response.get_json()
    assert answer["member"] == {"c99": False, "c31": True, "c7": False}
    assert (answer["ok"], answer["error"], answer["found"], answer["is_member"]) == (
        False,
        "not_available",
        True,
        False,
    )
    assert response.headers["Cache-Status"].endswith("fwd=partial; detail=not_available")
    assert response.headers["Cache-Control"] == "no-store"
    stranger = ask("cohorts?user_id=zoe&cohort_id=c99,c31").get_json()
    assert (stranger["ok"], stranger["found"]) == (False, False)
    assert ask("cohorts?user_id=ava").get_json()["cohort_ids"] == []


def test_data__pushed_properties__served_stale_after_cache_pushed_seconds_and_then_missing(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock, ask: Any
) -> None:
    push(client, caller, clock, plan="gold", points="12")
    answer = ask("properties?user_id=ava").get_json()
    assert (answer["ok"], answer["stale"], answer["properties"]) == (True, False, {"plan": "gold", "points": 12})
    assert ask("properties?user_id=ava", **{"Cache-Control": "no-cache"}).get_json()["ok"]
    both = ask("profile?user_id=ava&include=properties,computations").get_json()
    assert (both["ok"], both["error"], both["properties"]["plan"]) == (False, "not_available", "gold")
    clock.advance(86400 + 1)
    old = ask("properties?user_id=ava").get_json()
    assert (old["ok"], old["stale"], old["properties"]["plan"]) == (True, True, "gold")
    clock.advance(86400 - 2)
    assert ask("properties?user_id=ava").get_json()["ok"]
    clock.advance(2)
    assert ask("properties?user_id=ava").get_json()["error"] == "not_available"


def test_data__lifetimes_of_fetched_data_are_set__only_those_of_pushed_data_count(
    source: FakeSource, caller: dict[str, str], clock: FakeClock
) -> None:
    lifetimes = {"CACHE_PUSHED_SECONDS": "60", "CACHE_STALE_IF_ERROR_SECONDS": "100"}
    client = create_app(Settings.from_env(OFF | lifetimes), fetch=source.fetch, clock=clock).test_client()
    push(client, caller, clock, plan="gold")
    seen = []
    for seconds in (0, 58, 4, 96, 4):
        clock.advance(seconds)
        response = client.get("/v1/properties?user_id=ava", headers=caller)
        seen.append(
            (
                response.get_json()["ok"],
                response.get_json()["stale"],
                response.headers["Cache-Status"].partition("; ")[2],
            )
        )
    assert seen == [
        (True, False, "hit; ttl=60"),
        (True, False, "hit; ttl=2"),
        (True, True, "hit; ttl=-2"),
        (True, True, "hit; ttl=-98"),
        (False, False, "fwd=miss; detail=not_available"),
    ]


def test_data__some_requested_keys_were_pushed__their_values_and_not_available(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock, ask: Any
) -> None:
    push(client, caller, clock, whole=False, plan="gold")
    clock.advance(86400 + 1)
    push(client, caller, clock, whole=False, points=12)
    response = ask("properties?user_id=ava&keys=plan,city&on_error=retry")
    answer = response.get_json()
    assert (answer["ok"], answer["found"], answer["error"]) == (False, True, "not_available")
    assert answer["properties"] == {"plan": "gold", "city": None}
    assert (answer["stale"], response.headers["Cache-Control"]) == (True, "no-store")
    assert response.headers["Cache-Status"].endswith("fwd=partial; detail=not_available")
    assert ask("properties?user_id=ava").get_json()["properties"] == {"plan": "gold", "points": 12}
    clock.advance(86400)
    assert ask("properties?user_id=ava&keys=plan,points").get_json()["properties"] == {"plan": None, "points": 12}
    assert ask("properties?user_id=ava&keys=plan").headers["Cache-Status"].endswith("fwd=miss; detail=not_available")


def test_data__key_with_a_space_was_pushed__complete(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock, ask: Any
) -> None:
    push(client, caller, clock, whole=False, **{"my prop": "a"})
    answer = ask("properties?user_id=ava&keys=my prop").get_json()
    assert (answer["ok"], answer["properties"]) == (True, {"my_prop": "a"})


def test_data__snapshot__served_stale_after_cache_pushed_seconds(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock, ask: Any
) -> None:
    headers = caller | {"Content-Type": "application/x-ndjson"}
    assert client.put("/v1/snapshots/c31", data=json.dumps("ava"), headers=headers).status_code == 200
    for expected_stale in (False, True):
        for user_id, is_member in (("ava", True), ("zoe", False)):
            answer = ask(f"cohorts?user_id={user_id}&cohort_id=c31").get_json()
            assert (answer["ok"], answer["stale"], answer["is_member"]) == (True, expected_stale, is_member)
        clock.advance(86400 + 1)
    assert ask("cohorts?user_id=ava&cohort_id=c31").get_json()["error"] == "not_available"


def test_drop_in__nothing_was_pushed__error_word(ask: Any) -> None:
    assert ask("userprofile?user_id=ava&get_amp_props=true", 500).get_json() == {"error": "not_available"}


def test_readyz__no_profile_api__ok_and_off(client: FlaskClient) -> None:
    response = client.get("/readyz")
    assert (response.status_code, response.get_json()) == (200, {"status": "ok", "upstream": "off", "quota": "ok"})
    openapi = document()
    assert faults_in(openapi, openapi["paths"]["/readyz"]["get"], response) == []


def test_settings__profile_api_is_on__secret_key_is_required() -> None:
    for value in ("on", ""):
        with pytest.raises(SettingsError, match="AMPLITUDE_SECRET_KEY is required"):
            Settings.from_env(OFF | {"AMPLITUDE_PROFILE_API": value})
    with pytest.raises(SettingsError, match="AMPLITUDE_PROFILE_API must be on or off"):
        Settings.from_env(OFF | {"AMPLITUDE_PROFILE_API": "no", "AMPLITUDE_SECRET_KEY": "secret"})


def test_status__many_answers_lack_data__finding_and_no_fault_of_amplitude(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock, ask: Any
) -> None:
    def status() -> dict[str, Any]:
        clock.advance(10)
        return json.loads(client.get("/status.json", headers=caller).data)  # type: ignore[no-any-return]

    assert status()["profile_api"] is False
    (only,) = status()["findings"]
    assert (only["level"], "User Profile API is off" in only["meaning"]) == ("good", True)
    for _ in range(20):
        ask("properties?user_id=ava")
    (only,) = status()["findings"]
    assert (only["level"], only["what"]) == ("warn", "100 % of the answers of the last ten minutes lack data")
    assert "Nothing was pushed or exported" in only["meaning"]


def test_playground__page__offers_only_messages_that_can_be_answered(
    client: FlaskClient, caller: dict[str, str]
) -> None:
    page = client.get("/playground", headers=caller).text
    assert 'data-profile-api="off"' in page
    assert "runs without the User Profile API" in page
    assert re.findall(r'<option value="snippet-\d">(.+)</option>', page) == [
        "Greeting with first name and points",
        "Different text for members of a cohort",
    ]
    assert "/v1/recommendations" not in page
