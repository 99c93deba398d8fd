"""`/v1/snapshots`: upload, list and removal of the snapshots of cohorts."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.settings import Settings
from proxy.web import snapshots
from proxy.web.services import installed
from tests.conftest import KEYS
from tests.support.fakes import FakeClock, FakeSource
from tests.support.service import SECRET, Service
from tests.support.wait import until

NDJSON = {"Content-Type": "application/x-ndjson"}


def lines(*user_ids: object) -> bytes:
    return b"".join(json.dumps(user_id).encode() + b"\n" for user_id in user_ids)


@pytest.fixture
def put(client: FlaskClient, caller: dict[str, str]) -> Any:
    def send(path: str = "c31", body: bytes = lines("ava", "ben"), **headers: str) -> Any:
        return client.put(
            f"/v1/snapshots/{path}",
            data=body,
            headers=caller | NDJSON | {k.replace("_", "-"): v for k, v in headers.items()},
        )

    return send


def is_member(client: FlaskClient, caller: dict[str, str], user_id: str, cohort_id: str = "c31") -> Any:
    return client.get(f"/v1/cohorts?user_id={user_id}&cohort_id={cohort_id}", headers=caller).get_json()


@pytest.mark.contract("6 snapshots")
def test_put__members__cohort_is_answered_for_every_user_without_a_call(
    client: FlaskClient, caller: dict[str, str], put: Any, source: FakeSource, clock: FakeClock
) -> None:
    response = put()
    assert response.status_code == 200
    assert response.get_json() == {"cohort_id": "c31", "members": 2, "as_of": int(clock.now()), "skipped": 0}
    member, other = is_member(client, caller, "ava"), is_member(client, caller, "zoe")
    assert (member["is_member"], member["member"], member["cohort_ids"]) == (True, {"c31": True}, ["c31"])
    assert (member["ok"], member["found"], member["as_of"]) == (True, True, int(clock.now()))
    assert (other["is_member"], other["member"], other["cohort_ids"]) == (False, {"c31": False}, [])
    assert (other["ok"], other["found"]) == (True, False)
    assert source.calls == []


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(gzip.compress(lines("ava")), {"Content_Encoding": "gzip"}, id="content encoding"),
        pytest.param(gzip.compress(lines("ava")), {"Content_Type": "application/gzip"}, id="content type"),
        pytest.param(
            gzip.compress(lines("x")) + gzip.compress(lines("ava")), {"Content_Encoding": "gzip"}, id="two members"
        ),
        pytest.param(b'\n"ava"', {}, id="no line end"),
        pytest.param(b'\xef\xbb\xbf"ava"\n', {}, id="byte order mark"),
        pytest.param(b'\xef\xbb\xbf\n"ava"\n', {}, id="byte order mark and a blank line"),
        pytest.param(b'"\\u0061va"\r\n', {}, id="escapes and CRLF"),
    ],
)
def test_put__gzip_and_json_variants__are_read(
    client: FlaskClient, caller: dict[str, str], put: Any, body: bytes, headers: dict[str, str]
) -> None:
    assert put(body=body, **headers).status_code == 200
    assert is_member(client, caller, "ava")["is_member"]


@pytest.mark.contract("6 snapshots")
@pytest.mark.parametrize("header", [("Cache-Control", "no-cache"), ("Cache-Control", "max-age=5"), ("Priority", "u=7")])
def test_get__newer_answer_is_requested__snapshot_answers_without_a_call(
    client: FlaskClient,
    caller: dict[str, str],
    put: Any,
    source: FakeSource,
    clock: FakeClock,
    header: tuple[str, str],
) -> None:
    headers = caller | dict([header])
    source.user_data = {"user_id": "ava", "device_id": None, "amp_props": {"plan": "gold"}, "cohort_ids": ["c7"]}
    put(body=lines("ava", "lou"))
    clock.advance(100)

    def ask(path: str) -> Any:
        source.calls.clear()
        return client.get(f"/v1/{path}", headers=headers)

    for user_id, expected in (("ava", True), ("zoe", False)):
        answer = ask(f"cohorts?user_id={user_id}&cohort_id=c31")
        assert (answer.get_json()["is_member"], answer.headers["Age"], source.calls) == (expected, "100", [])
        assert answer.headers["Cache-Status"] == "connected-content-proxy; hit; ttl=86300"
    both = ask("profile?user_id=ava&include=properties,cohorts&cohort_id=c31")
    assert (both.get_json()["is_member"], both.get_json()["properties"]) == (True, {"plan": "gold"})
    assert len(source.calls) == 1, "newer properties cost a call"
    clock.advance(60)  # another background call may be sent
    source.user_data |= {"user_id": "lou"}
    other = ask("cohorts?user_id=lou&cohort_id=c31,c7")
    assert (other.get_json()["member"], len(source.calls)) == ({"c31": True, "c7": True}, 1)
    clock.advance(86400)
    source.user_data |= {"user_id": "ava"}
    assert ask("cohorts?user_id=ava&cohort_id=c31").get_json()["is_member"] is False
    assert len(source.calls) == 1, "a fetched answer overrides an old snapshot"


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code", "parameter"),
    [
        ("c31", b"", {}, 400, "invalid_body", None),
        ("c31", lines(" ava"), {}, 400, "invalid_body", None),
        ("c31", b"ava\n", {}, 400, "invalid_body", None),
        ("c31", lines("ava", 7), {}, 400, "invalid_body", None),
        ("c31", lines("a" * 5000), {}, 400, "invalid_body", None),
        ("c31", gzip.compress(lines("ava"), mtime=0)[:-6], {"Content_Encoding": "gzip"}, 400, "invalid_body", None),
        ("c31", lines("ava"), {"Content_Encoding": "gzip"}, 400, "invalid_body", None),
        ("c31", lines("ava"), {"Content_Encoding": "br"}, 415, "unsupported_media_type", None),
        ("c31", lines("ava"), {"Content_Type": "application/json"}, 415, "unsupported_media_type", None),
        ("c31%20", lines("ava"), {}, 400, "invalid_parameter", "cohort_id"),
        ("%0A", lines("ava"), {}, 400, "invalid_parameter", "cohort_id"),
        ("c%FF", lines("ava"), {}, 400, "invalid_parameter", "cohort_id"),
        ("a%0Ab", lines("ava"), {}, 400, "invalid_parameter", "cohort_id"),
        ("", lines("ava"), {}, 405, "method_not_allowed", None),
        ("/", lines("ava"), {}, 400, "invalid_parameter", "cohort_id"),
        ("c31?as_of=yesterday", lines("ava"), {}, 400, "invalid_parameter", "as_of"),
        ("c31?as_of=nan", lines("ava"), {}, 400, "invalid_parameter", "as_of"),
        ("c31?as_of=1000700", lines("ava"), {}, 400, "invalid_parameter", "as_of"),
        ("c31?as_of=1_000_000", lines("ava"), {}, 400, "invalid_parameter", "as_of"),
        ("c31?as_of=900000", lines("ava"), {}, 400, "invalid_parameter", "as_of"),
        ("c31", lines("ava"), {"X_As_Of": "1"}, 400, "invalid_parameter", "as_of"),
    ],
)
def test_put__invalid_request__problem_and_nothing_is_installed(
    app: Flask, put: Any, path: str, body: bytes, headers: dict[str, str], status: int, code: str, parameter: str | None
) -> None:
    response = put(path, body, **headers)
    problem = response.get_json()
    assert (response.status_code, problem["code"], problem.get("parameter")) == (status, code, parameter), problem
    assert installed(app).store.memory.snapshots.installed() == []


def test_put__empty_snapshot_is_allowed__no_user_is_a_member(
    client: FlaskClient, caller: dict[str, str], put: Any
) -> None:
    assert put("c31?allow_empty=true", b"").get_json()["members"] == 0
    answer = is_member(client, caller, "ava")
    assert (answer["ok"], answer["is_member"]) == (True, False)


def test_put__unreadable_ids__skipped_and_counted(put: Any) -> None:
    answer = put(body=lines("ava", "", " ben", "z" * 513, "tab\there", "ava")).get_json()
    assert (answer["members"], answer["skipped"]) == (1, 4)


def test_put__older_snapshot__conflict_and_the_same_time_replaces(
    client: FlaskClient, caller: dict[str, str], put: Any, clock: FakeClock
) -> None:
    at = int(clock.now())
    assert put(f"c31?as_of={at - 5}").status_code == 200
    assert put(f"c31?as_of={at - 5}", lines("zoe")).status_code == 200
    older = put(f"c31?as_of={at - 6}")
    assert (older.status_code, older.get_json()["code"]) == (409, "newer_snapshot")
    assert is_member(client, caller, "zoe")["is_member"]


def test_put__as_of_is_ahead__counts_as_now(put: Any, clock: FakeClock) -> None:
    assert put(X_As_Of=str(int(clock.now()) + 500)).get_json()["as_of"] == int(clock.now())


def test_put__too_many_lines__refused(put: Any, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MAX_MEMBERS", 2)
    assert put(body=lines("a", "b")).status_code == 200
    response = put("c7", lines("a", "b", "c"))
    assert (response.status_code, response.get_json()["code"]) == (413, "body_too_large")
    monkeypatch.setattr(snapshots, "MAX_TOTAL_MEMBERS", 2)
    assert put("c7", lines("a")).status_code == 413
    assert put("c31", lines("a")).status_code == 200
    assert [snapshot.cohort_id for snapshot in installed(app).store.memory.snapshots.installed()] == ["c31"]


class CountedCheckpoint:
    """Replaces the checkpoint of an upload, and counts its calls."""

    calls = 0

    def __call__(self) -> None:
        CountedCheckpoint.calls += 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 100_000, id="long name in the header"),
        pytest.param(gzip.compress(b"") * 5000 + b"x", id="empty members"),
        pytest.param(gzip.compress(b"") + bytes(100_000) + b"x", id="padding"),
    ],
)
def test_put__gzip_without_lines__other_requests_run_between_small_pieces(
    put: Any, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(snapshots, "Checkpoint", CountedCheckpoint)
    monkeypatch.setattr(CountedCheckpoint, "calls", 0)
    assert put(body=body, Content_Encoding="gzip").status_code == 400
    assert CountedCheckpoint.calls >= len(body) / 8192


class SlowConnection:
    """Replaces the connection of the server, and records the time limits of bodies."""

    def __init__(self) -> None:
        self.limits: list[float] = []

    def allow_slow_body(self, seconds: float) -> None:
        self.limits.append(seconds)


def test_put__slow_body__only_with_the_right_key(client: FlaskClient, caller: dict[str, str]) -> None:
    for headers, limits in ((caller, [600.0]), ({}, [])):
        connection = SlowConnection()
        client.put(
            "/v1/snapshots/c31",
            data=lines("ava"),
            headers={**headers, **NDJSON},
            environ_overrides={"gunicorn.socket": connection},
        )
        assert connection.limits == limits


class PausedBody(io.BytesIO):
    """A body that arrives only after `resume` is set. `started` is set when the service reads the body."""

    def __init__(self) -> None:
        super().__init__(lines("ava"))
        self.started, self.resume = Event(), Event()

    def readinto(self, buffer: Any) -> int:
        self.started.set()
        assert self.resume.wait(10)
        return super().readinto(buffer)


def put_as(app: Flask, key: str, body: io.BytesIO, cohort_id: str = "c31") -> Any:
    headers = {"X-API-Key": key * 32} | NDJSON
    return app.test_client().put(f"/v1/snapshots/{cohort_id}", input_stream=body, headers=headers)


def with_keys(source: FakeSource, *names: str) -> Flask:
    """Return an application with push keys. The secret of a key is 32 times the first letter of its name."""
    keys = ",".join(f"{name}:{name[0] * 32}:push" for name in names)
    return create_app(Settings.from_env({"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": keys}), fetch=source.fetch)


def test_put__key_sends_two_snapshots_slowly__other_key_uploads(source: FakeSource) -> None:
    app = with_keys(source, "slow", "other")
    bodies = [PausedBody(), PausedBody()]
    with ThreadPoolExecutor(2) as pool:
        uploads = [pool.submit(put_as, app, "s", body, f"c{number}") for number, body in enumerate(bodies)]
        until(lambda: any(body.started.is_set() for body in bodies))
        assert put_as(app, "o", io.BytesIO(lines("ava"))).status_code == 200
        assert [body.started.is_set() for body in bodies].count(True) == 1
        for body in bodies:
            body.resume.set()
        assert [upload.result(10).status_code for upload in uploads] == [200, 200]


def test_put__key_already_uploads__busy_with_retry_after(source: FakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "UPLOAD_WAIT_SECONDS", 0)
    app, body = with_keys(source, "impatient"), PausedBody()
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(put_as, app, "i", body)
        until(body.started.is_set)
        refused = put_as(app, "i", io.BytesIO(lines("ava")))
        body.resume.set()
        assert upload.result(10).status_code == 200
    assert (refused.status_code, refused.get_json()["code"], refused.headers["Retry-After"]) == (500, "busy", "1")
    assert refused.get_json()["detail"].startswith("this key already uploads a snapshot")


def test_put__aliases_trailing_slash_and_repeated_time__as_on_data_routes(
    source: FakeSource, caller: dict[str, str]
) -> None:
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "ALIASES": "cohorts.vip=c31"}
    client = create_app(Settings.from_env(env), fetch=source.fetch).test_client()
    answer = client.put("/v1/snapshots/vip/", data=lines("ava"), headers=caller | NDJSON)
    assert (answer.status_code, answer.get_json()["cohort_id"]) == (200, "c31")
    for cohort_id in ("vip", "c31"):
        assert is_member(client, caller, "ava", cohort_id)["is_member"]
    assert client.get("/v1/snapshots/", headers=caller).get_json()["snapshots"][0]["cohort_id"] == "c31"
    repeated = client.put("/v1/snapshots/c31?as_of=1", data=lines("ava"), headers=caller | NDJSON | {"X-As-Of": "1"})
    assert (repeated.status_code, repeated.get_json()["code"]) == (400, "repeated_parameter")
    assert client.delete("/v1/snapshots/vip/", headers=caller).status_code == 200


@pytest.mark.parametrize("cohort_id", ["a/b", "/a", "a//b", "a/", "100%", "a?b#c", "é"])
def test_put_and_delete__any_characters_in_the_id__same_id_as_on_data_routes(
    client: FlaskClient, caller: dict[str, str], put: Any, cohort_id: str
) -> None:
    path = quote(cohort_id, safe="") + "/"  # the last slash belongs to the path
    assert put(path).get_json()["cohort_id"] == cohort_id
    assert is_member(client, caller, "ava", quote(cohort_id, safe=""))["is_member"]
    assert client.delete(f"/v1/snapshots/{path}", headers=caller).status_code == 200
    assert client.get("/v1/snapshots", headers=caller).get_json()["snapshots"] == []


@pytest.mark.contract("6 snapshot forget")
def test_put__users_were_forgotten_after_as_of__left_out_of_the_snapshot_and_the_count(
    client: FlaskClient, caller: dict[str, str], put: Any, clock: FakeClock
) -> None:
    as_of = int(clock.now())
    clock.advance(60)
    client.delete("/v1/profile?user_id=ava", headers=caller)
    clock.advance(20_000)  # longer than a webhook is retried
    assert put(f"c31?as_of={as_of}").get_json()["members"] == 1
    assert not is_member(client, caller, "ava")["is_member"]
    assert put(f"c31?as_of={as_of + 61}").get_json()["members"] == 2


@pytest.mark.contract("6 snapshots")
def test_get__user_was_answered_from_a_snapshot__webhook_and_repeated_request(
    client: FlaskClient, caller: dict[str, str], put: Any, clock: FakeClock, source: FakeSource
) -> None:
    put()
    for _ in range(3):
        answer = client.get("/v1/cohorts?user_id=ava&cohort_id=c31", headers=caller)
        assert (answer.headers["Cache-Status"], answer.headers["X-Amplitude-Calls"]) == (
            "connected-content-proxy; hit; ttl=86400",
            "0",
        )
    clock.advance(60)
    for seconds, expected in ((-120, True), (-1, False)):
        message = {"cohort_id": "c31", "in_cohort": False, "users": [{"user_id": "ava"}]}
        message["computed_time"] = clock.now() + seconds
        assert client.post("/v1/webhooks/amplitude/cohorts", json=message, headers=caller).status_code == 200
        assert is_member(client, caller, "ava")["is_member"] is expected
    assert not is_member(client, caller, "zoe")["found"]
    assert source.calls == []


def unknown_to_amplitude(client: FlaskClient, caller: dict[str, str], source: FakeSource) -> None:
    """Make `ava` unknown to Amplitude, and cache this answer."""
    source.user_data = None
    client.get("/v1/properties?user_id=ava", headers=caller)
    assert len(source.calls) == 1


@pytest.mark.contract("6 snapshots")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("cohorts?", (True, ["c31"], {"c31": True}, False)),
        ("cohorts?cohort_id=c31", (True, ["c31"], {"c31": True}, True)),
        ("cohorts?cohort_id=c31,c7", (True, ["c31"], {"c31": True, "c7": False}, False)),
        ("cohorts?cohort_id=c9,c7", (False, [], {"c9": False, "c7": False}, False)),
        ("profile?include=cohorts,properties&cohort_id=c31", (True, ["c31"], {"c31": True}, True)),
        ("profile?include=properties,cohorts&cohort_id=c9", (False, [], {"c9": False}, False)),
    ],
)
def test_get__user_is_unknown_to_amplitude__snapshots_are_applied_and_cost_no_call(
    client: FlaskClient,
    caller: dict[str, str],
    put: Any,
    source: FakeSource,
    query: str,
    expected: tuple[Any, ...],
) -> None:
    put("c31", lines("ava"))
    put("c9", lines("ben"))
    unknown_to_amplitude(client, caller, source)
    for _ in range(3):
        answer = client.get(f"/v1/{query}&user_id=ava", headers=caller).get_json()
        assert (answer["found"], answer["cohort_ids"], answer["member"], answer["is_member"]) == expected
    assert len(source.calls) == 1


@pytest.mark.contract("6 snapshots")
def test_get__the_call_for_other_parts_finds_no_user__member_of_the_snapshot(
    client: FlaskClient, caller: dict[str, str], put: Any, source: FakeSource
) -> None:
    put()
    source.user_data = None
    answer = client.get("/v1/profile?include=cohorts,properties&cohort_id=c31&user_id=ava", headers=caller).get_json()
    assert (answer["ok"], answer["is_member"], answer["properties"]) == (True, True, {})


@pytest.mark.parametrize("query", ["cohorts?cohort_id=c31", "userprofile?get_cohort_ids=true"])
def test_get__snapshot_is_older_than_the_unknown_user_and_not_fresh__user_stays_unknown_without_calls(
    client: FlaskClient, caller: dict[str, str], put: Any, clock: FakeClock, source: FakeSource, query: str
) -> None:
    put()
    clock.advance(90_000)
    unknown_to_amplitude(client, caller, source)
    for _ in range(3):
        answer = client.get(f"/v1/{query}&user_id=ava", headers=caller).get_json()
        assert (answer.get("found", False), answer.get("is_member", False)) == (False, False)
    assert len(source.calls) == 1


def test_get_and_delete__snapshots__listed_and_removed(
    client: FlaskClient, caller: dict[str, str], put: Any, clock: FakeClock
) -> None:
    put("c7", lines("ava"))
    put("c31")
    at = int(clock.now())
    expected = [
        {"cohort_id": "c31", "members": 2, "as_of": at, "expires_at": at + 86400},
        {"cohort_id": "c7", "members": 1, "as_of": at, "expires_at": at + 86400},
    ]
    assert client.get("/v1/snapshots", headers=caller).get_json() == {
        "snapshots": expected,
        "cache": {"max_bytes": 64 * 2**20, "records": 0, "evictions": 0},
    }
    assert client.delete("/v1/snapshots/c31", headers=caller).status_code == 200
    missing = client.delete("/v1/snapshots/c31", headers=caller)
    assert (missing.status_code, missing.get_json()["code"]) == (404, "not_found")
    assert client.get("/v1/snapshots", headers=caller).get_json()["snapshots"] == expected[1:]


@pytest.mark.contract("6 snapshot forget")
def test_forget__member__removed_from_every_snapshot(
    client: FlaskClient, caller: dict[str, str], put: Any, clock: FakeClock
) -> None:
    put("c31")
    put("c7")
    clock.advance(1)
    client.delete("/v1/profile?user_id=ava", headers=caller)
    assert not is_member(client, caller, "ava")["found"]
    listed = client.get("/v1/snapshots", headers=caller).get_json()["snapshots"]
    assert [snapshot["members"] for snapshot in listed] == [1, 1]


@pytest.mark.contract("6 snapshot upload")
def test_put__over_http__chunks_are_read_and_an_incomplete_body_installs_nothing(service: Service) -> None:
    port = urlsplit(service.url).port

    def upload(chunks: list[bytes], *, ends: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.putrequest("PUT", "/v1/snapshots/http-cohort")
        for name, value in {"X-API-Key": SECRET, "Transfer-Encoding": "chunked", **NDJSON}.items():
            connection.putheader(name, value)
        connection.endheaders()
        for chunk in chunks:
            connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if ends:
            connection.send(b"0\r\n\r\n")
            assert connection.getresponse().status == 200
        else:
            connection.sock.shutdown(socket.SHUT_WR)
            connection.sock.recv(65536)  # returns after the service has given up
        connection.close()

    upload([lines("snapshot-user-1"), lines("snapshot-user-2")], ends=True)
    upload([lines("snapshot-user-3")], ends=False)
    answer = requests.get(
        f"{service.url}/v1/cohorts?user_id=snapshot-user-1&cohort_id=http-cohort",
        headers={"X-API-Key": SECRET},
        timeout=10,
    ).json()
    assert (answer["is_member"], answer["error"]) == (True, None)
