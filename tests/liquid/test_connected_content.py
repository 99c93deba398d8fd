"""The options and the URL of the connected_content tag, as Braze documents them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.liquid import tag_syntax
from proxy.liquid.limits import MAX_OUTPUT, MAX_SOURCE
from proxy.liquid.render import render
from proxy.liquid.types import Answer, Rendering, Request, User

JSON = "application/json"


class Service:
    """Gives every request the same answer, and records the requests."""

    def __init__(self, body: Any = None) -> None:
        self.body = body if isinstance(body, str) else json.dumps({"ok": True} if body is None else body)
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        return Answer(200, {}, self.body, 1.0)


def rendered(source: str, service: Service | None = None, values: dict[str, Any] | None = None) -> Rendering:
    return render(source, User("a b&c"), service or Service(), values=values)


def rules(rendering: Rendering) -> list[str]:
    return [finding.rule for finding in rendering.findings]


@pytest.mark.parametrize(
    ("options", "body", "content_type"),
    [
        (":body user_id={{${user_id} | url_param_escape}}&rec_id=a :content_type application/json",
         '{"user_id": "a b&c", "rec_id": "a"}', JSON),
        (":body a=1&b= :content_type application/json; charset=utf-8", '{"a": "1", "b": ""}',
         "application/json; charset=utf-8"),
        (':headers {"Content-Type": "application/json"} :body a=1', '{"a": "1"}', JSON),
        (":headers {'content-type': 'application/json'} :body {{ body }}", '{"a": [1, 2]}', JSON),
        (':headers {"Content-Type": "{{ type }}"} :body a=1', '{"a": "1"}', JSON),
        (":body {{ body }} :content_type application/json", '{"a": [1, 2]}', JSON),
        (":body {{ captured }} :content_type application/json", '\n{"a": "{x}"}\n', JSON),
        (':body {"a":"{{ 1 | plus: 1 }}","b":"x=y"} :content_type application/json', '{"a":"2","b":"x=y"}', JSON),
        (":body a=1&b=2", "a=1&b=2", tag_syntax.FORM),
        (":content_type text/plain :body a=1", "a=1", "text/plain"),
        (':body {"a": 1, "b": 2} :content_type application/json', '{"a":', JSON),
        (":body a=1& b=2", "a=1&", tag_syntax.FORM),
    ],
)  # fmt: skip
def test_body__content_type_and_form__sent_as_braze_sends_it(options: str, body: str, content_type: str) -> None:
    service = Service()
    prepared = "{% assign body = '{\"a\": [1, 2]}' %}{% assign type = 'application/json' %}"
    prepared += '{% capture captured %}\n{"a": "{x}"}\n{% endcapture %}'
    rendered(
        f"{prepared}{{% connected_content https://h/v1/recommendations :method post {options} :save x %}}", service
    )
    assert [(request.body, request.content_type) for request in service.requests] == [(body, content_type)]


@pytest.mark.parametrize("body", ['{"a": 1}', "a=1& b=2"])
def test_body__with_a_blank__finding_with_the_part_that_is_sent(body: str) -> None:
    rendering = rendered(f"\n{{% connected_content https://h/v1/cohorts :method post :body {body} :save x %}}")
    finding = next(entry for entry in rendering.findings if entry.rule == "cut-body")
    assert finding.line == 2
    assert finding.problem.endswith(body.split()[0])
    assert "capture" in finding.fix


def test_options__all_documented_options__known() -> None:
    template = """{% connected_content
        https://h/v1/cohorts?a=1
        :method get
        :accept application/json
        :content_type application/json
        :headers { "X-A": "b c" }
        :basic_auth us
        :auth_credentials us
        :cache_max_age 900
        :no_cache
        :rerender
        :retry
        :save x
    %}{{ x.__http_status_code__ }}"""
    service = Service()
    rendering = rendered(template, service)
    assert rendering.message == "200"
    assert "unknown-option" not in rules(rendering)
    assert [request.target for request in service.requests] == ["/v1/cohorts?a=1"]


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://h/v1/cohorts{{ '?user_id=1' }}&a=2", "/v1/cohorts?user_id=1&a=2"),
        ("https://h/v1/{{ nothing | default: 'cohorts?x=1' }}", "/v1/cohorts?x=1"),
        ("https://h/v1/cohorts?q={{ 'a?b' | url_param_escape }}", "/v1/cohorts?q=a%3Fb"),
        ("https://h/v1/cohorts?user_id=1\u00a0&a=2", "/v1/cohorts?user_id=1&a=2"),
        ("https://h/v1/cohorts?user_id={{ x }}\u00a0", "/v1/cohorts?user_id="),
    ],
)
def test_url__question_mark_in_liquid_or_no_break_space__reaches_the_route(url: str, target: str) -> None:
    service = Service()
    rendering = rendered(f"{{% connected_content {url} :save x %}}{{{{ x.ok }}}}", service)
    assert [request.target for request in service.requests] == [target]
    assert rendering.message == "true"
    assert ("no-break-space" in rules(rendering)) is ("\u00a0" in url)


def test_url__question_mark_in_the_liquid_of_the_path__no_finding_for_the_query() -> None:
    rendering = rendered("{% connected_content https://{{ 'a?b' | split: '?' | first }}/v1/cohorts?a=1 :save x %}")
    assert "unescaped" not in rules(rendering)


def test_tag__result_of_the_first_tag__in_url_headers_and_body_of_the_second() -> None:
    service = Service({"token": "t/1"})
    template = (
        "{% connected_content https://h/v1/cohorts :save one %}{% connected_content https://h/v1/properties?a={{ "
        'one.token | url_param_escape }} :method post :headers {"Cache-Control": "{{ one.token }}"} '
        ":body b={{one.token}} :save two %}{{ two.token }}"
    )
    assert rendered(template, service).message == "t/1"
    second = service.requests[1]
    assert (second.target, second.headers, second.body) == ("/v1/properties?a=t%2F1", {"Cache-Control": "t/1"}, "b=t/1")


@pytest.mark.parametrize(
    ("body", "options", "message"),
    [
        ({"a": "Hi {{${city}}}"}, ":rerender :save x", "Hi Bonn"),
        ({"a": "Hi {{${city}}}"}, ":save x", "Hi {{${city}}}"),
        ({"a": "{% connected_content https://h/v1/cohorts :save y %}"}, ":rerender :save x",
         "{% connected_content https://h/v1/cohorts :save y %}"),
        ({"a": "{{custom_attribute.${quoted}}}"}, ":rerender :save x", ""),
        ({"a": "{% if %}"}, ":rerender :save x", "{% if %}"),
    ],
)  # fmt: skip
def test_rerender__liquid_in_the_answer__rendered_once(body: dict[str, str], options: str, message: str) -> None:
    service = Service(body)
    template = f"{{% connected_content https://h/v1/cohorts {options} %}}{{{{ x.a }}}}"
    assert rendered(template, service, {"${city}": "Bonn", "custom_attribute.${quoted}": 'say "x"'}).message == message
    assert len(service.requests) == 1


def test_email__100_kb__rendered() -> None:
    row = '<tr style="color:#333"><td>{{ forloop.index }}</td><td>{% if x.ok %}yes{% else %}no{% endif %}</td></tr>\n'
    template = "{% connected_content https://h/v1/cohorts :save x %}" + "{% for i in (1..2) %}" + row + "{% endfor %}"
    template += ('<p class="text">A paragraph of an e-mail.</p>\n' + row) * 700
    assert 100_000 < len(template) < MAX_SOURCE
    rendering = rendered(template)
    assert rendering.outcome == "sent", rendering.reason
    assert rendering.message.count("<td>yes</td>") == 702


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a<!-- {{ x }} {% if %} -->b", "ab"),
        ("a<!-- {% connected_content https://h/v1/cohorts :save y %}\n\n -->b", "ab"),
        ("<!-- text -->{% raw %}<!-- {{ x }} -->{{ y }}{% endraw %}", "{{ y }}"),
        ("{{ '<!-- x -->' }}", "<!-- x -->"),
        ("<!-- never closed {{ 1 }}", "<!-- never closed 1"),
        ("<!--[if mso]>{{ 1 }}<![endif]-->a<!--[if !mso]><!-->{{ 2 }}<!--<![endif]-->", "a2"),
        ("{% if true %}<!-- {% endif %} -->yes{% endif %}", "yes"),
        ("{% comment %}<!-- {{ x }} -->{% endcomment %}a", "a"),
    ],
)
def test_html_comment__removed_before_liquid(template: str, message: str) -> None:
    service = Service()
    assert rendered(template, service).message == message
    assert not service.requests


def test_html_comment__liquid_inside__note_and_lines_of_the_message() -> None:
    rendering = rendered("<!-- plain\n -->\n<!--\n{{ x }} -->\n{{ 'a' | nosuch }}")
    assert [(entry.rule, entry.line, entry.level) for entry in rendering.findings] == [
        ("html-comment", 3, "note"),
        ("unknown-filter", 5, "problem"),
    ]


@pytest.mark.parametrize(
    "template",
    [
        "x" * (MAX_SOURCE + 1),
        "{{ a" + " " * 300 + " }}",
        "{% if " + "(" * 501 + " %}{% endif %}",
        "{% for i in (1..20000) %}{% endfor %}",
        "{% connected_content https://h/v1/cohorts %}" * 11,
        "{% for i in (1..9000) %}" + "x" * (MAX_OUTPUT // 8000) + "{% endfor %}",
    ],
)
def test_limit__exceeded__named_as_a_limit_of_the_preview(template: str) -> None:
    rendering = rendered(template)
    assert rendering.outcome == "refused"
    assert rendering.reason.endswith("; this is a limit of the preview, not of Braze")
    assert "unreadable" not in rules(rendering)
