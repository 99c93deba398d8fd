"""Parsing of request parameters."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.errors import BadRequest
from proxy.api.json_body import from_json
from proxy.api.parse import parse
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Section, recommendation
from proxy.profile.query import ProfileQuery, ProfileRequest
from tests.support.json_values import json_values


def ask(section: Section | None, **parameters: Any) -> ProfileRequest:
    return parse(section, parameters.items())


def test_parse__profile_sections__parts_in_the_order_of_errors() -> None:
    request = ask(None, user_id="u", include="cohorts,recommendations,properties", rec_id="b,a", rec_type="model")
    assert request.query.parts == (recommendation("b", "model"), recommendation("a", "model"), PROPERTIES, COHORTS)


@pytest.mark.contract("1 profile")
def test_parse__ids_of_a_section_not_included__section_is_not_requested() -> None:
    assert ask(None, user_id="u", include="cohorts", rec_id="a").query.parts == (COHORTS,)


@pytest.mark.contract("1 parameters")
@pytest.mark.contract("1 identity")
def test_parse__white_space_in_ids__trimmed_and_blank_ids_dropped() -> None:
    assert ask("cohorts", user_id=" \n u\t", device_id="  ").identity == Identity("u", None)


@pytest.mark.parametrize("id", ["a\u200bb", "a\u00adb", "\U0001fae9", "\ue000"])
def test_parse__invisible_characters_in_an_id__kept(id: str) -> None:
    assert parse("cohorts", {"user_id": id}.items()).identity.user_id == id


@pytest.mark.contract("1 lists")
def test_parse__list__trimmed_in_order_without_blanks_and_repeats() -> None:
    assert ask("recommendations", user_id="u", rec_id=" b ,,a,b,\n").query.rec_ids == ("b", "a")


@pytest.mark.parametrize("parameters", [{"user_id": ""}, {"device_id": " "}, {"user_id": "\n", "device_id": ""}])
def test_parse__blank_id__anonymous(parameters: dict[str, str]) -> None:
    assert ask("cohorts", **parameters).anonymous


@pytest.mark.contract("1 repeated parameters")
def test_parse__unknown_parameter_repeated_or_malformed__ignored() -> None:
    parameters = [("user_id", "u"), ("cb", "1"), ("cb", "\x00"), ("rec_id", "x" * 999), ("rec_id", "y")]
    assert parse("cohorts", parameters) == ProfileRequest(Identity("u", None), ProfileQuery(("cohorts",)))


def test_parse__same_query_for_another_user__query_is_reused() -> None:
    first = ask(None, user_id="u", include="cohorts,properties", cohort_id="a, b")
    again = ask(None, user_id="v", include="cohorts,properties", cohort_id="a, b")
    assert again.query is first.query
    assert again.identity != first.identity
    assert ask(None, user_id="u", include="cohorts,properties", cohort_id="a").query != first.query


def test_parse__query_too_long_to_remember__parsed_each_time() -> None:
    keys = ",".join(f"{number:0512}" for number in range(3))
    assert ask("properties", user_id="u", keys=keys).query is not ask("properties", user_id="u", keys=keys).query
    assert ask("properties", user_id="u", keys=keys).query.keys == tuple(keys.split(","))


@pytest.mark.parametrize("blank", ["", " "])
def test_parse__blank_optional_parameter__counts_as_absent(blank: str) -> None:
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
def test_parse__invalid_request__error_names_the_parameter(
    section: Section | None, parameters: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(BadRequest, match=parameter):
        ask(section, **parameters)


@pytest.mark.parametrize(
    ("parameters", "field", "words"),
    [
        ({"user_id": "u" * 513}, "user_id", ["512"]),
        ({"keys": "a," + "b" * 513}, "keys", ["entry", "512"]),
        ({"user_id": "a%\x00b"}, "user_id", ["control character"]),
        ({"keys": "a,b\x7fc"}, "keys", ["entry", "control character"]),
        ({"user_id": "a\ud800b"}, "user_id", ["UTF-8"]),
        ({"rec_id": ["a,b"]}, "rec_id", ["entry", "comma"]),
    ],
)
def test_parse__invalid_value_or_entry__error_names_the_field_and_the_fix(
    parameters: dict[str, Any], field: str, words: list[str]
) -> None:
    with pytest.raises(BadRequest) as error:
        ask(None, **({"user_id": "u", "include": "properties,recommendations", "rec_id": "a"} | parameters))
    assert error.value.detail.startswith(f"{field} ")
    assert not any(str(value) in error.value.detail for value in parameters.values()), "the value is repeated"
    assert [word for word in words if word not in error.value.detail] == []


def test_from_json__nan__error_names_the_fix() -> None:
    with pytest.raises(BadRequest, match=r"NaN .* omit the key"):
        from_json(b'{"user_id": "u", "cb": NaN}')


@pytest.mark.contract("1 parameters")
@pytest.mark.contract("1 lists")
def test_parse__512_characters_and_20_entries__accepted() -> None:
    request = ask("cohorts", user_id=" " + "é" * 512, cohort_id=",".join(map(str, range(20))) + ",0,,1")
    assert len(request.query.cohort_ids) == 20


@pytest.mark.contract("1 repeated parameters")
def test_parse__known_parameter_twice_with_one_value__refused() -> None:
    with pytest.raises(BadRequest, match="more than once") as error:
        parse("cohorts", [("user_id", "u"), ("user_id", "u")])
    assert (error.value.code, error.value.parameter) == ("repeated_parameter", "user_id")


@pytest.mark.contract("1 json bodies")
def test_from_json__numbers_and_commas_in_arrays__kept_as_written() -> None:
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
def test_from_json__not_one_plain_object__refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        from_json(body)


names = st.sampled_from(["user_id", "device_id", "rec_id", "rec_type", "keys", "cohort_id", "include", "on_error"])
sections = st.sampled_from(["recommendations", "properties", "cohorts", None])


@pytest.mark.contract("1 json bodies")
@given(sections, st.dictionaries(names | st.text(max_size=5), json_values(6)))
def test_parse__any_json_object__parsed_or_refused_without_repeating_a_value(
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


def test_from_json__byte_order_mark__ignored() -> None:
    assert from_json(b'\xef\xbb\xbf{"user_id": "u"}') == [("user_id", "u")]
