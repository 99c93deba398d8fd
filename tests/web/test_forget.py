"""`DELETE /v1/profile`."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.support.fakes import FakeClock, FakeSource


@pytest.mark.contract("3 forget")
def test_forget__cached_user__only_its_records_are_deleted_and_counted(
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


def test_forget__ready_body__deleted_too(client: FlaskClient, caller: dict[str, str]) -> None:
    for _ in range(4):
        client.get("/v1/cohorts?user_id=u", headers=caller)
    client.delete("/v1/profile?user_id=u", headers=caller)
    assert client.get("/v1/cohorts?user_id=u", headers=caller).headers["X-Amplitude-Calls"] == "1"


def test_background_request__ready_body__not_used_and_data_becomes_fresh_for_longer(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock
) -> None:
    for _ in range(4):
        foreground = client.get("/v1/cohorts?user_id=u", headers=caller)
    assert foreground.headers["X-Amplitude-Calls"] == "0"
    clock.advance(1)  # the first call took the slot of this moment in the quota
    background = caller | {"Priority": "u=7"}
    background_headers = [client.get("/v1/cohorts?user_id=u", headers=background).headers for _ in range(4)]
    assert [headers["X-Amplitude-Calls"] for headers in background_headers] == ["1", "0", "0", "0"]
    later_headers = client.get("/v1/cohorts?user_id=u", headers=caller).headers
    assert (
        later_headers["Cache-Control"] == background_headers[-1]["Cache-Control"] != foreground.headers["Cache-Control"]
    )


@pytest.mark.parametrize("query", ["", "user_id=", "user_id=%20&device_id=", "user_id=a&user_id=a", "user_id=%FF"])
def test_forget__no_or_invalid_user__400_and_nothing_is_deleted(
    client: FlaskClient, caller: dict[str, str], query: str
) -> None:
    client.get("/v1/cohorts?user_id=a", headers=caller)
    answer = client.delete(f"/v1/profile?{query}", headers=caller)
    assert answer.status_code == 400
    assert client.get("/v1/cohorts?user_id=a", headers=caller).headers["X-Amplitude-Calls"] == "0"


def test_forget__no_id__detail_names_the_parameters(client: FlaskClient, caller: dict[str, str]) -> None:
    detail = client.delete("/v1/profile?user=a", headers=caller).get_json()["detail"]
    assert detail.startswith("user_id or device_id is required")


def test_forget__no_credentials__401_and_nothing_is_deleted(client: FlaskClient, caller: dict[str, str]) -> None:
    client.get("/v1/cohorts?user_id=a", headers=caller)
    assert client.delete("/v1/profile?user_id=a").status_code == 401
    assert client.get("/v1/cohorts?user_id=a", headers=caller).headers["X-Amplitude-Calls"] == "0"
