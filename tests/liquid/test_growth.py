"""The time for a template grows with its length, not with the square of the length."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable

import pytest

from proxy.liquid import tag_syntax
from proxy.liquid.render import render
from proxy.liquid.scanner import OUTPUT
from proxy.liquid.types import Answer, Request, User

N = 4_000
"""Characters. Four times as many are slightly less than the maximum."""

LONG_DATE = "{% assign x = '1.' %}{% for i in (1..11) %}{% assign x = x | append: x %}{% endfor %}"

GROWING: dict[str, Callable[[int], str]] = {
    "unclosed output in a tag": lambda n: "{% connected_content " + "{{" * (n // 2) + " %}",
    "braces in a URL": lambda n: "{% connected_content https://h/v1/cohorts?" + "{" * n + " %}",
    "braces in headers": lambda n: '{% connected_content https://h/v1/cohorts :headers {"' + "{" * n + " %}",
    "braces in a body": lambda n: "{% connected_content https://h/v1/cohorts :method post :body " + "{" * n + " %}",
    "outputs cut in two": lambda n: '{% connected_content https://{{ "' + "{{" * (n // 2) + '?" }} %}',
    "words of a body": lambda n: "{% connected_content a :body " + "a " * (n // 2) + "%}",
    "parameters": lambda n: (
        "{% connected_content https://h/v1/cohorts?" + "&".join(f"k{i}=" for i in range(n // 7)) + " %}"
    ),
    "long word": lambda n: "{{ " + "a" * n + " }}",
    "long word of underscores": lambda n: "{% if a." + "_" * n + " %}{% endif %}",
    "long word in a tag": lambda n: "{% connected_content " + "a" * n + " %}",
    "parentheses": lambda n: "{{ a" + "(" * n + " }}",
    "parentheses with numbers": lambda n: "{% if a." + "(1" * (n // 2) + " %}{% endif %}",
    "parentheses in a tag of lines": lambda n: "{% liquid echo " + "(" * n + "\n %}",
    "brackets": lambda n: "{{ a" + "[" * n + " }}",
    "brackets and quotes": lambda n: "{% assign a = " + "['a" * (n // 3) + " %}",
    "brackets in an output of a tag": lambda n: "{% connected_content {{ " + '["a' * (n // 3) + " }} %}",
    "attributes": lambda n: "{{ " + "${a}" * (n // 4) + " }}",
    "outputs": lambda n: "{{a}} " * (n // 6),
    "outputs on lines": lambda n: "{{a}}\n" * (n // 6),
    "quotes": lambda n: "{{ " + "'\"" * (n // 2) + " }}",
    "blanks": lambda n: "{{ a" + (" " * 190 + "a") * (n // 191) + " }}",
    "newlines": lambda n: "{% if a" + ("\n" * 190 + '"') * (n // 191) + " %}{% endif %}",
    "filters": lambda n: "{{ a" + "|a" * (n // 2) + " }}",
    "conditions": lambda n: "{% if a" + ' < "1"' * (n // 6) + " %}{% endif %}",
    "unclosed tags": lambda n: "{%" * (n // 2),
    "nested comments": lambda n: "{% comment %}" * (n // 13) + "{% endcomment %}",
    "nested raw blocks": lambda n: "{% raw %}" * (n // 9) + "{% endraw %}",
    "nested JSON": lambda n: "{% connected_content https://h/v1/cohorts :body {" + '"a":{' * (n // 5) + " %}",
    "HTML comments": lambda n: "<!---->" * (n // 7),
    "unclosed HTML comments": lambda n: "<!--" * (n // 4),
    "unclosed HTML comments in a raw block": lambda n: "{% raw %}" + "<!--" * (n // 4) + "{% endraw %}",
    "attributes of Braze": lambda n: "".join(f"{{{{a.${{b{i}}}}}}}" for i in range(n // 14)),
    "words of a catalog": lambda n: "{% catalog_items a " + "b, " * (n // 3) + "%}",
    "assign without a value": lambda n: "{% assign " + "a" * n + " %}",
    "words of a loop": lambda n: "{% for i in a " + "b-" * (n // 2) + " %}{% endfor %}",
    "conditions of words": lambda n: "{% if " + "a and " * (n // 6) + "a %}{% endif %}",
    "conditions without operators": lambda n: "{% if " + "a " * (n // 2) + "%}{% endif %}",
    "arguments": lambda n: "{{ a | append: " + "b, " * (n // 3) + "}}",
    "named arguments": lambda n: "{{ a | append: " + "b: c, " * (n // 6) + "}}",
    "values of when": lambda n: "{% case a %}{% when " + "b, " * (n // 3) + "b %}{% endcase %}",
    "outputs in an output": lambda n: "{{ a " + "{{b}} " * (n // 6) + "}}",
    "unclosed outputs in an output": lambda n: "{{ {{b}} " * (n // 9) + "}}",
    "brackets in quotes": lambda n: "{{ a | append: '" + "{{b}}" * (n // 5) + "' }}",
    "outputs in a comment": lambda n: "{% comment %}" + "{{a}}" * (n // 5) + "{% endcomment %}",
    "backslashes": lambda n: '{% connected_content https://h/v1/cohorts :headers {"' + "\\" * n + " %}",
    "aborts, conditions and retries": lambda n: (
        "".join(f"{{% connected_content a :retry :save v{i} %}}" for i in range(n // 120))
        + "{% if a %}"
        + "{% elsif a %}" * (n // 39)
        + "{% abort_message %}" * (n // 57)
        + "{% endif %}"
    ),
}


def answer(request: Request) -> Answer:
    return Answer(200, {}, json.dumps({"a": 1}), 1.0)


def processor_seconds(template: str, *, runs: int = 3, quick: float = 0) -> float:
    """Return the least time of up to `runs` runs, because other load delays runs. A run below `quick` is the last."""
    least = math.inf
    for _ in range(runs):
        began = time.process_time()
        render(template, User("u"), answer)
        least = min(least, time.process_time() - began)
        if least <= quick:
            break
    return least


@pytest.mark.contract("3 playground")
@pytest.mark.parametrize("build", GROWING.values(), ids=GROWING)
def test_render__template_four_times_as_long__takes_about_four_times_as_long(build: Callable[[int], str]) -> None:
    # Times below 0.15 s are too short to compare. Quadratic growth would give a factor of 16.
    long = build(4 * N)
    first = processor_seconds(long, runs=1)
    if first > 0.15:
        limit = max(0.15, 10 * processor_seconds(build(N)))
        assert first <= limit or processor_seconds(long, quick=limit) <= limit


def test_parse_tag__spaces_inside_outputs__do_not_split_words() -> None:
    parsed = tag_syntax.parse(
        ' https://h/{{ a | b: "c d" }}/{{${x y}}} :headers {"a": "{{${user_id}}} b"} :body {"a": "b"} :save c'
    )
    assert parsed.url == 'https://h/{{ a | b: "c d" }}/{{${x y}}}'
    assert parsed.options == {"headers": '{"a": "{{${user_id}}} b"}', "body": '{"a":', "save": "c"}
    assert parsed.remainder == ('"b"}',)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a{{ b }}c{{d}}", ["{{ b }}", "{{d}}"]),
        ("{{${a}}}}", ["{{${a}}}"]),
        ('{"a": {{b}}}', ["{{b}}"]),
        ("{{ a }} {{ b", ["{{ a }}"]),
        ("{{ ${a", []),
        ("}} {", []),
    ],
)
def test_outputs__text_of_a_tag__finds_the_closed_outputs(text: str, expected: list[str]) -> None:
    assert [match[0] for match in OUTPUT.finditer(text) if match["closed"]] == expected


def test_render__unclosed_output_in_a_tag__refused_with_line_and_fix() -> None:
    rendering = render("a\n{% connected_content https://h/v1/cohorts\n:body {{ x :save c %}", User("u"), answer)
    assert rendering.outcome == "refused"
    assert rendering.reason.startswith("line 3: {{ in a tag is never closed; write }}")
    assert rendering.findings[0].line == 3


def test_render__more_than_500_brackets_in_an_expression__refused_with_line() -> None:
    rendering = render("\n{% if " + "(" * 501 + " %}{% endif %}", User("u"), answer)
    assert rendering.reason.startswith("line 2: an expression has more than 500 brackets")
    body = "{% connected_content https://h/v1/cohorts :method post :body [" + "[1]," * 501 + "] %}"
    assert render(body, User("u"), answer).outcome == "sent"


def test_render__a_thousand_findings__first_findings_and_a_note() -> None:
    rendering = render("{{ a.b:c }}\n" * 1000, User("u"), answer)
    assert len(rendering.findings) == 201
    assert [finding.line for finding in rendering.findings[:200]] == list(range(1, 201))
    assert rendering.findings[-1].rule == "more-findings"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if (1..9999999999) contains 1.5 %}yes{% endif %}", "yes"),
        ("{% if (1..9999999999) contains 'a' %}yes{% endif %}", ""),
        ("{% if (1..3) contains 4 %}yes{% endif %}", ""),
        (LONG_DATE + "{{ x | date: '%Y' | size }}", "4096"),
        ("{{ '2026-01-02' | date: '%Y' }}", "2026"),
        ("{{ 'b,a,b' | split: ',' | uniq | join }}", "b a"),
        ("{% assign a = (1..100000) | uniq %}{{ a | size }}", "100000"),
        ("{% if a" + " and a" * 2000 + " %}{% else %}no{% endif %}", "no"),
        ("{{ '2026-01-02' | date: '%9999Y' | size }}", "9999"),
        ("{% for i in (1..99999999999999999999) limit: 2 offset: 3 %}{{ i }}{% endfor %}", "45"),
        ("{% for i in (1..99999999999999999999) reversed limit: 2 %}{{ i }}{% endfor %}", "21"),
        ("{% assign n = '99999999999999999999' | plus: 0 %}{% for i in (n..n) %}{{ i }}{% endfor %}", "9" * 20),
        ("{% tablerow i in (1..99999999999999999999) limit: 1 %}{% endtablerow %}",
         '<tr class="row1">\n<td class="col1"></td></tr>\n'),
    ],
)  # fmt: skip
def test_render__value_that_needs_much_time__is_quick(template: str, message: str) -> None:
    began = time.process_time()
    rendering = render(template, User("u"), answer)
    assert (rendering.outcome, rendering.message) == ("sent", message)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("template", ["{{ N }}", "{{ 1 | plus: N }}", "{% if a == N %}{% endif %}", "{{ a[N] }}"])
def test_render__number_of_5000_digits_in_the_template__refused_with_the_reason(template: str) -> None:
    reason = render(template.replace("N", "9" * 5000), User("u"), answer).reason
    assert reason.startswith("line 1: a number is too long; shorten the number")


def test_render__huge_url__refused() -> None:
    template = "{% capture x %}{% for i in (1..9999) %}aaaaaaaaaa{% endfor %}{% endcapture %}"
    template += "{% connected_content https://elsewhere/" + "{{x}}" * 2000 + " %}"
    assert render(template, User("u"), answer).outcome == "refused"
