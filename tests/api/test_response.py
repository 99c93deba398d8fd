"""Bodies of answers: cases from files, and rules that hold for any JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.amplitude.calls import plan_calls, split_response
from proxy.api.parse import parse
from proxy.api.response import shape
from proxy.profile import encoding
from proxy.profile.aliases import Aliases
from proxy.profile.aliases import parse as aliases
from proxy.profile.coerce import number
from proxy.profile.json import read_json
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Part, computations
from proxy.profile.query import ProfileQuery, ProfileRequest
from proxy.profile.record import CachedPart, Record
from tests.support.json_values import json_values
from tests.support.shapes import ENVELOPE, SECTION, conforms

CASES = sorted((Path(__file__).parent.parent / "cases").glob("*.json"))
AT = 1_795_000_000.9


def record_of(request: ProfileRequest, user_data: dict[str, Any] | None) -> Record:
    """Return the record that the service stores if every call returns `user_data`. Empty for None."""
    parts: dict[Part, CachedPart] = {}
    if user_data is None:
        return Record()
    for call in plan_calls(request.query.parts):
        values, _ = split_response(call, user_data)
        parts |= {part: CachedPart(encoding.write(value), AT) for part, value in values.items()}
    return Record(parts, None, user_data.get("user_id"), user_data.get("device_id"))


@pytest.mark.contract("1 control group")
@pytest.mark.contract("1 cohorts")
@pytest.mark.contract("1 propensities")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_shape__case_from_a_file__expected_body(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    request = parse(case["route"] if case["route"] != "profile" else None, case["ask"].items())
    body = json.loads(shape(request, record_of(request, case["userData"]), error=case.get("error")))
    assert body == case["body"]
    assert case.keys() <= {"route", "ask", "userData", "error", "body"}, (
        "the case has a key that this test does not use"
    )


def test_case_files__collected__at_least_8() -> None:
    assert len(CASES) >= 8


any_value = json_values(max_text=5)
entries = st.fixed_dictionaries(
    {},
    optional={
        "rec_id": st.sampled_from(["a", "b", 7, None]),
        "child_rec_id": any_value,
        "items": any_value | st.lists(st.text(max_size=3)),
        "is_control": any_value,
        "recommendation_source": any_value,
        "last_updated": any_value,
    },
)
user_datas = st.fixed_dictionaries(
    {},
    optional={
        "recommendations": any_value | st.lists(entries | any_value, max_size=3),
        "amp_props": any_value | st.dictionaries(st.text(max_size=5), any_value),
        "cohort_ids": any_value | st.lists(any_value, max_size=4),
        "propensity": any_value,
        "propensities": any_value | st.lists(st.fixed_dictionaries({"pred_id": st.just("p"), "prop": any_value})),
        "user_id": st.text() | st.none(),
        "device_id": st.text() | st.none(),
    },
)
requests = st.sampled_from(
    [
        {"user_id": "u", "include": "recommendations,properties,cohorts", "rec_id": "a,b"},
        {"user_id": "u", "include": "recommendations", "rec_id": "7"},
        {"user_id": "u", "include": "properties", "keys": "plan,gp:plan,my prop"},
        {"device_id": "d", "include": "cohorts", "cohort_id": "a,b"},
        {"user_id": "u", "include": "computations,propensities", "prediction_id": "p,q", "comp_id": "a"},
        {"user_id": "", "include": "recommendations,properties,cohorts", "rec_id": "a"},
    ]
)


@pytest.mark.contract("1 envelope")
@given(requests, user_datas, st.sampled_from([None, "upstream_timeout"]))
def test_shape__any_json__every_key_with_its_type(
    parameters: dict[str, str], user_data: dict[str, Any], error: str | None
) -> None:
    request = parse(None, parameters.items())
    types = dict(ENVELOPE)
    for section in request.query.sections:
        types |= SECTION[section]
    for record in (record_of(request, user_data), Record(unknown_at=AT), Record()):
        body = read_json(shape(request, record, error=error))
        assert conforms(body, types)


@pytest.mark.parametrize("control", [True, "true", 1, 1.0])
def test_shape__control_group_flag_of_any_type__no_items(control: object) -> None:
    request = parse("recommendations", {"user_id": "u", "rec_id": "a"}.items())
    entry = {"rec_id": "a", "items": ["x"], "is_control": control}
    body = json.loads(shape(request, record_of(request, {"recommendations": [entry]})))
    assert (body["items"], body["is_control"], body["control_items"]) == ([], True, ["x"])


@pytest.mark.contract("1 control group")
@given(requests, user_datas)
def test_shape__any_user_data__no_items_for_the_control_group(
    parameters: dict[str, str], user_data: dict[str, Any]
) -> None:
    request = parse(None, parameters.items())
    for entry in json.loads(shape(request, record_of(request, user_data))).get("recommendations", []):
        assert entry["personalized"] == bool(entry["items"])
        assert not (entry["is_control"] and entry["items"])


texts = st.text(st.sampled_from('a,"\\:é '), max_size=3)


@example(["a", "b"], [","])
@example(["a", '"'], ['"', "a"])
@given(st.lists(texts | st.integers(0, 9), max_size=5), st.lists(texts, min_size=1, max_size=3))
def test_shape__requested_cohorts__member_only_of_the_stored_cohorts(
    stored: list[str | int], requested: list[str]
) -> None:
    request = ProfileRequest(
        Identity("u", None), ProfileQuery(("cohorts",), cohort_ids=tuple(dict.fromkeys(requested)))
    )
    body = json.loads(shape(request, Record({COHORTS: CachedPart(encoding.write(stored), AT)})))
    assert body["member"] == {cohort: cohort in set(map(str, stored)) for cohort in requested}
    assert body["cohort_ids"] == [cohort for cohort in dict.fromkeys(requested) if cohort in set(map(str, stored))]
    assert body["is_member"] is all(body["member"].values())


@pytest.mark.parametrize("keys", [(), ("plan", "nope")])
def test_properties__users_with_the_same_names__each_gets_only_its_own_values(keys: tuple[str, ...]) -> None:
    request = ProfileRequest(Identity("u", None), ProfileQuery(("properties",), keys=keys))
    for plan in ("gold", "silver", None, "gold"):
        record = Record({PROPERTIES: CachedPart(encoding.write({"plan": plan}), AT)})
        assert json.loads(shape(request, record))["properties"] == {"plan": plan} | dict.fromkeys(keys[1:])


@pytest.mark.parametrize("name", ["%", "100%s", "%b", "%%", "{}", "\\", '"'])
def test_properties__name_with_a_special_character__is_returned_as_sent(name: str) -> None:
    request = ProfileRequest(Identity("u", None), ProfileQuery(("properties",)))
    record = Record({PROPERTIES: CachedPart(encoding.write({name: 1, "b": "%b"}), AT)})
    assert json.loads(shape(request, record))["properties_by_name"] == {name: 1, "b": "%b"}


EXACT = [
    b"1e-07",
    b"1e-05",
    b"1e+16",
    b"-0.0",
    b"18446744073709551616",
    b"-9223372036854775809",
    b'"1e999"',
    b"9" * 400,
]


@pytest.mark.parametrize("number", EXACT)
def test_body__number_that_orjson_would_change__stays_as_stored(number: bytes) -> None:
    stored = CachedPart(encoding.write(json.loads(b'{"plan":%b}' % number)), AT)
    request = parse(None, {"user_id": "u", "include": "properties,computations"}.items())
    body = shape(request, Record({PROPERTIES: stored, computations(): stored}))
    assert body.count(b'{"plan":%b}' % number) == 4


def test_body__lone_surrogate_or_large_integer__is_written_by_the_standard_library() -> None:
    entry = {"rec_id": "a", "items": [2**70, "x"], "last_updated": 2**64}
    request = parse("recommendations", {"user_id": "u", "rec_id": "a"}.items())
    user_data = {"user_id": "u\ud800", "recommendations": [entry]}
    body = json.loads(shape(request, record_of(request, user_data)))
    assert (body["user_id"], body["items"], body["last_updated"]) == ("u?", [str(2**70), "x"], 2**64)


def test_shape__alias_equal_to_another_cohort_id__alias_has_priority() -> None:
    request = parse("cohorts", {"user_id": "u"}.items(), Aliases(aliases("cohorts.vip=c1")))
    body = json.loads(shape(request, Record({COHORTS: CachedPart(encoding.write(["vip"]), AT)})))
    assert body["member"] == {"vip": False}


@pytest.mark.parametrize("cohorts", [(), ("a",)])
def test_shape__stored_cohorts_not_a_list__no_cohorts(cohorts: tuple[str, ...]) -> None:
    request = ProfileRequest(Identity("u", None), ProfileQuery(("cohorts",), cohort_ids=cohorts))
    for stored in ({"a": 1}, "a", None, 7):
        body = json.loads(shape(request, Record({COHORTS: CachedPart(encoding.write(stored), AT)})))
        assert (body["cohort_ids"], body["member"]) == ([], dict.fromkeys(cohorts, False))


@pytest.mark.contract("1 liquid-safe names")
@given(
    st.dictionaries(st.text(max_size=6), st.integers()),
    st.lists(st.text(max_size=6, min_size=1), min_size=1, max_size=4),
)
def test_shape__properties_with_and_without_keys__same_names(stored: dict[str, int], keys: list[str]) -> None:
    complete = json.loads(shape(parse("properties", {"user_id": "u"}.items()), record_of_properties(stored)))
    request = ProfileRequest(Identity("u", None), ProfileQuery(("properties",), keys=tuple(dict.fromkeys(keys))))
    limited = json.loads(shape(request, record_of_properties(stored)))
    present = {key for key in request.query.keys if key in stored or f"gp:{key}" in stored}
    assert set(limited["properties_by_name"]) == set(request.query.keys)
    for name, value in limited["properties"].items():
        assert value is None or complete["properties"][name] == value
    assert sum(value is not None for value in limited["properties_by_name"].values()) == len(present)


@pytest.mark.contract("1 computations")
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("3", 3),
        ("0", 0),
        ("-7", -7),
        ("5000000.0", 5000000.0),
        ("1.10", 1.1),
        ("0.0001", 0.0001),
        ("-0.5", -0.5),
        ("123456789012345", 123456789012345),
        ("12345678901234.5", 12345678901234.5),
    ],
)
def test_number__canonical_decimal__converted(stored: str, expected: float) -> None:
    converted = number(stored)
    assert converted == expected
    assert type(converted) is type(expected)


NOT_CANONICAL = "02134,+1,-0,-0.0,1e5,0.00001,NaN,, 1,1\n,1.,.5,1_000,٣,true,1234567890123456,1234567890.123456"


@pytest.mark.contract("1 computations")
@pytest.mark.parametrize("stored", NOT_CANONICAL.split(","))
def test_number__not_canonical__stays_text(stored: str) -> None:
    assert number(stored) == stored
    assert isinstance(number(stored), str)


@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers()).map(str))
def test_number__any_number__value_is_unchanged(stored: str) -> None:
    converted = number(stored)
    assert converted == stored or float(stored) == converted


def record_of_properties(stored: dict[str, int]) -> Record:
    return record_of(parse("properties", {"user_id": "u"}.items()), {"amp_props": stored})
