"""/v1/userprofile, the drop-in replacement for Amplitude's own endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.amplitude.client import Fetched
from proxy.profile.errors import UpstreamTimeout
from proxy.profile.record import Record
from tests.support.fakes import FakeClock, FakeSource

ENTRY = {"rec_id": "a", "child_rec_id": "a", "items": ["1"], "is_control": True, "recommendation_source": "random"}
AVA = {
    "user_id": "ava",
    "device_id": None,
    "amp_props": {"gp:plan": "gold"},
    "cohort_ids": ["vip"],
    "recommendations": [ENTRY],
    "propensity": 0.8,
    "propensities": [{"prop": 0.8, "pred_id": "p", "prop_type": "score"}],
}
NULL = dict.fromkeys(("recommendations", "amp_props", "cohort_ids"))


@pytest.fixture(autouse=True)
def _ava(source: FakeSource) -> None:
    source.user_data = AVA


@pytest.fixture
def get(client: FlaskClient, caller: dict[str, str]) -> Any:
    return lambda query, **options: client.get(f"/v1/userprofile?{query}", headers=caller, **options)


def data(**parts: Any) -> dict[str, Any]:
    return {"userData": NULL | {"user_id": "ava", "device_id": None} | parts}


@pytest.mark.contract("1 drop-in")
@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("get_recs=true&rec_id=a", {"recommendations": [ENTRY]}),
        ("rec_id=a,b", {"recommendations": [ENTRY]}),
        ("rec_id=b", {}),
        ("get_recs=false&rec_id=a", {}),
        ("get_amp_props=True", {"amp_props": {"gp:plan": "gold"}}),
        ("get_cohort_ids=true&get_amp_props=false", {"cohort_ids": ["vip"]}),
        ("comp_id=c", {"amp_props": {"gp:plan": "gold"}}),
        ("get_computations=true", {"amp_props": {"gp:plan": "gold"}}),
        (
            "get_propensity=true&prediction_id=p,q",
            {"propensity": 0.8, "propensities": [{"prop": 0.8, "pred_id": "p", "prop_type": "score"}]},
        ),
        ("", {}),
    ],
)
def test_userprofile__each_parameter__same_json_as_amplitude(get: Any, query: str, parts: dict[str, Any]) -> None:
    answer = get(f"user_id=ava&{query}")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert answer.json == data(**parts)


@pytest.mark.contract("1 drop-in")
def test_userprofile__cached_by_a_data_route__hit_without_a_call(
    client: FlaskClient, caller: dict[str, str], source: FakeSource, get: Any
) -> None:
    client.get("/v1/recommendations?user_id=ava&rec_id=a", headers=caller)
    answer = get("user_id=ava&rec_id=a&get_amp_props=true&get_cohort_ids=true")
    assert answer.headers["X-Amplitude-Calls"] == "0"
    assert "hit" in answer.headers["Cache-Status"]
    assert answer.headers["ETag"]
    assert len(source.calls) == 1


def test_userprofile__properties_and_computations__merged_in_amp_props(get: Any, source: FakeSource) -> None:
    get("user_id=ava&get_amp_props=true")
    source.user_data = AVA | {"amp_props": {"orders": "3"}}
    answer = get("user_id=ava&get_amp_props=true&comp_id=c")
    assert answer.json == data(amp_props={"gp:plan": "gold", "orders": "3"})


@pytest.mark.contract("1 json bodies")
def test_userprofile__booleans_in_a_json_body__accepted(client: FlaskClient, caller: dict[str, str]) -> None:
    body = {"user_id": "ava", "get_cohort_ids": True, "get_amp_props": False}
    answer = client.post("/v1/userprofile", json=body, headers=caller)
    assert answer.json == data(cohort_ids=["vip"])


@pytest.mark.contract("1 drop-in")
@pytest.mark.parametrize(
    ("seen", "status"), [(400, 400), (200, 200), (404, 404), (302, 400), (500, 400), (429, 400), (401, 400)]
)
def test_userprofile__unknown_user__amplitude_error_with_amplitude_status_or_400(
    client: FlaskClient, caller: dict[str, str], source: FakeSource, clock: FakeClock, seen: int, status: int
) -> None:
    unknown = Fetched(Record(unknown_at=clock(), unknown_status=seen), {})
    client.application.extensions["connected-content-proxy"].executor.fetch = lambda *_: unknown
    for _ in range(2):
        answer = client.get("/v1/userprofile?user_id=who&get_amp_props=true", headers=caller)
        assert answer.status_code == status
        assert answer.json == {"error": "User id and device id not seen before"}
    assert answer.headers["Cache-Status"].startswith("connected-content-proxy; hit")


def test_userprofile__blank_id__error_of_an_unknown_user_without_a_call(get: Any, source: FakeSource) -> None:
    answer = get("user_id=&get_amp_props=true")
    assert (answer.status_code, answer.json) == (400, {"error": "User id and device id not seen before"})
    assert "Cache-Status" not in answer.headers
    assert not source.calls


@pytest.mark.contract("1 drop-in")
def test_userprofile__timeout__500_with_any_on_error(get: Any, source: FakeSource) -> None:
    source.fault = UpstreamTimeout()
    for query in ("", "&on_error=default", "&on_error=nonsense"):
        answer = get(f"user_id=ava&get_amp_props=true{query}")
        assert (answer.status_code, answer.json) == (500, {"error": "upstream_timeout"})
        assert answer.headers["Cache-Control"] == "no-store"


def test_userprofile__expired_copy_and_timeout__copy_is_served(get: Any, source: FakeSource, clock: FakeClock) -> None:
    get("user_id=ava&get_cohort_ids=true")
    clock.advance(5000)
    source.fault = UpstreamTimeout()
    answer = get("user_id=ava&get_cohort_ids=true")
    assert answer.json == data(cohort_ids=["vip"])
    assert "fwd=stale" in answer.headers["Cache-Status"]


@pytest.mark.parametrize(
    "query",
    ["", "get_amp_props=true", "user_id=a&get_recs=true", "user_id=a&get_propensity=true", "user_id=a&get_recs=maybe"],
)
def test_userprofile__invalid_parameters__400(get: Any, query: str) -> None:
    assert get(query).status_code == 400
