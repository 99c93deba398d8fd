"""Aliases: valid entries, the ids that are fetched, and the keys of the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.api.drop_in import parse_drop_in, shape_drop_in
from proxy.api.parse import parse as parse_request
from proxy.api.response import shape
from proxy.profile.aliases import Alias, Aliases, parse
from proxy.profile.parts import COHORTS, computations, prediction, recommendation
from proxy.profile.values import BadValue
from tests.api.test_response import record_of

NAMES = Aliases(
    parse(
        "recommendations.home=abc123, cohorts.vip=c31, predictions.buy=pred-1,"
        "computations.orders=comp-1,computations.spend=a=b"
    )
)


def body(section: Any, user_data: dict[str, Any] | None, **parameters: str) -> dict[str, Any]:
    request = parse_request(section, {"user_id": "u", **parameters}.items(), NAMES)
    answer: dict[str, Any] = json.loads(shape(request, record_of(request, user_data)))
    return answer


def test_parse__valid_entries__kinds_names_and_ids() -> None:
    assert parse("cohorts.vip=c 31, ,predictions.a_-1=x=y") == (
        Alias("cohorts", "vip", "c 31"),
        Alias("predictions", "a_-1", "x=y"),
    )


@pytest.mark.contract("1 aliases")
@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ("vip=c31", "entry (1)"),
        ("cohorts.vip=c31,cohort.gold=c32", "entry (2)"),
        ("cohorts.my vip=c31", "entry (1)"),
        ("cohorts.1st=c31", "begins with a letter"),
        ("cohorts.vip=", "entry (1)"),
        ("cohorts.vip=a\tb", "control character"),
        ("cohorts.vip=" + "x" * 513, "longer than 512"),
        ("cohorts.vip=c31,cohorts.vip=c31", "cohorts.vip twice"),
    ],
)
def test_parse__invalid_entry__error_names_it(entries: str, fault: str) -> None:
    with pytest.raises(BadValue) as raised:
        parse(entries)
    assert fault in str(raised.value)


def test_parse__several_invalid_entries__each_is_named() -> None:
    with pytest.raises(BadValue) as raised:
        parse("vip=c31,cohorts.gold=c32,cohorts.gold=c33,computations.x=")
    assert ["(1)" in raised.value.faults[0], "cohorts.gold twice" in raised.value.faults[1]] == [True, True]
    assert "(4)" in raised.value.faults[2]


@pytest.mark.contract("1 aliases")
def test_alias__requested__its_id_is_fetched_and_the_answer_has_the_alias() -> None:
    user_values = {
        "recommendations": [{"rec_id": "abc123", "items": ["shoe"]}, {"rec_id": "other", "items": ["hat"]}],
        "cohort_ids": ["c31", "c7"],
        "propensities": [{"pred_id": "pred-1", "prop": 0.5}],
    }
    parameters = {"rec_id": "home,other", "cohort_id": "vip,c7,c31,gone", "prediction_id": "buy"}
    request = parse_request(
        None, {"user_id": "u", "include": "recommendations,cohorts,propensities", **parameters}.items(), NAMES
    )
    assert request.query.parts == (
        recommendation("abc123", None),
        recommendation("other", None),
        COHORTS,
        prediction("pred-1", "score"),
    )
    answer = json.loads(shape(request, record_of(request, user_values)))
    assert (answer["rec_id"], answer["items"]) == ("home", ["shoe"])
    assert answer["recommendations_by_id"]["other"]["items"] == ["hat"]
    assert answer["member"] == {"vip": True, "c7": True, "c31": True, "gone": False}
    assert answer["cohort_ids"] == ["vip", "c7", "c31"]
    assert answer["propensities_by_id"]["buy"]["value"] == 0.5


@pytest.mark.parametrize(("cohort_ids", "vip"), [(["c31", "c7"], True), (["c7"], False), ([], False)])
def test_cohort_alias__all_cohorts_requested__is_a_key_of_member(cohort_ids: list[str], vip: bool) -> None:
    request = parse_request("cohorts", {"user_id": "u"}.items(), NAMES)
    answer = json.loads(shape(request, record_of(request, {"cohort_ids": cohort_ids})))
    assert answer["member"] == dict.fromkeys(cohort_ids, True) | {"vip": vip}
    assert (answer["cohort_ids"], answer["is_member"]) == (cohort_ids, False)


def test_alias__requested_with_its_id__one_part() -> None:
    request = parse_request("recommendations", {"user_id": "u", "rec_id": "home,abc123"}.items(), NAMES)
    assert request.query.parts == (recommendation("abc123", None),)


def test_alias__used_for_another_kind__is_an_id() -> None:
    assert parse_request("propensities", {"user_id": "u", "prediction_id": "vip"}.items(), NAMES).query.parts == (
        prediction("vip", "score"),
    )


@pytest.mark.contract("1 aliases")
@pytest.mark.parametrize(
    ("comp_id", "user_values", "expected"),
    [
        ("orders", {"gp:Number of orders": "3"}, {"orders": 3}),
        ("orders", {}, {"orders": None}),
        ("orders", None, {"orders": None}),
        ("comp-1", {"Number of orders": "3"}, {"Number_of_orders": 3}),
        ("orders,spend", {"orders": "3"}, {"orders": 3, "spend": None}),
        ("orders,other", {"gp:orders": "3", "other": "x"}, {"orders": 3, "other": "x"}),
        ("", {"orders": "3", "zip": "02134"}, {"orders": 3, "zip": "02134", "spend": None}),
    ],
)
def test_computation_alias__user_with_or_without_a_value__key_is_present(
    comp_id: str, user_values: dict[str, str] | None, expected: dict[str, Any]
) -> None:
    user_data = None if user_values is None else {"user_id": "u", "amp_props": user_values}
    assert body("computations", user_data, comp_id=comp_id)["computations"] == expected


def test_computation_aliases__several_requested__set_of_their_ids() -> None:
    request = parse_request("computations", {"user_id": "u", "comp_id": "spend,orders"}.items(), NAMES)
    assert request.query.parts == (computations(("comp-1", "a=b")),)


def test_drop_in__alias_requested__answer_is_amplitudes_own() -> None:
    request = parse_drop_in({"user_id": "u", "rec_id": "home"}.items(), NAMES)
    user_values = {"user_id": "u", "recommendations": [{"rec_id": "abc123", "items": ["shoe"]}]}
    assert (
        shape_drop_in(request, record_of(request, user_values))["userData"]["recommendations"]
        == user_values["recommendations"]
    )


def test_query__same_parameters_again__reused_only_with_the_same_aliases() -> None:
    parameters = {"user_id": "u", "rec_id": "home"}
    other = Aliases(parse("recommendations.home=xyz"))
    queries = [parse_request("recommendations", parameters.items(), names).query for names in (NAMES, other, NAMES)]
    assert queries[0] is queries[2]
    assert queries[0] != queries[1]
    assert [query.parts[0].id for query in queries] == ["abc123", "xyz", "abc123"]
    drop_ins = [parse_drop_in(parameters.items(), names).query for names in (NAMES, other, NAMES)]
    assert drop_ins[0] is drop_ins[2]
    assert [query.parts[0].id for query in drop_ins] == ["abc123", "xyz", "abc123"]


def test_by_kind__some_kinds_without_names__every_kind() -> None:
    assert Aliases(parse("cohorts.vip=c31,cohorts.gold=c32,predictions.buy=p1")).by_kind() == {
        "recommendations": [],
        "cohorts": ["vip", "gold"],
        "computations": [],
        "predictions": ["buy"],
    }
