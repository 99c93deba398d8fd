"""Planning calls, and splitting their responses."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.amplitude.calls import Call, plan_calls, split_response
from proxy.profile.parts import COHORTS, PROPERTIES, SECTIONS, Identity, Part, computations, prediction, recommendation

ALONG = (PROPERTIES, COHORTS)


def test_plan_calls__parts_without_conflicts__one_call() -> None:
    (call,) = plan_calls([recommendation("a"), recommendation("b"), PROPERTIES, COHORTS])
    assert call.parameters(Identity("u", "d")) == {
        "user_id": "u",
        "device_id": "d",
        "get_recs": "true",
        "rec_id": "a,b",
        "get_amp_props": "true",
        "get_cohort_ids": "true",
    }


@pytest.mark.contract("1 recommendations")
def test_plan_calls__recommendations_of_two_types__two_calls_with_the_rest_in_the_first() -> None:
    first, second = plan_calls([recommendation("a", "model"), recommendation("a"), COHORTS])
    assert first.parts == {recommendation("a", "model"), COHORTS}
    assert second.parts == {recommendation("a")}
    assert first.parameters(Identity("u", None))["rec_type"] == "model"
    assert "rec_type" not in second.parameters(Identity("u", None))


def test_plan_calls__extra_parts__added_but_cause_no_call() -> None:
    assert plan_calls([], ALONG) == []
    (call,) = plan_calls([recommendation("a")], ALONG)
    assert call.parts == {recommendation("a"), *ALONG}


def test_plan_calls__no_extra_parts__only_requested_parts() -> None:
    (call,) = plan_calls([COHORTS])
    assert call.parameters(Identity(None, "d")) == {"device_id": "d", "get_cohort_ids": "true"}


def test_plan_calls__properties_and_computations__two_calls() -> None:
    first, second = plan_calls([PROPERTIES, COHORTS, computations(["b", "a"])], ALONG)
    assert first.parts == {PROPERTIES, COHORTS}
    assert second.parameters(Identity("u", None)) == {"user_id": "u", "comp_id": "a,b"}


def test_plan_calls__call_with_computations__extra_properties_are_not_added() -> None:
    (call,) = plan_calls([computations(), recommendation("a")], ALONG)
    assert call.parts == {computations(), recommendation("a"), COHORTS}
    assert call.parameters(Identity("u", None))["get_computations"] == "true"


def test_plan_calls__two_sets_of_computations__two_calls() -> None:
    calls = plan_calls([computations(["a"]), computations(["a", "b"])])
    assert [call.parameters(Identity("u", None))["comp_id"] for call in calls] == ["a", "a,b"]


def test_plan_calls__scores_and_percentiles__two_calls_with_the_rest_in_the_first() -> None:
    requested = [prediction("p"), prediction("q"), prediction("p", "pct"), recommendation("a", "model"), COHORTS]
    first, second = plan_calls(requested)
    assert first.parameters(Identity("u", None)) == {
        "user_id": "u",
        "get_recs": "true",
        "rec_id": "a",
        "rec_type": "model",
        "get_cohort_ids": "true",
        "get_propensity": "true",
        "prediction_id": "p,q",
        "propensity_type": "score",
    }
    assert second.parameters(Identity("u", None))["propensity_type"] == "pct"


parts = st.one_of(
    st.sampled_from([PROPERTIES, COHORTS]),
    st.builds(recommendation, st.sampled_from("abc"), st.sampled_from([None, "model", "random"])),
    st.builds(computations, st.sets(st.sampled_from("xyz"))),
    st.builds(prediction, st.sampled_from("pq"), st.sampled_from(["score", "pct"])),
)


@given(st.lists(parts, unique=True), st.sampled_from([(), ALONG, (COHORTS,)]))
def test_plan_calls__any_parts__each_in_one_call_without_conflicts(
    requested: list[Part], extra_parts: tuple[Part, ...]
) -> None:
    calls = plan_calls(requested, extra_parts)
    planned = [part for call in calls for part in call.parts]
    assert len(planned) == len(set(planned))
    assert set(requested) <= set(planned) <= {*requested, *extra_parts}
    for call in calls:
        assert sum(part == PROPERTIES or part.section == "computations" for part in call.parts) <= 1
        for section in ("recommendations", "propensities"):
            assert len({part.type for part in call.parts if part.section == section}) <= 1


@given(st.lists(parts, unique=True))
def test_plan_calls__any_parts__as_few_calls_as_the_conflicts_allow(requested: list[Part]) -> None:
    types = {section: {part.type for part in requested if part.section == section} for section in SECTIONS}
    amp_props_calls = sum(part == PROPERTIES or part.section == "computations" for part in requested)
    required = [len(types["recommendations"]), len(types["propensities"]), amp_props_calls, bool(requested)]
    assert len(plan_calls(requested)) == max(required)


BOTH = Call(frozenset({recommendation("a"), recommendation("b"), *ALONG}), ("a", "b"))


def test_split_response__null_or_missing_values__empty_values() -> None:
    for data in ({}, {"recommendations": None, "amp_props": None, "cohort_ids": None}):
        values, faulty = split_response(BOTH, data)
        assert values == {recommendation("a"): None, recommendation("b"): None, PROPERTIES: {}, COHORTS: []}
        assert not faulty


def test_split_response__undocumented_types__only_their_parts_are_faulty() -> None:
    values, faulty = split_response(BOTH, {"recommendations": "x", "amp_props": [], "cohort_ids": ["c"]})
    assert values == {COHORTS: ["c"]}
    assert faulty == {recommendation("a"), recommendation("b"), PROPERTIES}


def test_split_response__other_order_and_invalid_entries__entries_are_found_by_id() -> None:
    entries = [{"rec_id": "b", "items": ["2"]}, "odd", {"items": []}, {"rec_id": "a", "items": ["1"]}]
    values, _ = split_response(BOTH, {"recommendations": entries})
    assert values[recommendation("a")]["items"] == ["1"]
    assert values[recommendation("b")]["items"] == ["2"]


def test_split_response__one_entry_without_id__is_the_one_requested_recommendation() -> None:
    (call,) = plan_calls([recommendation("a")])
    values, _ = split_response(call, {"recommendations": [{"items": ["1"]}]})
    assert values[recommendation("a")] == {"items": ["1"]}


@given(st.dictionaries(st.sampled_from(["recommendations", "amp_props", "cohort_ids"]), st.from_type(object)))
def test_split_response__any_data__each_part_is_either_answered_or_faulty(data: dict[str, Any]) -> None:
    values, faulty = split_response(BOTH, data)
    assert values.keys() | faulty == BOTH.parts
    assert not values.keys() & faulty


@pytest.mark.contract("1 propensities")
def test_split_response__propensities__found_by_id_or_a_single_propensity_by_its_field() -> None:
    (call,) = plan_calls([prediction("p", "pct"), prediction("q", "pct")])
    user_data = {"propensity": 1, "propensities": [{"pred_id": "q", "prop": 97, "prop_type": "score"}]}
    assert split_response(call, user_data)[0] == {prediction("p", "pct"): None, prediction("q", "pct"): 97}
    (single,) = plan_calls([prediction("p")])
    assert split_response(single, {"propensity": 0.5})[0] == {prediction("p"): 0.5}
    assert split_response(single, {})[0] == {prediction("p"): None}
    assert split_response(single, {"propensities": "x"})[1] == {prediction("p")}


def test_split_response__computations_were_requested__amp_props_are_computations() -> None:
    (call,) = plan_calls([computations(["a"])])
    assert split_response(call, {"amp_props": {"orders": "3"}}) == ({computations(["a"]): {"orders": "3"}}, set())
