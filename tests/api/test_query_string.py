"""Parsing of a URL's query, compared with the standard library."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.api.query_string import pairs

PIECES = "user_id = & user_id= &user_id= a % %2 %26 %3D + é ; device_id=d xuser_id=1"


@given(st.lists(st.sampled_from(PIECES.split()), max_size=12).map("".join))
@example("user_id=a&user_id=b")
@example("a=user_id=b&user_id=%C3%A9+%2B")
@example("&&user_id=&a=1&")
@example("a=1&user_id=" + "x" * 2000)
def test_pairs__any_query__same_as_the_standard_library(text: str) -> None:
    try:
        expected = sorted(parse_qsl(text, keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            pairs(text)
    else:
        assert sorted(pairs(text)) == expected


def test_pairs__result_is_modified__next_result_is_complete() -> None:
    first = pairs("a=1&user_id=b")
    first.clear()
    assert pairs("a=1&user_id=b") == [("a", "1"), ("user_id", "b")]
    pairs("a=1").clear()
    assert pairs("a=1") == [("a", "1")]
