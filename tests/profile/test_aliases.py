"""Short names: what may be one, which id is asked for it, and what the answer is keyed by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.api.drop_in import parse_drop_in, shape_drop_in
from proxy.api.parse import parse as parse_ask
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
    ask = parse_ask(section, {"user_id": "u", **parameters}.items(), NAMES)
    answer: dict[str, Any] = json.loads(shape(ask, record_of(ask, user_data)))
    return answer


def test_entries_are_kinds_names_and_ids() -> None:
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
def test_an_entry_that_cannot_be_used_is_named(entries: str, fault: str) -> None:
    with pytest.raises(BadValue) as raised:
        parse(entries)
    assert fault in str(raised.value)


def test_every_entry_that_cannot_be_used_is_named() -> None:
    with pytest.raises(BadValue) as raised:
        parse("vip=c31,cohorts.gold=c32,cohorts.gold=c33,computations.x=")
    assert ["(1)" in raised.value.faults[0], "cohorts.gold twice" in raised.value.faults[1]] == [True, True]
    assert "(4)" in raised.value.faults[2]


@pytest.mark.contract("1 aliases")
def test_a_name_asks_for_its_id_and_the_answer_is_keyed_by_what_was_asked() -> None:
    user_values = {
        "recommendations": [{"rec_id": "abc123", "items": ["shoe"]}, {"rec_id": "other", "items": ["hat"]}],
        "cohort_ids": ["c31", "c7"],
        "propensities": [{"pred_id": "pred-1", "prop": 0.5}],
    }
    parameters = {"rec_id": "home,other", "cohort_id": "vip,c7,c31,gone", "prediction_id": "buy"}
    ask = parse_ask(
        None, {"user_id": "u", "include": "recommendations,cohorts,propensities", **parameters}.items(), NAMES
    )
    assert ask.query.parts == (
        recommendation("abc123", None),
        recommendation("other", None),
        COHORTS,
        prediction("pred-1", "score"),
    )
    answer = json.loads(shape(ask, record_of(ask, user_values)))
    assert (answer["rec_id"], answer["items"]) == ("home", ["shoe"])
    assert answer["recommendations_by_id"]["other"]["items"] == ["hat"]
    assert answer["member"] == {"vip": True, "c7": True, "c31": True, "gone": False}
    assert answer["cohort_ids"] == ["vip", "c7", "c31"]
    assert answer["propensities_by_id"]["buy"]["value"] == 0.5


@pytest.mark.parametrize(("cohort_ids", "vip"), [(["c31", "c7"], True), (["c7"], False), ([], False)])
def test_the_name_of_a_cohort_is_a_key_without_being_asked(cohort_ids: list[str], vip: bool) -> None:
    ask = parse_ask("cohorts", {"user_id": "u"}.items(), NAMES)
    answer = json.loads(shape(ask, record_of(ask, {"cohort_ids": cohort_ids})))
    assert answer["member"] == dict.fromkeys(cohort_ids, True) | {"vip": vip}
    assert (answer["cohort_ids"], answer["is_member"]) == (cohort_ids, False)


def test_a_name_and_its_id_are_one_part() -> None:
    ask = parse_ask("recommendations", {"user_id": "u", "rec_id": "home,abc123"}.items(), NAMES)
    assert ask.query.parts == (recommendation("abc123", None),)


def test_a_name_of_one_kind_is_an_id_of_every_other() -> None:
    assert parse_ask("propensities", {"user_id": "u", "prediction_id": "vip"}.items(), NAMES).query.parts == (
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
def test_a_computation_with_a_name_has_its_key_for_a_user_without_it(
    comp_id: str, user_values: dict[str, str] | None, expected: dict[str, Any]
) -> None:
    user_data = None if user_values is None else {"user_id": "u", "amp_props": user_values}
    assert body("computations", user_data, comp_id=comp_id)["computations"] == expected


def test_a_set_of_names_is_the_set_of_their_ids() -> None:
    ask = parse_ask("computations", {"user_id": "u", "comp_id": "spend,orders"}.items(), NAMES)
    assert ask.query.parts == (computations(("comp-1", "a=b")),)


def test_the_drop_in_takes_names_and_answers_amplitude_s_own() -> None:
    ask = parse_drop_in({"user_id": "u", "rec_id": "home"}.items(), NAMES)
    user_values = {"user_id": "u", "recommendations": [{"rec_id": "abc123", "items": ["shoe"]}]}
    assert (
        shape_drop_in(ask, record_of(ask, user_values))["userData"]["recommendations"] == user_values["recommendations"]
    )


def test_a_wish_is_remembered_with_the_names_it_was_made_of() -> None:
    parameters = {"user_id": "u", "rec_id": "home"}
    other = Aliases(parse("recommendations.home=xyz"))
    queries = [parse_ask("recommendations", parameters.items(), names).query for names in (NAMES, other, NAMES)]
    assert queries[0] is queries[2]
    assert queries[0] != queries[1]
    assert [query.parts[0].id for query in queries] == ["abc123", "xyz", "abc123"]
    drop_ins = [parse_drop_in(parameters.items(), names).query for names in (NAMES, other, NAMES)]
    assert drop_ins[0] is drop_ins[2]
    assert [query.parts[0].id for query in drop_ins] == ["abc123", "xyz", "abc123"]
