"""Values that only Braze knows: notes, names for the form, and test values."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.liquid.braze_objects import is_value_name
from proxy.liquid.render import render
from proxy.liquid.types import Answer, Rendering, Request, User

GAMES = [{"id": "12", "title": "Tides", "price": 7.5}, {"id": "13", "title": "Peaks"}]

USER = User("u")


def answer(request: Request) -> Answer:
    raise AssertionError(f"unexpected call: {request}")


def rendered(template: str, values: dict[str, Any] | None = None, user: User = USER) -> Rendering:
    rendering = render(template, user, answer, values=values)
    assert rendering.outcome in ("sent", "aborted"), rendering.reason
    return rendering


@pytest.mark.parametrize(
    ("template", "message", "names"),
    [
        ("{{${first_name} | default: 'you'}}!", "you!", ["${first_name}"]),
        ("{{ custom_attribute.${favourite team} }}.", ".", ["custom_attribute.${favourite team}"]),
        ("{% if subscribed_state.${email_global} == 'opted_in' %}in{% else %}out{% endif %}", "out",
         ["subscribed_state.${email_global}"]),
        ("{{campaign.${name}}}{{canvas.${variant_name}}}{{card.${api_id}}}{{app.${name}}}.", ".",
         ["campaign.${name}", "canvas.${variant_name}", "card.${api_id}", "app.${name}"]),
        ("{{event_properties.${cart}[0].name}}.", ".", ["event_properties.${cart}"]),
        ("{{ canvas_entry_properties }}{{ context.${a} }}{{ api_trigger_properties.b }}.", ".",
         ["canvas_entry_properties", "context.${a}", "api_trigger_properties"]),
        ("{% assign context = 'own' %}{{ context }}", "own", []),
        ("{{ 'in context' }} {{ my.context }} context", "in context  context", []),
        ("{% capture context %}a{% endcapture %}{{ context }}.", "a.", []),
        ("{% assign x = context %}{% assign context = 1 %}{{ context }}", "1", ["context"]),
        ('{% promotion("my list") %}.', ".", ["promotion.my list"]),
        ("{% if true %} {% message_extras :key a :value b %} {% endif %}.", "  .", []),
        ("{{content_blocks.${footer} | id: 'cb1'}}.", ".", ["content_blocks.${footer}"]),
        ("{% promotion('spring-10') %}.", ".", ["promotion.spring-10"]),
        ("{% message_extras :key a :value {{ 1 | plus: 1 }} %}.", ".", []),
        ("{% translation hello %}Hello {{ 'x' }}{% endtranslation %}!", "Hello x!", ["translation.hello"]),
        ("{% catalog_items games 12, {{ '13' }} %}{% for i in items %}[{{ i.id }}{{ i.title }}]{% endfor %}",
         "[12][13]", ["catalog_items.games"]),
        ("{% catalog_selection_items games cheap %}{{ items | size }}", "0", ["catalog_selection_items.games.cheap"]),
        ("{% assign c = 'games' %}{% catalog_items {{ c }} 12 %}{{ items[0].title }}.", ".", ["catalog_items.games"]),
        ("{% if false %}{{${city}}}{% catalog_items a 1 %}{% promotion('p') %}{% endif %}", "",
         ["${city}", "catalog_items.a", "promotion.p"]),
        ("{{${user_id}}}{{targeted_device.${id}}}", "u", []),
        ("{% raw %}{{${city}}}{% endraw %}", "{{${city}}}", []),
    ],
)  # fmt: skip
def test_value__only_braze_knows_it__message_rendered_with_a_note(
    template: str, message: str, names: list[str]
) -> None:
    rendering = rendered(template)
    assert rendering.message == message
    assert [name for name, _ in rendering.unknown_values] == names
    notes = [entry for entry in rendering.findings if entry.rule == "unknown-attribute"]
    assert [entry.level for entry in notes] == ["note"] * len(names)
    assert sorted(names) == sorted(entry.problem.split("value of ")[1].split(", so")[0] for entry in notes)


def test_value__used_many_times__one_note_with_the_first_line() -> None:
    template = "\n{{${city}}}\n{% for i in (1..3) %}{{${city}}}{% promotion('p') %}{% endfor %}{{${ city }}}"
    rendering = rendered(template)
    assert rendering.unknown_values == (("${city}", 2), ("promotion.p", 3))
    assert [(entry.rule, entry.line) for entry in rendering.findings] == [("unknown-attribute", 2),
                                                                          ("unknown-attribute", 3)]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "values", "message"),
    [
        ("Hi {{${first_name} | default: 'you'}}", {"${first_name}": "Mia"}, "Hi Mia"),
        ("{{custom_attribute.${plan}}}/{{custom_attribute.${other}}}", {"custom_attribute.${plan}": "gold"}, "gold/"),
        ("{{event_properties.${cart}[1].name}}", {"event_properties.${cart}": [{}, {"name": "sock"}]}, "sock"),
        ("{{context.${a}}}{{context.b}}", {"context": {"b": 2}, "context.${a}": 1}, "12"),
        ("{{api_trigger_properties.x.y}}", {"api_trigger_properties": {"x": {"y": True}}}, "true"),
        ("{% if custom_attribute.${n} > 2 %}many{% endif %}", {"custom_attribute.${n}": 3}, "many"),
        ("{% promotion('spring') %}", {"promotion.spring": "CODE-1"}, "CODE-1"),
        ("{% translation a %}Hello{% endtranslation %}", {"translation.a": "Hallo"}, "Hallo"),
        ("{% catalog_items games 13 12 99 %}{{ items | map: 'title' | join: ',' }}", {"catalog_items.games": GAMES},
         "Peaks,Tides"),
        ("{% catalog_items games 12 %}{{ items[0].price }}", {"catalog_items.games": {"12": {"price": 3}}}, "3"),
        ("{% catalog_items games 12 %}{{ items[0].t }}", {"catalog_items.games": [{"t": "a"}]}, "a"),
        ("{% catalog_items games 12 %}{{ items | size }}", {"catalog_items.games": "text"}, "0"),
        ("{% catalog_selection_items games new %}{{ items[1].title }}", {"catalog_selection_items.games.new": GAMES},
         "Peaks"),
        ("{{content_blocks.${a}}}{{ x }}", {"content_blocks.${a}": "{% assign x = 1 %}Hi {{${city}}}",
                                            "${city}": "Bonn"}, "Hi Bonn1"),
        ("{% assign l = content_blocks.${a} | split: ',' %}{{ l[1] }}", {"content_blocks.${a}": "x,y"}, "y"),
        ("{{ most_recently_used_device.${os} }}{{ most_recently_used_device.${id} }}",
         {"most_recently_used_device.${os}": "iOS"}, "iOSd1"),
        ("{{ ${user_id} }}", {"${user_id}": "another"}, "u"),
        ("{{ ${city} }}", {"${city}": None, "${country}": "unused"}, ""),
    ],
)  # fmt: skip
def test_value__test_value__used_in_the_message(template: str, values: dict[str, Any], message: str) -> None:
    rendering = rendered(template, values, User("u", "d1"))
    assert rendering.message == message
    noted = [entry.problem for entry in rendering.findings if entry.rule == "unknown-attribute"]
    assert not [name for name, value in values.items() if value is not None and any(name in text for text in noted)]


def test_value__test_value__name_stays_in_the_form() -> None:
    assert rendered("{{${city}}}", {"${city}": "Bonn"}).unknown_values == (("${city}", 1),)


def test_attribute__misspelt__names_the_documented_attribute() -> None:
    finding = rendered("{{${frist_name}}} {{campaign.${nam}}}").findings
    assert [(entry.rule, entry.fix) for entry in finding] == [
        ("misspelt-attribute", "write ${first_name}"),
        ("misspelt-attribute", "write campaign.${name}"),
    ]


def test_content_block__unknown_value_inside__is_listed() -> None:
    values = {"content_blocks.${a}": "{{content_blocks.${b}}}", "content_blocks.${b}": "{{${city}}}!"}
    rendering = rendered("\n{{content_blocks.${a}}}", values)
    assert rendering.message == "\n!"
    assert ("${city}", 2) in rendering.unknown_values


@pytest.mark.parametrize("text", ["{% if x %}", "{{content_blocks.${a}}}", "{{ x"])
def test_content_block__unreadable_or_endless__refused_with_a_reason(text: str) -> None:
    rendering = render("{{content_blocks.${a}}}", User("u"), answer, values={"content_blocks.${a}": text})
    assert rendering.outcome == "refused"
    assert "content_blocks.${a}" in rendering.reason


def test_message_extras__value_before_key__finding() -> None:
    assert rendered("{% message_extras :value 1 :key a %}").findings[0].rule == "message-extras"


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("${first_name}", True), ("custom_attribute.${a b}", True), ("context", True), ("catalog_items.games", True),
        ("promotion.a-b", True), ("translation.x", True), ("catalog_selection_items.a.b", True),
        ("first_name", False), ("${a", False), ("custom_attribute.plan", False), ("", False), ("${}", False),
        ("custom_attribute.${a}.b", False), ("{{${a}}}", False), ("a b.${c}", False), ("${a}${b}", False),
    ],
)  # fmt: skip
def test_value_name__as_written_in_a_message__valid(name: str, valid: bool) -> None:
    assert is_value_name(name) is valid


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% catalog_items games 12 %}{{ items[0].title }}x", "catalog_items.games"),
        ("{% catalog_selection_items games cheap %}{{ items[0].title }}x", "catalog_selection_items.games.cheap"),
    ],
)
def test_value__text_for_a_catalog__note_asks_for_a_list(template: str, name: str) -> None:
    rendering = rendered(template, {name: "Chess"})
    assert rendering.message == "x"
    (note,) = [entry for entry in rendering.findings if entry.rule == "test-value"]
    assert note.fix == 'write a JSON list, such as [{"id": "12", "title": "Boots"}]'
    right = rendered(template, {name: [{"id": "12", "title": "Chess"}]})
    assert (right.message, "test-value" in [entry.rule for entry in right.findings]) == ("Chessx", False)
