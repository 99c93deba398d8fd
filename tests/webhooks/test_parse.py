"""Amplitude's payloads, read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.api.errors import BadRequest
from proxy.profile.updates import REMOVED, UNKNOWN, ParsedUpdates, parse_updates
from proxy.webhooks.parse import Batch, read_cohorts, read_users
from tests.webhooks.test_envelope import JSON, nothing

NOW = 1_700_000_000.0
AT = 1_692_206_763.0
COHORT: dict[str, Any] = {
    "cohort_name": "My Test Cohort",
    "cohort_id": "7khm89cz",
    "in_cohort": True,
    "computed_time": "1692206763",
    "message_id": "9baaa88f-9d46-4ee5-a946-be0c6aea0046::enter::0",
    "users": [{"user_id": "user_one@example.com"}, {"user_id": "user_two@example.com"}],
}


def cohorts(**others: Any) -> Batch:
    body = {name: value for name, value in {**COHORT, **others}.items() if value is not ...}
    return read_cohorts(json.dumps(body).encode(), NOW, nothing)


def users(body: Any) -> Batch:
    return read_users(json.dumps(body).encode(), NOW, nothing)


def of(batch: Batch) -> dict[str, ParsedUpdates]:
    return {user_id: parse_updates(pushed) for user_id, pushed in batch.updates}


def test_the_default_payload_of_a_cohort_is_read() -> None:
    batch = cohorts()
    assert {user: one.cohorts for user, one in of(batch).items()} == {
        "user_one@example.com": {"7khm89cz": (AT, True)},
        "user_two@example.com": {"7khm89cz": (AT, True)},
    }
    assert (batch.skipped.total(), batch.unapplied) == (0, 0)


def test_properties_that_go_along_with_a_cohort_are_some_of_the_user_s() -> None:
    given = {"name": "John Doe", "gp:city": "Łódź", "points": 4.5, "vip": True, "gone": None, "list": ["a", 1]}
    (found,) = of(cohorts(users=[{"user_id": "u", "user_properties": given}])).values()
    assert found.properties == {
        "name": (AT, b'"John Doe"'),
        "city": (AT, '"Łódź"'.encode()),
        "points": (AT, b"4.5"),
        "vip": (AT, b"true"),
        "gone": (AT, b"null"),
        "list": (AT, b'["a",1]'),
    }
    assert found.whole_at is None


@pytest.mark.parametrize(("given", "is_in"), [(True, True), (False, False), ("true", True), ("False", False)])
def test_in_cohort_may_be_text_as_a_template_without_c_writes_it(given: Any, is_in: bool) -> None:
    assert {one.cohorts["7khm89cz"][1] for one in of(cohorts(in_cohort=given)).values()} == {is_in}


@pytest.mark.parametrize(
    ("time", "at"),
    [
        ("1692206763", AT),
        (1692206763, AT),
        (1692206763123, AT + 0.123),
        ("1692206763123", AT + 0.123),
        (1692206763123000, AT + 0.123),
        ("2023-08-16 17:26:03.123", AT + 0.123),
        ("2023-08-16T17:26:03Z", AT),
        ("2023-08-16T19:26:03+02:00", AT),
        (" 1692206763 ", AT),
    ],
)
def test_a_time_is_read_in_every_form_that_amplitude_has(time: Any, at: float) -> None:
    (found,) = of(users({"user_id": "u", "event_time": time, "user_properties": {"a": 1}})).values()
    assert found.latest == pytest.approx(at, abs=1e-6)


def test_an_event_without_a_time_is_as_old_as_a_retry_may_be_and_else_of_the_first_it_has() -> None:
    (found,) = of(users({"user_id": "u", "user_properties": {"a": 1}})).values()
    assert found.latest == NOW - 4 * 3600
    (found,) = of(
        users({"user_id": "u", "event_time": "", "time": 1692206763000, "user_properties": {"a": 1}})
    ).values()
    assert found.latest == AT


def test_nothing_was_so_later_than_amplitude_heard_of_it_or_than_it_came() -> None:
    event = {"user_id": "u", "client_event_time": NOW + 300, "user_properties": {"a": 1}}
    (found,) = of(users(event | {"server_received_time": NOW - 5})).values()
    assert found.latest == NOW - 5
    (found,) = of(users(event | {"event_time": NOW + 300, "server_upload_time": NOW - 5})).values()
    assert found.latest == NOW - 5
    (found,) = of(users(event)).values()
    assert found.latest == NOW
    assert of(cohorts(computed_time=NOW + 300))["user_one@example.com"].cohorts == {"7khm89cz": (NOW, True)}


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ({"cohort_id": ...}, "cohort_id"),
        ({"cohort_id": " "}, "cohort_id"),
        ({"cohort_id": True}, "cohort_id"),
        ({"in_cohort": ...}, "in_cohort"),
        ({"in_cohort": "yes"}, "in_cohort"),
        ({"computed_time": ...}, "computed_time"),
        ({"computed_time": "yesterday"}, "computed_time"),
        ({"computed_time": 0}, "computed_time"),
        ({"computed_time": True}, "computed_time"),
        ({"users": ...}, "users"),
        ({"users": {}}, "users"),
    ],
)
def test_what_is_wrong_with_all_of_a_cohort_is_refused_by_its_name_and_with_the_mend(
    others: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        cohorts(**others)
    assert refused.value.detail.startswith(named)
    assert "to the template" in refused.value.detail


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff", b'{"a": NaN}', b"{} {}"])
def test_a_cohort_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_cohorts(body, NOW, nothing)


@pytest.mark.parametrize("body", [b"", b"{", b"3", b'"u"', b"null", b'{"users": 3}', b'{"users": null}'])
def test_users_that_are_none_are_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_users(body, NOW, nothing)


def test_a_user_that_cannot_be_read_is_counted_by_reason_and_the_rest_taken() -> None:
    batch = cohorts(
        users=[
            {"user_id": "u"},
            {},
            {"user_id": None},
            {"user_id": ""},
            {"user_id": "a\nb"},
            {"user_id": "x" * 513},
            {"user_id": ["u"]},
            {"user_id": True},
            "u",
            {"user_id": 12345},
            {"user_id": " v ", "user_properties": "none"},
        ]
    )
    assert list(of(batch)) == ["u", "12345", "v"]
    assert batch.skipped == {"no_user_id": 3, "unreadable_user_id": 4, "not_an_object": 1}
    assert batch.unapplied == 1


def test_what_is_said_to_be_of_tomorrow_is_passed_over_or_it_would_win_for_ever() -> None:
    batch = cohorts(computed_time=str(int(NOW) + 86_400))
    assert (batch.updates, batch.skipped) == ([], {"time_ahead": 2})
    assert cohorts(computed_time=str(int(NOW) + 60)).skipped.total() == 0
    assert users({"user_id": "u", "event_time": "2999-01-01", "user_properties": {"a": 1}}).skipped == {"time_ahead": 1}
    assert users({"user_id": "u", "event_time": "soon", "user_properties": {"a": 1}}).skipped == {"unreadable_time": 1}


def test_amplitude_s_operators_are_applied_where_they_can_be_and_counted_where_not() -> None:
    batch = users(
        {
            "user_id": "u",
            "event_time": "1692206763",
            "user_properties": {
                "plain": 1,
                "$set": {"gp:a": "A", "b": [1]},
                "$unset": {"c": "-"},
                "$setOnce": {"first": "x"},
                "$add": {"count": 1, "sum": 2},
                "$append": {"list": "x"},
                "$remove": "nonsense",
                "$email": "is no operator",
            },
        }
    )
    (found,) = of(batch).values()
    assert {name: value for name, (_, value) in found.properties.items()} == {
        "plain": b"1",
        "a": b'"A"',
        "b": b"[1]",
        "c": REMOVED,
        "count": UNKNOWN,
        "sum": UNKNOWN,
        "list": UNKNOWN,
        "$email": b'"is no operator"',
    }
    assert batch.unapplied == 5
    assert found.whole_at is None


def test_clearing_all_ends_what_was_said_before_but_makes_nothing_whole() -> None:
    batch = users({"user_id": "u", "event_time": AT, "user_properties": {"$clearAll": "-", "$set": {"a": 1}}})
    ((_, pushed),) = batch.updates
    assert parse_updates(pushed).whole_at is None
    assert parse_updates(pushed).properties == {"a": (AT, b"1")}
    assert b"f" in pushed


def test_a_set_is_whole_only_where_that_is_said_and_never_with_operators() -> None:
    event = {"user_id": "u", "event_time": AT, "user_properties": {"a": 1}}
    assert parse_updates(users(event).updates[0][1]).whole_at is None
    for word in (True, "true"):
        assert parse_updates(users(event | {"whole": word}).updates[0][1]).whole_at == AT
    assert parse_updates(users(event | {"whole": "no"}).updates[0][1]).whole_at is None
    changed = event | {"whole": True, "user_properties": {"$set": {"a": 1}}}
    assert parse_updates(users(changed).updates[0][1]).whole_at is None


def test_events_come_alone_or_several_at_once() -> None:
    one = {"user_id": "u", "user_properties": {"a": 1}}
    other = {"user_id": "v", "user_properties": {"a": 1}}
    bodies = ([one, other], {"users": [one, other]}, {"events": [one, other]}, {"identification": [one, other]})
    for body in bodies:
        assert list(of(users(body))) == ["u", "v"]
    assert list(of(users({"identification": one}))) == ["u"]
    assert users([one, 3]).skipped == {"not_an_object": 1}
    assert users({"device_id": "d", "user_properties": {"a": 1}}).skipped == {"no_user_id": 1}
    assert users({"user_id": "u", "event_type": "click"}).skipped == {"no_properties": 1}
    assert users({"user_id": "u", "user_properties": {}}).skipped == {"nothing_to_apply": 1}


def test_a_message_is_known_by_what_amplitude_calls_it() -> None:
    event = {"user_id": "u", "user_properties": {"a": 1}}
    assert users(event).message is None
    assert users(event | {"uuid": "1"}).message == users(event | {"uuid": "1"}).message is not None
    assert users(event | {"uuid": "1"}).message != users(event | {"uuid": "2"}).message
    assert users({"users": [event], "uuid": "1"}).message is None
    assert cohorts().message == cohorts().message is not None
    assert cohorts().message != cohorts(in_cohort=False).message, "should a template of one's own repeat an id"
    assert cohorts(message_id="").message is None


@pytest.mark.contract("3 webhook order")
def test_the_same_id_of_another_user_or_of_other_users_is_another_message() -> None:
    event = {"insert_id": "signup", "user_properties": {"a": 1}}
    assert users(event | {"user_id": "u"}).message != users(event | {"user_id": "v"}).message
    assert cohorts().message != cohorts(users=[{"user_id": "other"}]).message


@settings(deadline=None)
@given(JSON | st.fixed_dictionaries(dict.fromkeys(COHORT, JSON)))
def test_any_json_is_read_or_refused_and_a_refusal_repeats_no_value(value: Any) -> None:
    body = json.dumps(value).encode()
    for read in (read_cohorts, read_users):
        try:
            batch = read(body, NOW, nothing)
        except BadRequest as error:
            refused = error.detail
        else:
            refused = ""
            assert all(user_id.strip() == user_id != "" for user_id, _ in batch.updates)
        assert len(refused) < 200
