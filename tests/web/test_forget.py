"""`DELETE /v1/profile`."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.support.fakes import FakeClock, FakeSource


@pytest.mark.contract("3 forget")
def test_a_user_is_forgotten_and_how_much_that_was_is_said(
    client: FlaskClient, caller: dict[str, str], source: FakeSource
) -> None:
    for query in ("user_id=u", "user_id=u&device_id=d", "user_id=v"):
        source.user_data = {"cohort_ids": []}
        client.get(f"/v1/cohorts?{query}", headers=caller)
    answer = client.delete("/v1/profile?user_id=u", headers=caller)
    assert (answer.status_code, answer.json) == (200, {"records": 2, "waiting": 0})
    assert answer.headers["Cache-Control"] == "no-store"
    calls = len(source.calls)
    assert client.get("/v1/cohorts?user_id=u", headers=caller).headers["X-Amplitude-Calls"] == "1"
    assert client.get("/v1/cohorts?user_id=v", headers=caller).headers["X-Amplitude-Calls"] == "0"
    assert len(source.calls) == calls + 1


def test_an_answer_that_was_kept_ready_is_forgotten_too(client: FlaskClient, caller: dict[str, str]) -> None:
    for _ in range(4):
        client.get("/v1/cohorts?user_id=u", headers=caller)
    client.delete("/v1/profile?user_id=u", headers=caller)
    assert client.get("/v1/cohorts?user_id=u", headers=caller).headers["X-Amplitude-Calls"] == "1"


def test_an_answer_that_was_kept_ready_does_for_nobody_who_prepares_a_send(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock
) -> None:
    for _ in range(4):
        usual = client.get("/v1/cohorts?user_id=u", headers=caller)
    assert usual.headers["X-Amplitude-Calls"] == "0"
    clock.advance(1)  # the place of this moment was taken
    background = caller | {"Priority": "u=7"}
    warmed = [client.get("/v1/cohorts?user_id=u", headers=background).headers for _ in range(4)]
    assert [headers["X-Amplitude-Calls"] for headers in warmed] == ["1", "0", "0", "0"]
    after = client.get("/v1/cohorts?user_id=u", headers=caller).headers
    assert after["Cache-Control"] == warmed[-1]["Cache-Control"] != usual.headers["Cache-Control"]


@pytest.mark.parametrize("query", ["", "user_id=", "user_id=%20&device_id=", "user_id=a&user_id=a", "user_id=%FF"])
def test_nobody_in_particular_is_a_mistake_and_nothing_is_forgotten(
    client: FlaskClient, caller: dict[str, str], query: str
) -> None:
    client.get("/v1/cohorts?user_id=a", headers=caller)
    answer = client.delete(f"/v1/profile?{query}", headers=caller)
    assert answer.status_code == 400
    assert client.get("/v1/cohorts?user_id=a", headers=caller).headers["X-Amplitude-Calls"] == "0"


def test_without_an_id_it_is_said_how_to_name_a_user(client: FlaskClient, caller: dict[str, str]) -> None:
    detail = client.delete("/v1/profile?user=a", headers=caller).get_json()["detail"]
    assert detail.startswith("user_id or device_id is required")


def test_forgetting_needs_credentials(client: FlaskClient, caller: dict[str, str]) -> None:
    client.get("/v1/cohorts?user_id=a", headers=caller)
    assert client.delete("/v1/profile?user_id=a").status_code == 401
    assert client.get("/v1/cohorts?user_id=a", headers=caller).headers["X-Amplitude-Calls"] == "0"
