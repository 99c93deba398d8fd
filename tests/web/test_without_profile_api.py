"""The service with AMPLITUDE_PROFILE_API=off: it serves only pushed and exported data, and sends no calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.settings import Settings, SettingsError
from tests.support.fakes import FakeClock, FakeSource
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


def push(client: FlaskClient, caller: dict[str, str], clock: FakeClock, **properties: object) -> None:
    user = {"user_id": "ava", "user_properties": properties, "event_time": clock.now(), "whole": True}
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


def test_settings__profile_api_is_on__secret_key_is_required() -> None:
    for value in ("on", ""):
        with pytest.raises(SettingsError, match="AMPLITUDE_SECRET_KEY is required"):
            Settings.from_env(OFF | {"AMPLITUDE_PROFILE_API": value})
    with pytest.raises(SettingsError, match="AMPLITUDE_PROFILE_API must be on or off"):
        Settings.from_env(OFF | {"AMPLITUDE_PROFILE_API": "no", "AMPLITUDE_SECRET_KEY": "secret"})
