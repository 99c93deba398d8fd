"""The playground's routes through the client: access, results, and calls to data routes only."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.api.openapi.playground import EXAMPLE, RENDERED
from proxy.app import create_app
from proxy.liquid.render import render as preview
from proxy.liquid.render_process import AT_ONCE
from proxy.liquid.report import report
from proxy.liquid.types import NO_ALIASES, Answer, AskForTag, HeldAnswer, Request, User
from proxy.profile.errors import UpstreamUnavailable
from proxy.profile.json import write_json
from proxy.settings import Settings
from proxy.web.pages import playground
from tests.conftest import KEYS
from tests.support.fakes import FakeClock, FakeSource

RECS = (
    "{% connected_content https://h/v1/recommendations?user_id={{${user_id} | url_param_escape}}&rec_id=home "
    ":basic_auth us :save recs %}{{ recs.items | join: ', ' }}"
)


class InProcess:
    """Renders in this process, without the 0.3 s of a child. The tests of the child compare both ways of rendering."""

    def render(self, template: str, user: User, ask: AskForTag, values: Any = None, aliases: Any = NO_ALIASES) -> bytes:
        answers: list[HeldAnswer] = []

        def recorded(request: Request) -> Answer | None:
            answer = ask(request)
            if answer:
                answers.append(HeldAnswer(request, answer.status, answer.body))
            return answer

        return write_json(report(preview(template, user, recorded, aliases=aliases, values=values), answers))


@pytest.fixture
def client(app: Flask, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """Return a client of the application, which renders in this process."""
    monkeypatch.setattr(playground, "RENDERER", InProcess())
    return app.test_client()


@pytest.fixture
def client_of_child(app: Flask) -> FlaskClient:
    """Return a client of the application, which renders in child processes as in production."""
    return app.test_client()


@pytest.fixture
def source(clock: FakeClock) -> FakeSource:
    return FakeSource(clock, {"user_id": "u", "recommendations": [{"rec_id": "home", "items": ["a", "b"]}]})


def render(client: FlaskClient, caller: dict[str, str], template: str = RECS, **more: Any) -> dict[str, Any]:
    answer = client.post("/playground/render", json={"template": template, "user_id": "u", **more}, headers=caller)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    body: dict[str, Any] = json.loads(answer.data)
    return body


@pytest.mark.contract("3 playground access")
def test_render__first_and_second_time__message_and_details_of_the_tag(
    client_of_child: FlaskClient, caller: dict[str, str], source: FakeSource, clock: FakeClock
) -> None:
    first = render(client_of_child, caller)
    assert (first["outcome"], first["message"], first["reason"]) == ("sent", "a, b", "")
    tag = first["tags"][0]
    assert {name: tag[name] for name in ("line", "method", "url", "called", "saved_as", "status", "calls", "age")} == {
        "line": 1,
        "method": "GET",
        "url": "https://h/v1/recommendations?user_id=u&rec_id=home",
        "called": "/v1/recommendations",
        "saved_as": "recs",
        "status": 200,
        "calls": 1,
        "age": 0,
    }
    assert tag["cache_status"] == "fwd=miss; stored"
    assert tag["json"]["items"] == ["a", "b"]
    assert "logs an exposure" in tag["exposure"]
    assert [finding["rule"] for finding in first["findings"]] == ["exposure"]

    clock.advance(30)
    second = render(client_of_child, caller)["tags"][0]
    assert (second["calls"], second["age"], second["cache_status"]) == (0, 30, "hit; ttl=870")
    assert "not called" in second["exposure"]
    assert len(source.calls) == 1


def test_render__abort_message__aborted_with_the_reason(client: FlaskClient, caller: dict[str, str]) -> None:
    template = RECS + "{% unless recs.is_member %}{% abort_message('no member') %}{% endunless %}"
    body = render(client, caller, template)
    assert (body["outcome"], body["reason"], body["message"]) == ("aborted", "no member", "")
    assert body["tags"][0]["status"] == 200


def test_render__call_fails__retried_only_with_on_error_retry_and_retry_option(
    client: FlaskClient, caller: dict[str, str], source: FakeSource
) -> None:
    source.fault = UpstreamUnavailable()
    body = render(client, caller)
    assert (body["outcome"], body["tags"][0]["json"]["error"]) == ("sent", "upstream_unavailable")
    template = RECS.replace("rec_id=home", "rec_id=home&on_error=retry").replace(":save", ":retry :save")
    body = render(client, caller, template)
    assert (body["outcome"], body["tags"][0]["status"]) == ("retried", 500)
    assert "line 1" in body["reason"]


def test_render__other_key_in_the_tag__credentials_of_the_caller_are_used(
    client: FlaskClient, caller: dict[str, str], source: FakeSource, clock: FakeClock
) -> None:
    template = RECS.replace(":save", ':headers {"X-API-Key": "another", "Cache-Control": "no-cache"} :save')
    assert render(client, caller, template)["tags"][0]["status"] == 200
    clock.advance(1)
    assert render(client, caller, template)["tags"][0]["cache_status"] == "fwd=request; stored"
    assert len(source.calls) == 2


@pytest.mark.contract("3 playground access")
def test_render__url_without_a_data_route__not_called(
    client: FlaskClient, caller: dict[str, str], source: FakeSource
) -> None:
    for url in ("https://example.com/", "https://h/readyz", "https://h/playground/render", "http://169.254.169.254/v1"):
        body = render(client, caller, f"{{% connected_content {url} :save x %}}[{{{{ x }}}}]")
        assert body["message"] == "[]"
        assert body["tags"][0]["status"] is None
        assert "elsewhere" in [finding["rule"] for finding in body["findings"]]
    # The host is ignored, so a message written for Amplitude's own endpoint calls this service.
    moved = "{% connected_content https://profile-api.amplitude.com/v1/userprofile?user_id=u :save x %}"
    moved += "{{ x.userData.user_id }}"
    assert render(client, caller, moved)["message"] == "u"


def test_render__post_with_form_or_json__reaches_the_route(client: FlaskClient, caller: dict[str, str]) -> None:
    form = ":method post :body user_id={{${user_id} | url_param_escape}}&rec_id=home"
    parts = '{"user_id":"{{${user_id}}}","rec_id":["home"]}'
    capture = '{% capture body %}\n{"user_id": "{{${user_id}}}", "rec_id": ["home"]}\n{% endcapture %}'
    for options in (
        form,
        f":content_type application/json {form}",
        f":method post :content_type application/json :body {parts}",
        ':method post :headers {"Content-Type": "application/json"} :body {{body}}',
    ):
        template = (
            f"{capture}{{% connected_content https://h/v1/recommendations {options} :save r %}}{{{{ r.items[0] }}}}"
        )
        assert render(client, caller, template)["message"] == "a"


def test_render__device_id__available_in_the_message(client: FlaskClient, caller: dict[str, str]) -> None:
    template = "{{most_recently_used_device.${id}}}/{{${user_id}}}"
    assert render(client, caller, template, user_id=" ", device_id=" d1 ")["message"] == "d1/"


def test_render__test_values__used_in_the_message(client_of_child: FlaskClient, caller: dict[str, str]) -> None:
    template = "{{custom_attribute.${plan}}} {% catalog_items a 1 %}{{ items[0].t }}{{${city}}}"
    values = {"custom_attribute.${plan}": "gold", "catalog_items.a": [{"id": "1", "t": [1.5, True]}]}
    body = render(client_of_child, caller, template, values=values)
    assert body["message"] == "gold 1.5true"
    assert body["unknown_values"] == [
        {"name": "custom_attribute.${plan}", "line": 1},
        {"name": "catalog_items.a", "line": 1},
        {"name": "${city}", "line": 1},
    ]
    assert [(entry["rule"], entry["level"]) for entry in body["findings"]] == [("unknown-attribute", "note")]


@pytest.mark.parametrize("depth", [100, 900, 1020])
def test_render__nested_test_value__no_500(client_of_child: FlaskClient, caller: dict[str, str], depth: int) -> None:
    body = '{"template": "{{ context }}", "values": {"context": ' + "[" * depth + "]" * depth + "}}"
    answer = client_of_child.post("/playground/render", data=body, content_type="application/json", headers=caller)
    assert answer.status_code in (200, 400)


def test_render__email_of_100_kb__sent(client_of_child: FlaskClient, caller: dict[str, str]) -> None:
    template = '<p class="a">{{ 1 | plus: 1 }}</p>\n' * 3_000
    body = render(client_of_child, caller, template)
    assert (body["outcome"], len(body["message"])) == ("sent", len('<p class="a">2</p>\n') * 3_000)


def test_render__request_id__kept_with_one_log_line_for_each_request(
    client: FlaskClient, caller: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        answer = client.post(
            "/playground/render", json={"template": RECS, "user_id": "u"}, headers={**caller, "X-Request-ID": "mine"}
        )
    lines = [vars(record) for record in caplog.records if record.getMessage() == "request"]
    assert [(line["route"], line["caller"]) for line in lines] == [
        ("/v1/recommendations", "braze"),
        ("/playground/render", "braze"),
    ]
    assert answer.headers["X-Request-ID"] == "mine"


@pytest.mark.parametrize("path", ["/playground", "/playground/"])
def test_playground_page__known_host__snippets_with_the_host_and_strict_policy(
    client: FlaskClient, caller: dict[str, str], path: str
) -> None:
    answer = client.get(path, headers=caller, base_url="https://cc.example.com")
    assert answer.status_code == 200
    assert "https://cc.example.com/v1/recommendations?user_id={{${user_id} | url_param_escape}}" in answer.text
    assert "your-host" not in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.contract("3 playground access")
def test_playground__no_credentials__401_with_a_basic_challenge(client: FlaskClient) -> None:
    for answer in (client.get("/playground"), client.post("/playground/render", json={"template": "x"})):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.contract("3 playground access")
def test_render__address_inside_or_outside_the_networks__200_or_403(source: FakeSource, caller: dict[str, str]) -> None:
    env = {
        "AMPLITUDE_SECRET_KEY": "k",
        "PROXY_API_KEYS": KEYS,
        "ALLOWED_NETWORKS": "10.0.0.0/8",
        "TRUSTED_PROXY_HOPS": "1",
    }
    client = create_app(Settings.from_env(env), fetch=source.fetch).test_client()
    message = {"template": RECS, "user_id": "u"}
    for address, status in (("10.1.2.3", 200), ("192.0.2.1", 403)):
        answer = client.post("/playground/render", json=message, headers={**caller, "X-Forwarded-For": address})
        assert answer.status_code == status
    assert len(source.calls) == 1


@pytest.mark.contract("3 playground access")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
    ],
)
def test_render__request_from_another_site__403(
    client: FlaskClient, caller: dict[str, str], source: FakeSource, headers: dict[str, str], status: int
) -> None:
    answer = client.post("/playground/render", json={"template": RECS, "user_id": "u"}, headers={**caller, **headers})
    assert answer.status_code == status
    assert len(source.calls) == (status == 200)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ('{"template": "x"}', "text/plain", 415),
        ("template=x", "application/x-www-form-urlencoded", 415),
        ("{", "application/json", 400),
        ("[]", "application/json", 400),
        ('{"user_id": "u"}', "application/json", 400),
        ('{"template": 1}', "application/json", 400),
        ('{"template": "x", "user_id": 1}', "application/json", 400),
        ('{"template": "x", "values": [1]}', "application/json", 400),
        ('{"template": "x", "values": null}', "application/json", 400),
        ('{"template": "x", "values": {"first_name": "a"}}', "application/json", 400),
        ("[" * 10_000, "application/json", 400),
        (json.dumps({"template": "x" * 600_000}), "application/json", 413),
    ],
)
def test_render__invalid_body__problem_json(
    client: FlaskClient, caller: dict[str, str], body: str, content_type: str, status: int
) -> None:
    answer = client.post("/playground/render", data=body, content_type=content_type, headers=caller)
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert "16 KiB" not in answer.text


def test_render__lone_surrogates__200(client_of_child: FlaskClient, caller: dict[str, str]) -> None:
    body = json.dumps({"template": "\ud800{{${user_id}}}" + RECS, "user_id": "\udfff é"})
    answer = client_of_child.post("/playground/render", data=body, content_type="application/json", headers=caller)
    assert answer.status_code == 200


def test_render__line_break_in_the_content_type__no_500(client: FlaskClient, caller: dict[str, str]) -> None:
    tag = "{% connected_content https://h/v1/cohorts :method post :body user_id=u :content_type {a\nb} :save c %}"
    assert render(client, caller, tag)["tags"][0]["status"] == 415


def test_render__all_render_slots_taken__refused_at_once(
    client_of_child: FlaskClient, caller: dict[str, str], source: FakeSource
) -> None:
    source.open.clear()
    app = client_of_child.application

    def target(number: int) -> None:
        message = {"template": RECS, "user_id": f"user {number}"}
        app.test_client().post("/playground/render", json=message, headers=caller)

    threads = [threading.Thread(target=target, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for _ in threads:
        source.wait_for_call()
    refused = render(client_of_child, caller)
    source.open.set()
    for thread in threads:
        thread.join(10)
    assert refused["outcome"] == "refused"
    assert "try again" in refused["reason"]
    assert render(client_of_child, caller)["outcome"] == "sent"


def test_render__example_of_the_document__documented_answer(client: FlaskClient, caller: dict[str, str]) -> None:
    answer = client.post("/playground/render", json=EXAMPLE, headers=caller)
    varying = {"cache_status": None, "age": None, "ms": 0, "json": None}
    assert json.loads(answer.data)["tags"][0] | varying == RENDERED["tags"][0] | varying | {"calls": 1}


class Unfinished(io.BytesIO):
    """A request body that cannot be read until `finish` is set. Each read releases `started`."""

    def __init__(self, content: bytes, started: threading.Semaphore, finish: threading.Event) -> None:
        super().__init__(content)
        self.started = started
        self.finish = finish

    def read(self, size: int | None = -1, /) -> bytes:
        self.started.release()
        assert self.finish.wait(10)
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def unfinished(client: FlaskClient, caller: dict[str, str], number: int) -> Iterator[None]:
    """Keep `number` bodies of the largest size unfinished."""
    started, finish = threading.Semaphore(0), threading.Event()
    content = b'{"template": "x"}'.ljust(512 * 1024)

    def send() -> int:
        body = Unfinished(content, started, finish)
        options: dict[str, Any] = {"content_length": len(content), "content_type": "application/json"}
        return (
            client.application.test_client()
            .post("/playground/render", input_stream=body, headers=caller, **options)
            .status_code
        )

    with ThreadPoolExecutor(number) as pool:
        futures = [pool.submit(send) for _ in range(number)]
        try:
            for _ in futures:
                assert started.acquire(timeout=10)
            yield
        finally:
            finish.set()
        assert {future.result(10) for future in futures} == {200}


def test_body__16_unfinished_bodies__refused_until_they_finish(client: FlaskClient, caller: dict[str, str]) -> None:
    with unfinished(client, caller, 16):
        assert render(client, caller, "x")["outcome"] == "refused"
    assert render(client, caller, "x")["outcome"] == "sent"


def test_render__without_fetch__no_call_and_the_held_answer_fills_its_variable(
    client_of_child: FlaskClient, caller: dict[str, str], source: FakeSource
) -> None:
    before = render(client_of_child, caller, fetch=False)
    tag = before["tags"][0]
    assert (tag["needs_render"], tag["status"], tag["exposure"], before["answers"]) == (True, None, None, [])
    assert (before["good"], before["reason"]) == (False, "the tag on line 1 has no answer yet; press Render")
    assert len(source.calls) == 0

    answers = render(client_of_child, caller)["answers"]
    assert [answer["request"]["target"] for answer in answers] == ["/v1/recommendations?user_id=u&rec_id=home"]
    held = render(client_of_child, caller, RECS + "!", fetch=False, answers=answers)
    assert (held["message"], held["tags"][0]["needs_render"], held["tags"][0]["calls"]) == ("a, b!", False, 0)
    other = render(client_of_child, caller, RECS.replace("home", "hom"), fetch=False, answers=answers)
    assert (other["message"], other["tags"][0]["needs_render"]) == ("", True)
    assert len(source.calls) == 1


def test_render__held_answer_with_a_number__printed_as_amplitude_wrote_it(
    client: FlaskClient, caller: dict[str, str]
) -> None:
    answers = render(client, caller)["answers"]
    answers[0]["body"] = '{"items": [1.0, 12345678901234567890]}'
    assert render(client, caller, fetch=False, answers=answers)["message"] == "1.0, 12345678901234567890"


HELD = {
    "request": {"method": "GET", "target": "/v1/cohorts", "headers": {}, "body": "", "content_type": ""},
    "status": 200,
    "body": "{}",
}


@pytest.mark.parametrize(
    ("more", "parameter"),
    [
        ({"fetch": "no"}, "fetch"),
        ({"fetch": False, "answers": {}}, "answers"),
        ({"fetch": False, "answers": ["x"]}, "answers"),
        ({"fetch": False, "answers": [HELD | {"status": "200"}]}, "answers"),
        ({"fetch": False, "answers": [HELD | {"body": None}]}, "answers"),
        ({"fetch": False, "answers": [HELD] * 21}, "answers"),
    ],
)
def test_render__invalid_answers__400_names_the_field(
    client: FlaskClient, caller: dict[str, str], more: dict[str, Any], parameter: str
) -> None:
    answer = client.post("/playground/render", json={"template": "x", **more}, headers=caller)
    assert (answer.status_code, answer.get_json()["parameter"]) == (400, parameter)


def test_frame__opened__no_scripts_and_nothing_from_other_hosts(client: FlaskClient, caller: dict[str, str]) -> None:
    answer = client.get("/playground/frame", headers=caller)
    policy = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "frame-ancestors": "'self'",
    }


def test_render__finding_about_pushed_data__costs_no_call(
    client: FlaskClient, caller: dict[str, str], source: FakeSource, clock: FakeClock
) -> None:
    user = {"user_id": "u", "time": int(clock()), "user_properties": {"team": None}}
    assert client.post("/v1/webhooks/amplitude/users", json=user, headers=caller).json == {
        "applied": 1,
        "skipped": 0,
        "skipped_by_reason": {},
        "unapplied_properties": 0,
        "duplicate": False,
    }
    keys = (
        "{% connected_content https://h/v1/properties?user_id={{${user_id} | url_param_escape}}&keys=team :save p %}Hi"
    )
    rendered = render(client, caller, keys)
    assert (rendered["message"], rendered["tags"][0]["cache_status"][:3]) == ("Hi", "hit")
    assert len(source.calls) == 0
