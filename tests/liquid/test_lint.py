"""Each rule of the lint by cases: wrong templates, and right templates that look similar."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from proxy.liquid import scanner
from proxy.liquid.lint.message import findings
from proxy.liquid.types import Finding
from tests.conftest import ROOT
from tests.liquid import test_lint_rendered

ID = "{{${user_id} | url_param_escape}}"
RECS = f"https://h/v1/recommendations?user_id={ID}&rec_id=a"
ABORT = "{% abort_message('x') %}"


def tag(text: str) -> str:
    return f"{{% connected_content {text} %}}"


def findings_of(template: str, rule: str) -> list[Finding]:
    return [entry for entry in findings(template, scanner.markups(template)) if entry.rule == rule]


CASES = {
    "unescaped": (
        [
            tag("https://h/v1/cohorts?user_id={{${user_id}}} :save c"),
            tag("https://h/v1/cohorts?user_id={{${user_id} | downcase}} :save c"),
            tag("https://h/v1/cohorts?user_id={{${user_id} | url_escape}} :save c"),
            tag(f"https://h/v1/cohorts?user_id={ID}&x={{{{ y }}}} :save c"),
            tag("https://h/v1/cohorts :method post :body user_id={{${user_id}}} :save c"),
        ],
        [
            tag(f"https://h/v1/cohorts?user_id={ID} :save c"),
            tag("https://h/v1/cohorts?user_id={{ ${user_id} | downcase | url_param_escape }} :save c"),
            tag("https://{{ host }}/v1/cohorts?user_id=a :save c"),
            tag('https://h/v1/cohorts :method post :content_type application/json :body {"user_id":"{{${user_id}}}"}'),
            "{{${user_id}}}",
        ],
    ),
    "unsaved": ([tag(RECS), tag(f"{RECS} :basic_auth us")], [tag(f"{RECS} :save recs")]),
    "insecure": ([tag("http://h/v1/cohorts :save c")], [tag("https://h/v1/cohorts?from=http://x :save c")]),
    "elsewhere": (
        [tag("https://h/v2/forecast :save c"), tag("https://h/v1/weather?q=1 :save c"), tag("https://h/ :save c")],
        [tag("https://h/v1/cohorts/ :save c"), tag("https://{{ host }}/v1/userprofile?user_id={{ x }} :save c"),
         tag("https://h/v1/{{ route }}?user_id=1 :save c"), tag("{{ url }} :save c")],
    ),
    "unknown-route": (
        [tag("https://h/v1/cohort?user_id=1 :save c"), tag("https://your-host/v1/recs :save c"),
         tag("https://your-host/cohorts :save c"), tag("https://h/v2/x :save x") + tag("https://h/v1/cohorts :save c")],
        [tag("https://h/v1/cohort?q=1 :save c"), tag("https://h/v1/cohorts?user_id=1 :save c"),
         tag("https://your-host/v1/cohorts{{ '?x=1' }}&user_id=1 :save r"),
         tag("{{ a | append: '?' }}/x :save r")],
    ),
    "without-url": ([tag(":save c"), tag("")], [tag("https://h/v1/cohorts :save c")]),
    "without-question-mark": (
        [tag("https://h/v1/cohorts&user_id=1 :save c"), tag(f"https://h/v1/cohorts/&user_id={ID} :save c")],
        [tag("https://h/v1/cohorts?a=1&b=2 :save c"), tag("https://h/v1/cohorts?a={{ x }}&b=2 :save c")],
    ),
    "save-name": (
        [tag("https://h/v1/cohorts :save = c"), tag("https://h/v1/cohorts :save 'c'"), tag("https://h/x :save a b")],
        [tag("https://h/v1/cohorts :save my_c-1"), tag("https://h/v1/cohorts :save {{ x }}")],
    ),
    "filter-signs": (
        ["{{ x | default 'a' }}", "{{ x default: 'a' }}", "{% assign y = x | append 'a' %}", "{{ x | truncate 5 }}",
         "{{ x | default('a') }}", "{% assign y = x | round( 2 ) %}", "{{ x | upcase() }}"],
        ["{{ x | default: 'a' | upcase }}", "{{ x | append: default }}", "{{ 'a default: b' }}",
         "{{ x | date: '%d' }}", "{{ x | append: '(a)' }}", "{{ 'x | default(1)' }}"],
    ),
    "body-without-post": (
        [tag("https://h/v1/cohorts :body a=1 :save c"), tag("https://h/v1/cohorts :method get :body a=1 :save c")],
        [tag("https://h/v1/cohorts :method post :body a=1 :save c"), tag("https://h/v1/cohorts?user_id=1 :save c")],
    ),
    "unknown-filter": (
        ["{{ x | upercase }}", "{% assign y = x | Upcase %}", "{% echo x | nosuch: 1 %}", "{{ 'a|b' | nosuch }}",
         tag("https://h/v1/cohorts?user_id={{${user_id} | url_param_escap}} :save c"),
         "{% liquid echo x | upercase %}"],
        ["{{ x | upcase | default: 'a|b' }}", "{{ x | md5 }}", "{{ 'a | b' }}", "{{ x || y }}",
         tag(f"{RECS}|x :save r"), "{% if x | nosuch %}{% endif %}", "{% raw %}{{ x | nosuch }}{% endraw %}"],
    ),
    "without-scheme": (
        [tag("h/v1/cohorts?user_id=1 :save c"), tag("//h/v1/cohorts :save c")],
        [tag("{{ url }} :save c"), tag("HTTPS://h/v1/cohorts :save c")],
    ),
    "quoted-url": (
        [tag("'https://h/v1/cohorts' :save c"), tag('"https://h/v1/cohorts?user_id={{ x }}" :save c'),
         tag("\u201chttps://h/v1/cohorts\u201d :save c")],
        [tag("https://h/v1/cohorts?x='a' :save c")],
    ),
    "space-in-url": (
        [tag(f"{RECS} &rec_type=model :save r"), tag("https://h/v1/cohorts? user_id=1 :save c"),
         tag("https://h/v1/recommendations?user_id=1&rec_id=home page :save r")],
        [tag(f"{RECS}\n  :save r"), tag("https://h/v1/cohorts?user_id={{ x | append: ' a' }} :save c"),
         tag("https://h/v1/cohorts?user_id=1 save c"),
         tag("https://h/v1/cohorts?user_id=1\u00a0 :save c"), tag("https://h/v1/cohorts\u00a0?user_id=1 :save c")],
    ),
    "no-break-space": (
        [tag("https://h/v1/cohorts?user_id=1\u00a0 :save c"), tag("https://h/v1/cohorts\u00a0?user_id=1 :save c"),
         tag("https://h/v1/cohorts?user_id=1\u00a0:save c"), tag("https://h/v1/cohorts?user_id=1 :retry\u00a0:save c")],
        [tag("https://h/v1/cohorts?user_id={{ x | append: '\u00a0' }} :save c"),
         tag("https://h/v1/cohorts? user_id=\u00a01 :save c"),
         tag("https://h/v1/cohorts :method post :body user_id=a\u00a0b :save c")],
    ),
    "password-in-tag": (
        [tag(f"{RECS} :basic_auth us:password :save r")],
        [tag(f"{RECS} :basic_auth us :save r"), tag("https://h/x :headers {\"a\": \"b:c\"} :save r")],
    ),
    "braces": (
        ["{{${user_id}} x {{ y }}", "{{ ${user_id }} x {{ y }}", "{{${user_id | upcase}} {{ y }}", "{ p.x }} y",
         "{{${user_id | upcase}}}", "Hi {user_id}", "{{ $user_id }}", "{{{user_id}}}", "Hi {$first_name}",
          "Hi ${first_name}",
          tag("https://h/v1/cohorts?user_id={user_id} :save c"),
         tag("https://h/v1/cohorts?user_id=${user_id} :save c"), "{{ x } y {{ z }}"],
        ["{{${user_id}}}", "{{ ${user_id} }}", "{{${user_id} | upcase}}", "{{custom_attribute.${a b}}}",
         "p{color:red}}",
         '{"a": {"b": 1}}', "{% if ${user_id} == 'a' %}{% endif %}", "costs ${5} {a}", "{{x}}", "a {{- x -}} b",
         "{% raw %}{user_id}{{ x }{% endraw %}", tag("https://h/x?q=a%20b&c={{${city}}} :save w"),
          "{{ a }} {% b %} 100%"],
    ),
    "curly-quotes": (
        ["{% if x == \u201ca\u201d %}{% endif %}", "{{ x | default: \u2018a\u2019 }}",
         "{{ x | default: \u201da\u201d }}"],
        ["{{ x | default: 'don\u2019t' }}", "\u201ctext\u201d", '{{ x | default: "\u201ca\u201d" }}'],
    ),
    "operator": (
        ["{% if a && b %}{% endif %}", "{% if a || b %}{% endif %}", "{% if a => 1 %}{% endif %}",
         "{% if a =< 1 %}{% endif %}", "{% if a = 'b' %}{% endif %}", "{% if a is 'b' %}{% endif %}",
          "{% assign a == b %}", "{% if a === 'b' %}{% endif %}",
         "{% if a !== 'b' %}{% endif %}", "{% unless not a %}{% endunless %}", "{% if !a %}{% endif %}",
         "{% if a AND b %}{% endif %}", "{{ a || 'b' }}", "{% if a %}{% elsif b = 1 %}{% endif %}"],
        ["{% if a == 'x && y = z' and b != 1 or c <> 2 %}{% endif %}", "{% if a <= 1 and b >= 2 %}{% endif %}",
         "{% assign a = b %}", "{{ a | default: '||' }}", "{% if notes %}{% endif %}",
          "{% if a.not == 1 %}{% endif %}"],
    ),
    "filter-in-tag": (
        ["{% if a | default: 0 > 3 %}{% endif %}", "{% for i in a | split: ',' %}{% endfor %}",
         "{% case a | downcase %}{% when 'b' %}{% endcase %}", "{% if b %}{% elsif a | size > 1 %}{% endif %}"],
        ["{% if a == '|' %}{% endif %}", "{% assign a = b | downcase %}", "{% for i in a limit: 3 %}{% endfor %}"],
    ),
    "tag-in-output": (
        ["{{ if a }}", "{{ endif }}", "{{ else }}", "{{ assign a = b }}", "{{ elseif a }}"],
        ["{{ a }}", "{{ if.a }}", "{{ case | upcase }}", "{{ assigned }}"],
    ),
    "unknown-tag": (
        ["{% elseif a %}", "{% if a %}{% else if b %}{% endif %}", "{% iff a %}", "{% end if %}",
         "{% set a = 1 %}", "{% asign a = b %}",
         "{% p.properties.first_name %}"],
        ["{% if a %}{% elsif b %}{% else %}{% endif %}", "{% unknown_tag_of_braze x %}", "{% # comment %}"],
    ),
    "without-credentials": (
        [tag(f"{RECS} :save r"), tag(f"{RECS} :no_cache :save r")],
        [tag(f"{RECS} :basic_auth us :save r"), tag(f"{RECS} :auth_credentials us :save r"),
         tag(f'{RECS} :headers {{"X-API-Key": "{{{{ key }}}}"}} :save r')],
    ),
    "cached-post": (
        [tag("https://h/v1/cohorts :method post :body user_id=1 :cache_max_age 900 :save c")],
        [tag("https://h/v1/cohorts :method post :body user_id=1 :save c"),
         tag("https://h/v1/cohorts?user_id=1 :cache_max_age 900 :save c")],
    ),
    "half-retry": (
        [tag(f"{RECS} :retry :save r"), tag(f"{RECS}&on_error=retry :save r")],
        [tag(f"{RECS}&on_error=retry :retry :save r"), tag(f"{RECS}&on_error=default :save r"),
         tag("https://h/v1/cohorts :method post :body user_id=1&on_error=retry :retry :save c"),
         tag('https://h/v1/cohorts :content_type a/json :body {"on_error":"retry"} :method post :retry :save c')],
    ),
    "unknown-option": (
        [tag(f"{RECS} :saved recs"), tag(f"{RECS} :method put :save r"), tag(f"{RECS} :no_cache more :save r")],
        [tag(f'{RECS} :headers {{"X-A": "b :c", "d": "e"}} :method GET :content_type a/b :no_cache :save r')],
    ),
    "unknown-parameter": (
        [tag(f"https://h/v1/properties?user_id={ID}&key=first_name :save p"),
         tag(f"https://h/v1/properties?user_id={ID}&amp;keys=a :save p"),
         tag("https://h/v1/cohorts?user_id=1&cb={{ now }} :save c"),
         tag("https://h/v1/cohorts?user_id=1&keys=a :save c"),
         tag("https://h/v1/userprofile?user_id=1&get_rec=true :save u"),
         tag("https://h/v1/profile :method post :body user_id=1&includes=cohorts :save p"),
         tag('https://h/v1/cohorts :method post :content_type a/json :body {"userid":"{{${user_id}}}"} :save c')],
        [tag(f"{RECS}&rec_type=model&on_error=default :save r"),
         tag("https://h/v1/userprofile?user_id=1&get_recs=true&rec_id=a&propensity_type=pct :save u"),
         tag("https://h/v1/profile?user_id=1&include=cohorts&cohort_id=a&keys=b&comp_id=c :save p"),
         tag("https://h/v1/cohorts?user_id={{ x | default: 'a&key=b' }} :save c"),
         tag("https://h/v1/cohorts?{{ name }}=1&user_id=1 :save c"),
         tag("https://h/v1/cohorts?user_id=1 :body key=a :save c"),
         tag("https://elsewhere/v2/x?key=a :save c"), tag("https://h/v1/{{ route }}?key=a :save c")],
    ),
    "exposure": (
        [tag(f"{RECS} :save r"), tag("https://h/v1/profile?include=cohorts,%20recommendations&rec_id=a :save p"),
         tag("https://h/v1/profile?include=recommendations&include=cohorts&rec_id=a :save p"),
         tag("https://h/v1/userprofile?user_id=1&rec_id=a :save u"),
         tag("https://h/v1/profile :method post :body include=recommendations&rec_id=a :save p"),
         tag('https://h/v1/profile :method post :body {"include":["cohorts","recommendations"]} :save p')],
        [tag("https://h/v1/profile?include=cohorts&rec_id=a :save p"),
         tag("https://h/v1/userprofile?user_id=1&get_cohort_ids=true :save u"),
         tag("https://h/v1/properties?keys=rec_id :save p")],
    ),
    "misspelt-attribute": (
        ["{{${external_id}}}", "{{${frist_name}}}", "{{${email}}}", "{{ custom_attributes.${team} }}"],
        ["{{${user_id}}} {{most_recently_used_device.${id}}}", "${frist_name} in text", "{{${first_name}}}",
         "{% if custom_attribute.${team} == 'a' %}{% endif %}", "{% raw %}{{${x}}}{% endraw %}"],
    ),
    "cut-body": (
        [tag('https://h/v1/cohorts :method post :body {"user_id": "a"} :save c'),
         tag("https://h/v1/cohorts :method post :body a=1& b=2 :save c")],
        [tag('https://h/v1/cohorts :method post :body {"user_id":"{{ x | default: "a b" }}"} :save c'),
         tag("https://h/v1/cohorts :method post :body {{ body }} :save c")],
    ),
    "text-against-number": (
        ["{% if p.properties.points > '100' %}{% endif %}", '{% unless "3" <= x %}{% endunless %}',
         "{% if c.computations.orders == '3' %}{% endif %}", "{% if l.propensity == \"90\" %}{% endif %}"],
        ["{% if p.properties.points > 100 %}{% endif %}", "{% if p.properties.zip == '02134' %}{% endif %}",
         "{% if c.computations.zip == '02134' %}{% endif %}", "{% if x == 'a > b' %}{% endif %}", "{{ '1' }} > '2'"],
    ),
    "parentheses": (
        ["{% if (a or b) and c %}{% endif %}", "{% unless a and (b or c) %}{% endunless %}",
         "{% if a %}{% elsif (b) %}{% endif %}"],
        ["{% if a == '(b)' %}{% endif %}", "{% for i in (1..3) %}{% endfor %}", "{% if (1..3) contains x %}{% endif %}",
         "(text) {{ a }}", ABORT],
    ),
    "unsafe-name": (
        ["{{ p.properties_by_name.gp:email }}", "{{ p.gp:email | upcase }}", "{% if p.gp:plan == 'a' %}{% endif %}",
         "{{ p.my prop }}", "{{ c.member.31c }}", "{{ p.properties.first name | default: 'you' }}",
          "{% if p.my prop == 1 %}{% endif %}",
         "{% assign x = p.my prop | upcase %}", "{{ p.properties.1st }}", "{{ p.größe }}", "{{ p.[Amplitude] City }}",
         "{{ p.properties_by_name['[Amplitude] City'] }}"],
        ["{{ p['gp:email'] }}", "{{ p.email | default: 'a.b:c' | append:p.x }}", "{{ p.plan-type }}",
         "{% if p.a and p.b or p.c contains 'x' %}{% endif %}", "{% for i in p.items limit:2 offset: 1 %}{% endfor %}",
         "{{ p['my prop'] }}", "{{ p.items[0] }}", "{{ p.a == 1.5 }}", "{{ p[key].name }}", "{{ x | plus: 1.5 }}",
         "{% assign key = '[Amplitude] City' %}{{ p.properties_by_name[key] }}", "{{ p._1st_order }}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "template"), [(rule, entry) for rule, (wrong, _) in CASES.items() for entry in wrong])
def test_lint__wrong_template__finding_has_line_and_fix(rule: str, template: str) -> None:
    findings = findings_of("first line\n" + template, rule)
    assert len(findings) == 1, findings
    assert findings[0].line == 2
    assert findings[0].problem
    assert findings[0].fix


@pytest.mark.parametrize(("rule", "template"), [(rule, entry) for rule, (_, right) in CASES.items() for entry in right])
def test_lint__right_template__no_finding(rule: str, template: str) -> None:
    assert not findings_of(template, rule)


def test_unknown_parameter__similar_name__fix_names_the_parameter() -> None:
    (finding,) = findings_of(tag("https://h/v1/properties?user_id=1&key=first_name :save p"), "unknown-parameter")
    assert "key is not a parameter of /v1/properties and is ignored" in finding.problem
    assert (finding.fix, finding.level) == ("rename the parameter to keys", "problem")
    (finding,) = findings_of(tag("https://h/v1/cohorts?user_id=1&cb=7 :save c"), "unknown-parameter")
    assert finding.level == "note", "the parameter may be a cache-buster"
    assert "user_id, device_id, on_error, cohort_id" in finding.fix


def test_lint__every_rule__has_cases() -> None:
    assert rules_of(ROOT.glob("proxy/liquid/lint/*.py")) == {*CASES, *test_lint_rendered.RULES}


def rules_of(files: Iterable[Path]) -> set[str]:
    """Return the rules of all findings that the source files create."""
    calls = (
        node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)
    )
    names = (
        argument.value
        for call in calls
        if ast.unparse(call.func).lower().endswith("finding")
        for argument in call.args[1:3]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    )
    return {name for name in names if re.fullmatch("[a-z]+(-[a-z]+)*", name)}


def test_lint__comments_and_raw_blocks__no_finding() -> None:
    for name in ("comment", "raw"):
        template = f"{{% {name} %}}{tag('http://x')}{{{{ p.gp:email }}}}{{% end{name} %}}"
        assert not list(findings(template, scanner.markups(template)))


def test_lint__several_findings__lines_of_the_template() -> None:
    template = (
        "a\n{% comment %}\n\n{% endcomment %}\n{{ p.gp:x }}\n"
        + tag("http://h/v1/cohorts\n:basic_auth us :save c")
        + "\n{{ p.gp:y }}"
    )
    assert sorted((entry.line, entry.rule) for entry in findings(template, scanner.markups(template))) == [
        (5, "unsafe-name"), (6, "insecure"), (8, "unsafe-name"),
    ]  # fmt: skip
    assert [markup.line for markup in scanner.markups(template)] == [2, 5, 6, 8]


def test_markups__unreadable_template__error_has_the_line() -> None:
    with pytest.raises(scanner.Unreadable) as unreadable:
        scanner.markups("a\n{% if x")
    assert unreadable.value.line == 2


@pytest.mark.parametrize(
    ("template", "replacement"),
    [
        ("{{ p.properties.gp:email }}", ".email"),
        ("{{ p.gp:email }}", ".properties.email"),
        ("{{ p.properties_by_name.gp:email }}", "['gp:email']"),
        ("{{ p.properties.first name | upcase }}", ".first_name"),
        ("{{ c.member.31c }}", "['31c']"),
        ("{{ recs.items.[0] }}", "[0]"),
    ],
)
def test_unsafe_name__replacement_is_a_name_that_liquid_reads(template: str, replacement: str) -> None:
    (finding,) = findings_of(template, "unsafe-name")
    assert finding.replacement == replacement


@pytest.mark.parametrize(
    ("template", "rule", "column", "length", "replacement"),
    [
        (tag("https://keys.h/v1/properties?user_id=1&key=a :save p"), "unknown-parameter", 61, 3, "keys"),
        (tag(f"{RECS} :no_cache a :save r"), "unknown-option", 112, 1, None),
        ("é{% if a && b %}{% endif %}", "operator", 10, 2, "and"),
        ("a\r\n\n  {{ if x }}{% endif %}", "tag-in-output", 3, 10, "{% if x %}"),
        (tag("https://h/v1/cohorts?user_id=1 :basic_auth us"), "unsaved", 68, 2, ":save c %}"),
    ],
)
def test_lint__position__column_and_length_count_characters(
    template: str, rule: str, column: int, length: int, replacement: str | None
) -> None:
    (finding,) = findings_of(template, rule)
    assert (finding.column, finding.length, finding.replacement) == (column, length, replacement)
