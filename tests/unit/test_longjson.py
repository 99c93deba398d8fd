"""JSON of many entries, read with pauses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import longjson, strictjson

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def nothing() -> None:
    """Let nobody have their turn."""


@given(JSON, st.sampled_from([None, 2]))
def test_a_document_is_what_it_is_read_in_one_go(value: Any, indent: int | None) -> None:
    body = json.dumps(value, indent=indent).encode()
    assert longjson.read(body, nothing) == strictjson.read(body)


@given(st.text(alphabet='{}[]",:1e\\ \n-tru', max_size=30))
def test_what_is_no_json_is_refused_as_it_is_in_one_go(text: str) -> None:
    def outcome(read: Any) -> Any:
        try:
            return read(text.encode())
        except ValueError:
            return "refused"

    assert outcome(lambda body: longjson.read(body, nothing)) == outcome(strictjson.read)


@pytest.mark.parametrize(
    "body", [b"\xff", b"[1e999]x", b'{"a": NaN}', b"[" * 200_000, b'{"a": ' + b"[" * 102 + b"]" * 102]
)
def test_what_cannot_be_read_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        longjson.read(body, nothing)


def test_others_have_their_turn_every_few_entries() -> None:
    body = json.dumps({"a": 1, "users": [{"user_id": f"user-{number}"} for number in range(10_000)]}).encode()
    turns: list[None] = []
    longjson.read(body, lambda: turns.append(None))
    assert len(body) / 40_000 <= len(turns) <= len(body) / 32_000
