"""JSON is read strictly and written so that any parser can read it."""

import json
from typing import Any

import pytest
from hypothesis import given

from proxy.profile.json import read_json, write_body, write_json
from tests.support.json_values import json_values


@pytest.mark.parametrize("body", [b"NaN", b'{"a": Infinity}', b"\xff", b"", b"[" * 101 + b"]" * 101, b"[" * 200_000])
def test_read_json__invalid_or_nested_too_deeply__value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(body)


def test_read_json__number_that_python_cannot_write__kept_as_text() -> None:
    assert read_json(b"[1e999, -1e999, 1.5, 12]") == ["1e999", "-1e999", 1.5, 12]
    assert read_json(b"9" * 5000) == "9" * 5000


def test_write_body__lone_surrogate_in_a_name__replaced() -> None:
    assert write_body({"a\ud800": {"\udfff": ["\ud800", 2**70]}}) == b'{"a?":{"?":["?",1180591620717411303424]}}'


def test_write_json__lone_surrogate__replaced() -> None:
    assert write_json({"a": "\ud800"}) == b'{"a":"?"}'


@given(json_values(20))
def test_write_json__any_value_that_was_read__read_again_unchanged(value: Any) -> None:
    result = read_json(json.dumps(value).encode())
    assert read_json(write_json(result)) == result


def test_read_json__byte_order_mark__ignored() -> None:
    assert read_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    with pytest.raises(json.JSONDecodeError):
        read_json(b'{\xef\xbb\xbf"a": 1}')
