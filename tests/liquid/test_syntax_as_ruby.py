"""Tags and outputs with usual and unusual syntax print what Ruby's Liquid prints."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.liquid import rendered_by_product, rendered_by_ruby, ruby_is_missing

pytestmark = pytest.mark.skipif(ruby_is_missing(), reason="Ruby's Liquid is not installed")

DATA: dict[str, Any] = {
    "a": 1,
    "b": "Ava",
    "c": [3, 1, 2],
    "d": {"e": {"f": "x"}, "size": "own", "g": [{"h": 1}, {"h": 2}]},
    "t": True,
    "n": None,
    "e": "",
    "w": "  ",
    "l": [],
    "o": {},
    "x": 2.5,
    "name": "e",
}
NBSP = "\u00a0"

GOLDEN = {
    "identifiers, trailing question mark assign": "{% assign paid? = 'yes' %}{{ paid? }}",
    "white space control with carriage return": "Dear\r\n{%- assign a = 1 -%}\r\n {{ b }}\r",
    "lstrip and rstrip with carriage returns": "[{{ '\t\r\n Ava \r\n' | lstrip }}][{{ '\t\r\n Ava \r\n' | rstrip }}]",
    "case, empty when tag": "{% case b %}{% when %}none{% endcase %}",
    "comment, incomplete tags are not parsed": "{% comment %}{% {{ note {%- endcomment %}",
    "comment, malformed tags are not parsed": "{% comment %}{% assign a = 'x' {% endcomment %}",
    "comment, nested comment blocks": "1{% comment %}2{% comment %}3{% endcomment %}4{% endcomment %}5",
    "comment, nested comment blocks, with nested tags": (
        "{% comment %}{% if t %}{% comment %}{{ b }}{% endcomment %}{% endif %}{% endcomment %}5"
    ),
    "comment, raw inside comment block": "{% comment %}{% raw %}{% endcomment %}{{ b }}{% endraw %}{% endcomment %}5",
    "doc, doc arguments is an error": "{% doc words %}about{% enddoc %}",
    "doc, nested docs are not allowed": "{% doc %}{% doc %}{% enddoc %}",
    "inline comment, enforce leading hash": "{% # first line\n second line %}5",
    "liquid, carriage return terminated tags": "{% liquid\recho b\recho a\r%}",
}
"""Name of a case of the Golden Liquid suite that python-liquid renders differently, to an input of the same kind."""

TEMPLATES = [
    # loops over a text, which Ruby does not slice
    "{% for i in b limit: 0 %}{{ i }}{% else %}none{% endfor %}|{% for i in b offset: continue %}{{ i }}{% endfor %}",
    "{% for i in b offset: 1 reversed %}{{ forloop.index }}{{ i }}{% endfor %}",
    "{% for i in e limit: 2 offset: 1 %}{{ i }}{% else %}none{% endfor %}",
    "{% tablerow i in b limit: 0 offset: 3 %}{{ i }}{% endtablerow %}",
    # only after a dot are first, last and size commands
    "{{ c['first'] }}|{{ c['last'] }}|{{ c['size'] }}|{{ c.first }}|{{ c.last }}|{{ c.size }}",
    "{% assign k = 'first' %}{{ c[k] }}|{{ b['size'] }}|{{ b.size }}|{{ d['size'] }}|{{ d.size }}",
    "{{ d.e['size'] }}|{{ d.e.size }}|{{ d.e['first'] }}|{{ d.e.first }}",
    # errors
    "{% if b = 'Ava' %}yes{% else %}no{% endif %}|",
    "{% if a => 1 %}yes{% endif %}|",
    "{% if a =< 1 %}yes{% else %}no{% endif %}|",
    "{% unless b = 'Ava' %}yes{% endunless %}|",
    "{% if n %}{% elsif a <=> 1 %}yes{% endif %}|",
    "{% if b = 'Ava' %} {% assign z = 1 %} {% endif %}|",
    "{% assign z = 1 | divided_by: 0 %}[{{ z }}]",
    "{% capture z %}a{{ 1 | divided_by: 0 }}b{% endcapture %}[{{ z }}]",
    "{% capture z %}{% if '3' > 2 %}x{% endif %}{% endcapture %}[{{ z }}]",
    "{% if t %} {% assign z = 1 | modulo: 0 %} {% endif %}[{{ z }}]",
    "{% if '3' > 2 %} {% assign z = 1 %} {% endif %}|",
    "{% for i in c %} {% assign z = i | divided_by: 0 %} {% endfor %}|",
    "{% for i in c limit: 'x' %}{{ i }}{% endfor %}|",
    "{% for i in c limit: 'x' %} {% endfor %}|",
    "{% for i in c offset: x %}{{ i }}{% endfor %}|",
    "{% case a %}{% when 1 %}{{ 1 | divided_by: 0 }}{% endcase %}|",
    "{{ a | divided_by: 0 | plus: 1 }}|{{ b | round: 'x' | nope }}",
    "{{ 'x' | append }}|{{ 'x' | upcase: 1 }}|{{ a | slice: n }}",
    "{% echo a | divided_by: 0 %}|{% cycle 'a', b %}{% cycle 'a', b %}{% cycle x: a, b %}",
    "{% include 'z' %}|{% render 'z' %}|{% if t %}{% include 'z' %}{% endif %}",
    "{% tablerow i in c cols: 2 %}{{ i }}{% endtablerow %}|{% tablerow i in l %}{% endtablerow %}"
    "|{% tablerow i in n %}{% endtablerow %}|"
    "{% tablerow i in c limit: 2 offset: '1' %}{{ tablerowloop.col }}{% endtablerow %}",
    # quoted capture names, no-break spaces, carriage returns
    "{% capture 'z' %}x{% endcapture %}{{ z }}",
    '{% capture "z y" %}x{% endcapture %}{{ z }}',
    "{% capture z.y %}x{% endcapture %}{{ z.y }}",
    f"{{%{NBSP}if a %}}yes{{% endif %}}",
    f"{{% if{NBSP}a %}}yes{{% endif %}}",
    f"{{% if a{NBSP}== 2 %}}yes{{% endif %}}",
    f"{{% if b =={NBSP}'Ava' %}}yes{{% else %}}no{{% endif %}}",
    f"{{% assign z{NBSP}= 1 %}}{{{{ z }}}}",
    f"{{% assign z ={NBSP}1 %}}{{{{ z }}}}|{{{{{NBSP}b{NBSP}|{NBSP}upcase }}}}",
    "a\r\n{% if a\r\n == 1 %}b{% endif %}\r{{\rb\r}}\r\n",
    "{% capture z %}\r\n{% endcapture %}[{{ z }}]",
    # lookups
    "{{ d.e.f }}{{ d['e'].f }}{{ d[name].f }}{{ ['b'] }}{{ [name] }}{{ d.size }}{{ c.size }}{{ c.first }}{{ c.last }}",
    "{{ c[0] }}{{ c[-1] }}{{ c[9] }}{{ c['0'] }}{{ d.first }}{{ d.g[1].h }}{{ b.size }}{{ a.size }}{{ b.first }}",
    "{{ d . e . f }}{{ c [ 0 ] }}{{ (1 .. 3) | join }}{{ (3..1) }}{{ (1..a) |"
    " last }}{{ ('2'..4) }}{{ (x..4) }}{{ (2.7..4) }}",
    "{{ now }}{{ today }}{{ forloop }}{% for i in c %}{{ forloop.index }}{{ forloop }}{% endfor %}",
    "{{ b.upcase }}{{ c.sort }}{{ b.__class__ }}{{ d.keys }}{{ c.__len__ }}{{ a.real }}{{ d.items }}",
    "{% for i in d %}{{ i[0] }}={{ i }};{% endfor %}{% for i in b %}{{ i }}{% endfor %}"
    "{% for i in a %}x{% else %}y{% endfor %}",
    "{% for i in c reversed limit: 2 %}{{ i }}{% endfor %}{% for i in c limit:1 %}{{ i }}{% endfor %}"
    "{% for i in c offset:continue %}{{ i }}{% endfor %}|{% for i in (1..3) limit: -1 %}{{ i }}{% else %}e{% endfor %}",
    "{% for i in c offset: -2 limit: 1 %}{{ i }}{% endfor %}|"
    "{% for i in (1..5), limit: 2, offset: 1 %}{{ i }}{% endfor %}",
    "{% for i in c %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% break %}{% endfor %}{{ forloop.name }}",
    # unusual syntax
    "{{ b upcase }}|{{ b | upcase downcase }}|{{ b | append: 'x' 'y' }}|{{ b | append 'x' }}|{{ | upcase }}|{{ }}",
    "{{ b | | upcase }}|{{ b | replace: 'A' , 'B' , }}|{{ 'it's' }}|{{ \"a }}|{{ b, c }}|{{ b == 'Ava' }}|{{ a + 1 }}",
    "{% if a == 1 and %}x{% endif %}",
    "{% if (a == 1) %}x{% else %}y{% endif %}|{% if a == 1 && b == 'x' %}x{% endif %}|"
    "{% if !t %}x{% endif %}|{% if not n %}x{% endif %}",
    "{% if a and n or t %}x{% else %}y{% endif %}{% if n or t and n %}x{% else %}y{% endif %}"
    "{% if t or n and n %}x{% endif %}",
    "{% if b contains 'v' %}1{% endif %}{% if c contains 1 %}2{% endif %}"
    "{% if d contains 'e' %}3{% endif %}{% if a contains 1 %}4{% endif %}",
    "{% if a < b %}x{% endif %}|{% if c < 1 %}x{% endif %}|{% if n < 1 %}x{% endif %}|"
    "{% if 1 < 2.5 %}x{% endif %}|{% if 'a' < 'b' %}x{% endif %}",
    "{% else %}",
    "{% if t %}x{% else %}y{% else %}z{% endif %}|{% if n %}x{% else a %}y{% elsif t %}z{% endif %}",
    "{% case a %}text{% when 2, 1 %}x{% when 1 or 3 %}y{% else %}z{% endcase %}{% case b %}{% else %}e{% endcase %}",
    "{% case b %}{% when 'x' %}{% else a %}{% endcase %}",
    "{% assign z %}",
    "{% assign = 1 %}",
    "{% assign z.y = 1 %}{{ z.y }}|{% assign z = %}{{ z }}|{% assign z = b | upcase | %}{{ z }}|"
    "{% assign z=b|append:b %}{{ z }}",
    "{% for i c %}{% endfor %}",
    "{% for in c %}{% endfor %}",
    "{% for i in %}{% endfor %}",
    "{% unless n %}x{% elsif t %}y{% else %}z{% endunless %}{% unless t %}x{% elsif t %}y{% endunless %}",
    "{% increment k %}{% increment k %}{% decrement k %}{{ k }}|"
    "{% ifchanged %}a{% endifchanged %}{% ifchanged %}a{% endifchanged %}",
    "{% liquid\nassign z = b | upcase\necho z\nif t\necho 1\nendif %}",
    "{% raw %}{% if {{ {% endraw %}|{%- raw %} x {% endraw -%} y",
    "{{- b -}} {{-b-}} {%- if t -%} x {%- endif -%} y",
]  # fmt: skip

BRACKETS = {
    "{% if {{b}} == 'Ava' %}yes{% endif %}": "yes",
    "{% if {{ b }} == 'Ava' and {{ a }} == 1 %}yes{% endif %}": "yes",
    "{% if n %}{% elsif 'Ava' == {{b}} %}yes{% endif %}": "yes",
    "{% unless {{b}} == 'x' %}yes{% endunless %}": "yes",
    "{% case {{b}} %}{% when {{ b }} %}yes{% endcase %}": "yes",
    "{% case b %}{% when 'x', {{b}} %}yes{% endcase %}": "yes",
    "{% assign z = {{b}} %}{{ z }}": "Ava",
    "{% assign z = {{ a }} | plus: {{ a }} %}{{ z }}": "2",
    "{% assign z = {{ a | plus: 1 }} %}{{ z }}": "2",
    "{% for i in {{c}} limit:{{a}} %}{{i}}{% endfor %}": "3",
    "{% for i in {{ c }} limit: {{ a }} offset: {{a}} %}{{i}}{% endfor %}": "1",
    "{% for i in ({{a}}..3) %}{{i}}{% endfor %}": "123",
    "{% tablerow i in {{l}} %}{% endtablerow %}": '<tr class="row1">\n</tr>\n',
    "{% capture {{z}} %}x{% endcapture %}{{ z }}": "x",
    "{% echo {{b}} %}{% cycle {{b}}, 'x' %}": "AvaAva",
    "{{ a | plus: {{a}}}}": "2",
    "{{ a | plus: {{ a }} }}": "2",
    "{{ b | replace: {{b}}, {{ d.e.f }} | append: {{a}} }}!": "x1!",
    "{{ {{b}} }}{{ {{ b }} | upcase }}": "AvaAVA",
    "{{ c[{{a}}] }}{{ d[{{name}}].f }}": "1x",
    "{% if c[{{a}}] == 1 %}yes{% endif %}": "yes",
    "{{ b | append: '{{a}}' }}": "Ava{{a}}",
    "{% if '{{b}}' == '{{' %}no{% else %}{{ '{{ b' }}{% endif %}": "{{ b",
    "{% assign z = \"{{b}}\" %}{{ z }}": "{{b}}",
    "{% if {{${user_id}}} == 'u' %}yes{% endif %}": "yes",
    "{% if {{ ${user_id} }} == 'u' %}yes{% endif %}": "yes",
    "{{ b | append: {{${user_id}}}}}": "Avau",
    "{% assign z = {{custom_attribute.${fav team}}} | default: {{b}} %}{{ z }}": "Ava",
    "{% for i in {{custom_attribute.${teams}}} %}x{% else %}none{% endfor %}": "none",
    "{% case {{${user_id}}} %}{% when 'u' %}yes{% endcase %}": "yes",
    '{"a": {{a}}, "b": {"c": {{a}}}}': '{"a": 1, "b": {"c": 1}}',
    "{{ a }} }} {{ b }}": "1 }} Ava",
    "{{ {{a}} and {{b}}": "1 and Ava",
}  # fmt: skip

BLANK = ["n", "e", "w", "l", "o", "none", "false", "nil", "''", "' '", "e.x", "'\u00a0'"]
EMPTY = ["e", "l", "o", "''"]
NOT_EMPTY = ["n", "w", "a", "c", "false", "none"]
NOT_BLANK = ["a", "b", "c", "d", "t", "x", "0", "'x'", "(1..2)", "true"]


def same(templates: list[str]) -> None:
    """Compare both engines for each template."""
    different = [
        f"{template}: {text!r}, Ruby {right!r}"
        for template, right in zip(templates, rendered_by_ruby([(each, DATA) for each in templates]), strict=True)
        if (text := rendered_by_product(template, DATA)) != right
    ]
    assert not different, f"{len(different)} of {len(templates)} differ:\n" + "\n".join(different[:100])


def test_syntax__usual_and_unusual_templates__as_ruby() -> None:
    same(TEMPLATES)


@pytest.mark.parametrize("template", GOLDEN.values(), ids=GOLDEN)
def test_syntax__case_of_the_golden_liquid_suite__as_ruby(template: str) -> None:
    same([template])


@pytest.mark.parametrize(("template", "message"), BRACKETS.items())
def test_brackets__inside_tags_and_outputs__are_the_value(template: str, message: str) -> None:
    assert rendered_by_product(template, DATA) == message


@pytest.mark.parametrize("value", [*BLANK, *NOT_BLANK])
def test_blank__either_side_of_each_tag__as_in_rails(value: str) -> None:
    template = (
        "{% if V == blank %}1{% endif %}{% if blank == V %}2{% endif %}{% unless V != blank %}3{% endunless %}"
        "{% case V %}{% when blank %}4{% endcase %}{% assign z = V %}{% if z == blank %}5{% endif %}"
        "{% if t and V == blank %}6{% endif %}{% if n %}{% elsif V == blank %}7{% endif %}"
        "{% if blank <> V %}{% else %}8{% endif %}"
    )
    assert rendered_by_product(template.replace("V", value), DATA) == ("12345678" if value in BLANK else "")


@pytest.mark.parametrize(
    ("value", "is_empty"),
    [
        *((each, True) for each in ("e", "l", "o", "''")),
        *((each, False) for each in ("n", "w", "a", "c", "false", "none")),
    ],
)
def test_empty__either_side__only_text_lists_and_objects(value: str, is_empty: bool) -> None:
    template = (
        "{% if V == empty %}1{% endif %}{% if empty == V %}2{% endif %}{% case V %}{% when empty %}3{% endcase %}"
    )
    assert rendered_by_product(template.replace("V", value), DATA) == ("123" if value in EMPTY else "")


def test_blank__assigned__is_an_empty_text() -> None:
    template = "{% assign z = blank %}[{{ z }}]{% if z == blank %}1{% endif %}{% if z == '' %}2{% endif %}"
    template += "{{ blank }}{{ empty | size }}"
    assert rendered_by_product(template, DATA) == "[]120"


def random_markup(choice: random.Random, most: int) -> str:
    """Return a random sequence of the parts of expressions."""
    parts = [
        *"abcdtnx",
        "d.e",
        "c[0]",
        "'Ava'",
        '"x"',
        "1",
        "2.5",
        "-1",
        "(1..3)",
        "blank",
        "empty",
        "nil",
        "==",
        "!=",
        "<",
    ]
    parts += [
        ">=",
        "contains",
        "and",
        "or",
        "|",
        ":",
        ",",
        "upcase",
        "plus",
        "| append:",
        "| plus: 1",
        "=",
        "not",
        ".",
        "[",
        "]",
    ]
    parts += [
        "(",
        ")",
        "'",
        "limit:",
        "in",
        "i in c",
        "reversed",
        "&&",
        "b.size",
        "| default: 'x', allow_false: true",
        "?",
        "-",
    ]
    return choice.choice(["", " "]).join(choice.choices(parts, k=choice.randint(1, most)))


def random_templates(count: int, seed: int) -> list[str]:
    """Return templates whose expressions are random."""
    choice = random.Random(seed)  # noqa: S311
    forms = [
        "{{ X }}",
        "{% if X %}1{% else %}2{% endif %}",
        "{% unless X %}1{% endunless %}",
        "{% assign z = X %}{{ z }}",
        "{% case X %}{% when Y %}1{% else %}2{% endcase %}",
        "{% for i in X %}{{ i }}{% else %}e{% endfor %}",
        "{% for X %}{{ i }}{% endfor %}",
        "{% cycle X %}",
        "{% echo X %}",
    ]
    return [
        choice.choice(forms).replace("X", random_markup(choice, 6)).replace("Y", random_markup(choice, 3))
        for _ in range(count)
    ]


def test_syntax__random_expressions__as_ruby() -> None:
    same(random_templates(400, 1))


@pytest.mark.slow
def test_syntax__many_random_expressions__as_ruby() -> None:
    same(random_templates(20_000, 2))
