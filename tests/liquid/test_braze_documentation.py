"""Messages of the kinds that Braze's documentation shows, with the result that it states.

Each case names the page, below User guide > Messaging > Design and edit > Personalize unless another guide is named.
This project wrote the texts and the data.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.liquid.render import render
from proxy.liquid.types import Answer, Request, User

ABORTED = "aborted: "

CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("Use Liquid: default value", "Dear {{ ${first_name} | default: 'Climber' }}, welcome back.", {},
     "Dear Climber, welcome back."),
    ("Use Liquid: default value, attribute known", "Dear {{${first_name} | default: 'Climber'}}, welcome back.",
     {"${first_name}": "Noor"}, "Dear Noor, welcome back."),
    ("Use Liquid: custom attribute with a space", "Your shop is in {{custom_attribute.${post code}}}.",
     {"custom_attribute.${post code}": "10115"}, "Your shop is in 10115."),
    ("Use Liquid: brackets may be omitted in a tag",
     "{% if custom_attribute.${tours} == 1 %}first{% endif %}/"
     "{% if {{custom_attribute.${tours}}} == 1 %}first{% endif %}",
     {"custom_attribute.${tours}": 1}, "first/first"),
    ("Use Liquid: add two attributes with assign",
     "{% assign a = {{custom_attribute.${saved}}} %}{% assign sum = a | plus: {{custom_attribute.${gift}}} %}{{sum}}",
     {"custom_attribute.${saved}": 12, "custom_attribute.${gift}": 8}, "20"),
    ("Use Liquid: balance of two attributes",
     "{% assign saved = {{custom_attribute.${saved}}} %}${{custom_attribute.${gift} | plus: {{saved}}}} left",
     {"custom_attribute.${saved}": 12, "custom_attribute.${gift}": 8}, "$20 left"),
    ("Use Liquid: filter result in a condition",
     "{% assign n = custom_attribute.${huts} | size %}{% if n > 2 %}many huts{% endif %}",
     {"custom_attribute.${huts}": ["a", "b", "c"]}, "many huts"),
    ("Use Liquid: filter result in a loop",
     "{% assign r = custom_attribute.${huts} | reverse %}{% for h in r %}{{h}}{% endfor %}",
     {"custom_attribute.${huts}": ["a", "b", "c"]}, "cba"),
    ("Use Liquid: filter result as an index",
     "{% assign i = 2 | minus: 1 %}{{ custom_attribute.${huts}[i] }}", {"custom_attribute.${huts}": ["a", "b"]}, "b"),
    ("Use Liquid: Liquid in an HTML comment does not run", "Top<!-- {{${first_name}}} -->!",
     {"${first_name}": "Noor"}, "Top!"),
    ("Supported tags: abort for a low balance",
     "{% if {{custom_attribute.${points}}} > 0 %}{{custom_attribute.${points}}} points{% else %}{% abort_message() %}"
     "{% endif %}", {"custom_attribute.${points}": 0}, ABORTED + "no reason given"),
    ("Supported tags: blank and null names",
     "{% if ${first_name} != blank and ${first_name} != null %}Hi {{${first_name}}}{% else %}Hi{% endif %}!",
     {"${first_name}": "  "}, "Hi!"),
    ("Supported tags: assign with a filter in brackets",
     "{% assign next = {{custom_attribute.${points} | plus: 50}} %}{% if next >= 100 %}{{next}}{% else %}"
     "{% abort_message('too few points') %}{% endif %}", {"custom_attribute.${points}": 60}, "110"),
    ("Supported tags: too few points",
     "{% assign next = {{custom_attribute.${points} | plus: 50}} %}{% if next >= 100 %}{{next}}{% else %}"
     "{% abort_message('too few points') %}{% endif %}", {"custom_attribute.${points}": 40},
     ABORTED + "too few points"),
    ("Supported tags: loop over the first entries of a list",
     "{% for b in {{custom_attribute.${Brands seen}}} limit:2 %}{% if {{b}} contains 'Alp' %}{% assign hit = true %}"
     "{% endif %}{% endfor %}{% if hit == true %}Sale!{% else %}{% abort_message() %}{% endif %}",
     {"custom_attribute.${Brands seen}": ["Fjord", "Alpina", "x"]}, "Sale!"),
    ("Supported tags: language, then locale",
     "{% if ${language} == 'en' %}Hello{% elsif ${most_recent_locale} == 'pt_BR' %}Oi{% elsif ${language} == 'pt' %}"
     "Ola{% endif %}", {"${language}": "pt", "${most_recent_locale}": "pt_BR"}, "Oi"),
    ("Supported tags: allowed apps",
     "{% assign keys = 'k1,k2' | split: ',' %}{% if keys contains {{app.${api_id}}} %}ok{% else %}"
     '{% abort_message("other app") %}{% endif %}', {"app.${api_id}": "k3"}, ABORTED + "other app"),
    ("Filters: two filters in a row", '{{ "Peak Days" | upcase | remove: "PEAK" | strip }}', {}, "DAYS"),
    ("Filters: integer and decimal division", "{{15 | divided_by: 2}} {{15 | divided_by: 2.0}}", {}, "7 7.5"),
    ("Filters: money does not divide by 100", "${{event_properties.${paid} | money }}",
     {"event_properties.${paid}": 145}, "$145.00"),
    ("Filters: money after a division", "${{event_properties.${paid} | divided_by: 100.00 | money }}",
     {"event_properties.${paid}": 145}, "$1.45"),
    ("Filters: Unix time of a date", "{{custom_attribute.${at} | date: '%s' }}",
     {"custom_attribute.${at}": "2021-06-03 17:13:41 UTC"}, "1622740421"),
    ("Advanced filters: JSON text to a list",
     "{% assign huts = custom_attribute.${json} | json_parse %}{% for h in huts %}{{ h.id }}={{ h.name }}{% endfor %}"
     " {{ huts | as_json_string }}", {"custom_attribute.${json}": '[{"id":"1","name":"Top"}]'},
     '1=Top [{"id":"1","name":"Top"}]'),
    ("Advanced filters: message extras",
     "{% assign v = '9' %}{% assign k = 'hut' %}{% message_extras :key {{k}} :value {{v}} %}Sent", {}, "Sent"),
    ("Promotion codes", "Your code: {% promotion('summit') %}", {"promotion.summit": "UP-77"}, "Your code: UP-77"),
    ("Context variables", "Departs {{context.${departure}}}", {"context.${departure}": "at 9"}, "Departs at 9"),
    ("Catalogs: one item", "{% catalog_items Huts 12 %}{{ items[0].title }} for just {{ items[0].price }}!",
     {"catalog_items.Huts": [{"id": "12", "title": "Top", "price": 7.49}]}, "Top for just 7.49!"),
    ("Catalogs: three items", "{% catalog_items Huts 1 2 3 %}{{ items[0].t }}, {{ items[1].t }} and {{ items[2].t }}",
     {"catalog_items.Huts": [{"id": "1", "t": "A"}, {"id": "2", "t": "B"}, {"id": "3", "t": "C"}]}, "A, B and C"),
    ("Catalogs: item from a custom attribute",
     "{% assign wanted = {{custom_attribute.${wanted}}}%}{% catalog_items Huts {{ wanted[0] }} %}{{ items[0].t }}",
     {"custom_attribute.${wanted}": ["2"], "catalog_items.Huts": [{"id": "1", "t": "A"}, {"id": "2", "t": "B"}]}, "B"),
    ("Catalogs: selection in a loop",
     "{% catalog_selection_items Huts cheap %}{% for item in items %}<{{ item.t }}>{% endfor %}",
     {"catalog_selection_items.Huts.cheap": [{"t": "A"}, {"t": "B"}]}, "<A><B>"),
    ("Multi-language messages", '<a href="https://h/{% translation part %}en{% endtranslation %}/page">', {},
     '<a href="https://h/en/page">'),
    ("Content Blocks: variables of a block", "{{content_blocks.${setup}}}{{ title }}",
     {"content_blocks.${setup}": "{% assign title = 'Summit news' %}"}, "Summit news"),
    ("Content Blocks: list in a block",
     "{% assign bad = {{content_blocks.${blocked}}} | split: ',' %}{% for b in bad %}{% if {{${email_address}}} == b %}"
     "{% abort_message('blocked') %}{% endif %}{% endfor %}", {"content_blocks.${blocked}": "a@x.de,b@x.de",
                                                               "${email_address}": "b@x.de"}, ABORTED + "blocked"),
    ("Use case library: phone number",
     "{% assign p = {{${phone_number}}} | remove: '-' | split: '' %}({{p[0]}}{{p[1]}}{{p[2]}}){{p[3]}}",
     {"${phone_number}": "030-4567"}, "(030)4"),
    ("Use case library: first name of a full name",
     "{{${first_name} | truncatewords: 1, \"\" | default: 'hi'}} {% assign n = {{${first_name}}} | split: ' ' %}"
     "{{n[0]}}", {"${first_name}": "Noor Al Amin"}, "Noor Noor"),
    ("Use case library: birthday month",
     "{% assign now_month = '2026-05-18' | date: \"%B\" %}{% assign month = {{${date_of_birth}}} | date: \"%B\" %}"
     "{% if {{now_month}} == {{month}} %}Happy {{month}}{% else %}{% abort_message(\"other month\") %}{% endif %}",
     {"${date_of_birth}": "1990-05-02"}, "Happy May"),
    ("Use case library: days until an event",
     "{% assign event = '2023-12-31' | date: \"%s\" %}{% assign day = '2023-12-24' | date: \"%s\" %}"
     "{% assign left = event | minus: day | divided_by: 86400 %}{{ left }} days", {}, "7 days"),
    ("Use case library: difference as money",
     "{% assign goal = {{custom_attribute.${goal}}} %}{% assign has = {{custom_attribute.${has}}} %}"
     "{% assign left = goal | minus: has %}${{ left | round: 0 | number_with_delimiter }} to go",
     {"custom_attribute.${goal}": 5000.4, "custom_attribute.${has}": 1200}, "$3,800 to go"),
    ("Use case library: every third event",
     "{% assign turn = custom_attribute.${n} | minus: 1 | modulo: 3 %}{% if custom_attribute.${n} == blank %}"
     '{% abort_message("no count") %}{% elsif turn != 0 %}{% abort_message("not this time") %}{% endif %}Hey',
     {"custom_attribute.${n}": 4}, "Hey"),
    ("Use case library: device platform",
     '{% if targeted_device.${platform} == "ios" or targeted_device.${platform} == "android" %}short{% else %}long'
     "{% endif %}", {"targeted_device.${platform}": "android"}, "short"),
    ("Use case library: SMS keyword",
     "{% assign text = {{sms.${inbound_message_body}}} | downcase | strip %}{% if text contains 'join' %}Welcome"
     "{% endif %}", {"sms.${inbound_message_body}": " JOIN now "}, "Welcome"),
    ("Use case library: date in a time zone",
     "{{custom_attribute.${until} | time_zone: 'America/Chicago' | date: '%B %d %Y %z' }}",
     {"custom_attribute.${until}": "2021-05-03 02:30:00 UTC"}, "May 02 2021 -0500"),
    ("Use case library: hours of a user's time zone",
     "{% assign time = '2021-05-03 02:30:00 UTC' | time_zone: ${time_zone} %}{% assign hour = time | date: '%H' | "
     'plus: 0 %}{% if hour > 20 or hour < 8 %}{% abort_message("too late") %}{% endif %}open',
     {"${time_zone}": "Europe/Berlin"}, ABORTED + "too late"),
    ("Use case library: the previous month",
     "{% assign name = '2026-03-09' | date: \"%Y-%m-01\" | date: '%s' | minus: 1 | date: \"%B\" %}{{name}}", {},
     "February"),
    ("Connected Content: list in a list",
     "{% connected_content https://h/v1/properties?city={{custom_attribute.${city}}} :save w %}"
     "{% if {{w.days[0].sky}} == 'Rain' %}Umbrella{% else %}Sun{% endif %} in {{ w.title }}",
     {"custom_attribute.${city}": "Bonn"}, "Umbrella in Bonn"),
    ("Connected Content: status code",
     "{% connected_content https://h/v1/properties :save r %}{% if r.__http_status_code__ != 200 %}"
     "{% abort_message('failed') %}{% endif %}fine", {}, "fine"),
    ("Connected Content: body from assign",
     "{% assign b = '{\"foo\":\"bar\", \"baz\": \"2\"}' %}{% connected_content https://h/v1/properties :method post "
     ":body {{b}} :content_type application/json :save r %}{{ r.title }}", {}, "Bonn"),
    ("Connected Content: inline body without spaces",
     '{% connected_content https://h/v1/properties :method post :body {"foo":"bar","baz":"{{1|plus:1}}"} '
     ":content_type application/json :save r %}{{ r.title }}", {}, "Bonn"),
    ("Connected Content: token credentials and a form as JSON",
     '{% assign campaign_name="Summit Sale" %}{% connected_content\n     https://h/v1/properties\n     :method post\n'
     "     :auth_credentials token_abc\n     :body campaign={{campaign_name}}&customer={{${user_id}}}&channel=Braze\n"
     "     :content_type application/json\n     :save out\n%}{{ out.title }}", {}, "Bonn"),
]  # fmt: skip

IDS = [case[0] for case in CASES]


def answer(request: Request) -> Answer:
    if request.body:
        json.loads(request.body)
    return Answer(200, {}, json.dumps({"title": "Bonn", "days": [{"sky": "Rain"}]}), 1.0)


@pytest.mark.parametrize(("template", "values", "message"), [case[1:] for case in CASES], ids=IDS)
def test_documented_message__test_values__result_of_the_documentation(
    template: str, values: dict[str, Any], message: str
) -> None:
    rendering = render(template, User("u"), answer, values=values)
    sent = ABORTED + rendering.reason if rendering.outcome == "aborted" else rendering.message
    assert sent == message, rendering
    assert rendering.outcome in ("sent", "aborted")
    assert not {"unknown-option", "unknown-filter", "syntax"} & {finding.rule for finding in rendering.findings}
