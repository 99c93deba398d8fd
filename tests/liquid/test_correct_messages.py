"""Correct messages: the preview reports no problem, for any user that has the data."""

from __future__ import annotations

import pytest

from proxy.cli.client import running_service
from proxy.liquid.render import render
from proxy.liquid.types import User
from proxy.web.pages.playground import snippets
from tests.conftest import SECRET, Service
from tests.support.docs import fragments

ID = "{{${user_id} | url_param_escape}}"


def tag(route: str, variable: str, parameters: str = "", options: str = "") -> str:
    url = f"https://your-host/v1/{route}?user_id={ID}{parameters}"
    return f"{{% connected_content {url} :basic_auth us {options}:save {variable} %}}\n"


RECS, P = tag("recommendations", "recs", "&rec_id=homepage"), tag("properties", "p")
C, COMP = tag("cohorts", "c"), tag("computations", "comp")
KEYS = tag("properties", "p", "&keys=first_name,favourite_team")
BRAZE = {
    "loop with index": RECS + "{% for item in recs.items %}{{ forloop.index }}. {{ item }}{% unless forloop.last %}, "
    "{% endunless %}{% endfor %}",
    "first and last": RECS + "{{ recs.items.first }} {{ recs.items.last }} {{ recs.items.size }} {{ recs.items[0] }}",
    "by id": RECS + "{{ recs.recommendations_by_id.homepage.items | join: ', ' }}{{ recs.recommendations[0].rec_id }}",
    "by id in brackets": RECS + "{{ recs.recommendations_by_id['homepage'].items | first }}",
    "id in a variable": RECS + "{% assign id = 'homepage' %}{{ recs.recommendations_by_id[id].items | first }}",
    "control group": RECS + "{% if recs.is_control %}Bestsellers{% else %}{{ recs.items | join: ' ' }}{% endif %}",
    "default":
    KEYS + "Hi {{ p.properties.first_name | default: 'there' }} {{ p.properties.favourite_team | default: '-' }}",
    "missing property in if":
    KEYS + "{% if p.properties.favourite_team %}Go {{ p.properties.favourite_team }}{% endif %}x",
    "nil":
    KEYS + "{% if p.properties.favourite_team == nil %}none{% else %}{{ p.properties.favourite_team }}{% endif %}",
    "contains": P + "{% if p.properties.email contains '@' %}mail{% endif %} {{ p.properties.first_name | upcase }}",
    "list property": P + "{% for size in p.properties.sizes %}{{ size }} {% endfor %}end",
    "all properties": P + "{% for entry in p.properties %}{{ entry[0] }} {% endfor %}end",
    "member": C + "{% if c.member.vip %}VIP{% elsif c.member.gold %}Gold{% else %}all{% endif %}",
    "cohort ids": C + "{% if c.cohort_ids contains 'vip' or c.cohort_ids contains 'gold' %}VIP{% endif %}!",
    "computation":
    COMP + "{% if comp.computations.orders >= 10 and comp.ok %}{{ comp.computations.orders }}{% endif %}!",
    "arithmetic": COMP + "{% assign left = 20 | minus: comp.computations.orders %}{{ left }} to go",
    "case": P + "{% case p.properties.first_name %}{% when 'Ava' or 'Eva' %}Hi A{% else %}Hi{% endcase %}",
    "capture": P + "{% capture name %}{{ p.properties.first_name | default: 'you' }}{% endcapture %}Hi {{ name }}",
    "split": "{% assign parts = 'a,b' | split: ',' %}{% for part in parts %}{{ part }}{% endfor %}",
    "attribute": "Hi {{${first_name} | default: 'there'}}, {{custom_attribute.${team}}} {{${email_address}}}",
    "attribute in if": "{% if ${language} == 'de' %}Hallo{% else %}Hello{% endif %}",
    "event": "Order {{event_properties.${order_id}}} {{api_trigger_properties.${total} | default: 0}}",
    "status": RECS + "{% if recs.__http_status_code__ == 200 and recs.ok %}fine{% else %}later{% endif %}",
    "abort without retry": RECS + "{% if recs.found != true %}{% abort_message('unknown user') %}{% endif %}Hi",
    "device": "{% connected_content https://your-host/v1/cohorts?user_id=" + ID + "&device_id="
    "{{most_recently_used_device.${id} | url_param_escape}} :basic_auth us :save c %}{{ c.found }}",
    "json body": '{% connected_content https://your-host/v1/recommendations :method post :headers {"Content-Type": '
    '"application/json"} :content_type application/json :body {"user_id":"{{${user_id}}}","rec_id":"homepage"} '
    ":basic_auth us :save recs %}{{ recs.items | join: ' ' }}",
    "cache": tag("properties", "p", options=":no_cache ") + tag("cohorts", "c",
     options=":cache_max_age 900 ") + "{{ p.ok }}",
    "weather": "{% connected_content https://api.example.com/weather?q={{${city}}}&x=a%20b :save w %}"
    "{% if w.temp > 20 %}Sun{% endif %}Hi",
    "connected":
    "{% connected_content https://your-host/v1/cohorts?user_id=" + ID + " :basic_auth us %}{{ connected.ok }}",
    "two tags": RECS + P + "{{ recs.items | first }} for {{ p.properties.first_name }}",
    "loop over two": tag("recommendations", "recs", "&rec_id=homepage,also-bought")
    + "{% for shelf in recs.recommendations %}{% for item in shelf.items %}{{ item }} {% endfor %}{% endfor %}",
    "white space": P + "{%- if p.ok -%} {{- p.properties.first_name -}} {%- endif -%}",
    "quotes in text": "“Quoted” text, it\u2019s fine: {a} {1} ${5} 100% <style>p{color:red}</style> &amp; || && =>",
    "quotes in a string": "{{ 'it\u2019s \u201cfine\u201d' | append: \" && || = {user}\" }}",
    "comment": "{% comment %}{{ rec.item }} {% if %}{% endcomment %}{% raw %}{{ rec.item }}{% endraw %}text",
    "anonymous": tag("recommendations", "recs", "&rec_id=homepage") + "{{ recs.ok }}",
    "html": "<p style=\"color: red\">{{ 'a' }}</p><a href=\"https://x/?a={{${user_id} | url_param_escape}}\">x</a>",
}  # fmt: skip
DOCUMENTED = {
    example.name: example.block("liquid") for example in fragments("example") if example.name != "userprofile"
}
CORRECT = {**BRAZE, **{f"docs {name}": text for name, text in DOCUMENTED.items()}, **snippets()}


def test_correct_messages__number() -> None:
    assert len(CORRECT) >= 40


@pytest.mark.parametrize("name", CORRECT)
def test_correct_message__rendered__no_problem(service: Service, name: str) -> None:
    rendering = render(CORRECT[name], User("ava", "device-ava"), running_service(service.url, f"braze:{SECRET}"))
    assert [finding for finding in rendering.findings if finding.level == "problem"] == []
    assert (rendering.outcome, rendering.reason) == ("sent", "")


@pytest.mark.parametrize("name", snippets())
@pytest.mark.parametrize("user", ["ben", "cleo", "stranger to all", ""])
def test_correct_message__user_without_data__no_problem(service: Service, name: str, user: str) -> None:
    rendering = render(CORRECT[name], User(user), running_service(service.url, f"braze:{SECRET}"))
    assert [finding for finding in rendering.findings if finding.level == "problem"] == []


def test_ids__second_look_at_the_user__no_further_call_to_amplitude(service: Service) -> None:
    source = tag("cohorts", "c", "&cohort_id=vpi") + tag("properties", "p", "&keys=First_Name") + "{{ c.ok }}"
    ask = running_service(service.url, f"braze:{SECRET}")
    rendering = render(source, User("user-71"), ask)
    assert service.sandbox.report()["calls"] == sum(tag["calls"] for tag in rendering.tags) > 0
