"""The real service with its shipped configuration, over HTTP. The sandbox counts the calls."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from proxy.sandbox.faults import Fault, FaultKind
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from tests.conftest import SECRET, Service
from tests.support.upstream import Reply, Upstream
from tests.support.wait import log_lines, milliseconds, request_lines, until

_numbers = itertools.count(1_000)


@pytest.fixture
def user() -> str:
    """Return a known user that no other test uses."""
    from proxy.sandbox.people import find

    while True:
        person = find(f"user-{next(_numbers)}", None)
        if person and person.user_id and person.recommendations:
            return person.user_id


def calls_for(service: Service, user: str) -> int:
    """Return the number of calls for a user. Calls for users of earlier tests may still be retried."""
    return sum(query.get("user_id") == user for _, query in service.sandbox.calls)


def at_once(service: Service, paths: list[str]) -> list[requests.Response]:
    """Send requests for all `paths` at the same instant, and return the answers."""
    start = threading.Barrier(len(paths))

    def ask(path: str) -> requests.Response:
        start.wait()
        return service.get(path)

    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(ask, paths))


@pytest.mark.contract("1 cache-status")
def test_recommendations__100_identical_requests_at_once__one_call(service: Service, user: str) -> None:
    answers = at_once(service, [f"/v1/recommendations?user_id={user}&rec_id=homepage"] * 100)
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.json()["ok"] for answer in answers)
    assert len({answer.content for answer in answers}) == 1
    assert calls_for(service, user) == 1
    assert service.sandbox.exposures == [(user, "homepage")]
    outcomes = [answer.headers["Cache-Status"].partition("; ")[2] for answer in answers]
    assert outcomes.count("fwd=miss; stored") == 1


def test_recommendations__then_properties_and_cohorts__one_call(service: Service, user: str) -> None:
    for path in ("recommendations?rec_id=homepage&", "properties?", "cohorts?"):
        assert service.get(f"/v1/{path}user_id={user}").json()["ok"]
    assert calls_for(service, user) == 1


def test_properties__then_recommendations__two_calls(service: Service, user: str) -> None:
    for path in ("properties?", "recommendations?rec_id=homepage&"):
        assert service.get(f"/v1/{path}user_id={user}").json()["ok"]
    assert calls_for(service, user) == 2


def test_profile__then_each_route__one_call(service: Service, user: str) -> None:
    include = "include=recommendations,properties,cohorts&rec_id=homepage"
    assert service.get(f"/v1/profile?user_id={user}&{include}").headers["X-Amplitude-Calls"] == "1"
    for path in ("recommendations?rec_id=homepage&", "properties?", "cohorts?"):
        assert service.get(f"/v1/{path}user_id={user}").headers["X-Amplitude-Calls"] == "0"
    assert calls_for(service, user) == 1


def test_recommendations__properties_at_the_same_instant__at_most_two_calls(service: Service, user: str) -> None:
    at_once(service, [f"/v1/recommendations?user_id={user}&rec_id=homepage", f"/v1/properties?user_id={user}"])
    assert calls_for(service, user) <= 2


@pytest.mark.contract("1 profile")
def test_exposures__profile_then_recommendations__only_of_requested_recommendations(
    service: Service, user: str
) -> None:
    service.get(f"/v1/profile?user_id={user}&include=properties,cohorts&rec_id=homepage")
    service.get(f"/v1/recommendations?user_id={user}&rec_id=homepage,also-bought")
    assert sorted(service.sandbox.exposures) == [(user, "also-bought"), (user, "homepage")]


@pytest.mark.contract("1 deadline")
@pytest.mark.parametrize("kind", ["hang", "drip-headers", "drip-body", "slow"])
def test_call__ends_after_the_deadline__answers_in_time_and_result_is_cached(
    service: Service, user: str, kind: FaultKind
) -> None:
    service.sandbox.break_with(Fault(kind, seconds=4 if kind == "hang" else 2.2, user_id=user))
    paths = [f"/v1/cohorts?user_id={user}"] * 30
    answers = at_once(service, paths)
    assert max(milliseconds(service.log, *answers)) < 2000  # when Braze gives up
    assert {answer.json()["error"] for answer in answers} == {"upstream_timeout"}
    assert calls_for(service, user) == 1
    if kind == "hang":
        return
    until(lambda: service.get(paths[0]).json()["ok"], "the late answer was not cached")
    assert calls_for(service, user) == 1


def test_call__slower_than_the_deadline__next_request_is_a_hit(service: Service, user: str) -> None:
    service.sandbox.break_with(Fault("slow", seconds=1.4, user_id=user))
    (elapsed_ms,) = milliseconds(service.log, service.get(f"/v1/cohorts?user_id={user}"))
    assert elapsed_ms < 1600
    until(lambda: service.get(f"/v1/cohorts?user_id={user}").json()["ok"])
    hit = service.get(f"/v1/cohorts?user_id={user}")
    assert hit.json()["ok"]
    assert "hit" in hit.headers["Cache-Status"]
    assert calls_for(service, user) == 1


WORDS: list[tuple[FaultKind, str]] = [
    ("hang", "upstream_timeout"),
    ("reset", "upstream_unavailable"),
    ("status", "upstream_unavailable"),
    ("broken-json", "upstream_invalid"),
    ("wrong-shape", "upstream_invalid"),
    ("wrong-types", "upstream_invalid"),
    ("oversize", "upstream_invalid"),
    ("redirect", "upstream_invalid"),
    ("not-utf-8", "upstream_invalid"),
    ("another-user", "upstream_invalid"),
]


@pytest.mark.contract("1 error words")
@pytest.mark.contract("1 recovery")
@pytest.mark.parametrize(("kind", "word"), WORDS, ids=[kind for kind, _ in WORDS])
def test_fault__default_retry_and_drop_in__error_word_until_the_fault_ends(
    service: Service, user: str, kind: FaultKind, word: str
) -> None:
    service.sandbox.break_with(Fault(kind, seconds=3.2))
    path = f"/v1/cohorts?user_id={user}"
    plain, retried = at_once(service, [path, f"{path}&on_error=retry"])
    assert (plain.status_code, plain.json()["ok"], plain.json()["error"]) == (200, False, word)
    assert (retried.status_code, retried.json()["ok"], retried.json()["error"]) == (500, False, word)
    assert int(retried.headers["Retry-After"]) >= 1
    drop_in = service.get(f"/v1/userprofile?user_id={user}&get_cohort_ids=true")
    assert (drop_in.status_code, drop_in.json()) == (500, {"error": word})
    service.sandbox.break_with(None)
    until(lambda: service.get(path).json()["ok"], "no complete answer within 10 seconds of the end of the fault")


@pytest.mark.contract("1 recovery")
def test_429__retry_after_is_over__calls_resume_within_5_seconds(start_service: Callable[..., Service]) -> None:
    with Sandbox(documented=Documented(retry_after=2)) as sandbox:
        service = start_service(sandbox)
        sandbox.break_with(Fault("quota", times=1))
        assert service.get("/v1/cohorts?user_id=ava").json()["error"] == "quota_exhausted"
        started_at = time.monotonic()
        refused = service.get("/v1/cohorts?user_id=ava&on_error=retry")
        assert refused.headers["X-Amplitude-Calls"] == "0"
        assert refused.headers["Retry-After"] == "2"
        until(lambda: service.get("/v1/cohorts?user_id=ava").json()["ok"], seconds=2 + 5)
        assert time.monotonic() >= started_at + 1.5
        assert sandbox.report()["calls"] == 2


def test_amplitude_credentials__wrong__upstream_rejected_until_accepted(start_service: Callable[..., Service]) -> None:
    with Sandbox() as sandbox:
        service = start_service(sandbox, AMPLITUDE_SECRET_KEY="another")
        assert service.get("/v1/cohorts?user_id=ava").json()["error"] == "upstream_rejected"
        ready = requests.get(f"{service.url}/readyz", timeout=5)
        assert (ready.status_code, ready.json()["upstream"]) == (503, "rejected")
        sandbox.secret_key = "another"
        until(
            lambda: service.get("/v1/cohorts?user_id=ava").json()["ok"],
            "no complete answer within 10 seconds of the end of the fault",
        )


@pytest.mark.contract("1 computations")
def test_profile__properties_computations_and_propensities__kept_apart(service: Service) -> None:
    body = service.get(
        "/v1/profile?user_id=ava&include=properties,computations,propensities&prediction_id=pred-buy"
    ).json()
    assert body["computations"] == {"orders": 12, "lifetime_spend": 1849.5, "zip": "02134"}
    assert body["properties"]["first_name"] == "Ava"
    assert body["propensity"] == 0.83
    assert service.get("/v1/computations?user_id=ava&comp_id=comp-orders").json()["computations"] == {"orders": 12}
    assert (
        service.get("/v1/propensities?user_id=ava&prediction_id=pred-buy&propensity_type=pct").json()["propensity"]
        == 97
    )


@pytest.mark.contract("4 quota")
def test_quota__more_users_than_calls__quota_exhausted_in_time_and_no_429(
    start_service: Callable[..., Service],
) -> None:
    with Sandbox(per_minute=60) as sandbox:
        service = start_service(sandbox, AMPLITUDE_REQUESTS_PER_MINUTE="60")
        answers = at_once(service, [f"/v1/cohorts?user_id=user-{number}" for number in range(1, 101)])
        assert max(milliseconds(service.log, *answers)) < 1700
        words = [answer.json()["error"] for answer in answers]
        assert words.count(None) >= 6
        assert set(words) == {None, "quota_exhausted"}
        assert sandbox.statuses[429] == 0
        assert sandbox.report()["calls"] == words.count(None)


@pytest.mark.contract("1 status 4xx")
def test_body__chunked_and_over_the_limit__413(service: Service) -> None:
    chunks = (b"x" * 1000 for _ in range(40))
    headers = {"X-API-Key": SECRET, "Content-Type": "application/json"}
    answer = requests.post(f"{service.url}/v1/cohorts?user_id=u", data=chunks, headers=headers, timeout=5)
    assert answer.status_code == 413


def test_body__broken_chunk__400(service: Service) -> None:
    head = f"POST /v1/cohorts HTTP/1.1\r\nHost: x\r\nX-API-Key: {SECRET}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nuser_\r\nzz\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")


@pytest.mark.contract("2 secrets")
def test_log__valid_and_broken_requests__json_lines_without_ids_or_secrets(service: Service) -> None:
    service.sandbox.break_with(Fault("bad-header"))
    hidden = "hidden-user@example.com"
    auth = ("braze", SECRET)
    requests.get(f"{service.url}/v1/cohorts", params={"user_id": hidden}, auth=auth, timeout=5)
    requests.get(f"{service.url}/v1/cohorts", params={"user_id": "ava"}, auth=("braze", "wrong-secret"), timeout=5)
    requests.get(f"{service.url}/nowhere/{hidden}", timeout=5)
    requests.post(f"{service.url}/v1/cohorts", json={"user_id": hidden * 99}, auth=auth, timeout=5)
    for broken in (
        f"GET /v1/cohorts?user_id={hidden}\r\n\r\n",
        f"GET /v1/cohorts?user_id={hidden} HTTP/7.3\r\n\r\n",
        f"GET /v1/cohorts HTTP/1.1\r\nHost: x\r\nExpect: {hidden}\r\n\r\n",
        f"GET /v1/cohorts HTTP/1.1\r\nHost: x\r\n{hidden} : {SECRET}\r\n\r\n",
        f"GET /v1/cohorts HTTP/1.1\r\nHost: x\r\nX-API-Key: {SECRET}\0\r\n\r\n",
        f"GET /v1/cohorts?user_id={hidden * 900} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"{hidden} / HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=5) as connection:
            connection.sendall(broken.encode())
            head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 4")
            assert b"application/problem+json" in head
            assert b"Content-Security-Policy: default-src 'none'" in head
            problem = json.loads(body)
            assert (problem["status"], problem["code"]) == (int(head.split()[1]), "invalid_request")
            assert b"hidden" not in body
    last = service.get("/v1/cohorts?user_id=last")
    request_lines(service.log, last)  # the lines before it are then written too
    text = service.log.read_text()
    for secret in (hidden, "hidden-user", SECRET, "wrong-secret", service.sandbox.secret_key):
        assert secret not in text
    assert "http_request_invalid" in text
    requested = [
        line for line in log_lines(service.log) if line["event"] == "request" and line["route"] == "/v1/cohorts"
    ]
    assert requested
    assert {"method", "route", "status", "ms", "caller", "cache", "calls", "request_id", "time"} <= requested[-1].keys()
    assert {line["caller"] for line in requested} == {"braze"}


@pytest.mark.contract("2 request ids")
def test_log__call_fails__id_of_the_request_that_started_the_call(
    start_service: Callable[..., Service], sandbox: Sandbox
) -> None:
    service = start_service(sandbox)

    def ask(user: str, id: str) -> None:
        headers = {"X-API-Key": SECRET, "X-Request-ID": id}
        requests.get(f"{service.url}/v1/cohorts?user_id={user}", headers=headers, timeout=5)

    for number in range(3):
        ask(f"user-{number}", f"before-{number}")
    sandbox.break_with(Fault("reset"))
    ask("user-4", "failing")
    failures = [line for line in log_lines(service.log) if line["event"] == "upstream_call_failed"]
    assert [line["request_id"] for line in failures] == ["failing"]


@pytest.mark.contract("1 another user")
def test_answer__about_another_user__not_cached_and_logged_without_an_id(
    start_service: Callable[..., Service], sandbox: Sandbox
) -> None:
    service = start_service(sandbox)
    sandbox.break_with(Fault("broken-json", times=1))
    service.get("/v1/cohorts?user_id=user-1")
    sandbox.break_with(Fault("another-user"))
    for number in range(3, 10):  # more failures in a row than the number that pauses calls
        answer = service.get(f"/v1/cohorts?user_id=user-{number}")
        assert (answer.json()["error"], answer.headers["X-Amplitude-Calls"]) == ("upstream_invalid", "1")
        assert answer.json()["cohort_ids"] == []
    sandbox.break_with(None)
    for number in range(3, 10):
        answer = service.get(f"/v1/cohorts?user_id=user-{number}")
        assert (answer.json()["error"], answer.headers["X-Amplitude-Calls"]) == (None, "1")
    text = service.log.read_text()
    failures = [line for line in log_lines(service.log) if line["event"] == "upstream_call_failed"]
    assert ["ACCEPT_MAPPED_USERS" in line["why"] for line in failures] == [False, True]
    assert {line["error"] for line in failures} == {"upstream_invalid"}
    assert "another-user" not in text
    assert "user-3" not in text


@pytest.mark.contract("1 mixed-up answers")
@pytest.mark.parametrize("status", ["103 Early Hints", "204 No Content", "200 OK"])
def test_connection__answer_arrives_late__no_user_gets_data_of_another(
    start_service: Callable[..., Service], sandbox: Sandbox, status: str
) -> None:
    def reply(user: str) -> Reply:
        body = json.dumps({"userData": {"user_id": user, "amp_props": {"gp:name": user}, "cohort_ids": []}})
        whole = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        length = "" if status.startswith("1") else "Content-Length: 0\r\n"
        return Reply(f"HTTP/1.1 {status}\r\n{length}\r\n".encode(), late=whole.encode(), patience=0.15)

    with Upstream(reply) as upstream:
        # ACCEPT_MAPPED_USERS turns off the check of the id, so only the transport keeps users apart.
        service = start_service(sandbox, AMPLITUDE_BASE_URL=upstream.url, ACCEPT_MAPPED_USERS="true")
        for user in ("alice", "bob", "carol", "dave"):
            answer = service.get(f"/v1/properties?user_id={user}").json()
            own = {"name": user} if status.startswith("103") else {}
            assert (answer["user_id"], answer["properties"]) == (user, own)
