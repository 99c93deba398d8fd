"""The plan of changes: which values are sent, and which runs remove too much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from proxy.storage.accepted_values import KEY_BYTES, AcceptedValue, ValueDigester
from proxy.sync.changes import ChangePlanner, UserAttributes, too_many_removals
from proxy.sync.delivery import Change

DIGESTER = ValueDigester(b"k" * KEY_BYTES)


def planner(*, resend_unchanged: bool = False) -> ChangePlanner:
    return ChangePlanner(DIGESTER.value, resend_unchanged=resend_unchanged)


def last(at: float = 100.0, **values: object) -> dict[str, AcceptedValue]:
    return {name: AcceptedValue(DIGESTER.value(value), at) for name, value in values.items()}


def attributes(change: Change | None) -> Mapping[str, Any]:
    return {} if change is None else change.attributes


CASES: list[tuple[str, dict[str, Any], dict[str, AcceptedValue], dict[str, Any], dict[str, Any]]] = [
    # case, desired, accepted, sent, sent with --all
    ("new", {"plan": "gold"}, {}, {"plan": "gold"}, {"plan": "gold"}),
    ("equal", {"plan": "gold"}, last(plan="gold"), {}, {"plan": "gold"}),
    ("equal number", {"points": 3}, last(points=3.0), {}, {"points": 3}),
    ("other type", {"points": "3"}, last(points=3), {"points": "3"}, {"points": "3"}),
    ("changed", {"plan": "gold", "a": 1}, last(plan="silver", a=1), {"plan": "gold"}, {"plan": "gold", "a": 1}),
    ("list in another order", {"tags": ["a", "b"]}, last(tags=["b", "a"]), {"tags": ["a", "b"]}, {"tags": ["a", "b"]}),
    ("false property", {"news": False}, {}, {"news": False}, {"news": False}),
    ("absent and never sent", {"plan": None}, {}, {}, {}),
    ("absent and sent", {"plan": None}, last(plan="gold"), {"plan": None}, {"plan": None}),
    ("absent and null sent", {"plan": None}, last(plan=None), {}, {"plan": None}),
    ("value after null", {"plan": "gold"}, last(plan=None), {"plan": "gold"}, {"plan": "gold"}),
    ("not in the answer", {}, last(plan="gold"), {}, {}),
    ("newer value accepted", {"plan": "gold"}, last(100.5, plan="silver"), {}, {}),
    ("newer value accepted, absent", {"plan": None}, last(100.5, plan="silver"), {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("desired", "accepted", "sent", "sent_by_all"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])  # fmt: skip  # noqa: E501
def test_change__desired_and_accepted_values__only_differences_are_sent(
    desired: dict[str, Any], accepted: dict[str, AcceptedValue], sent: dict[str, Any], sent_by_all: dict[str, Any]
) -> None:
    user = UserAttributes("ava", desired, 100.0)
    assert attributes(planner().change(user, accepted)) == sent
    assert attributes(planner(resend_unchanged=True).change(user, accepted)) == sent_by_all


def test_counts__newer_values_accepted__outdated_unless_equal() -> None:
    plan = planner()
    accepted = last(100.5, plan="silver", points=3, news=True)
    assert plan.change(UserAttributes("ava", {"plan": "gold", "points": 3, "news": None}, 100.0), accepted) is None
    assert plan.departure("ben", "vip", last(100.5, vip=True), 100.0) is None
    assert plan.departure("cleo", "vip", last(100.5, vip=False), 100.0) is None
    assert (plan.counts.outdated, plan.counts.unchanged) == (3, 1)


def test_change__time__is_that_of_the_values() -> None:
    assert planner().change(UserAttributes("ava", {"plan": "gold"}, 123.5), {}) == Change(
        "ava", {"plan": "gold"}, 123.5
    )


def test_counts__several_users__every_value_is_counted_once() -> None:
    plans = planner()
    plans.change(UserAttributes("a", {"plan": "gold", "points": 3, "zip": None}, 100.0), last(plan="gold", zip="1"))
    plans.change(UserAttributes("b", {"plan": "gold"}, 100.0), last(plan="gold"))
    plans.change(UserAttributes("c", {"plan": None, "zip": None}, 100.0), last(plan="gold", zip="1"))
    counts = plans.counts
    assert (counts.users, counts.changed, counts.unchanged, counts.removals) == (2, 4, 2, 2)
    assert counts.saved_percent == 33


def test_change__values_over_the_limits__cut_value_is_compared_and_others_are_left_out() -> None:
    plans = planner()
    text = "x" * 300
    change = plans.change(UserAttributes("a", {"bio": text, "bad": {"a.b": 1}}, 100.0), {})
    assert attributes(change) == {"bio": "x" * 255}
    assert dict(plans.counts.fitted) == {("bio", "text_cut"): 1}
    assert dict(plans.counts.left_out) == {("bad", "key_invalid"): 1}
    assert plans.change(UserAttributes("a", {"bio": text}, 100.0), last(bio="x" * 255)) is None


@pytest.mark.parametrize(
    ("accepted", "sent", "sent_by_all"),
    [
        (last(vip=True), {"vip": False}, {"vip": False}),
        (last(vip=False), {}, {"vip": False}),
        (last(plan="gold"), {}, {}),
        (last(vip="a property of the same name"), {}, {}),
        (last(100.5, vip=True), {}, {}),
    ],
)
def test_departure__user_outside_the_cohort__false_if_true_was_sent(
    accepted: dict[str, AcceptedValue], sent: dict[str, Any], sent_by_all: dict[str, Any]
) -> None:
    assert attributes(planner().departure("ava", "vip", accepted, 100.0)) == sent
    plans = planner(resend_unchanged=True)
    assert attributes(plans.departure("ava", "vip", accepted, 100.0)) == sent_by_all
    assert plans.counts.removals == len(sent_by_all)


@pytest.mark.parametrize(
    ("removals", "state_users", "refused"),
    [(1000, 1000, False), (1001, 5005, False), (1001, 5004, True), (1001, 0, True), (20_000, 100_001, False)],
)
def test_too_many_removals__number_and_share__both_count(removals: int, state_users: int, refused: bool) -> None:
    assert too_many_removals(removals, state_users) is refused
