"""Braze's dialect by cases: the calls, the variables and the message."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from proxy.liquid.limits import MAX_SOURCE, MAX_TAGS
from proxy.liquid.render import render
from proxy.liquid.report import report
from proxy.liquid.types import Answer, Rendering, Request, User
from tests.support.fakes import FakeClock

USER = User("a b+c&d", "dév/ice")
TAG = "{% connected_content https://h/v1/cohorts?user_id={{${user_id} | url_param_escape}} :save c %}"


class Service:
    """Gives every request the same answer, and records the requests."""

    def __init__(self, body: Any = None, status: int = 200) -> None:
        self.body = body if isinstance(body, str) else json.dumps({"ok": True} if body is None else body)
        self.status = status
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        return Answer(self.status, {}, self.body, 1.0)


def rendered(source: str, service: Service | None = None, user: User = USER) -> Rendering:
    return render(source, user, service or Service())


def sent(source: str, service: Service | None = None) -> str:
    rendering = rendered(source, service)
    assert rendering.outcome == "sent", rendering.reason
    return rendering.message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{${user_id}}}", "a b+c&d"),
        ("{{ ${user_id} | upcase }}", "A B+C&D"),
        ("{% if ${user_id} == 'a b+c&d' %}you{% endif %}", "you"),
        ("{{${user_id} | url_param_escape}}", "a%20b%2Bc%26d"),
        ("{{ 'a b/c?d=é&e' | url_escape }}", "a%20b/c?d=%C3%A9&e"),
        ("{{most_recently_used_device.${id}}}", "dév/ice"),
        ("{{${first_name} | default: 'you'}} {{custom_attribute.${favourite team}}}.", "you ."),
        ("costs ${5} and {% raw %}{{${user_id}}}{% endraw %}", "costs ${5} and {{${user_id}}}"),
        ("{% comment %}{{${user_id}}} {{ x }}{% endcomment %}x", "x"),
        ("{{ 'say \"x\"' | json_escape }}", 'say \\"x\\"'),
    ],
)
def test_render__attributes_and_filters_of_braze__rendered(source: str, message: str) -> None:
    assert sent(source) == message


@pytest.mark.parametrize("body", ["NaN", '{"items": [NaN]}', "[" * 100_000, '{"a":' * 30_000])
def test_tag__answer_that_is_not_json__saved_as_text(body: str) -> None:
    source = TAG + "{{ c.items | size }}{{ c | slice: 0, 2 }}"
    rendering = rendered(source, Service(body))
    assert (rendering.outcome, rendering.message) == ("sent", "0" + body[:2])
    assert json.dumps(report(rendering), allow_nan=False)


@pytest.mark.parametrize(
    ("options", "method", "headers", "body", "content_type"),
    [
        (":save x", "GET", {}, "", ""),
        (":basic_auth us :retry :no_cache :cache_max_age 900 :save x", "GET", {}, "", ""),
        (':headers {"Cache-Control": "no-cache", "Authorization": "Bearer {{x}}"} :save x', "GET",
         {"Cache-Control": "no-cache"}, "", ""),
        (":method post :body user_id={{${user_id} | url_param_escape}}&rec_id=a :save x", "POST", {},
         "user_id=a%20b%2Bc%26d&rec_id=a", "application/x-www-form-urlencoded"),
        (':method POST :content_type application/json :body {"user_id":"{{${user_id}}}","keys":["a"]} :save x',
         "POST", {}, '{"user_id":"a b+c&d","keys":["a"]}', "application/json"),
        (":auth_credentials us :body ignored :save x", "GET", {}, "", ""),
    ],
)  # fmt: skip
def test_tag__options__decide_the_request(
    options: str, method: str, headers: dict[str, str], body: str, content_type: str
) -> None:
    service = Service()
    rendering = rendered(f"{{% connected_content https://h/v1/recommendations?a=1 {options} %}}{{{{ x.ok }}}}", service)
    assert service.requests == [Request(method, "/v1/recommendations?a=1", headers, body, content_type)]
    assert rendering.message == "true"
    assert not [entry for entry in rendering.findings if entry.rule == "unknown-option"]


def test_tag__url_with_liquid__later_tag_uses_saved_answer() -> None:
    service = Service({"id": "x/y"})
    source = (
        "{% assign route = 'cohorts' %}{% connected_content https://h/v1/{{route}}?user_id={{ ${user_id} | "
        "url_param_escape }} :save a %}\n{%- connected_content\n https://h/v1/properties/?keys={{ a.id | "
        "url_param_escape }}#part\n :save b -%}"
    )
    rendering = rendered(source, service)
    assert [request.target for request in service.requests] == [
        "/v1/cohorts?user_id=a%20b%2Bc%26d",
        "/v1/properties?keys=x%2Fy",
    ]
    assert [tag["line"] for tag in rendering.tags] == [1, 2]


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"a": 1}, 200, "1 200"),
        ({"a": 1}, 201, "1 201"),
        ({"a": 1}, 404, " "),
        ({"a": 1}, 500, " "),
        ([{"a": 1}], 200, " "),
        ("plain", 200, " "),
    ],
)
def test_tag__status_of_the_answer__is_added_to_2xx_objects_only(body: Any, status: int, expected: str) -> None:
    assert sent(TAG + "{{ c.a }} {{ c.__http_status_code__ }}", Service(body, status)) == expected


def test_tag__without_save__prints_text_and_stores_json_as_connected() -> None:
    tag = "{% connected_content https://h/v1/cohorts?user_id=u %}"
    assert sent(f"<{tag}>", Service("plain <b>text</b>")) == "<plain <b>text</b>>"
    assert sent(f"<{tag}>{{{{ connected.a }}}}", Service({"a": 7})) == "<>7"


def test_tag__text_or_404__saved_as_text_or_empty() -> None:
    assert sent(TAG + "[{{ c }}]", Service("plain")) == "[plain]"
    assert sent(TAG + "[{{ c }}]{% if c %}there{% endif %}", Service({"title": "Not Found"}, 404)) == "[]"


@pytest.mark.parametrize(
    "url",
    ["https://elsewhere.example/steal", "https://h/v1/../metrics", "https://h/v1/cohorts/../../x", "file:///etc/passwd",
     "https://h/healthz", "//h/v2/cohorts", "https://[h/v1/cohorts", "{{ nothing }}", "https://h/v1/%63ohorts"],
)  # fmt: skip
def test_tag__other_url_than_a_data_route__no_request(url: str) -> None:
    service = Service()
    rendering = rendered(f"{{% connected_content {url} :save x %}}[{{{{ x }}}}]", service)
    assert not service.requests
    assert rendering.message == "[]"
    rules = [entry.rule for entry in rendering.findings]
    assert len({"elsewhere", "unknown-route", "without-scheme"} & set(rules)) == 1, rules
    assert rendering.tags[0]["status"] is None


def test_abort_message__reached__ends_the_message_with_its_reason() -> None:
    rendering = rendered(TAG + "{% unless c.found %}{% abort_message('no (such) user') %}{% endunless %}text")
    assert (rendering.outcome, rendering.reason, rendering.message) == ("aborted", "no (such) user", "")
    assert len(rendering.tags) == 1
    assert rendered("{% abort_message %}").reason == "no reason given"
    assert rendered("{% if true %}{% abort_message %}{% endif %}text").reason == "no reason given"
    assert rendered("{% if false %}{% abort_message %}{% endif %}text").message == "text"
    assert rendered("{% if false %}{% connected_content %}{% endif %}text").message == "text"


def test_render__failed_call_with_retry__is_retried_unless_aborted() -> None:
    retrying = TAG.replace(":save", ":retry :save")
    assert rendered(retrying + "x", Service(status=500)).outcome == "retried"
    assert rendered(retrying + "x", Service()).outcome == "sent"
    assert rendered(TAG + "x", Service(status=500)).outcome == "sent"
    assert rendered(retrying + "{% abort_message('a') %}", Service(status=500)).outcome == "aborted"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("c.text > 2", "Liquid error: comparison of String with 2 failed"),
        ("c.number > '2'", "Liquid error: comparison of Integer with String failed"),
    ],
)
def test_render__liquid_error__is_printed_and_reported_with_its_line(condition: str, expected: str) -> None:
    source = TAG + f"a\n{{% if true %}}b {{% if {condition} %}}x{{% endif %}} c{{% endif %}}\nd"
    rendering = rendered(source, Service({"text": "3", "number": 3}))
    assert rendering.message == f"a\nb {expected} c\nd"
    rule = "text-against-number" if "'" in condition else "liquid-error"
    assert [entry.rule for entry in rendering.findings if entry.line == 2] == [rule], "each problem is reported once"
    assert sent("{% case 1 %}{% when 1 %}{{ 1 | divided_by: 0 }}.{% endcase %}") == "Liquid error: divided by 0."


@pytest.mark.parametrize(
    ("value", "printed"),
    [(True, "true"), (None, ""), (1.5, "1.5"), (1e20, "1.0e+20"), ([1, ["a", None, False]], "1afalse"),
     ({"a": [1, None, "s"], "b": {"c": True}}, '{"a"=>[1, nil, "s"], "b"=>{"c"=>true}}')],
)  # fmt: skip
def test_render__values__are_printed_like_ruby(value: Any, printed: str) -> None:
    assert sent(TAG + "{{ c.value }}|{% echo c.value %}", Service({"value": value})) == f"{printed}|{printed}"


@pytest.mark.parametrize(
    ("source", "line", "why"),
    [
        ("a\n{% if x %}never closed", 2, "if %} is never closed"),
        ("a\n\n{{ x", 3, "never closed"),
        ("{% nosuch %}", 1, "nosuch"),
        ("{% if a %}\n{% when 1 %}{% endif %}", 2, "{% when %} has no opening tag"),
        ("{% liquid\n if a\n%}", 0, "a block is never closed; add endif"),
        ("\n{% raw %}", 2, "never closed"),
        ("{{" + " " * 300 + "x }}", 1, "spaces"),
        ("x" * (MAX_SOURCE + 1), 1, "longer than"),
        ("{% if a %}\n{% assign 1 %}{% endif %}", 2, "assign has no name or no value; write {% assign name = value %}"),
        ("\n{% if %}x{% endif %}", 2, "a condition is missing; write {% if value %}"),
        ("{{ a" + "[b" * 490 + "]" * 490 + " }}", 0, "nested too deeply"),
        ("{% for x %}{% endfor %}", 1, "a loop has no list; write {% for name in list %}"),
    ],
)
def test_render__unreadable_template__is_refused_with_its_line(source: str, line: int, why: str) -> None:
    rendering = rendered(source)
    assert rendering.outcome == "refused"
    assert why in rendering.reason
    if line:
        assert rendering.reason.startswith(f"line {line}: ")


@pytest.mark.contract("3 playground")
@pytest.mark.parametrize(
    "source",
    [
        "{% for i in (1..1000) %}{% for j in (1..1000) %}{{ i }}{% endfor %}{% endfor %}",
        "{% for i in (1..100) %}{{ 'x' | append: 'yyyyyyyyyyyyyyyy' | replace: 'y', 'zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz' | "
        "replace: 'z', 'zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz' }}{% endfor %}",
        "{{ (1..10000000000) | join: ',' }}",
        "{% assign x = 'aaaaaaaaaaaaaaaa' %}{% for i in (1..60) %}{% assign x = x | append: x %}{% endfor %}",
        "{% assign x = 99999 %}{% for i in (1..60) %}{% assign x = x | times: x %}{% endfor %}",
        "{{ 'aaaaaaaaaa'" + " | replace: 'a', 'aaaaaaaaaa'" * 12 + " }}",
        "{% assign a = 'a,b' | split: ',' %}{% for i in (1..60) %}{% assign a = a | concat: a %}{% endfor %}",
        "{% for i in (1..5000) %}{% capture x %}{{ x }}{{ x }}x{% endcapture %}{% endfor %}",
        "{% tablerow i in (1..100000000) %}{% endtablerow %}",
        TAG * (MAX_TAGS + 1),
    ],
)
def test_render__endless_or_huge_template__refused_within_5_s_of_processor_time(source: str) -> None:
    started = time.process_time()
    rendering = rendered(source)
    assert rendering.outcome == "refused", rendering.message[:100]
    assert time.process_time() - started < 5


@pytest.mark.contract("3 playground")
@pytest.mark.parametrize(
    "source",
    [
        "{{" * 8000,
        "{% comment %}" + "{{" * 7000 + "{% endcomment %}",
        "{%" * 8000,
        "{% raw %}" * 1700,
        "${" * 8000 + "{{${",
        "{{ a" + ".a" * 8000 + " }}",
        "{{ a" + " a" * 8000 + " }}",
        "{% if " + "a-" * 8000 + " %}{% endif %}",
        "{% if " + "'" * 15001 + " %}{% endif %}",
        "{% if a" + "[" * 15000 + " %}{% endif %}",
        "{% connected_content " + "{{" * 7000 + "}} %}",
        "{% connected_content " + ":save a " * 1900 + " %}",
        "{{ a }}" * 2300,
        "{% if a %}" * 1000,
        "{{ " + "a.in" * 4000 + " }}",
        "{% connected_content " + "'\"" * 7000 + " %}",
        "\n" * 16000 + "{{ a }}",
    ],
)
def test_render__odd_template__ends_within_3_s_of_processor_time(source: str) -> None:
    started = time.process_time()
    rendered(source)
    assert time.process_time() - started < 3


@pytest.mark.contract("3 playground")
def test_render__time_limit_exceeded__is_refused() -> None:
    clock = FakeClock()

    def slow(request: Request) -> Answer:
        clock.advance(0.6)
        return Answer(200, {}, "{}", 600.0)

    assert render(TAG, USER, slow, seconds=1.0, monotonic=clock).outcome == "sent"
    rendering = render(TAG * 3, USER, slow, seconds=1.0, monotonic=clock)
    assert rendering.outcome == "refused"
    assert "longer than 1 s" in rendering.reason
    assert len(rendering.tags) < 3


@pytest.mark.parametrize(
    "source",
    [
        "{{ -1.5 | times: true }}",
        "{{ 'x' | base64_url_safe_decode }}",
        "{{ c.list | compact: 'x' }}",
        "{% tablerow i in c.list cols: c.nothing %}{% endtablerow %}",
        "{% if c.list contains c %}{% endif %}",
        "{% for i in c.list limit: -1 %}{% endfor %}",
        "{% if c contains c %}{% endif %}",
        "{{ ',' | sum }}",
        "{{ 1.5 | floor | date: c }}",
    ],
)
def test_render__odd_values_for_a_filter__no_exception(source: str) -> None:
    rendering = rendered(TAG + source + "after", Service({"list": [1, "a", {"b": 1}]}))
    assert rendering.outcome == "sent"
    assert rendering.message.endswith("after")


def test_render__call_raises__exception_propagates() -> None:
    class CallError(Exception):
        pass

    def fail(request: Request) -> Answer:
        raise CallError

    with pytest.raises(CallError):
        render("{% if true %}" + TAG + "{% endif %}", USER, fail)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "the message is empty; add a text for users without data"),
        (" \n\t\u00a0{% if 1 > 2 %}text{% endif %}", "the message is empty; add a text for users without data"),
        ("{{ recs.items[0] }}", "the message is empty; fix the listed problems"),
        ("{{ 1 | divided_by: 0 }}", "Liquid error"),
        (
            "Hi{% connected_content https://h/v1/cohorts?user_id= :save c %}",
            "line 1 failed with status 400; fix its tag",
        ),
        ("{% connected_content https://h/v1/cohorts?user_id= :save c %}", "line 1 failed with status 400; fix its tag"),
        ("Hi", ""),
        ("0", ""),
    ],
)
def test_render__message_that_is_sent__good_only_without_a_reason(source: str, reason: str) -> None:
    rendering = rendered(source, Service(status=400))
    assert rendering.outcome == "sent"
    assert reason in rendering.reason
    assert rendering.good is not bool(reason)
    assert report(rendering)["good"] is rendering.good
