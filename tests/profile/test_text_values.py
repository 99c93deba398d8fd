"""Conversion of text to the types that the User Profile API returns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.profile.json import write_json
from proxy.profile.text_values import convert_text

NO_PROPERTIES: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1.10", -1.1),
        ("true", True),
        ("false", False),
        ('["a","b"]', ["a", "b"]),
        ('{"a": [1]}', {"a": [1]}),
        ("[]", []),
        ("02134", "02134"),
        ("1e5", "1e5"),
        ("True", "True"),
        ("", ""),
        ("null", "null"),
        ("[VIP]", "[VIP]"),
        ("{{name}}", "{{name}}"),
        ("[NaN]", "[NaN]"),
        ("[" * 200 + "]" * 200, "[" * 200 + "]" * 200),
        ("[\ud800]", "[\ud800]"),
        ("12345678901234567890", "12345678901234567890"),
        ("trail", "trail"),
        (7, 7),
        (None, None),
        (["1"], ["1"]),
    ],
)
def test_typed__text__has_the_type_of_the_profile_api(text: Any, value: Any) -> None:
    assert convert_text("plan", text, NO_PROPERTIES) == value
    assert type(convert_text("plan", text, NO_PROPERTIES)) is type(value)


def test_typed__text_property__stays_text() -> None:
    assert convert_text("zip", "2134", frozenset({"zip"})) == "2134"
    assert convert_text("plan", "2134", frozenset({"zip"})) == 2134


@given(st.text() | st.from_regex(r"-?[0-9.]{1,20}|\[.*\]|\{.*\}", fullmatch=True))
def test_typed__any_text__can_be_written_as_json(text: str) -> None:
    write_json(convert_text("plan", text, NO_PROPERTIES))
