"""The encoding of cached values."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.profile import encoding
from tests.support.json_values import json_values

any_json = json_values(max_text=5)


@given(any_json)
def test_read__written_value__unchanged(value: Any) -> None:
    if "\\ud" not in json.dumps(value):
        assert encoding.read(encoding.write(value)) == value


@given(st.dictionaries(st.text(max_size=5), any_json, max_size=4))
def test_split__any_object__each_name_with_its_value(value: dict[str, Any]) -> None:
    names, values = encoding.split(encoding.write(value))
    assert dict(zip(json.loads(names), map(json.loads, values), strict=True)) == encoding.read(encoding.write(value))


def test_write__names_equal_in_utf_8__later_value_wins() -> None:
    assert encoding.read(encoding.write({"\ud800": 1, "?": 2, "a": 3})) == {"?": 2, "a": 3}


def test_split__empty_or_not_an_object__no_names() -> None:
    values: list[Any] = [{}, [], ["a", "b\nc"], "a\nb", None, 3]
    for value in values:
        assert encoding.split(encoding.write(value)) == (b"[]", [])


def test_write__long_value__compressed_and_read_unchanged() -> None:
    value = {f"attribute {number}": f"value {number}" for number in range(100)}
    assert len(encoding.write(value)) < len(json.dumps(value)) / 2
    assert encoding.read(encoding.write(value)) == value
