"""The data routes through the client: parameters, envelope, headers, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.monitoring.logs import request_id
from proxy.profile.errors import QuotaExhausted, UpstreamInvalid, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from proxy.settings import Settings
from tests.conftest import KEYS
from tests.support.fakes import FakeClock, FakeSource

AVA = {
    "user_id": "ava",
    "device_id": None,
    "amp_props": {"gp:plan": "gold"},
    "cohort_ids": ["vip"],
    "recommendations": [{"rec_id": "a", "items": ["1", "2"], "is_control": False}],
}
ENVELOPE = ["ok", "found", "error", "stale", "as_of", "user_id", "device_id"]


@pytest.fixture(autouse=True)
def _ava(source: FakeSource) -> None:
    source.user_data = AVA


@pytest.fixture
def get(client: FlaskClient, caller: dict[str, str]) -> Any:
    return lambda path, **options: client.get(path, headers=caller, **options)


@pytest.fixture
def post(client: FlaskClient, caller: dict[str, str]) -> Any:
    return lambda path, **options: client.post(path, headers=caller, **options)


def test_recommendations__two_rec_ids__first_is_spread_at_the_top_level(get: Any) -> None:
    body = get("/v1/recommendations?user_id=ava&rec_id=a,b").json
    assert list(body)[:7] == ENVELOPE
    assert (body["items"], body["personalized"], body["rec_id"]) == (["1", "2"], True, "a")
    assert [entry["rec_id"] for entry in body["recommendations"]] == ["a", "b"]
    assert body["recommendations_by_id"]["b"]["items"] == []


@pytest.mark.contract("1 profile")
def test_profile__three_sections__union_of_the_single_routes_for_one_call(get: Any, source: FakeSource) -> None:
    single: dict[str, Any] = {}
    for path in ("recommendations?user_id=ava&rec_id=a", "properties?user_id=ava", "cohorts?user_id=ava"):
        single |= get(f"/v1/{path}").json
    profile = get("/v1/profile?user_id=ava&rec_id=a&include=properties,recommendations,cohorts").json
    assert profile == single
    assert len(source.calls) == 1, "the first call also fetched properties and cohorts"


@pytest.mark.contract("1 routes")
def test_parameters__query_form_or_json__same_answer(get: Any, post: Any) -> None:
    answers = [
        get("/v1/cohorts?user_id=ava&cohort_id=vip,x"),
        get("/v1/cohorts/?user_id=ava&cohort_id=vip,x"),
        post("/v1/cohorts?user_id=ava&cohort_id=vip,x"),
        post("/v1/cohorts?user_id=ava", data={"cohort_id": "vip,x"}),
        post("/v1/cohorts", json={"user_id": "ava", "cohort_id": ["vip", "x"]}),
        post(
            "/v1/cohorts", data=b'{"user_id":"ava","cohort_id":"vip,x"}', content_type="application/json; charset=utf-8"
        ),
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.data for answer in answers}) == 1
    assert answers[0].json["member"] == {"vip": True, "x": False}


@pytest.mark.contract("1 head")
def test_head__cached_user__headers_of_get_without_the_body(client: FlaskClient, caller: dict[str, str]) -> None:
    client.get("/v1/cohorts?user_id=ava", headers=caller)
    get_answer = client.get("/v1/cohorts?user_id=ava", headers=caller)
    head = client.head("/v1/cohorts?user_id=ava", headers=caller)
    assert head.data == b""
    differing = {name for name, value in get_answer.headers if head.headers.get(name) != value}
    assert differing <= {"X-Request-ID"}


@pytest.mark.contract("1 headers")
@pytest.mark.contract("1 cache-status")
def test_headers__miss_then_hit__cache_status_calls_age_and_lifetime(get: Any, clock: FakeClock) -> None:
    miss = get("/v1/cohorts?user_id=ava")
    assert miss.content_type == "application/json"
    assert miss.headers["Cache-Status"] == "connected-content-proxy; fwd=miss; stored"
    assert miss.headers["X-Amplitude-Calls"] == "1"
    assert miss.headers["Age"] == "0"
    assert miss.headers["Cache-Control"] == "private, max-age=900"
    clock.advance(100.9)
    hit = get("/v1/cohorts?user_id=ava")
    assert hit.headers["Cache-Status"] == "connected-content-proxy; hit; ttl=800"
    assert hit.headers["X-Amplitude-Calls"] == "0"
    assert hit.headers["Age"] == "100"
    assert hit.headers["Cache-Control"] == "private, max-age=900"
    assert hit.data == miss.data


@pytest.mark.contract("1 headers")
def test_headers__parts_of_different_ages__greatest_age_and_least_freshness(get: Any, clock: FakeClock) -> None:
    get("/v1/recommendations?user_id=ava&rec_id=a")
    clock.advance(300)
    answer = get("/v1/recommendations?user_id=ava&rec_id=a,b")
    assert answer.headers["Cache-Status"] == "connected-content-proxy; fwd=partial; stored"
    assert answer.headers["Age"] == "300"
    assert answer.headers["Cache-Control"] == "private, max-age=900"
    assert answer.json["as_of"] == int(clock() - 300)


def test_recommendations__unknown_user__ok_not_found_and_fresh_for_60_seconds(get: Any, source: FakeSource) -> None:
    source.user_data = None
    answer = get("/v1/recommendations?user_id=who&rec_id=a")
    assert answer.status_code == 200
    assert (answer.json["ok"], answer.json["found"], answer.json["error"]) == (True, False, None)
    assert answer.json["user_id"] == "who"
    assert answer.headers["Cache-Control"] == "private, max-age=60"


@pytest.mark.contract("1 status blank id")
def test_blank_id__default_or_retry__200_blank_id_without_a_call(get: Any, post: Any, source: FakeSource) -> None:
    for answer in (
        get("/v1/recommendations?user_id=&rec_id=a"),
        get("/v1/recommendations?user_id=%20&device_id=&rec_id=a&on_error=retry"),
        post("/v1/recommendations", json={"user_id": " \n", "rec_id": "a"}),
    ):
        assert answer.status_code == 200
        assert (answer.json["ok"], answer.json["error"]) == (False, "blank_id")
        assert answer.json["items"] == []
        assert answer.json["user_id"] is None
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Amplitude-Calls"] == "0"
        assert "Cache-Status" not in answer.headers
        assert "Age" not in answer.headers
    assert not source.calls


FAULTS = [
    (UpstreamTimeout(), "upstream_timeout"),
    (UpstreamUnavailable(), "upstream_unavailable"),
    (UpstreamRejected(), "upstream_rejected"),
    (UpstreamInvalid(), "upstream_invalid"),
    (QuotaExhausted(retry_after=12.2), "quota_exhausted"),
]


@pytest.mark.contract("1 envelope")
@pytest.mark.parametrize(("fault", "word"), FAULTS, ids=[word for _, word in FAULTS])
def test_fault__on_error_default__200_with_every_key_at_its_empty_value(
    get: Any, source: FakeSource, fault: Exception, word: str
) -> None:
    source.fault = fault
    answer = get("/v1/profile?user_id=ava&include=recommendations,cohorts&rec_id=a&cohort_id=vip")
    assert answer.status_code == 200
    body = answer.json
    assert (body["ok"], body["found"], body["error"], body["as_of"]) == (False, False, word, None)
    assert (body["items"], body["member"], body["is_member"]) == ([], {"vip": False}, False)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Cache-Status"] == f"connected-content-proxy; fwd=miss; detail={word}"
    assert answer.headers["X-Amplitude-Calls"] == "1"


@pytest.mark.contract("1 status 500")
@pytest.mark.parametrize(("fault", "word"), FAULTS, ids=[word for _, word in FAULTS])
def test_fault__on_error_retry__500_with_retry_after(get: Any, source: FakeSource, fault: Exception, word: str) -> None:
    source.fault = fault
    answer = get("/v1/cohorts?user_id=ava&on_error=retry")
    assert answer.status_code == 500
    assert answer.content_type == "application/problem+json"
    body = answer.json
    assert (body["ok"], body["error"], body["status"]) == (False, word, 500)
    assert {"type", "title", "detail"} <= body.keys()
    assert answer.headers["Retry-After"] == ("13" if word == "quota_exhausted" else "1")
    assert answer.headers["Cache-Status"] == f"connected-content-proxy; fwd=miss; detail={word}"


@pytest.mark.contract("1 cache-status")
def test_profile__one_part_fails__cached_parts_are_filled(get: Any, source: FakeSource) -> None:
    get("/v1/cohorts?user_id=ava")
    source.fault = UpstreamUnavailable()
    answer = get("/v1/profile?user_id=ava&include=cohorts,recommendations&rec_id=a")
    body = answer.json
    assert (body["ok"], body["found"], body["error"]) == (False, True, "upstream_unavailable")
    assert (body["cohort_ids"], body["items"]) == (["vip"], [])
    assert answer.headers["Cache-Status"] == ("connected-content-proxy; fwd=partial; detail=upstream_unavailable")
    assert get("/v1/profile?user_id=ava&include=cohorts&on_error=retry").status_code == 200


@pytest.mark.contract("1 size")
def test_properties__answer_too_large_for_braze__upstream_invalid(get: Any, source: FakeSource) -> None:
    source.user_data = AVA | {"amp_props": {"gp:blob": "é" * 300_000}}
    answer = get("/v1/properties?user_id=ava")
    assert (answer.status_code, answer.json["error"]) == (200, "upstream_invalid")
    assert answer.json["properties"] == {}
    assert get("/v1/properties?user_id=ava&keys=plan").json["ok"]
    assert get("/v1/properties?user_id=ava&on_error=retry").status_code == 500


@pytest.mark.contract("1 routes")
@pytest.mark.contract("1 status 4xx")
@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v1/cohorts", {}, 400),
        ("GET", "/v1/recommendations?user_id=ava", {}, 400),
        ("GET", "/v1/profile?user_id=ava&include=nonsense", {}, 400),
        ("GET", "/v1/cohorts?user_id=a&user_id=a", {}, 400),
        ("GET", "/v1/cohorts?user_id=a%00b", {}, 400),
        ("GET", "/v1/cohorts?user_id=%FF", {}, 400),
        ("POST", "/v1/cohorts", {"data": b"user_id=%ff", "content_type": "application/x-www-form-urlencoded"}, 400),
        ("POST", "/v1/cohorts?user_id=a", {"data": {"user_id": "a"}}, 400),
        ("POST", "/v1/cohorts", {"data": b"{", "content_type": "application/json"}, 400),
        ("POST", "/v1/cohorts?user_id=a", {"data": b"x" * 17_000, "content_type": "application/json"}, 413),
        ("POST", "/v1/cohorts?user_id=a", {"data": b"x", "content_type": "text/plain"}, 415),
        ("POST", "/v1/cohorts?user_id=a", {"data": b"x"}, 415),
        ("PUT", "/v1/cohorts?user_id=a", {}, 405),
        ("OPTIONS", "/v1/cohorts?user_id=a", {}, 405),
        ("GET", "/v1/nonsense", {}, 404),
        ("GET", "//v1/cohorts?user_id=a", {}, 404),
        ("GET", "/v1//cohorts?user_id=a", {}, 404),
    ],
)
def test_request__invalid__problem_json_without_a_call(
    client: FlaskClient,
    caller: dict[str, str],
    source: FakeSource,
    method: str,
    path: str,
    options: dict[str, Any],
    status: int,
) -> None:
    answer = client.open(path, method=method, headers=caller, **options)
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    body = json.loads(answer.data)
    assert body["status"] == status
    assert {"type", "title", "detail"} <= body.keys()
    assert answer.headers["X-Request-ID"]
    if status == 405:
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert not source.calls


@pytest.mark.contract("1 head")
def test_if_none_match__same_etag__304_on_get_and_head_only(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock
) -> None:
    path = "/v1/cohorts?user_id=ava"
    first = client.get(path, headers=caller)
    etag = first.headers["ETag"]
    assert etag.startswith('"')
    clock.advance(10)
    for method in ("GET", "HEAD"):
        for sent in (etag, f'"other", {etag}', "*", f"W/{etag}"):
            not_modified = client.open(path, method=method, headers=caller | {"If-None-Match": sent})
            assert (not_modified.status_code, not_modified.data) == (304, b"")
            assert not_modified.headers["ETag"] == etag
            assert not_modified.headers["Age"] == "10"
            assert not_modified.headers["Cache-Control"] == "private, max-age=900"
            assert "hit" in not_modified.headers["Cache-Status"]
    assert client.get(path, headers=caller | {"If-None-Match": '"other"'}).status_code == 200
    assert client.post(path, headers=caller | {"If-None-Match": etag}).status_code == 200
    assert client.get(path, headers=caller | {"If-Match": '"other"'}).status_code == 200
    assert client.get("/v1/cohorts?user_id=", headers=caller | {"If-None-Match": "*"}).status_code == 200
    assert client.get(path + "&cohort_id=vip", headers=caller | {"If-None-Match": etag}).status_code == 200


@pytest.mark.contract("1 as_of")
def test_body__same_fresh_copy__same_bytes(get: Any, clock: FakeClock) -> None:
    bodies = [get("/v1/cohorts?user_id=ava").data]
    for _ in range(3):
        clock.advance(250)
        bodies.append(get("/v1/cohorts?user_id=ava").data)
    assert len(set(bodies)) == 1


@pytest.mark.contract("1 cache-status")
def test_cohorts__stale_copy__served_at_once_and_marked_stale(get: Any, source: FakeSource, clock: FakeClock) -> None:
    get("/v1/cohorts?user_id=ava")
    clock.advance(940)
    source.open.clear()
    stale = get("/v1/cohorts?user_id=ava")
    source.open.set()
    assert stale.json["stale"] is True
    assert stale.json["ok"] is True
    assert stale.headers["Cache-Status"] == "connected-content-proxy; hit; ttl=-40"
    assert stale.headers["Age"] == "940"
    assert stale.headers["Cache-Control"] == "private, max-age=900"
    assert stale.headers["X-Amplitude-Calls"] == "0"


@pytest.mark.contract("1 cache-status")
def test_cohorts__expired_copy__fetched_again_or_served_when_the_call_fails(
    get: Any, source: FakeSource, clock: FakeClock
) -> None:
    get("/v1/cohorts?user_id=ava")
    clock.advance(5000)
    source.fault = UpstreamUnavailable()
    for path in ("/v1/cohorts?user_id=ava", "/v1/cohorts?user_id=ava&on_error=retry"):
        old_copy = get(path)
        assert (old_copy.status_code, old_copy.json["ok"], old_copy.json["stale"]) == (200, True, True)
        assert old_copy.headers["Cache-Status"] == "connected-content-proxy; fwd=stale; detail=upstream_unavailable"
        assert old_copy.headers["X-Amplitude-Calls"] == "1"
    source.fault = None
    assert get("/v1/cohorts?user_id=ava").headers["Cache-Status"] == "connected-content-proxy; fwd=stale; stored"


@pytest.mark.contract("1 request cache-control")
@pytest.mark.contract("1 cache-status")
@pytest.mark.parametrize(
    ("directive", "status"),
    [
        ("no-cache", "fwd=request; stored"),
        ("NO-CACHE", "fwd=request; stored"),
        ("max-age=99", "fwd=request; stored"),
        ("max-age=0", "fwd=request; stored"),
        ("max-age=100", "hit; ttl=800"),
        ("max-age=" + "9" * 400, "hit; ttl=800"),
        ("max-age=soon", "hit; ttl=800"),
        ("no-store, only-if-cached, min-fresh=9999", "hit; ttl=800"),
    ],
)
def test_request_cache_control__each_directive__hit_or_fetched_again(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock, directive: str, status: str
) -> None:
    client.get("/v1/cohorts?user_id=ava", headers=caller)
    clock.advance(100)
    answer = client.get("/v1/cohorts?user_id=ava", headers=caller | {"Cache-Control": directive})
    assert answer.headers["Cache-Status"] == f"connected-content-proxy; {status}"


def test_security_headers__any_route_and_status__present(client: FlaskClient, caller: dict[str, str]) -> None:
    for path in ("/v1/cohorts?user_id=ava", "/v1/cohorts", "/healthz", "/nowhere"):
        for headers in (caller, {}):
            answer = client.get(path, headers=headers)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert answer.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.contract("1 ignored bodies")
def test_request__body_on_get_or_empty_post__200(get: Any, post: Any) -> None:
    assert get("/v1/cohorts?user_id=ava", data=b"{", content_type="text/plain").status_code == 200
    assert post("/v1/cohorts?user_id=ava").status_code == 200


@pytest.mark.contract("1 headers")
@pytest.mark.parametrize("sane", ["a1b2c3d4-e5f6", "A" * 200])
def test_request_id__valid__kept(client: FlaskClient, sane: str) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": sane}).headers["X-Request-ID"] == sane


@pytest.mark.parametrize("odd", ["", "a b", "A" * 201, "<script>", "é"])
def test_request_id__invalid__replaced(client: FlaskClient, odd: str) -> None:
    replaced = client.get("/healthz", headers={"X-Request-ID": odd}).headers["X-Request-ID"]
    assert replaced != odd
    assert len(replaced) == 32


def test_data_route__unexpected_exception__500_without_the_user_id(
    client: FlaskClient, clock: FakeClock, caller: dict[str, str]
) -> None:
    def fail() -> float:
        raise RuntimeError("secret-user")

    clock.now = fail
    answer = client.get("/v1/cohorts?user_id=secret-user", headers=caller)
    assert answer.status_code == 500
    assert answer.content_type == "application/problem+json"
    assert "secret-user" not in answer.text


@pytest.mark.contract("1 aliases")
def test_aliases__name_or_id__same_answer_from_one_cached_part(
    source: FakeSource, clock: FakeClock, caller: dict[str, str]
) -> None:
    env = {
        "AMPLITUDE_SECRET_KEY": "k",
        "PROXY_API_KEYS": KEYS,
        "ALIASES": "cohorts.vip=c31,recommendations.home=abc123",
    }
    client = create_app(Settings.from_env(env), fetch=source.fetch, clock=clock).test_client()
    source.user_data = {
        "user_id": "u",
        "cohort_ids": ["c31"],
        "recommendations": [{"rec_id": "abc123", "items": ["shoe"]}],
    }
    for cohort_id in ("vip", "c31"):
        answer = json.loads(client.get(f"/v1/cohorts?user_id=u&cohort_id={cohort_id}", headers=caller).data)
        assert answer["member"] == {cohort_id: True}
    for rec_id in ("home", "abc123"):
        answer = json.loads(client.get(f"/v1/recommendations?user_id=u&rec_id={rec_id}", headers=caller).data)
        assert (answer["rec_id"], answer["items"]) == (rec_id, ["shoe"])
    assert len(source.calls) == 2, "a name and its id share one cached part"


@pytest.mark.contract("2 request ids")
def test_call__request_with_an_id__has_that_request_id(
    client: FlaskClient, source: FakeSource, caller: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = []
    find_user_data = source.find_user_data

    def record_id(*arguments: Any) -> Any:
        ids.append(request_id.get())
        return find_user_data(*arguments)

    monkeypatch.setattr(source, "find_user_data", record_id)
    for number in range(3):
        client.get(f"/v1/cohorts?user_id=u{number}", headers={**caller, "X-Request-ID": f"request-{number}"})
    assert ids == ["request-0", "request-1", "request-2"]


def test_repeated_request__same_copy__same_bytes_with_its_current_age(
    client: FlaskClient, get: Any, caller: dict[str, str], clock: FakeClock, source: FakeSource
) -> None:
    path = "/v1/profile?user_id=ava&include=properties,cohorts"
    first = get(path)
    for repeat in range(1, 6):
        clock.advance(10)
        repeated = get(path)
        assert repeated.data == first.data
        assert repeated.headers["ETag"] == first.headers["ETag"]
        assert repeated.headers["Age"] == str(10 * repeat)
        assert repeated.headers["Cache-Status"] == f"connected-content-proxy; hit; ttl={900 - 10 * repeat}"
        assert client.get(path, headers=caller | {"If-None-Match": first.headers["ETag"]}).status_code == 304
    assert len(source.calls) == 1

    source.user_data = AVA | {"cohort_ids": ["new"]}
    refetched = client.get(path, headers=caller | {"Cache-Control": "max-age=20"})
    assert json.loads(refetched.data)["cohort_ids"] == ["new"]
    assert get(path).json["cohort_ids"] == ["new"]
    for _ in range(3):
        get(path)
    clock.advance(901)
    assert get(path).json["stale"] is True
