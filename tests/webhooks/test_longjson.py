"""JSON of many entries, read with pauses."""

from __future__ import annotations

import contextlib
import gc
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.profile.json import read_json
from proxy.webhooks import longjson

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
    assert longjson.read(body, nothing) == read_json(body)


@given(st.text(alphabet='{}[]",:1e\\ \n-tru', max_size=30))
def test_what_is_no_json_is_refused_as_it_is_in_one_go(text: str) -> None:
    def outcome(read: Any) -> Any:
        try:
            return read(text.encode())
        except ValueError:
            return "refused"

    assert outcome(lambda body: longjson.read(body, nothing)) == outcome(read_json)


@pytest.mark.parametrize(
    "body", [b"\xff", b"[1e999]x", b'{"a": NaN}', b"[" * 200_000, b'{"a": {"b": ' + b"[" * 102 + b"]" * 102]
)
def test_what_cannot_be_read_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        longjson.read(body, nothing)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8])
@given(st.lists(JSON, max_size=5))
def test_where_a_piece_ends_changes_nothing_but_what_is_too_large(window: int, entries: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longjson, "_LONGEST", window)
        found = longjson.read(json.dumps(entries).encode(), nothing)
    assert len(found) == len(entries)
    for one, entry in zip(found, entries, strict=True):
        assert one in (entry, longjson.TOO_LARGE)
        if len(json.dumps(entry)) > window:
            assert one == longjson.TOO_LARGE


def test_an_entry_that_cannot_be_passed_on_is_passed_over_and_the_others_read() -> None:
    deep = b"[" * 101 + b"]" * 101
    body = b'[1, {"a": [NaN, "]\\"}"]}, {"a": ' + deep + b"}, Infinity, " + b"[" * 9_000 + b"]" * 9_000 + b", 2]"
    words = ["not_json", "nested_too_deeply", "not_json", "nested_too_deeply"]
    assert longjson.read(body, nothing) == [1, *map(longjson.Unread, words), 2]


def test_an_entry_that_is_no_json_is_refused_however_much_follows() -> None:
    for wrong in (b'{"a": b}', b'"a', b"1.e", b"tru", b"[1,]"):
        with pytest.raises(ValueError, match=r"."):
            longjson.read(b"[1, " + wrong + b", " + b"1234567," * 100_000 + b"1]", nothing)


def test_one_entry_that_is_too_large_is_passed_over_with_pauses() -> None:
    large = {"user_id": "big", "properties": {f"key {number}": number for number in range(100_000)}}
    turns: list[None] = []
    body = json.dumps([large, 1]).encode()
    assert longjson.read(body, lambda: turns.append(None)) == [longjson.TOO_LARGE, 1]
    assert len(turns) > len(body) / 40_000


@pytest.mark.contract("3 webhook limits")
def test_eight_mib_of_white_space_are_a_moment_with_pauses() -> None:
    turns: list[None] = []
    began = time.perf_counter()
    body = b"[" + b" " * (8 * 2**20) + b"]" + b"\n" * 1000
    assert longjson.read(body, lambda: turns.append(None)) == []
    assert len(turns) >= 32
    assert time.perf_counter() - began < 0.5, "sign by sign it took seconds"


def test_more_entries_than_can_be_held_are_refused() -> None:
    assert len(longjson.read(b"[" + b"0," * 49_999 + b"0]", nothing)) == 50_000
    fifty = b",".join([b"[" + b"[]," * 10_000 + b"0]"] * 50)
    for body in (b"[" + b"{}," * 50_000 + b"0]", b'{"a": [' + b"0," * 50_000 + b"0]}", b"[" + fifty + b"]"):
        with pytest.raises(longjson.TooMany):
            longjson.read(body, nothing)


def test_others_have_their_turn_every_few_entries() -> None:
    body = json.dumps({"a": 1, "users": [{"user_id": f"user-{number}"} for number in range(10_000)]}).encode()
    turns: list[None] = []
    longjson.read(body, lambda: turns.append(None))
    assert len(body) / 40_000 <= len(turns) <= len(body) / 32_000


@pytest.mark.parametrize(
    "body",
    [
        b'{"users": [], "filler": "' + b"x" * 2_000_000 + b'"}',
        b'[{"user_id": "' + b"x" * 2_000_000 + b'"}]',
        b"[1, " + b'"x' * 1_000_000 + b"]",
        b'{"users": [tru], "filler": "' + b"x" * 2_000_000 + b'"}',
        b"[" * 20_000,
        '["\U0001f600'.encode() + b"x" * 2_000_000 + b'"]',
    ],
    ids=["large member", "large entry", "broken text", "broken word", "deep", "wide characters"],
)
def test_read__any_body__nothing_left_for_the_garbage_collector(body: bytes) -> None:
    # The collector looks seldom in a worker: a reference cycle would keep a body of 8 MiB for minutes.
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError, longjson.TooMany):
            longjson.read(body, nothing)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.contract("3 webhook limits")
@pytest.mark.parametrize(
    "entry", [b"[" * 4_000_000, b"[" + b"[]," * 2_000_000 + b"0]", b'["' + b'","' * 2_000_000 + b'"]']
)
def test_read__large_entry_of_too_many_values__refused_soon(entry: bytes) -> None:
    began = time.process_time()
    with pytest.raises(longjson.TooMany):
        longjson.read(b"[" + entry + b"]", nothing)
    assert time.process_time() - began < 3, "to its end it took four seconds"
