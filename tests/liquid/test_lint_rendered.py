"""Findings that need a rendering, by cases: the text that they mark, and the text that fixes it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.liquid.render import render
from proxy.liquid.types import Answer, Finding, Rendering, Request, User

ID = "{{${user_id} | url_param_escape}}"
ENVELOPE = {"ok": True, "found": True, "error": None, "user_id": "ava"}
SHELF = {"items": ["trail-shoe", "rain-shell"], "personalized": True, "is_control": False, "source": "model"}
NOT_RETURNED = {"items": [], "personalized": False, "is_control": False, "source": None, "child_rec_id": None}
ANSWERS: dict[str, dict[str, Any]] = {
    "recommendations": {
        **SHELF, "recommendations": [SHELF], "recommendations_by_id": {"homepage": SHELF, "also": NOT_RETURNED},
    },
    "properties": {
        "properties": {"first_name": "Ava", "plan_type": "gold", "team": None, "sizes": ["m", "l"], "points": 7},
        "properties_by_name": {"gp:first_name": "Ava", "gp:plan.type": "gold", "team": None},
    },
    "cohorts": {"cohort_ids": ["vip", "c31"], "member": {"vip": True, "c31": True, "gold": False}, "is_member": True},
    "userprofile": {"userData": {"recommendations": [SHELF], "cohort_ids": ["vip"]}},
    "propensities": {"propensity": None, "propensities_by_id": {"buy": {"value": None}, "leave": {"value": 0.5}}},
}  # fmt: skip


def tag(route: str, variable: str, parameters: str = "", options: str = "") -> str:
    url = f"https://your-host/v1/{route}?user_id={ID}{parameters}"
    return f"{{% connected_content {url} :basic_auth us {options}:save {variable} %}}"


RECS = tag("recommendations", "recs", "&rec_id=homepage,also")
P = tag("properties", "p")
C = tag("cohorts", "c")


def ask(request: Request) -> Answer:
    """Answer like the service, without a property or cohort that is not requested."""
    route = request.target.removeprefix("/v1/").partition("?")[0]
    body = ANSWERS[route] | (ENVELOPE if route != "userprofile" else {})
    if "keys=" in request.target:
        names = request.target.partition("keys=")[2].split(",")
        body |= {
            part: {name: body["properties"].get(name) for name in names}
            for part in ("properties", "properties_by_name")
        }
    if "cohort_id=" in request.target:
        names = request.target.partition("cohort_id=")[2].split(",")
        body |= {"member": {name: name in body["cohort_ids"] for name in names}}
    return Answer(200, {}, json.dumps(body), 1.0)


def problems(rendering: Rendering) -> list[Finding]:
    return [finding for finding in rendering.findings if finding.level == "problem"]


def marked(source: str, finding: Finding) -> str:
    """Return the text that a finding marks."""
    start = sum(map(len, source.splitlines(keepends=True)[: finding.line - 1])) + finding.column - 1
    return source[start : start + finding.length]


MISSPELT = [
    ("unknown-name", RECS + "é\n{{ rec.item }}", "rec.item", "recs.items"),
    ("unknown-name", P + "{{ first_name }}", "first_name", "p.properties.first_name"),
    ("unknown-name", "{{ user_id }}", "user_id", "${user_id}"),
    ("unknown-name", "{{ user.external_id | upcase }}", "user.external_id", "${user_id}"),
    ("unknown-name", "{{ user.first_name }}", "user.first_name", "${first_name}"),
    ("unknown-name", "{{ FirstName }}", "FirstName", "${first_name}"),
    ("unknown-name", RECS + "{% for item in recs.items %}{{ itme }}{% endfor %}", "itme", "item"),
    ("unknown-name", "{% assign total = 3 %}{% if totl > 2 %}x{% endif %}", "totl", "total"),
    ("unknown-key", P + "{{ p.first_name }}", "p.first_name", "p.properties.first_name"),
    ("unknown-key", P + "{{ p.properties.First_Name }}", "p.properties.First_Name", "p.properties.first_name"),
    ("unknown-key", P + "{{ p.properties.firstname }}", "p.properties.firstname", "p.properties.first_name"),
    ("unknown-key", P + "{{ p.properties.plan.type }}", "p.properties.plan.type", "p.properties.plan_type"),
    ("unknown-key", P + "{{ p.properties.shoe.size_eu }}", "p.properties.shoe.size_eu", "p.properties.shoe_size_eu"),
    ("unknown-key", P + "{{ p.propertys.first_name }}", "p.propertys.first_name", "p.properties.first_name"),
    ("unknown-key", P + "{{ p['properties']['First_Name'] }}", "p['properties']['First_Name']",
     "p.properties.first_name"),
    ("unknown-key", P + "{% assign q = p.properties %}{{ q.frist_name }}", "q.frist_name", "q.first_name"),
    ("unknown-key", P + "{% assign k = 'First_Name' %}{{ p.properties[k] }}", "p.properties[k]",
     "p.properties.first_name"),
    ("unknown-key", P + "{{ p.properties.first_name.value }}", "p.properties.first_name.value",
     "p.properties.first_name"),
    ("unknown-key", P + "{% if p.First_Name == 'Ava' %}x{% endif %}", "p.First_Name", "p.properties.first_name"),
    ("unknown-key", RECS + "{{ recs.recommendations_by_id.homepge.items }}", "recs.recommendations_by_id.homepge.items",
     "recs.recommendations_by_id.homepage.items"),
    ("unknown-key", RECS + "{{ recs.homepage.items[0] }}", "recs.homepage.items[0]",
     "recs.recommendations_by_id.homepage.items[0]"),
    ("unknown-key", RECS + "{{ recs.items['0'] }}", "recs.items['0']", "recs.items[0]"),
    ("unknown-key", RECS + "{{ recs.items.length }}", "recs.items.length", "recs.items.size"),
    ("unknown-key", RECS + "{{ recs.recommendations.items }}", "recs.recommendations.items",
     "recs.recommendations[0].items"),
    ("unknown-key", RECS + "{% for item in recs.item %}{{ item }}{% endfor %}", "recs.item", "recs.items"),
    ("unknown-key", RECS + "{% for item in recs.items %}{{ item.title }}{% endfor %}", "item.title", "item"),
    ("unknown-key", RECS + "{% for r in recs.recommendations %}{{ r.item }}{% endfor %}", "r.item", "r.items"),
    ("unknown-key", C + "{% if c.vip %}x{% endif %}", "c.vip", "c.member.vip"),
    ("unknown-key", C + "{% if c.member.vpi %}x{% endif %}", "c.member.vpi", "c.member.vip"),
    ("unknown-id", tag("cohorts", "c", "&cohort_id=c31,vpi") + "{{ c.is_member }}", "vpi", "vip"),
    ("unknown-id", tag("properties", "p", "&keys=First_Name") + "{{ p.ok }}", "First_Name", "first_name"),
    ("unknown-id", C + "{% if c.cohort_ids contains 'vpi' %}x{% endif %}", "vpi", "vip"),
    ("unknown-name", P + "{% if p.properties.first_name == Ava %}x{% endif %}", "Ava", "'Ava'"),
    ("text-against-boolean", C + "{% if c.is_member == 'true' %}x{% endif %}", "'true'", "true"),
    ("unknown-key", RECS + "{{ recs.items.fist }}", "recs.items.fist", "recs.items.first"),
    ("unknown-key", tag("userprofile", "u") + "{{ u.cohort_ids[0] }}", "u.cohort_ids[0]", "u.userData.cohort_ids[0]"),
    ("unknown-key", tag("userprofile", "u") + "{{ u.items[0] }}", "u.items[0]",
     "u.userData.recommendations[0].items[0]"),
    ("whole-object", RECS + "{% for item in recs %}{{ item | first }}{% endfor %}", "recs", "recs.items"),
    ("whole-object", P + "{{ p.properties }}", "p.properties", None),
    ("used-before-set", "{{ recs.ok }}" + RECS, "recs.ok", None),
    ("used-before-set", "{% if n %}x{% endif %}{% assign n = 1 %}", "n", None),
    ("out-of-loop", RECS + "{% for item in recs.items %}x{% endfor %}{{ item }}", "item", None),
    ("empty", P + "{{ p.properties.team }}", "{{ p.properties.team }}", "{{ p.properties.team | default: '…' }}"),
    ("empty", P + "{{- p.properties.town | upcase -}}", "{{- p.properties.town | upcase -}}",
     "{{- p.properties.town | upcase | default: '…' -}}"),
    ("empty", P + "{% assign t = p.properties.team %}{{ t }}", "{{ t }}", "{{ t | default: '…' }}"),
    ("braces", P + "{% if p.ok %}x{% endif %}{{% assign y = 1 %}}", "{{% assign y = 1 %}}", "{% assign y = 1 %}"),
    ("unknown-filter", P + "{{ p.properties.first_name | upercase }}", "upercase", "upcase"),
    ("filter-signs", P + "{{ p.properties.first_name | default('x') }}", "default('x')", "default: 'x'"),
    ("filter-signs", P + "{{ p.properties.first_name | upcase() }}", "upcase()", "upcase"),
    ("misspelt-attribute", "{{${external_id}}}x", "${external_id}", "${user_id}"),
    ("misspelt-attribute", "{{${email}}}x", "${email}", "${email_address}"),
]  # fmt: skip
RULES = {rule for rule, *_ in MISSPELT} | {
    "abort-against-retry",
    "whole-list",
    "failed-call",
    "blank-id",
    "unknown-user",
    "json-as-form",
}


@pytest.mark.parametrize(("rule", "source", "text", "replacement"), MISSPELT)
def test_rendered__misspelt_name__one_finding_marks_it_and_names_the_right_one(
    rule: str, source: str, text: str, replacement: str | None
) -> None:
    (finding,) = problems(render(source, User("ava"), ask))
    assert (finding.rule, marked(source, finding), finding.replacement) == (rule, text, replacement)
    if replacement is not None:
        assert replacement in finding.fix
        start = source.rindex(text)
        fixed = source[:start] + replacement + source[start + len(text) :]
        assert {entry.rule for entry in problems(render(fixed, User("ava"), ask))} <= {"empty"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (P + "{{ p.points_total }}", ["p has no points_total", "properties, properties_by_name"]),
        (RECS + "{{ nothing }}{% assign total = 1 %}", ["no tag sets nothing", "recs, total"]),
        (tag("properties", "p", "&keys=first_name") + "{{ p.properties.points }}", ["add points to keys"]),
        (RECS + "{{ recs.recommendations_by_id.checkout.ok }}", ["add checkout to rec_id", "homepage, also"]),
        (P + "{{ p.properties.team }}", ["p.properties.team is empty for this user", "add a default"]),
        ("{{ recs.ok }}\n\n" + RECS, ["before the tag on line 3", "move the tag on line 3 above line 1"]),
    ],
)
def test_rendered__nothing_similar__finding_lists_the_names_that_exist(source: str, words: list[str]) -> None:
    (finding,) = problems(render(source, User("ava"), ask))
    for word in words:
        assert word in f"{finding.problem}; {finding.fix}"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (C + "{% if c.member.silver %}x{% endif %}y", ["not in the cohort silver", "vip, c31"]),
        (tag("cohorts", "c", "&cohort_id=silver") + "{{ c.is_member }}", ["not in the cohort silver", "vip, c31"]),
        (RECS + "x", ["no recommendation also", "this user has homepage", "other names on this service are checkout"]),
        (tag("propensities", "p", "&prediction_id=buy,leave") + "x", ["no prediction buy", "this user has leave"]),
    ],
)
def test_rendered__id_that_the_user_does_not_have__note_lists_those_of_the_user(source: str, words: list[str]) -> None:
    rendering = render(source, User("ava"), ask, aliases={"recommendations": ["checkout"]})
    assert not problems(rendering)
    (note,) = [finding for finding in rendering.findings if finding.rule == "unknown-id"]
    for word in words:
        assert word in f"{note.problem}; {note.fix}"


def test_rendered__list_in_an_output__note_has_the_filter() -> None:
    rendering = render(RECS + "{{ recs.items }}", User("ava"), ask)
    (note,) = [finding for finding in rendering.findings if finding.rule == "whole-list"]
    assert (note.level, note.replacement) == ("note", "recs.items | join: ', '")


def test_rendered__unknown_user__finding_names_the_level() -> None:
    def unknown(request: Request) -> Answer:
        body = {"ok": True, "found": False, "properties": {}, "properties_by_name": {}}
        return Answer(200, {}, json.dumps(body), 1.0)

    (finding,) = problems(render(P + "{{ p.first_name }}", User("stranger"), unknown))
    assert finding.replacement == "p.properties.first_name"


def test_rendered__recommendation_similar_to_an_alias__replacement_is_the_alias() -> None:
    source = tag("recommendations", "recs", "&rec_id=als") + "{{ recs.personalized }}"
    rendering = render(source.replace("als", "also"), User("ava"), ask, aliases={"recommendations": ["alsso"]})
    assert [(finding.rule, finding.replacement) for finding in problems(rendering)] == [("unknown-id", "alsso")]


@pytest.mark.parametrize(
    "source",
    [
        "{{ event_properties.${x} }}{{ api_trigger_properties.${y}.z }}{{ content_blocks.${a} }}{{ campaign.${name} }}",
        P + "{{ p.properties.team | default: 'none' }}{{ p.properties.last_name | default: '' }}",
        P + "{% if p.properties.town == nil %}x{% endif %}{% for e in p.properties %}{{ e[0] }}{{ e[1] }}{% endfor %}",
        P + "{% assign n = p.properties.points | plus: 1 %}{{ n.size }}{% capture t %}{{ n }}{% endcapture %}{{ t }}",
        RECS + "{% for i in (1..2) %}{{ forloop.index }}{{ recs.items[i] }}{% endfor %}{{ recs.items.first.size }}",
        RECS + "{{ recs.__http_status_code__ }}{{ recs.items[9] | default: 'x' }}{% cycle 'a', 'b' %}",
        "{% connected_content https://api.example.com/x :save w %}{{ w.temp }}{% if w.rain %}x{% endif %}",
        "{% increment n %}{{ n }}{% comment %}{{ nothing }}{% endcomment %}{% raw %}{{ nothing }}{% endraw %}",
        "{% if false %}" + RECS + "{{ recs.itmes }}{% endif %}x",
        "{% for i in (1..3) %}{% if last %}{{ last }}{% endif %}{% assign last = i %}{% endfor %}",
        C + "{% if c.cohort_ids contains 'gold' or c.is_member == true or c.error == 'true' %}x{% endif %}",
        "{% assign x = '' %}{{ x }}{% assign y = true %}{{ y }}{{ 'a' | append: x }}",
    ],
)
def test_rendered__names_that_exist_or_that_only_braze_knows__no_problem(source: str) -> None:
    assert problems(render(source, User("ava"), ask)) == []


@pytest.mark.parametrize(
    "source",
    [
        tag("recommendations", "r", "&rec_id=a&on_error=retry", ":retry ")
        + "\n{% unless r.ok %}{% abort_message('x') %}{% endunless %}",
        tag("recommendations", "r", "&rec_id=a&on_error=retry", ":retry ")
        + "\n{% if r.items.size > 0 %}x{% else %}{% abort_message('x') %}{% endif %}",
        tag("recommendations", "r", "&rec_id=a&on_error=retry", ":retry ")
        + "\n{% assign shown = r.personalized %}{% if shown != true %}{% abort_message('x') %}{% endif %}",
        tag("recommendations", "r", "&rec_id=a&on_error=retry", ":retry ")
        + "\n{% case r.__http_status_code__ %}{% when 200 %}x{% else %}{% abort_message('x') %}{% endcase %}",
        tag("recommendations", "r", "&rec_id=a&on_error=retry", ":retry ")
        + "\n{% if r == nil or r.ok %}{% if r.ok %}x{% else %}{% abort_message('x') %}{% endif %}{% endif %}",
    ],
)
def test_abort__reached_if_the_call_fails__finding_at_the_abort(source: str) -> None:
    (finding,) = [entry for entry in render(source, User("ava"), ask).findings if entry.rule == "abort-against-retry"]
    assert (finding.line, marked(source, finding)) == (2, "{% abort_message('x') %}")
    assert "if the call on line 1 fails" in finding.problem


@pytest.mark.parametrize(
    "source",
    [
        tag("recommendations", "r", "&rec_id=a") + "{% unless r.ok %}{% abort_message('x') %}{% endunless %}",
        tag("recommendations", "r", "&on_error=retry&rec_id=a", ":retry ") + "{% unless r.ok %}x{% endunless %}",
        tag("recommendations", "r", "&on_error=retry&rec_id=a", ":retry ")
        + "{% if r.ok %}{% unless r.personalized %}{% abort_message('x') %}{% endunless %}{% endif %}",
        tag("recommendations", "r", "&on_error=retry&rec_id=a", ":retry ")
        + "{% if r.is_control %}{% abort_message('x') %}{% endif %}",
        tag("recommendations", "r", "&on_error=retry&rec_id=a", ":retry ")
        + "{% if r.error == 'blank_id' %}{% abort_message('x') %}{% endif %}",
        tag("recommendations", "r", "&on_error=retry&rec_id=a", ":retry ")
        + "{% assign n = r.items | size %}{% if n == 1 %}{% abort_message('x') %}{% endif %}",
    ],
)
def test_abort__not_reached_if_the_call_fails__no_finding(source: str) -> None:
    assert "abort-against-retry" not in [entry.rule for entry in render(source, User("ava"), ask).findings]


UNREADABLE = [
    ("braces", "Hi {{${user_id}} x", "{{${user_id}}", "{{${user_id}}}"),
    ("braces", P + "{{ p.properties.first_name }", "{{ p.properties.first_name }", "{{ p.properties.first_name }}"),
    ("braces", P + "{{ p.ok %}", "{{ p.ok %}", "{{ p.ok }}"),
    ("braces", P + "{% if p.ok }}x{% endif %}", "{% if p.ok }}", "{% if p.ok %}"),
    ("braces", P + "{% if p.ok }x{% endif %}", "{% if p.ok }", "{% if p.ok %}"),
    ("unknown-tag", P + "{% if p.ok %}x{% end if %}", "end if", "endif"),
    ("unknown-tag", P + "{% if p.ok %}x{% end %}", "{% end %}", "{% endif %}"),
    ("unknown-tag", P + "{% if p.ok %}x{% elseif p.stale %}y{% endif %}", "elseif", "elsif"),
    ("tag-in-output", P + "{{ if p.ok }}x{% endif %}", "{{ if p.ok }}", "{% if p.ok %}"),
    ("braces", P + "{ % if p.ok %}x{% endif %}", "{ % if p.ok %}", "{% if p.ok %}"),
    ("unreadable", "a\n{% if x %}b", "{% if x %}", None),
    ("unreadable", "a\n{% endif %}b", "{% endif %}", None),
]


@pytest.mark.parametrize(("rule", "source", "text", "replacement"), UNREADABLE)
def test_unreadable_message__one_finding_with_the_fix(
    rule: str, source: str, text: str, replacement: str | None
) -> None:
    rendering = render(source, User("ava"), ask)
    assert (rendering.outcome, rendering.good) == ("refused", False)
    (finding,) = problems(rendering)
    assert (finding.rule, marked(source, finding), finding.replacement) == (rule, text, replacement)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% endif %}", "{% endif %} has no opening tag; remove it, or add the opening tag before it"),
        ("{% else %}", "{% else %} has no opening tag; remove it, or add the opening tag before it"),
        ("{% nosuch %}", "nosuch is not a tag; check its spelling"),
    ],
)
def test_unreadable_message__tag_without_its_block__reason_has_the_fix(source: str, reason: str) -> None:
    rendering = render(source, User("ava"), ask)
    assert rendering.reason == f"line 1: {reason}"


def test_used_before_set__tag_in_the_same_line__fix_names_the_place() -> None:
    (finding,) = problems(render("x{{ recs.ok }}" + RECS, User("ava"), ask))
    assert finding.fix == "move the tag before recs.ok"


@pytest.mark.parametrize("name", ["${external_id}", "${email}", "${frist_name}", "${userId}"])
def test_misspelt_attribute__of_the_user__is_reported_once(name: str) -> None:
    rendering = render(f"{{{{{name}}}}}x", User("ava"), ask)
    assert [entry.rule for entry in rendering.findings] == ["misspelt-attribute"]


@pytest.mark.parametrize(
    "liquid",
    [
        "{{ event_propertie.${x} }}",
        "{{ canvas_entry_propertes.${x}.y | upcase }}",
        "{% if custom_atribute.${x} == 'a' %}a{% endif %}",
    ],
)
def test_misspelt_object__of_an_attribute__is_reported_once(liquid: str) -> None:
    rendering = render(f"{liquid}x", User("ava"), ask)
    assert [entry.rule for entry in rendering.findings] == ["misspelt-attribute"]


@pytest.mark.parametrize("name", ["endcomment", "endraw", "enddoc"])
def test_verbatim_block__closing_tag_alone__one_finding_without_a_suggestion(name: str) -> None:
    (found,) = render(f"a {{% {name} %}} b", User("ava"), ask).findings
    assert (found.rule, found.replacement) == ("unreadable", None)
    assert found.problem.startswith(f"{{% {name} %}} has no opening tag")


@pytest.mark.parametrize(("name", "meant"), [("endcoment", "endcomment"), ("endrawn", "endraw")])
def test_verbatim_block__misspelt_closing_tag__replacement_is_the_closing_tag(name: str, meant: str) -> None:
    (found,) = render(f"a {{% {name} %}} b", User("ava"), ask).findings
    assert (found.rule, found.replacement) == ("unknown-tag", meant)


@pytest.mark.parametrize("name", ["comment", "raw", "doc"])
def test_variable__has_the_name_of_a_tag__no_finding(name: str) -> None:
    rendering = render(f"{{% assign {name} = 'x' %}}{{{{ {name} }}}}", User("ava"), ask)
    assert (rendering.message, rendering.findings) == ("x", ())


ODD_FIELDS = ("member", "cohort_ids", "properties_by_name", "recommendations_by_id", "propensities_by_id")


@pytest.mark.parametrize("value", [None, True, 5, "x", [1], [[]], {"a": 1}, {"a": None}, {"also": [1]}])
@pytest.mark.parametrize("field", ODD_FIELDS)
@pytest.mark.parametrize("of_tag", [True, False], ids=["answer to a tag", "answer with all ids"])
def test_rendered__field_of_another_type__message_is_sent(field: str, value: Any, of_tag: bool) -> None:
    """The page sends kept answers back, and :rerender changes answers."""

    def changed(request: Request) -> Answer:
        body = json.loads(ask(request).body)
        return Answer(200, {}, json.dumps(body | ({field: value} if ("&" in request.target) is of_tag else {})), 1.0)

    source = RECS + tag("cohorts", "c", "&cohort_id=vpi,zz") + tag("properties", "p", "&keys=plan_tpye,team")
    source += tag("propensities", "q", "&prediction_id=buy")
    assert render(source + "Hi", User("u"), changed).message == "Hi"


def test_rendered__index_of_5000_digits_in_quotes__message_is_sent() -> None:
    rendering = render(RECS + "Hi{{ recs.items['" + "9" * 5000 + "'] }}", User("u"), ask)
    assert (rendering.outcome, rendering.message) == ("sent", "Hi")


def test_abort_against_retry__failed_call_reaches_an_unreadable_content_block__message_is_sent() -> None:
    source = tag("properties", "p", "", ":retry ") + "{% if p.ok %}Hi{% else %}{{content_blocks.${a}}}{% endif %}"
    rendering = render(source, User("u"), ask, values={"content_blocks.${a}": "{% if"})
    assert (rendering.outcome, rendering.message) == ("sent", "Hi")


def test_foreign_host__no_word_about_credentials_or_routes() -> None:
    source = "{% connected_content https://api.example.com/v1/forecast?q={{${city}}} :save w %}{{ w.temp }}x"
    rendering = render(source, User("ava"), ask)
    assert not problems(rendering)
    (note,) = [finding for finding in rendering.findings if finding.rule == "elsewhere"]
    assert note.problem == "api.example.com is not this service, so the preview does not call it"
    assert not [finding for finding in rendering.findings if "credentials" in finding.problem + finding.fix]


def test_rendered__many_names_and_keys__within_the_time_limit() -> None:
    names = "".join(f"{{% assign a{number} = p %}}{{{{ b{number}.c }}}}" for number in range(200))
    wide = ENVELOPE | {"properties": {f"name_{n}": {f"key_{m}": n for m in range(50)} for n in range(200)}}
    rendering = render(P + names, User("ava"), lambda _: Answer(200, {}, json.dumps(wide), 0.0), seconds=4)
    assert rendering.outcome == "sent"


@pytest.mark.parametrize(
    ("source", "rules"),
    [
        ("{% connected_content https://h/v1/recommendations?user_id=ava :basic_auth us :save r %}x", ["failed-call"]),
        (
            "{% connected_content https://h/v1/recommendations?user_id=ava&recid=a :basic_auth us :save r %}x",
            ["unknown-parameter"],
        ),
    ],
)
def test_failed_call__mistake_in_the_tag__one_finding_with_the_words_of_the_service(
    source: str, rules: list[str]
) -> None:
    detail = "rec_id is required; add rec_id=<id>"
    rendering = render(source, User("ava"), lambda _: Answer(400, {}, json.dumps({"detail": detail}), 0.0))
    assert [entry.rule for entry in problems(rendering)] == rules
    if rules == ["failed-call"]:
        (found,) = problems(rendering)
        assert (found.problem, found.fix) == (
            "the call fails with status 400: rec_id is required",
            "add rec_id=<id>",
        )
        assert marked(source, found).startswith("{% connected_content")


@pytest.mark.parametrize("body", ['{"error":"User id and device id not seen before"}', "no", "[]", '{"detail":7}'])
def test_failed_call__answer_without_a_detail__no_finding(body: str) -> None:
    source = "{% connected_content https://h/v1/userprofile?user_id=ava&rec_id=a :basic_auth us :save r %}x"
    assert problems(render(source, User("ava"), lambda _: Answer(400, {}, body, 0.0))) == []


@pytest.mark.parametrize(
    ("answer", "url", "rules"),
    [
        ({"ok": False, "found": False, "error": "blank_id"}, f"https://h/v1/cohorts?user_id={ID}", ["blank-id"]),
        ({"ok": False, "found": False, "error": "blank_id"}, "https://h/v1/cohorts?user_id=${user_id}", ["braces"]),
        ({"ok": True, "found": False, "error": None}, f"https://h/v1/cohorts?user_id={ID}", ["unknown-user"]),
        ({"ok": False, "found": False, "error": "quota_exhausted"}, f"https://h/v1/cohorts?user_id={ID}", []),
        ({"ok": True, "found": True, "error": None}, f"https://h/v1/cohorts?user_id={ID}", []),
    ],
)
def test_answer__without_data_about_the_user__note_says_why(answer: dict[str, Any], url: str, rules: list[str]) -> None:
    source = f"{{% connected_content {url} :basic_auth us :save c %}}Hi"
    source += tag("properties", "p") * (rules == ["unknown-user"])  # a second tag about the same user
    rendering = render(source, User("ava"), lambda _: Answer(200, {}, json.dumps(answer), 0.0))
    assert [entry.rule for entry in rendering.findings] == rules


JSON_BODY = '{% capture body %}{"user_id": "ava"}{% endcapture %}'


@pytest.mark.parametrize(
    ("source", "rule", "text", "replacement"),
    [
        (JSON_BODY + "{% connected_content https://your-host/v1/cohorts :method post :body {{body}}"
         " :basic_auth us :save c %}x", "json-as-form", ":body", ":content_type application/json :body"),
        (tag("cohorts", "c", "&amp;cohort_id=vip") + "x", "unknown-parameter", "&amp;cohort_id", "&cohort_id"),
        ("{% connected_content https://your-host/v1/cohorts :body user_id=ava :basic_auth us :save c %}x",
         "body-without-post", ":body", ":method post :body"),
        (tag("cohorts", "c").replace(":save", ":save:") + "x", "unknown-option", ":save:", ":save"),
        (tag("cohorts", "c").replace(":basic_auth", ":basic_aut") + "x", "unknown-option", ":basic_aut", ":basic_auth"),
        (tag("cohorts", "c").replace(":save", ":sav") + "x", "unknown-option", ":sav", ":save"),
        (tag("cohorts", "c").replace("url_param_escape", "url_param_escap") + "x", "unknown-filter",
         "url_param_escap", "url_param_escape"),
        (tag("cohorts", "c", "&cohort_id=vip").replace("vip ", "vip\u00a0") + "x", "no-break-space",
         f"https://your-host/v1/cohorts?user_id={ID}&cohort_id=vip\u00a0:basic_auth",
         f"https://your-host/v1/cohorts?user_id={ID}&cohort_id=vip :basic_auth"),
        (tag("cohorts", "c", "&\u00a0cohort_id=vip") + "x", "no-break-space",
         f"https://your-host/v1/cohorts?user_id={ID}&\u00a0cohort_id=vip",
         f"https://your-host/v1/cohorts?user_id={ID}&cohort_id=vip"),
        (tag("cohorts", "c").replace(" :save", "\u00a0:save") + "x", "no-break-space", "us\u00a0:save", "us :save"),
        (tag("cohorts", "c").replace(":save ", ":save\u00a0") + "x", "no-break-space", ":save\u00a0c", ":save c"),
    ],
)  # fmt: skip
def test_tag__typical_mistake__one_finding_with_the_fix(source: str, rule: str, text: str, replacement: str) -> None:
    failed = Answer(400, {}, json.dumps({"detail": "user_id is required"}), 0.0)
    refused = rule in ("json-as-form", "unknown-parameter", "body-without-post")
    (found,) = render(source, User("ava"), (lambda _: failed) if refused else ask).findings
    assert (found.rule, marked(source, found), found.replacement) == (rule, text, replacement)
    start = source.index(text)
    fixed = source[:start] + replacement + source[start + len(text) :]
    assert not problems(render(fixed, User("ava"), ask))
