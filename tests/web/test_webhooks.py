"""`POST /v1/webhooks/amplitude/…`: pushes from Amplitude, and answers with the pushed data."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy.api.openapi.webhooks import COHORT_EXAMPLE
from proxy.app import create_app
from proxy.settings import Settings
from proxy.storage.redis import RedisUnavailable
from proxy.web.services import installed
from tests.conftest import KEYS, SECRET
from tests.support.fakes import FakeClock, FakeSource

START = 1_700_000_000.0
LARGE, SMALL = 8 * 1024 * 1024, 256 * 1024
COHORTS, USERS = "/v1/webhooks/amplitude/cohorts", "/v1/webhooks/amplitude/users"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def settings() -> Settings:
    return Settings.from_env(
        {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "CACHE_PUSHED_SECONDS": "3600", "FETCH_ALONG": ""}
    )


class Hooks:
    """Sends webhooks as Amplitude does, and requests as Braze does."""

    def __init__(self, client: FlaskClient, clock: FakeClock) -> None:
        self.client = client
        self.clock = clock

    def post(self, path: str, body: Any, **headers: str) -> TestResponse:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(
            path, data=sent, content_type="application/json", headers={"X-API-Key": SECRET} | headers
        )

    def cohort(
        self, *users: Any, cohort_id: str = "vip", in_cohort: bool = True, ago: float = 0, message_id: str | None = None
    ) -> TestResponse:
        body = {
            "cohort_id": cohort_id,
            "in_cohort": in_cohort,
            "computed_time": str(int(self.clock() - ago)),
            "message_id": message_id,
            "users": [{"user_id": user} if isinstance(user, str) else user for user in users],
        }
        answer = self.post(COHORTS, body)
        assert answer.status_code == 200, answer.text
        return answer

    def user(self, user_id: str, ago: float = 0, *, whole: bool = False, **properties: Any) -> TestResponse:
        time = {"event_time": self.clock() - ago, "whole": whole}
        answer = self.post(USERS, {"user_id": user_id, "user_properties": properties, **time})
        assert answer.status_code == 200, answer.text
        return answer

    def ask(self, path: str, **headers: str) -> TestResponse:
        return self.client.get(f"/v1/{path}", headers={"X-API-Key": SECRET} | headers)


@pytest.fixture
def hooks(client: FlaskClient, clock: FakeClock) -> Hooks:
    return Hooks(client, clock)


@pytest.mark.contract("3 webhooks")
def test_cohort__pushed__answered_without_a_call_with_the_age_of_the_push(
    hooks: Hooks, source: FakeSource, clock: FakeClock
) -> None:
    hooks.cohort("ava", ago=100)
    for query in ("user_id=ava", "user_id=ava&device_id=phone"):
        for _ in range(3):  # built from the push, then built and stored as ready body, then served from the ready body
            answer = hooks.ask(f"cohorts?{query}&cohort_id=vip")
            assert answer.json is not None
            assert (answer.json["is_member"], answer.json["cohort_ids"], answer.json["found"]) == (True, ["vip"], True)
            assert answer.json["as_of"] == int(START) - 100
            assert answer.headers["Age"] == "100"
            assert answer.headers["Cache-Status"] == "connected-content-proxy; hit; ttl=3500"
            assert answer.headers["Cache-Control"] == "private, max-age=3600"
            assert answer.headers["X-Amplitude-Calls"] == "0"
    assert not source.calls
    clock.advance(3501)
    assert "ttl=-" in hooks.ask("cohorts?user_id=ava&cohort_id=vip").headers["Cache-Status"], (
        "a stale copy is served and refreshed in the background"
    )
    source.wait_for_call()


def test_cohort__user_leaves__answered_at_once_and_older_push_is_ignored(hooks: Hooks) -> None:
    hooks.cohort("ava", ago=100)
    for _ in range(3):
        assert hooks.ask("cohorts?user_id=ava&cohort_id=vip").json["is_member"]  # type: ignore[index]
    hooks.cohort("ava", ago=50, in_cohort=False)
    hooks.cohort("ava", ago=70)
    answer = hooks.ask("cohorts?user_id=ava&cohort_id=vip").json
    assert answer is not None
    assert (answer["is_member"], answer["member"]) == (False, {"vip": False})


@pytest.mark.contract("3 webhooks")
def test_cohort_list__pushes_after_the_fetch__included_until_the_next_fetch(
    hooks: Hooks, source: FakeSource, clock: FakeClock
) -> None:
    source.user_data = {"user_id": "ava", "cohort_ids": ["far", "vip"]}
    hooks.cohort("ava", cohort_id="before", ago=10)
    assert hooks.ask("cohorts?user_id=ava").json["cohort_ids"] == ["far", "vip"]  # type: ignore[index]
    clock.advance(60)
    hooks.cohort("ava", in_cohort=False)
    hooks.cohort("ava", cohort_id="new")
    answer = hooks.ask("cohorts?user_id=ava")
    assert answer.json is not None
    assert answer.json["cohort_ids"] == ["far", "new"]
    assert (answer.headers["Age"], answer.json["as_of"]) == ("60", int(START)), "the age is that of the list"
    assert len(source.calls) == 1
    assert hooks.ask("userprofile?user_id=ava&get_cohort_ids=true").json == {
        "userData": {
            "recommendations": None,
            "user_id": "ava",
            "device_id": None,
            "amp_props": None,
            "cohort_ids": ["far", "new"],
        }
    }
    clock.advance(1)
    hooks.ask("cohorts?user_id=ava", **{"Cache-Control": "no-cache"})
    assert hooks.ask("cohorts?user_id=ava").json["cohort_ids"] == ["far", "vip"], "a later fetch replaces the pushes"  # type: ignore[index]


@pytest.mark.contract("3 webhooks")
def test_cohort__one_requested_cohort_not_pushed__costs_a_call(hooks: Hooks, source: FakeSource) -> None:
    source.user_data = {"user_id": "ava", "cohort_ids": ["far"]}
    hooks.cohort("ava", ago=5)
    answer = hooks.ask("cohorts?user_id=ava&cohort_id=vip,far")
    assert (answer.json["member"], answer.headers["X-Amplitude-Calls"]) == ({"vip": False, "far": True}, "1")  # type: ignore[index]


@pytest.mark.contract("3 webhooks")
def test_cohort__pushed_for_an_unknown_user__user_is_found(hooks: Hooks, source: FakeSource, clock: FakeClock) -> None:
    source.user_data = None
    for _ in range(3):
        assert hooks.ask("cohorts?user_id=new&cohort_id=vip").json["found"] is False  # type: ignore[index]
    clock.advance(2)
    hooks.cohort("new", ago=1)
    answer = hooks.ask("cohorts?user_id=new&cohort_id=vip")
    assert (answer.json["found"], answer.json["is_member"]) == (True, True)  # type: ignore[index]
    assert len(source.calls) == 1
    source.user_data = {"user_id": "new", "cohort_ids": ["far", "vip"]}
    assert hooks.ask("cohorts?user_id=new").json["cohort_ids"] == ["far", "vip"], "the list of cohorts is fetched"  # type: ignore[index]
    assert len(source.calls) == 2


@pytest.mark.contract("3 webhooks")
def test_properties__whole_or_partial_set_pushed__only_a_whole_set_saves_the_call(
    hooks: Hooks, source: FakeSource, clock: FakeClock
) -> None:
    hooks.user("ava", ago=100, whole=True, first_name="Ava", points=420)
    answer = hooks.ask("properties?user_id=ava")
    assert answer.json is not None
    assert answer.json["properties"] == {"first_name": "Ava", "points": 420}
    assert (answer.headers["Age"], answer.headers["Cache-Control"]) == ("100", "private, max-age=3600")
    assert not source.calls
    hooks.user("ben", ago=100, first_name="Ben")
    source.user_data = {"user_id": "ben", "amp_props": {"gp:first_name": "Benjamin", "gp:points": 1}}
    answer = hooks.ask("properties?user_id=ben")
    assert (answer.json["properties"], answer.headers["X-Amplitude-Calls"]) == (  # type: ignore[index]
        {"first_name": "Benjamin", "points": 1},
        "1",
    )
    clock.advance(5)
    hooks.user("ben", first_name="Benny", city="Oslo")
    answer = hooks.ask("properties?user_id=ben")
    assert answer.json is not None
    assert answer.json["properties"] == {"first_name": "Benny", "points": 1, "city": "Oslo"}
    assert answer.json["properties_by_name"] == {"gp:first_name": "Benny", "gp:points": 1, "gp:city": "Oslo"}
    assert answer.headers["Age"] == "5"


@pytest.mark.contract("3 webhooks")
def test_properties__add_after_a_whole_set__fetched_when_the_property_is_requested(
    hooks: Hooks, source: FakeSource, clock: FakeClock
) -> None:
    hooks.user("ava", ago=20, whole=True, points=5, name="A")
    hooks.post(USERS, {"user_id": "ava", "event_time": clock() - 10, "user_properties": {"$add": {"points": 3}}})
    assert hooks.ask("properties?user_id=ava&keys=name").headers["X-Amplitude-Calls"] == "0"
    source.user_data = {"user_id": "ava", "amp_props": {"gp:points": 8, "gp:name": "A"}}
    answer = hooks.ask("properties?user_id=ava")
    assert (answer.json["properties"], answer.headers["X-Amplitude-Calls"]) == ({"points": 8, "name": "A"}, "1")  # type: ignore[index]


@pytest.mark.contract("3 webhooks")
def test_properties__cleared_after_the_fetch__fetched_again(hooks: Hooks, source: FakeSource, clock: FakeClock) -> None:
    source.user_data = {"user_id": "ava", "amp_props": {"gp:city": "Oslo"}}
    assert hooks.ask("properties?user_id=ava").json["properties"] == {"city": "Oslo"}  # type: ignore[index]
    clock.advance(2)
    hooks.post(USERS, {"user_id": "ava", "event_time": clock() - 1, "user_properties": {"$clearAll": "-"}})
    source.user_data = {"user_id": "ava", "amp_props": {}}
    answer = hooks.ask("properties?user_id=ava")
    assert (answer.json["properties"], answer.headers["X-Amplitude-Calls"]) == ({}, "1")  # type: ignore[index]


@pytest.mark.contract("3 webhooks")
def test_properties__all_keys_pushed__answered_without_a_call(hooks: Hooks, source: FakeSource) -> None:
    hooks.cohort({"user_id": "ava", "user_properties": {"first_name": "Ava", "city": "Oslo"}}, ago=30)
    for keys, by_name in (("first_name", {"first_name": "Ava"}), ("gp:city", {"gp:city": "Oslo"})):
        answer = hooks.ask(f"properties?user_id=ava&keys={keys}")
        assert (answer.json["properties_by_name"], answer.headers["Age"]) == (by_name, "30")  # type: ignore[index]
        assert list(answer.json["properties"]) == [keys.removeprefix("gp:")]  # type: ignore[index]
    assert not source.calls
    source.user_data = {"user_id": "ava", "amp_props": {}}
    assert hooks.ask("properties?user_id=ava&keys=first_name,age").headers["X-Amplitude-Calls"] == "1"


@pytest.mark.contract("3 webhooks")
def test_cohort__expired_push_and_failed_call__served_as_stale(
    hooks: Hooks, source: FakeSource, clock: FakeClock
) -> None:
    from proxy.profile.errors import UpstreamUnavailable

    hooks.cohort("ava")
    clock.advance(3600 + 901)
    source.fault = UpstreamUnavailable()
    answer = hooks.ask("cohorts?user_id=ava&cohort_id=vip")
    assert (answer.json["is_member"], answer.json["stale"]) == (True, True)  # type: ignore[index]
    assert "fwd=stale; detail=upstream_unavailable" in answer.headers["Cache-Status"]


def test_background_request__whole_set_pushed__no_call(hooks: Hooks, source: FakeSource) -> None:
    hooks.user("ava", whole=True, first_name="Ava")
    answer = hooks.ask("properties?user_id=ava", Priority="u=7")
    assert answer.headers["X-Amplitude-Calls"] == "0"
    assert not source.calls


@pytest.mark.contract("3 webhook order")
def test_message__same_id_and_direction_repeated__duplicate(hooks: Hooks) -> None:
    first, again = (hooks.cohort("ava", message_id="m").json for _ in range(2))
    assert first == {
        "applied": 1,
        "skipped": 0,
        "skipped_by_reason": {},
        "unapplied_properties": 0,
        "duplicate": False,
    }
    assert again is not None
    assert (again["applied"], again["duplicate"]) == (0, True)
    assert hooks.cohort("ava", message_id="m", in_cohort=False).json["duplicate"] is False  # type: ignore[index]


@pytest.mark.contract("3 webhooks")
def test_push__time_in_the_future__replaced_by_a_later_fetch(
    hooks: Hooks, source: FakeSource, clock: FakeClock
) -> None:
    hooks.user("ava", ago=-500, tier="pushed")
    answer = hooks.ask("properties?user_id=ava&keys=tier")
    assert (answer.headers["Age"], answer.json["as_of"]) == ("0", int(START))  # type: ignore[index]
    assert "ttl=3600" in answer.headers["Cache-Status"]
    clock.advance(2)
    source.user_data = {"user_id": "ava", "amp_props": {"gp:tier": "fetched"}}
    hooks.ask("properties?user_id=ava")
    assert hooks.ask("properties?user_id=ava&keys=tier").json["properties"] == {"tier": "fetched"}  # type: ignore[index]


@pytest.mark.contract("3 webhooks")
def test_push__without_a_time__does_not_replace_a_push_with_a_time(hooks: Hooks) -> None:
    hooks.user("ava", ago=1, tier="new")
    assert hooks.post(USERS, {"user_id": "ava", "user_properties": {"tier": "old"}}).json["applied"] == 1  # type: ignore[index]
    assert hooks.ask("properties?user_id=ava&keys=tier").json["properties"] == {"tier": "new"}  # type: ignore[index]


@pytest.mark.contract("3 webhook faults")
def test_users__malformed__skipped_and_logged_as_counts_without_ids(
    hooks: Hooks, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "proxy.web.webhooks"):
        answer = hooks.cohort("secret-ava", {"user_id": ["secret-ben"]}, {}, {"user_id": "ok", "user_properties": 3})
    assert answer.json == {
        "applied": 2,
        "skipped": 2,
        "skipped_by_reason": {"unreadable_user_id": 1, "no_user_id": 1},
        "unapplied_properties": 1,
        "duplicate": False,
    }
    (line,) = (line for line in caplog.records if line.name == "proxy.web.webhooks")
    assert line.__dict__["applied"] == 2
    assert line.__dict__["skipped"] == {"unreadable_user_id": 1, "no_user_id": 1}
    assert "secret" not in repr(line.__dict__)
    assert hooks.ask("cohorts?user_id=secret-ava&cohort_id=vip").json["is_member"]  # type: ignore[index]


@pytest.mark.contract("3 webhook faults")
@pytest.mark.parametrize("path", [COHORTS, USERS])
@pytest.mark.parametrize("body", [b"", b"{", b"3", b'"secret-ava"', b"\xff", b"[" * 100_000])
def test_body__malformed__400_names_the_fix_and_no_id(hooks: Hooks, path: str, body: bytes) -> None:
    answer = hooks.post(path, body)
    assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")
    assert "secret" not in answer.text
    assert answer.json is not None
    assert "template" in answer.json["detail"] or "payload" in answer.json["detail"]


@pytest.mark.contract("3 webhook faults")
def test_body__8_mib_or_larger__200_or_413_with_the_fix(hooks: Hooks) -> None:
    def body(size: int) -> bytes:
        whole = {**COHORT_EXAMPLE, "message_id": None, "filler": ""}
        return json.dumps(whole | {"filler": "x" * (size - len(json.dumps(whole)))}).encode()

    limit = 8 * 1024 * 1024
    assert len(body(limit)) == limit
    assert hooks.post(COHORTS, body(limit)).status_code == 200
    answer = hooks.post(COHORTS, body(limit + 1))
    assert (answer.status_code, answer.mimetype) == (413, "application/problem+json")
    assert "select fewer user properties" in answer.json["detail"]  # type: ignore[index]
    chunked = hooks.client.post(
        COHORTS,
        data=body(limit + 1),
        content_type="application/json",
        headers={"X-API-Key": SECRET},
        environ_overrides={"CONTENT_LENGTH": "", "wsgi.input_terminated": True},
    )
    assert chunked.status_code == 413
    assert hooks.client.post("/v1/cohorts", data=b"x" * 17_000, headers={"X-API-Key": SECRET}).status_code == 413


@pytest.mark.contract("3 webhook limits")
def test_body__too_many_values__413_but_a_single_large_user_is_skipped(hooks: Hooks) -> None:
    assert hooks.post(USERS, b"[" + b"{}," * 60_000 + b"{}]").status_code == 413
    large = {"user_id": "big", "user_properties": {f"key {number}": number for number in range(100_000)}}
    rest = b'{"user_id": "ok", "user_properties": {"a": 1}}, {"user_id": "odd", "user_properties": {"a": NaN}}'
    deep = b'{"user_id": "deep", "user_properties": {"a": ' + b"[" * 101 + b"]" * 101 + b"}}"
    answer = hooks.post(USERS, b"[" + b",".join([json.dumps(large).encode(), rest, deep]) + b"]")
    assert answer.json is not None
    assert answer.json["skipped_by_reason"] == {"too_large": 1, "not_json": 1, "nested_too_deeply": 1}
    assert answer.json["applied"] == 1
    assert hooks.post(USERS, large).json["skipped_by_reason"] == {"too_large": 1}  # type: ignore[index]


def test_webhook__wrong_type_no_credentials_or_get__415_401_or_405(hooks: Hooks) -> None:
    for path in (COHORTS, USERS):
        answer = hooks.client.post(path, data="user_id=u", headers={"X-API-Key": SECRET})
        assert answer.status_code == 415
        assert answer.json["detail"].endswith("send application/json")  # type: ignore[index]
        assert hooks.client.post(path, data=b"{", content_type="application/json").status_code == 401
        assert hooks.client.get(path, headers={"X-API-Key": SECRET}).status_code == 405


@pytest.mark.contract("3 webhook faults")
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {SECRET}"},
        {"Authorization": f"Api-Key {SECRET}"},
        {"X-API-Key": SECRET},
        {"Authorization": "Basic YnJhemU6YS1zZWNyZXQtb2YtYS10ZXN0"},
    ],
)
def test_webhook__each_scheme_of_the_data_routes__accepted(hooks: Hooks, headers: dict[str, str]) -> None:
    answer = hooks.client.post(COHORTS, json=COHORT_EXAMPLE, headers=headers | {"User-Agent": "Amplitude/Webhook/1.0"})
    assert answer.status_code == 200


@pytest.mark.contract("3 webhook faults")
def test_webhook__address_outside_the_networks__200_but_403_on_data_routes(clock: FakeClock) -> None:
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "ALLOWED_NETWORKS": "192.0.2.0/24"}
    client = create_app(Settings.from_env(env), clock=clock).test_client()
    headers = {"X-API-Key": SECRET}
    assert client.post(COHORTS, json=COHORT_EXAMPLE, headers=headers).status_code == 200
    assert client.post(COHORTS, json=COHORT_EXAMPLE).status_code == 401
    assert client.get("/v1/cohorts?user_id=u", headers=headers).status_code == 403


def test_webhook__redis_unavailable__500_with_retry_after(
    hooks: Hooks, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise RedisUnavailable

    monkeypatch.setattr(installed(app).ingester, "push", unreachable)
    answer = hooks.post(COHORTS, COHORT_EXAMPLE)
    assert (answer.status_code, answer.headers["Retry-After"]) == (500, "1")


class Body(io.BytesIO):
    """A request body that raises `error`, if any, when it is read."""

    def __init__(self, content: bytes, error: BaseException | None = None) -> None:
        super().__init__(content)
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        if self.error is not None:
            raise self.error
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def send(hooks: Hooks, body: io.BytesIO, length: int | None, content_type: str = "application/json") -> TestResponse:
    """Send a body with `length` as its Content-Length. None sends the body without a length, as with chunks."""
    return hooks.client.post(
        COHORTS,
        input_stream=body,
        content_type=content_type,
        headers={"X-API-Key": SECRET},
        environ_overrides={"CONTENT_LENGTH": "" if length is None else str(length), "wsgi.input_terminated": True},
    )


@contextlib.contextmanager
def all_memory_reserved(app: Flask, size: int = LARGE) -> Iterator[None]:
    """Reserve all the memory for bodies of `size` bytes. Fails if any of the memory is already reserved."""
    ingester = installed(app).ingester
    with contextlib.ExitStack() as stack:
        for _ in range(3 if size == LARGE else 32):
            stack.enter_context(ingester.reserve_memory(size))
        yield


@pytest.mark.contract("3 webhook limits")
@pytest.mark.parametrize("length", [LARGE, 300_000, None])
def test_body__no_memory_left__500_and_nothing_is_read(hooks: Hooks, app: Flask, length: int | None) -> None:
    body = Body(b" " * 300_000)
    with all_memory_reserved(app):
        answer = send(hooks, body, length)
    assert (answer.status_code, answer.headers["Retry-After"]) == (500, "1")
    assert body.tell() == 0
    text = hooks.client.get("/metrics", headers={"X-API-Key": SECRET}).text
    assert 'ccproxy_webhook_messages_total{hook="cohorts",outcome="failed"} 1.0' in text
    assert hooks.post(COHORTS, COHORT_EXAMPLE).status_code == 200


@pytest.mark.contract("3 webhook limits")
def test_body__large_bodies_use_their_memory__small_body_is_accepted(hooks: Hooks, app: Flask) -> None:
    with all_memory_reserved(app), installed(app).ingester.reserve_batch(LARGE):
        assert hooks.post(COHORTS, COHORT_EXAMPLE).status_code == 200


def test_body__small_bodies_use_their_memory__large_body_is_accepted(hooks: Hooks, app: Flask) -> None:
    with all_memory_reserved(app, SMALL):
        assert hooks.post(COHORTS, json.dumps(COHORT_EXAMPLE).encode() + b" " * 300_000).status_code == 200


@pytest.mark.contract("3 webhook limits")
@pytest.mark.parametrize(
    ("status", "body", "length", "content_type"),
    [
        (200, Body(json.dumps(COHORT_EXAMPLE).encode() + b" " * 300_000), 300_000, "application/json"),
        (200, Body(json.dumps(COHORT_EXAMPLE).encode()), None, "application/json"),
        (400, Body(b" " * 300_000), 300_000, "application/json"),
        (400, Body(b"[" * 300_000), 300_000, "application/json"),
        (400, Body(b"", ConnectionResetError()), LARGE, "application/json"),
        (400, Body(b"", ConnectionResetError()), None, "application/json"),
        (400, Body(b"", RuntimeError("a broken chunk")), None, "application/json"),
        (413, Body(b" " * (LARGE + 1)), LARGE + 1, "application/json"),
        (413, Body(b" " * (LARGE + 1)), None, "application/json"),
        (413, Body(b"[" + b"{}," * 60_000 + b"{}]"), None, "application/json"),
        (415, Body(b" " * 300_000), 300_000, "text/plain"),
    ],
)
def test_body__accepted_or_refused__memory_and_batch_slot_are_released(
    hooks: Hooks, app: Flask, status: int, body: Body, length: int | None, content_type: str
) -> None:
    assert send(hooks, body, length, content_type).status_code == status
    ingester = installed(app).ingester
    with (
        all_memory_reserved(app),
        all_memory_reserved(app, SMALL),
        ingester.reserve_batch(LARGE),
        ingester.reserve_batch(SMALL),
        ingester.reserve_batch(SMALL),
    ):
        pass


@pytest.mark.parametrize("error", [RedisUnavailable(), RuntimeError("unexpected"), SystemExit()])
def test_body__processing_fails__memory_and_batch_slot_are_released(
    hooks: Hooks, app: Flask, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(installed(app).ingester, "push", fail)
        assert hooks.post(COHORTS, json.dumps(COHORT_EXAMPLE).encode() + b" " * 300_000).status_code == 500
    with all_memory_reserved(app), installed(app).ingester.reserve_batch(LARGE):
        pass


@pytest.mark.parametrize("length", ["9" * 5000, "1_0", "\xb2"])
def test_body__length_is_not_a_number__counts_as_the_largest(hooks: Hooks, app: Flask, length: str) -> None:
    environ = {"CONTENT_LENGTH": length, "wsgi.input_terminated": True}
    body = Body(json.dumps(COHORT_EXAMPLE).encode())
    options: dict[str, Any] = {
        "input_stream": body,
        "content_type": "application/json",
        "headers": {"X-API-Key": SECRET},
        "environ_overrides": environ,
    }
    with all_memory_reserved(app):
        assert hooks.client.post(COHORTS, **options).status_code == 500
    assert body.tell() == 0
    assert hooks.client.post(COHORTS, **options).status_code == 200


def test_forget__pushed_user__pushes_are_deleted(hooks: Hooks, source: FakeSource) -> None:
    hooks.cohort("ava", "ben")
    for user in ("ava", "ben"):
        for _ in range(3):
            assert hooks.ask(f"cohorts?user_id={user}&cohort_id=vip").json["is_member"]  # type: ignore[index]
    forgotten = hooks.client.delete("/v1/profile?user_id=ava", headers={"X-API-Key": SECRET})
    assert forgotten.json == {"records": 1, "waiting": 0}
    source.user_data = {"user_id": "ava", "cohort_ids": []}
    answer = hooks.ask("cohorts?user_id=ava&cohort_id=vip")
    assert (answer.json["is_member"], answer.headers["X-Amplitude-Calls"]) == (False, "1")  # type: ignore[index]
    assert hooks.ask("cohorts?user_id=ben&cohort_id=vip").headers["X-Amplitude-Calls"] == "0"


def test_webhook_metrics__messages_and_users__counted_by_outcome(hooks: Hooks) -> None:
    hooks.cohort("ava", {}, message_id="m")
    hooks.cohort("ava", {}, message_id="m")
    hooks.user("ava", city="Oslo")
    hooks.post(USERS, b"{")
    text = hooks.client.get("/metrics", headers={"X-API-Key": SECRET}).text
    for line in (
        'ccproxy_webhook_messages_total{hook="cohorts",outcome="applied"} 1.0',
        'ccproxy_webhook_messages_total{hook="cohorts",outcome="duplicate"} 1.0',
        'ccproxy_webhook_messages_total{hook="users",outcome="applied"} 1.0',
        'ccproxy_webhook_messages_total{hook="users",outcome="refused"} 1.0',
        'ccproxy_webhook_users_total{hook="cohorts",outcome="applied"} 1.0',
        'ccproxy_webhook_users_total{hook="users",outcome="applied"} 1.0',
    ):
        assert line in text
