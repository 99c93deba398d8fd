"""The JSON document of a webhook, read one entry at a time."""

from __future__ import annotations

import contextlib
import gc
import json
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.profile.json import read_json
from proxy.webhooks import envelope
from proxy.webhooks.envelope import TOO_LARGE, SkippedValue, TooMany

LIMIT = 8 * 1024 * 1024
TENTH = LIMIT // 10
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
LONG_INTEGERS = st.sampled_from([3_999, 4_000, 4_001, 4_300, 4_301]).map(lambda digits: "7" * digits)
NUMBERS = LONG_INTEGERS | st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
BROKEN = {"not_json": b'{"a": [NaN, "]\\"}"]}', "nested_too_deeply": b"[" * 101 + b"]" * 101}


def no_pause() -> None:
    """Do not pause."""


def read(body: bytes) -> Any:
    """Return the document with its arrays as lists."""
    value = envelope.read(body, no_pause)
    if isinstance(value, dict):
        return {name: list(member) if isinstance(member, Iterator) else member for name, member in value.items()}
    return list(value) if isinstance(value, Iterator) else value


@settings(deadline=None)
@given(JSON, st.sampled_from([None, 2]), st.booleans())
def test_read__any_document__same_as_read_json(value: Any, indent: int | None, ascii_only: bool) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    assert read(body) == read_json(body)


@settings(deadline=None)
@given(st.lists(JSON, max_size=5), st.sampled_from(list(BROKEN)), st.booleans(), st.integers(0, 5))
def test_read__one_invalid_entry__other_entries_same_as_read_json(
    entries: list[Any], reason: str, is_member: bool, place: int
) -> None:
    texts = [json.dumps(entry).encode() for entry in entries]
    texts.insert(place, BROKEN[reason])
    body = b"[" + b" , ".join(texts) + b"]"
    result = read(b'{"a\\"": 1, "users" :' + body + b"}")["users"] if is_member else read(body)
    assert result.pop(min(place, len(entries))) == SkippedValue(reason)
    assert result == [read_json(json.dumps(entry).encode()) for entry in entries]


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1))
def test_read__any_number__same_value_as_read_json(numbers: list[str]) -> None:
    body = f"[[{','.join(numbers)}]]".encode()
    assert repr(read(body)) == repr(read_json(body))


@settings(deadline=None)
@given(st.text(alphabet='{}[]",:1e\\ \n-tru', max_size=30))
def test_read__text_that_may_not_be_json__same_result_as_read_json(text: str) -> None:
    def outcome(reader: Any) -> Any:
        try:
            return reader(text.encode())
        except ValueError:
            return "refused"

    assert outcome(read) == outcome(read_json)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b'["\xff"]',
        b"[1e999]x",
        b'{"a": NaN}',
        b"[" * 200_000,
        b'{"a": {"b": ' + b"[" * 102 + b"]" * 102,
        b"[1}",
        b"[1]]",
        b"[NaN,]",
        b"[NaN,,1]",
        b'[NaN, "a]',
        b'[NaN, "a" "b" "c"]',
        b'{"a": [NaN], "b"}',
        b"{NaN: 1}",
        b'{"a": [NaN], b: 1}',
        b'{"a": [NaN], "b" 1: 2}',
        b"[NaN] [1]",
    ],
)
def test_read__invalid_json__value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(body)


def test_read__deep_entries_and_constants__skipped_and_other_entries_read() -> None:
    deep = b"[" * 101 + b"]" * 101
    body = b'[1, {"a": [NaN, "]\\"}"]}, {"a": ' + deep + b"}, Infinity, " + b"[" * 9_000 + b"]" * 9_000 + b", 2]"
    reasons = ["not_json", "nested_too_deeply", "not_json", "nested_too_deeply"]
    assert read(body) == [1, *map(SkippedValue, reasons), 2]


def test_read__syntax_error_in_an_entry_of_a_large_body__refused() -> None:
    for wrong in (b'{"a": b}', b'"a', b"1.e", b"tru", b"[1,]"):
        with pytest.raises(ValueError, match=r"."):
            read(b"[1, " + wrong + b", " + b"1234567," * 40_000 + b"1]")


@pytest.mark.parametrize("broken", [b"1", b"NaN"])
def test_read__too_large_entry__skipped(broken: bytes) -> None:
    large = json.dumps({"user_id": "big", "properties": {f"key {number}": number for number in range(100_000)}})
    result = read(b"[" + large.encode() + b", " + broken + b", 2]")
    assert result == [TOO_LARGE, 1 if broken == b"1" else SkippedValue("not_json"), 2]


def test_read__entry_of_wide_characters__limited_by_characters_not_bytes() -> None:
    text = "é" * (envelope.MAX_CHARACTERS - 2)
    for wide, expected in ((text, text), (text + "é", TOO_LARGE)):
        assert read(json.dumps([wide], ensure_ascii=False).encode()) == [expected]


@pytest.fixture
def tenth_of_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow a tenth of the entries and values, so that a tenth of the largest body tests the same."""
    for name in ("MAX_ENTRIES", "MAX_VALUES"):
        monkeypatch.setattr(envelope, name, getattr(envelope, name) // 10)


@pytest.mark.contract("3 webhook limits")
def test_read__array_of_8_mib_of_white_space__empty() -> None:
    assert read(b"[" + b" " * LIMIT + b"]" + b"\n" * 1000) == []


@pytest.mark.contract("3 webhook limits")
def test_read__maximum_number_of_entries__read() -> None:
    assert len(read(b"[" + b"0," * 49_999 + b"0]")) == 50_000
    assert envelope.MAX_VALUES == 500_000


@pytest.mark.usefixtures("tenth_of_the_limits")
@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"{}," * 5_000 + b"0]",
        b"[" + b"NaN," * 5_000 + b"0]",
        b'{"a": [' + b"0," * 4_999 + b"0]}",
        b"[" + b",".join([b"[" + b"[]," * 1_000 + b"0]"] * 50) + b"]",
    ],
    ids=["entries", "broken entries", "entries and a member", "values"],
)
def test_read__one_entry_or_value_more_than_allowed__too_many(body: bytes) -> None:
    with pytest.raises(TooMany):
        read(body)


def test_read__commas_in_texts__not_counted_as_values() -> None:
    assert read(json.dumps(["," * 100_000, "[" * 100_000] * 4).encode()) == ["," * 100_000, "[" * 100_000] * 4


@pytest.mark.parametrize("entry", [b'"NaN"', b"NaN"])
def test_read__many_entries__pauses_before_each(entry: bytes) -> None:
    pauses: list[None] = []
    entries = envelope.read(b"[" + entry + b', {"user_id": "user"}' * 10_000 + b"]", lambda: pauses.append(None))
    assert len(list(entries)) == 10_001
    assert len(pauses) >= 10_001


@pytest.mark.contract("3 webhook limits")
@pytest.mark.usefixtures("tenth_of_the_limits")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"[" * TENTH, ValueError),
        (b'{"users":' + b"[" * (TENTH - 9), ValueError),
        (b"[" * (TENTH // 2) + b"]" * (TENTH // 2), TooMany),
        (b'[{"user_id": "user", "user_properties": {"a": 1}},' * (TENTH // 50), ValueError),
        (b'{"users": [' + b'{"user_id": "user", "user_properties": {"a": "b"}},' * 4_000 + b"{}", ValueError),
        (b"[" + b"{}," * (TENTH // 3 - 1) + b"{}]", TooMany),
        (b"[[" + b"[]," * 200_000 + b"0]]", TooMany),
        (b'[["' + b'","' * 200_000 + b'"]]', TooMany),
        (b'["' + b'"' * (TENTH - 4) + b'"]', ValueError),
    ],
    ids=["open", "open in object", "nested", "cut", "cut object", "tiny users", "empty lists", "texts", "quotes"],
)
def test_read__large_invalid_body__refused_quickly_with_little_memory(body: bytes, error: type[Exception]) -> None:
    began = time.process_time()
    with pytest.raises(error):
        read(body)
    assert time.process_time() - began < 1, "an idle machine takes a tenth of this"
    tracemalloc.start()
    try:
        with contextlib.suppress(error):
            read(body)
        assert tracemalloc.get_traced_memory()[1] < 5 * TENTH
    finally:
        tracemalloc.stop()


STRINGS = {"letters": b"x", "escapes": b"\\u0041", "surrogates": b"\\ud800", "quotes": b'\\"', "backslashes": b"\\\\"}


def repeated(unit: bytes) -> bytes:
    return unit * (TENTH // len(unit))


@pytest.mark.contract("3 webhook limits")
@pytest.mark.parametrize(
    "body",
    [
        *(b'[NaN, "' + repeated(unit) + b'"]' for unit in STRINGS.values()),
        *(b'[NaN, "' + repeated(unit) for unit in STRINGS.values()),
        *(b'{"' + repeated(unit) + b'": NaN}' for unit in STRINGS.values()),
        *(b"[NaN, " + repeated(unit) + b"]" for unit in (b"x", b"1", b" ", b"1 ", b'"a" ')),
        *(repeated(unit) for unit in (b"[", b"{", b" ", b"1", b",", b'{"a":', b'"a":')),
        b'[{"a": ' + repeated(b'{"b": [1, 2, "c"]},'),
        b'{"users": [' + repeated(b'{"a": 1, "a": 2},')[:-1] + b"}",
        "[NaN, \u00e9".encode() + repeated("\u00e9".encode()) + b"\xc3]",
    ],
    ids=lambda body: f"{body[:14]!r} to {body[-9:]!r}",
)
def test_read__large_invalid_body_of_any_shape__no_step_takes_more_than_16_kib(body: bytes) -> None:
    # A step holds up all other requests. Steps are counted, because their time depends on the machine.
    steps: list[None] = []
    with contextlib.suppress(ValueError, TooMany):
        envelope.read(body, lambda: steps.append(None))
    assert len(steps) >= len(body) // (16 * 1024)


def test_read__string_longer_than_a_step__read_to_its_end() -> None:
    for unit in STRINGS.values():
        for length in range(8_150, 8_200):  # the string ends before, at and after the end of a step
            text = b'"' + unit * (length // len(unit)) + b'"'
            assert read(b"[NaN, " + text + b", 2]") == [SkippedValue("not_json"), json.loads(text), 2]


@pytest.mark.parametrize("broken", [b"1", b"NaN"])
@pytest.mark.parametrize("unit", [b"1,", b"1e9999,", b"{},", b'{"a":1},', b'"\\ud800",'])
def test_read__user_that_is_slow_to_decode__skipped_as_too_large(unit: bytes, broken: bytes) -> None:
    large = b"[" + unit * (envelope.MAX_CHARACTERS // len(unit) + 1) + b"1]"
    assert read(b"[" + large + b", " + broken + b"]")[0] == TOO_LARGE


@pytest.mark.parametrize(
    "body",
    [
        b'{"users": [], "filler": "' + b"x" * 200_000 + b'"}',
        b'[{"user_id": "' + b"x" * 200_000 + b'"}]',
        b"[1, " + b'"x' * 100_000 + b"]",
        b'{"users": [tru], "filler": "' + b"x" * 200_000 + b'"}',
        b"[" * 20_000 + b"]",
        '["\U0001f600'.encode() + b"x" * 200_000 + b'"]',
    ],
    ids=["large member", "large entry", "broken text", "broken word", "deep", "wide characters"],
)
def test_read__any_body__leaves_no_reference_cycles(body: bytes) -> None:
    # The collector seldom runs in a worker: a reference cycle would keep a body of 8 MiB for minutes.
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError, TooMany):
            read(body)
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize("body", [b'{"users": [1, {"a": 2}]}', b"[1, NaN]", b"7"])
def test_read__byte_order_mark__ignored(body: bytes) -> None:
    assert read(b"\xef\xbb\xbf" + body) == read(body)
