"""The form in which values are kept."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.profile import encoding
from tests.support.json_values import json_values

anything = json_values(max_text=5)


@given(anything)
def test_what_was_written_is_read(value: Any) -> None:
    if "\\ud" not in json.dumps(value):
        assert encoding.read(encoding.write(value)) == value


@given(st.dictionaries(st.text(max_size=5), anything, max_size=4))
def test_each_value_of_an_object_stands_beside_its_name(value: dict[str, Any]) -> None:
    names, values = encoding.split(encoding.write(value))
    assert dict(zip(json.loads(names), map(json.loads, values), strict=True)) == encoding.read(encoding.write(value))


def test_two_names_that_utf_8_makes_alike_are_one_and_the_later_wins() -> None:
    assert encoding.read(encoding.write({"\ud800": 1, "?": 2, "a": 3})) == {"?": 2, "a": 3}


def test_anything_but_an_object_has_no_names() -> None:
    values: list[Any] = [{}, [], ["a", "b\nc"], "a\nb", None, 3]
    for value in values:
        assert encoding.split(encoding.write(value)) == (b"[]", [])


def test_what_is_long_is_compressed_and_read_all_the_same() -> None:
    value = {f"attribute {number}": f"value {number}" for number in range(100)}
    assert len(encoding.write(value)) < len(json.dumps(value)) / 2
    assert encoding.read(encoding.write(value)) == value
