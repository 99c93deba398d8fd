"""JSON read strictly and written for any parser."""

import json
from typing import Any

import pytest
from hypothesis import given

from proxy.profile.json import read_json, write_json
from tests.support.json_values import json_values


@pytest.mark.parametrize("body", [b"NaN", b'{"a": Infinity}', b"\xff", b"", b"[" * 101 + b"]" * 101, b"[" * 200_000])
def test_what_is_not_json_or_cannot_be_passed_on_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(body)


def test_numbers_that_python_cannot_write_back_are_kept_as_text() -> None:
    assert read_json(b"[1e999, -1e999, 1.5, 12]") == ["1e999", "-1e999", 1.5, 12]
    assert read_json(b"9" * 5000) == "9" * 5000


def test_lone_surrogates_do_not_stop_the_writing() -> None:
    assert write_json({"a": "\ud800"}) == b'{"a":"?"}'


@given(json_values(20))
def test_what_is_read_can_be_written_and_is_the_same_again(value: Any) -> None:
    result = read_json(json.dumps(value).encode())
    assert read_json(write_json(result)) == result
