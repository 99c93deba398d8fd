"""Planning calls, and telling their answers apart."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.parts import COHORTS, PROPERTIES, Identity, Part, recommendation
from proxy.plan import Call, plan, tell_apart

ALONG = (PROPERTIES, COHORTS)


def test_everything_without_a_conflict_is_one_call() -> None:
    (call,) = plan([recommendation("a"), recommendation("b"), PROPERTIES, COHORTS])
    assert call.parameters(Identity("u", "d")) == {
        "user_id": "u",
        "device_id": "d",
        "get_recs": "true",
        "rec_id": "a,b",
        "get_amp_props": "true",
        "get_cohort_ids": "true",
    }


def test_recommendations_of_two_types_need_two_calls_and_the_rest_goes_with_the_first() -> None:
    first, second = plan([recommendation("a", "model"), recommendation("a"), COHORTS])
    assert first.parts == {recommendation("a", "model"), COHORTS}
    assert second.parts == {recommendation("a")}
    assert first.parameters(Identity("u", None))["rec_type"] == "model"
    assert "rec_type" not in second.parameters(Identity("u", None))


def test_what_rides_along_is_never_worth_a_call_of_its_own() -> None:
    assert plan([], ALONG) == []
    (call,) = plan([recommendation("a")], ALONG)
    assert call.parts == {recommendation("a"), *ALONG}


def test_nothing_but_what_was_asked_is_in_a_call_when_nothing_rides_along() -> None:
    (call,) = plan([COHORTS])
    assert call.parameters(Identity(None, "d")) == {"device_id": "d", "get_cohort_ids": "true"}


parts = st.sampled_from([PROPERTIES, COHORTS]) | st.builds(
    recommendation, st.sampled_from("abc"), st.sampled_from([None, "model", "random"])
)


@given(st.lists(parts, unique=True), st.sampled_from([(), ALONG, (COHORTS,)]))
def test_every_part_is_brought_exactly_once_and_no_recommendation_unasked(
    wanted: list[Part], along: tuple[Part, ...]
) -> None:
    calls = plan(wanted, along)
    brought = [part for call in calls for part in call.parts]
    assert len(brought) == len(set(brought))
    assert set(wanted) <= set(brought) <= {*wanted, *along}
    types = {part.type for part in wanted if part.section == "recommendations"}
    assert len(calls) == max(len(types), bool(wanted))


BOTH = Call(frozenset({recommendation("a"), recommendation("b"), *ALONG}), ("a", "b"))


def test_null_and_missing_are_empty_answers() -> None:
    for data in ({}, {"recommendations": None, "amp_props": None, "cohort_ids": None}):
        values, faulty = tell_apart(BOTH, data)
        assert values == {recommendation("a"): None, recommendation("b"): None, PROPERTIES: {}, COHORTS: []}
        assert not faulty


def test_another_type_than_documented_is_no_answer_for_that_part_alone() -> None:
    values, faulty = tell_apart(BOTH, {"recommendations": "x", "amp_props": [], "cohort_ids": ["c"]})
    assert values == {COHORTS: ["c"]}
    assert faulty == {recommendation("a"), recommendation("b"), PROPERTIES}


def test_entries_are_found_by_id_whatever_their_order_and_their_neighbours() -> None:
    entries = [{"rec_id": "b", "items": ["2"]}, "odd", {"items": []}, {"rec_id": "a", "items": ["1"]}]
    values, _ = tell_apart(BOTH, {"recommendations": entries})
    assert values[recommendation("a")]["items"] == ["1"]
    assert values[recommendation("b")]["items"] == ["2"]


def test_a_single_entry_without_id_answers_a_single_question() -> None:
    (call,) = plan([recommendation("a")])
    values, _ = tell_apart(call, {"recommendations": [{"items": ["1"]}]})
    assert values[recommendation("a")] == {"items": ["1"]}


@given(st.dictionaries(st.sampled_from(["recommendations", "amp_props", "cohort_ids"]), st.from_type(object)))
def test_each_part_is_either_answered_or_faulty(data: dict[str, Any]) -> None:
    values, faulty = tell_apart(BOTH, data)
    assert values.keys() | faulty == BOTH.parts
    assert not values.keys() & faulty
