"""Request parameters."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.errors import BadRequest
from proxy.api.parameters import from_json
from proxy.api.parse import parse
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Section, recommendation
from proxy.profile.query import ProfileQuery, ProfileRequest
from tests.support.json_values import json_values


def ask(section: Section | None, **parameters: Any) -> ProfileRequest:
    return parse(section, parameters.items())


def test_the_parts_of_a_profile_come_in_the_order_in_which_errors_are_named() -> None:
    request = ask(None, user_id="u", include="cohorts,recommendations,properties", rec_id="b,a", rec_type="model")
    assert request.query.parts == (recommendation("b", "model"), recommendation("a", "model"), PROPERTIES, COHORTS)


@pytest.mark.contract("1 profile")
def test_a_section_that_is_not_included_is_not_asked_even_when_its_ids_are_given() -> None:
    assert ask(None, user_id="u", include="cohorts", rec_id="a").query.parts == (COHORTS,)


@pytest.mark.contract("1 parameters")
@pytest.mark.contract("1 identity")
def test_values_are_trimmed_and_blank_ids_dropped() -> None:
    assert ask("cohorts", user_id=" \n u\t", device_id="  ").identity == Identity("u", None)


@pytest.mark.parametrize("id", ["a\u200bb", "a\u00adb", "\U0001fae9", "\ue000"])
def test_an_id_may_hold_what_is_not_shown(id: str) -> None:
    assert parse("cohorts", {"user_id": id}.items()).identity.user_id == id


@pytest.mark.contract("1 lists")
def test_lists_are_trimmed_in_order_without_blanks_and_repeats() -> None:
    assert ask("recommendations", user_id="u", rec_id=" b ,,a,b,\n").query.rec_ids == ("b", "a")


@pytest.mark.parametrize("parameters", [{"user_id": ""}, {"device_id": " "}, {"user_id": "\n", "device_id": ""}])
def test_a_blank_id_is_anonymous_and_no_mistake(parameters: dict[str, str]) -> None:
    assert ask("cohorts", **parameters).anonymous


@pytest.mark.contract("1 repeated parameters")
def test_an_unknown_parameter_is_ignored_even_twice_and_malformed() -> None:
    parameters = [("user_id", "u"), ("cb", "1"), ("cb", "\x00"), ("rec_id", "x" * 999), ("rec_id", "y")]
    assert parse("cohorts", parameters) == ProfileRequest(Identity("u", None), ProfileQuery(("cohorts",)))


def test_the_same_wish_of_another_user_is_not_read_again() -> None:
    first = ask(None, user_id="u", include="cohorts,properties", cohort_id="a, b")
    again = ask(None, user_id="v", include="cohorts,properties", cohort_id="a, b")
    assert again.query is first.query
    assert again.identity != first.identity
    assert ask(None, user_id="u", include="cohorts,properties", cohort_id="a").query != first.query


def test_a_wish_too_long_to_be_remembered_is_read_all_the_same() -> None:
    keys = ",".join(f"{number:0512}" for number in range(3))
    assert ask("properties", user_id="u", keys=keys).query is not ask("properties", user_id="u", keys=keys).query
    assert ask("properties", user_id="u", keys=keys).query.keys == tuple(keys.split(","))


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_optional_parameter_counts_as_absent(blank: str) -> None:
    request = ask("recommendations", user_id="u", rec_id="a", rec_type=blank, on_error=blank)
    assert (request.query.rec_type, request.query.on_error) == (None, "default")


@pytest.mark.contract("1 parameters")
@pytest.mark.parametrize(
    ("section", "parameters", "parameter"),
    [
        ("cohorts", {}, "user_id"),
        ("recommendations", {"user_id": "u"}, "rec_id"),
        ("recommendations", {"user_id": "u", "rec_id": " , "}, "rec_id"),
        (None, {"user_id": "u"}, "include"),
        (None, {"user_id": "u", "include": "cohorts,nonsense"}, "include"),
        (None, {"user_id": "u", "include": "recommendations"}, "rec_id"),
        ("cohorts", {"user_id": "u", "on_error": "explode"}, "on_error"),
        ("cohorts", {"user_id": "u", "on_error": "Retry"}, "on_error"),
        ("cohorts", {"user_id": "u" * 513}, "user_id"),
        ("cohorts", {"device_id": "a\x00b"}, "device_id"),
        ("cohorts", {"device_id": "a\x85b"}, "device_id"),
        ("cohorts", {"device_id": "a\ud800b"}, "device_id"),
        ("cohorts", {"user_id": "u", "cohort_id": "a," + "b" * 513}, "cohort_id"),
        ("cohorts", {"user_id": "u", "cohort_id": ",".join(map(str, range(21)))}, "cohort_id"),
        ("recommendations", {"user_id": "u", "rec_id": ["a,b"]}, "rec_id"),
        ("properties", {"user_id": "u", "keys": [["a"]]}, "keys"),
        ("properties", {"user_id": "u", "keys": {"a": 1}}, "keys"),
        ("properties", {"user_id": True}, "user_id"),
        ("properties", {"user_id": None}, "user_id"),
        ("properties", {"user_id": ["u"]}, "user_id"),
    ],
)
def test_a_mistake_is_refused_by_the_name_of_its_parameter(
    section: Section | None, parameters: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(BadRequest, match=parameter):
        ask(section, **parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"user_id": "u" * 513}, "user_id is too long: 512 characters at most"),
        ({"keys": "a," + "b" * 513}, "an entry of keys is too long: 512 characters at most"),
        ({"user_id": "a%\x00b"}, "user_id holds a control character: remove it"),
        ({"keys": "a,b\x7fc"}, "an entry of keys holds a control character: remove it"),
        ({"user_id": "a\ud800b"}, "user_id is not valid Unicode: encode it as UTF-8"),
        ({"rec_id": ["a,b"]}, "rec_id has an entry with a comma, which Amplitude would read as two: send two entries"),
    ],
)
def test_a_refusal_names_the_entry_and_the_mend(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as error:
        ask(None, **({"user_id": "u", "include": "properties,recommendations", "rec_id": "a"} | parameters))
    assert error.value.detail == message


def test_what_json_does_not_know_is_refused_with_a_mend() -> None:
    with pytest.raises(BadRequest, match="not JSON: send a number or a text, or leave the key out"):
        from_json(b'{"user_id": "u", "cb": NaN}')


@pytest.mark.contract("1 parameters")
@pytest.mark.contract("1 lists")
def test_exactly_512_characters_and_20_entries_are_taken() -> None:
    request = ask("cohorts", user_id=" " + "é" * 512, cohort_id=",".join(map(str, range(20))) + ",0,,1")
    assert len(request.query.cohort_ids) == 20


@pytest.mark.contract("1 repeated parameters")
def test_a_known_parameter_given_twice_is_refused_even_when_equal() -> None:
    with pytest.raises(BadRequest, match="more than once"):
        parse("cohorts", [("user_id", "u"), ("user_id", "u")])


@pytest.mark.contract("1 json bodies")
def test_json_numbers_keep_their_text_and_arrays_their_commas() -> None:
    body = b'{"user_id": 00012e3, "keys": ["a,b", 1.50]}'.replace(b"00012e3", b"12345678901234567890.0")
    request = parse("properties", from_json(body))
    assert request.identity.user_id == "12345678901234567890.0"
    assert request.query.keys == ("a,b", "1.50")


@pytest.mark.contract("1 json bodies")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'"text"',
        b"null",
        b'{"user_id": "a", "user_id": "a"}',
        b'{"x": {"y": 1, "y": 2}}',
        b'{"user_id": NaN}',
        b'{"user_id": "\xff"}',
        b"[" * 16000,
    ],
)
def test_a_body_that_is_not_one_plain_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        from_json(body)


names = st.sampled_from(["user_id", "device_id", "rec_id", "rec_type", "keys", "cohort_id", "include", "on_error"])
sections = st.sampled_from(["recommendations", "properties", "cohorts", None])


@pytest.mark.contract("1 json bodies")
@given(sections, st.dictionaries(names | st.text(max_size=5), json_values(6)))
def test_any_json_object_is_understood_or_refused_and_a_refusal_repeats_no_value(
    section: Section | None, document: dict[str, Any]
) -> None:
    try:
        request = parse(section, from_json(json.dumps(document).encode()))
    except BadRequest as error:
        message = error.detail
    else:
        for text in (
            *request.query.rec_ids,
            *request.query.keys,
            *request.query.cohort_ids,
            *filter(None, request.identity),
        ):
            assert text == text.strip()
            assert 0 < len(text) <= 512
        return
    assert not any(isinstance(value, str) and len(value) > 20 and value in message for value in document.values())
