"""Realistic Braze messages, rendered by real Liquid engines from the service's real answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from tests.conftest import Service
from tests.support import liquid


@pytest.fixture(scope="module")
def failing_service(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox() as sandbox:
        sandbox.break_with(Fault("status", status=500))
        yield start_module_service(sandbox)


def tag(route: str, query: str, variable: str) -> str:
    url = f"https://host/v1/{route}?user_id={{{{${{user_id}} | url_param_escape}}}}{query}"
    return f"{{% connected_content {url} :basic_auth us :save {variable} %}}"


SHELF = tag("recommendations", "&rec_id=homepage", "recs") + (
    "{% if recs.personalized %}For you: {{ recs.items | join: ', ' }}{% else %}Our bestsellers{% endif %}"
)
SHELF_BY_LOOP = tag("recommendations", "&rec_id=homepage,also-bought", "recs") + (
    "{% for item in recs.recommendations_by_id['also-bought'].items %}<li>{{ item }}</li>{% else %}nothing{% endfor %}"
)
GREETING = tag("properties", "", "p") + (
    "Hi {{ p.properties.first_name | default: 'there' }}!"
    "{% if p.properties.loyalty_points > 100 %} You have {{ p.properties.loyalty_points }} points.{% endif %}"
)
GREETING_BY_KEYS = tag("properties", "&keys=first_name,loyalty_points", "p") + (
    "{{ p.properties.first_name | default: 'there' }}/{{ p.properties_by_name['loyalty_points'] | default: 0 }}"
)
BRANCH = tag("cohorts", "&cohort_id=vip", "c") + "{% if c.is_member %}VIP{% else %}others{% endif %}"
BRANCH_BY_NAME = tag("cohorts", "", "c") + (
    "{% if c.member.c31 %}31{% endif %}{% if c.cohort_ids contains 'c3' %}3{% endif %}."
)
WHOLE = tag("profile", "&include=recommendations,properties,cohorts&rec_id=homepage", "me") + (
    "{{ me.properties.first_name | default: 'you' }}|{{ me.items.first | default: 'none' }}|{{ me.member.vip }}"
    "|{{ me.is_control }}|{{ me.found }}"
)
AWKWARD = tag("properties", "", "p") + (
    "{% assign city = '[Amplitude] City' %}{{ p.properties_by_name[city] }}/{{ p.properties.Amplitude_City }}"
    "/{{ p.properties.plan-type }}/{{ p.properties.plan_type }}/{{ p.properties._1st_order }}/{{ p.properties.emoji }}"
    "/{{ p.properties.liquid }}/{{ p.properties_by_name['gp:日本'] }}"
)

MESSAGES = [
    (SHELF, "ava", "For you: trail-shoe, rain-shell, head-torch"),
    (SHELF, "ben", "Our bestsellers"),
    (SHELF, "cleo", "Our bestsellers"),
    (SHELF, "an unknown user", "Our bestsellers"),
    (SHELF, "", "Our bestsellers"),
    (SHELF, "dário & söhne", "For you: item, with comma, ítem/ünïcode"),
    (SHELF_BY_LOOP, "ava", "<li>merino-sock</li><li>soft-flask</li>"),
    (SHELF_BY_LOOP, "ben", "nothing"),
    (GREETING, "ava", "Hi Ava! You have 420 points."),
    (GREETING, "ben", "Hi Ben!"),
    (GREETING, "", "Hi there!"),
    (GREETING_BY_KEYS, "ava", "Ava/420"),
    (GREETING_BY_KEYS, "cleo", "Cleo/0"),
    (GREETING_BY_KEYS, "an unknown user", "there/0"),
    (BRANCH, "ava", "VIP"),
    (BRANCH, "ben", "others"),
    (BRANCH, "", "others"),
    (BRANCH_BY_NAME, "ava", "31."),
    (BRANCH_BY_NAME, "dário & söhne", "313."),
    (WHOLE, "ava", "Ava|trail-shoe|true|false|true"),
    (WHOLE, "ben", "Ben|none||true|true"),
    (WHOLE, "an unknown user", "you|none||false|false"),
    (
        AWKWARD,
        "dário & söhne",
        "São Paulo/São Paulo/silver/gold/2024-02-11/🎽/{{ 'not' | append: ' rendered' }}/Japan",
    ),
]


@pytest.mark.parametrize(("message", "user", "sent"), MESSAGES)
def test_message__each_kind_of_user__renders_as_expected(
    service: Service, engine: liquid.Engine, message: str, user: str, sent: str
) -> None:
    def get(path: str) -> dict[str, Any]:
        answer = service.get(path)
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        return body

    assert liquid.render(message, user, get, engine) == sent


@pytest.mark.parametrize(
    ("message", "sent"),
    [(SHELF, "Our bestsellers"), (GREETING, "Hi there!"), (BRANCH, "others"), (BRANCH_BY_NAME, ".")],
)
def test_message__amplitude_fails__renders_the_default(
    failing_service: Service, engine: liquid.Engine, message: str, sent: str
) -> None:
    assert liquid.render(message, "ava", lambda path: failing_service.get(path).json(), engine) == sent


ODD = {
    "text": "3", "number": 3, "half": 1.5, "big": 1e20, "yes": True, "no": False, "nothing": None,
    "list": ["b", "a", None, True], "none": [], "map": {"a b": [1, None], "c": "d"}, "limit": 7, "in": "x",
    "words": "one two",
}  # fmt: skip


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("{% if o.text > 2 %}y{% endif %}.", "Liquid error: comparison of String with 2 failed."),
        ("{% if o.number >= '2' %}y{% endif %}.", "Liquid error: comparison of Integer with String failed."),
        ("{% unless o.half <= 'x' %}y{% endunless %}.", "Liquid error: comparison of Float with String failed."),
        ("{% if o.text < 1.5 %}y{% endif %}", "Liquid error: comparison of String with 1.5 failed"),
        ("{% if o.yes > 2 %}y{% else %}n{% endif %}{% if o.list > 2 %}y{% else %}n{% endif %}", "nn"),
        ("{% if o.nothing > 2 %}y{% else %}n{% endif %}{% if o.absent.absent < 2 %}y{% else %}n{% endif %}", "nn"),
        ("{% if o.number > 2.5 and o.half >= 1.5 %}y{% endif %}{% if 'b' > 'a' %}y{% endif %}", "yy"),
        ("{% if o.number contains 3 %}y{% else %}n{% endif %}{% if o.list contains 'a' %}y{% endif %}", "ny"),
        ("{% if o.list contains 1 %}y{% else %}n{% endif %}{% if o.text contains 3 %}y{% endif %}", "ny"),
        ("{% if o.map contains 'c' %}y{% endif %}{% if o.text == 3 %}y{% else %}n{% endif %}", "yn"),
        ("{% if o.none == empty %}e{% endif %}{% if o.none %}t{% endif %}", "et"),
        ("{{ o.yes }}{{ o.nothing }}{{ o.half }} {{ o.big }} {{ o.list }} {{ o.map.c }}", "true1.5 1.0e+20 batrue d"),
        ("{{ o.map['a b'] | append: '!' }} {{ o.yes | append: o.no }}", "[1, nil]! truefalse"),
        ("{{ o.words | truncatewords: 2 }}/{{ o.words | truncatewords: 1 }}", "one two/one..."),
        ("{{ o.limit }}{% if o.limit == 7 %}y{% endif %}{{ o.in | append: 'z' }}{{ 'a.in' }}", "7yxza.in"),
        ("{{ o.number | divided_by: 0 }} {{ o.half | round }}", "Liquid error: divided by 0 2"),
        ("{% for i in o.list limit: 2 %}{{ forloop.index }}{{ i }}{% endfor %}", "1b2a"),
        ("{% for i in o.nothing %}x{% else %}e{% endfor %}{{ o.no | default: 'd' }}", "ed"),
        ("{% case o.text %}{% when 3 %}n{% when '3' %}t{% endcase %}", "t"),
        ("a{%- if o.yes -%} b {%- endif -%} c{% if o.yes %}\n {% endif %}d", "abcd"),
    ],
)  # fmt: skip
def test_message__odd_values__compare_and_print_like_ruby(engine: liquid.Engine, message: str, sent: str) -> None:
    assert liquid.render(tag("cohorts", "", "o") + message, "ava", lambda path: ODD, engine) == sent
