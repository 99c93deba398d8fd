"""Parsing of a URL's query, compared with the standard library."""

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.api.errors import BadRequest
from proxy.api.parse import parse
from proxy.api.query_string import pairs
from proxy.profile.query import ProfileRequest

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


entries = st.text(st.characters(exclude_characters=",", exclude_categories=["Cc", "Cs"]), max_size=4)


def outcome(sent: list[tuple[str, str]]) -> ProfileRequest | str:
    """Return the parsed request, or the text of the error."""
    try:
        return parse("cohorts", pairs(urlencode(sent)))
    except BadRequest as error:
        return error.detail


@pytest.mark.contract("1 repeated parameters")
@given(
    st.lists(st.lists(entries, min_size=1, max_size=9), min_size=1, max_size=4),
    st.integers(min_value=0, max_value=4),
)
def test_pairs__list_split_over_repeats_and_commas__same_query_as_one_value(
    split: list[list[str]], user_at: int
) -> None:
    lists = [("cohort_id", ",".join(values)) for values in split]
    together = [("user_id", "u"), ("cohort_id", ",".join(entry for values in split for entry in values))]
    repeated = [*lists[:user_at], ("user_id", "u"), *lists[user_at:]]
    assert outcome(repeated) == outcome(together)


@pytest.mark.contract("1 repeated parameters")
def test_pairs__list_repeated_with_commas_blanks_and_repeats__one_list_in_order() -> None:
    sent = pairs("cohort_id=%20b,a&user_id=u&cohort_id=&cohort_id=b%0A,c,")
    assert parse("cohorts", sent).query.cohort_ids == ("b", "a", "c")


@pytest.mark.contract("1 lists")
def test_pairs__list_repeated_21_times__error_names_the_limit() -> None:
    twenty = "&".join(f"cohort_id={number}" for number in range(20))
    assert len(parse("cohorts", pairs(f"user_id=u&{twenty}&cohort_id=7")).query.cohort_ids) == 20
    with pytest.raises(BadRequest, match="cohort_id has 21 entries; send at most 20"):
        parse("cohorts", pairs(f"user_id=u&{twenty}&cohort_id=20"))


def test_pairs__result_is_modified__next_result_is_complete() -> None:
    first = pairs("a=1&user_id=b")
    first.clear()
    assert pairs("a=1&user_id=b") == [("a", "1"), ("user_id", "b")]
    pairs("a=1").clear()
    assert pairs("a=1") == [("a", "1")]
