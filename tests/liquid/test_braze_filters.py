"""Braze's own filters: the documented examples, and inputs that do not fit."""

from __future__ import annotations

import re
from itertools import product

import pytest

from proxy.liquid.braze_filters import FILTERS
from proxy.liquid.render import render
from proxy.liquid.types import Answer, Rendering, Request, User


def answer(request: Request) -> Answer:
    raise AssertionError(f"unexpected call: {request}")


def rendered(template: str, **values: object) -> Rendering:
    named = {f"custom_attribute.${{{name}}}": value for name, value in values.items()}
    return render(template, User("u"), answer, values=named)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'hey' | md5", "6057f13c496ecf7fd777ceb9e79ae285"),
        ("'hey' | sha1", "7f550a9f4c44173a37664d938f1355f0f92a47a7"),
        ("'hey' | sha2", "fa690b82061edfd2852629aeba8a8977b57e40fcb77d1a7a28b26cba62591204"),
        ("'blah' | base64_encode", "YmxhaA=="),
        ("'blah' | base64", "YmxhaA=="),
        ("'YmxhaA==' | base64_decode", "blah"),
        ("'hey' | hmac_sha1_hex: 'secret_key'", "2a3969bed25bfeefb00aca4063eb9590b4df8f0e"),
        ("'hey' | hmac_sha1: 'secret_key'", "2a3969bed25bfeefb00aca4063eb9590b4df8f0e"),
        ("'hey' | hmac_sha1_base64: 'secret_key'", "KjlpvtJb/u+wCspAY+uVkLTfjw4="),
        ("'hey' | hmac_sha256_hex: 'secret_key'", "8df897f8da3d7992fe57c8dbc6f27578cfbf2dcc4d0fbb4000b8c924841d508e"),
        ("'hey' | hmac_sha256: 'secret_key'", "8df897f8da3d7992fe57c8dbc6f27578cfbf2dcc4d0fbb4000b8c924841d508e"),
        ("'hey' | hmac_sha256_base64: 'secret_key'", "jfiX+No9eZL+V8jbxvJ1eM+/LcxND7tAALjJJIQdUI4="),
        ("'hey' | hmac_sha512: 'secret_key' | size", "128"),
        ("'hey<>hi' | url_escape", "hey%3C%3Ehi"),
        ("'hey<&>hi' | url_param_escape", "hey%3C%26%3Ehi"),
        ("'google search' | url_encode", "google+search"),
        ("'é&ü' | md5", "27715d03076aabd6d8357e3f8e5c7726"),
        ("12 | md5", "c20ad4d76fe97759aa27a0c99bff6710"),
        ("nothing | md5", "d41d8cd98f00b204e9800998ecf8427e"),
        ("'hey' | md5: 1", "Liquid error: wrong number of arguments (given 2, expected 1)"),
        ("'hey' | hmac_sha1_hex", "Liquid error: wrong number of arguments (given 1, expected 2)"),
        ("123456 | number_with_delimiter", "123,456"),
        ("1234567.891 | number_with_delimiter", "1,234,567.891"),
        ("-1234 | number_with_delimiter", "-1,234"),
        ("999 | number_with_delimiter", "999"),
        ("'98765' | number_with_delimiter", "98,765"),
        ("'12 apples' | number_with_delimiter", "12 apples"),
        ("nothing | number_with_delimiter", ""),
        ("17.8 | money", "17.80"),
        ("145 | money", "145.00"),
        ("145 | divided_by: 100.00 | money", "1.45"),
        ("'350000.25' | plus: 0 | money", "350,000.25"),
        ("2.675 | money", "2.68"),
        ("-0.5 | money", "-0.50"),
        ("'1,000' | money", "1,000"),
        ("nothing | money", ""),
        ("true | money", "true"),
        ("'say \"x\" \\ y' | json_escape", 'say \\"x\\" \\\\ y'),
        ("nothing | json_escape", ""),
        ("7 | json_escape", "7"),
        ("'{\"a\": [1, null]}' | json_parse | as_json_string", '{"a":[1,null]}'),
        ("'a,b' | split: ',' | as_json_string", '["a","b"]'),
        ("'é\"' | as_json_string", '"é\\""'),
        ("nothing | as_json_string", "null"),
        ("(1..3) | as_json_string", "[1,2,3]"),
        ("nothing | json_parse", ""),
        ("'{a: 1}' | json_parse", "Liquid error: internal"),
        ("'NaN' | json_parse", "Liquid error: internal"),
        ("'abc' | property_accessor: 'a'", ""),
        ("'text' | id: 'cb12'", "text"),
        ("'text' | lid: 'a1b2'", "text"),
    ],
)
def test_filter__documented_or_odd_input__expected_text(expression: str, expected: str) -> None:
    rendering = rendered(f"{{{{ {expression} }}}}")
    assert rendering.message == expected
    assert "unknown-filter" not in [finding.rule for finding in rendering.findings]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'2021-08-04 09:00:00 UTC' | time_zone: 'America/Los_Angeles' | date: '%H:%M'", "02:00"),
        ("'2021-08-04 09:00:00' | time_zone: 'America/Los_Angeles'", "2021-08-04 02:00:00 -0700"),
        ("'2021-12-04T09:00:00+02:00' | time_zone: 'Asia/Tokyo' | date: '%F %T %z'", "2021-12-04 16:00:00 +0900"),
        ("1628067600 | time_zone: 'Europe/Berlin' | date: '%H'", "11"),
        ("'1628067600' | time_zone: '+05:30' | date: '%R'", "14:30"),
        ("'2021-08-04 09:00' | time_zone: -5 | date: '%R'", "04:00"),
        ("'2021-08-04 09:00' | time_zone: nothing | date: '%R %z'", "09:00 +0000"),
        ("'2021-08-04 09:00' | time_zone: 'Mars/Base' | date: '%R %z'", "09:00 +0000"),
        ("'2021-08-04 09:00' | time_zone: '../../etc/passwd' | date: '%R %z'", "09:00 +0000"),
        ("'2021-08-04 09:00' | time_zone: 'America' | date: '%R'", "09:00"),
        ("'not a date' | time_zone: 'Asia/Tokyo'", "not a date"),
        ("nothing | time_zone: 'Asia/Tokyo'", ""),
        ("99999999999999 | time_zone: 'Asia/Tokyo'", "99999999999999"),
        ("'now' | time_zone: 'Asia/Tokyo' | date: '%z'", "+0900"),
    ],
)
def test_time_zone__zone_or_odd_input__time_in_the_zone(expression: str, expected: str) -> None:
    assert rendered(f"{{{{ {expression} }}}}").message == expected


def test_time_zone__unknown_name__finding_with_the_fix() -> None:
    finding = rendered("\n{{ 'now' | time_zone: 'Eastern' | date: '%z' }}").findings[0]
    assert (finding.line, finding.rule) == (2, "unknown-time-zone")
    assert "'America/New_York'" in finding.fix


def test_property_accessor__object_of_a_test_value__value_of_the_key() -> None:
    template = "{% assign h = custom_attribute.${h} %}{{ h | property_accessor: 'a b' }}{{ h | property_accessor: x }}."
    assert rendered(template, h={"a b": 42}).message == "42."


VALUES = {"null": None, "true": True, "text": "a\nb", "int": 7, "big": 10**40, "float": 1.5, "list": [1, [None]],
          "object": {"a": None}, "empty": "", "words": ["a", "b"]}  # fmt: skip
ARGUMENTS = ("", ": nothing", ": 'a'", ": -3", ": 1.5, 2", ": custom_attribute.${list}", ": custom_attribute.${object}")
PYTHON = re.compile(r"None|True|False|Traceback|__|object at|NoneType|positional|TypeError|ValueError")


@pytest.mark.parametrize("name", FILTERS)
def test_filter__any_value_and_arguments__no_text_of_python(name: str) -> None:
    for value, argument in product(VALUES, ARGUMENTS):
        template = f"{{{{ custom_attribute.${{{value}}} | {name}{argument} }}}}"
        rendering = rendered(template, **VALUES)
        assert rendering.outcome == "sent", (template, rendering.reason)
        assert not PYTHON.search(rendering.message), (template, rendering.message)
