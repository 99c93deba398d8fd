"""Reading Amplitude's payloads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.api.errors import BadRequest
from proxy.profile.updates import REMOVED, UNKNOWN, ParsedUpdates, parse_updates
from proxy.webhooks.parse import Batch, read_cohorts, read_users
from tests.webhooks.test_envelope import JSON, no_pause

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


def cohorts(**changes: Any) -> Batch:
    body = {name: value for name, value in {**COHORT, **changes}.items() if value is not ...}
    return read_cohorts(json.dumps(body).encode(), NOW, no_pause)


def users(body: Any) -> Batch:
    return read_users(json.dumps(body).encode(), NOW, no_pause)


def known_by_user(batch: Batch) -> dict[str, ParsedUpdates]:
    return {user_id: parse_updates(pushed) for user_id, pushed in batch.updates}


def test_read_cohorts__default_payload__each_user_is_a_member() -> None:
    batch = cohorts()
    assert {user: updates.cohorts for user, updates in known_by_user(batch).items()} == {
        "user_one@example.com": {"7khm89cz": (AT, True)},
        "user_two@example.com": {"7khm89cz": (AT, True)},
    }
    assert (batch.skipped.total(), batch.unapplied) == (0, 0)


def test_read_cohorts__user_properties__read_as_a_partial_set() -> None:
    values = {"name": "John Doe", "gp:city": "Łódź", "points": 4.5, "vip": True, "empty": None, "list": ["a", 1]}
    (result,) = known_by_user(cohorts(users=[{"user_id": "u", "user_properties": values}])).values()
    assert result.properties == {
        "name": (AT, b'"John Doe"'),
        "city": (AT, '"Łódź"'.encode()),
        "points": (AT, b"4.5"),
        "vip": (AT, b"true"),
        "empty": (AT, b"null"),
        "list": (AT, b'["a",1]'),
    }
    assert result.whole_at is None


@pytest.mark.parametrize(("value", "is_in"), [(True, True), (False, False), ("true", True), ("False", False)])
def test_read_cohorts__in_cohort_as_text__read_as_a_boolean(value: Any, is_in: bool) -> None:
    assert {user.cohorts["7khm89cz"][1] for user in known_by_user(cohorts(in_cohort=value)).values()} == {is_in}


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
def test_read_users__time_in_any_format_of_amplitude__read(time: Any, at: float) -> None:
    (result,) = known_by_user(users({"user_id": "u", "event_time": time, "user_properties": {"a": 1}})).values()
    assert result.latest == pytest.approx(at, abs=1e-6)


def test_read_users__no_event_time__next_time_field_or_four_hours_ago() -> None:
    (result,) = known_by_user(users({"user_id": "u", "user_properties": {"a": 1}})).values()
    assert result.latest == NOW - 4 * 3600
    (result,) = known_by_user(
        users({"user_id": "u", "event_time": "", "time": 1692206763000, "user_properties": {"a": 1}})
    ).values()
    assert result.latest == AT


def test_read__time_in_the_future__limited_to_the_time_of_receipt() -> None:
    event = {"user_id": "u", "client_event_time": NOW + 300, "user_properties": {"a": 1}}
    (result,) = known_by_user(users(event | {"server_received_time": NOW - 5})).values()
    assert result.latest == NOW - 5
    (result,) = known_by_user(users(event | {"event_time": NOW + 300, "server_upload_time": NOW - 5})).values()
    assert result.latest == NOW - 5
    (result,) = known_by_user(users(event)).values()
    assert result.latest == NOW
    assert known_by_user(cohorts(computed_time=NOW + 300))["user_one@example.com"].cohorts == {"7khm89cz": (NOW, True)}


@pytest.mark.parametrize(
    ("changes", "field"),
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
def test_read_cohorts__missing_or_wrong_field__refused_with_its_name_and_a_hint(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        cohorts(**changes)
    assert refused.value.detail.startswith(field)
    assert "to the template" in refused.value.detail


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff", b'{"a": NaN}', b"{} {}"])
def test_read_cohorts__body_is_not_one_object__refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_cohorts(body, NOW, no_pause)


@pytest.mark.parametrize("body", [b"", b"{", b"3", b'"u"', b"null", b'{"users": 3}', b'{"users": null}'])
def test_read_users__body_without_users__refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_users(body, NOW, no_pause)


def test_read_cohorts__invalid_users__counted_by_reason_and_other_users_read() -> None:
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
            {"user_id": "v", "user_properties": "none"},
            {"user_id": " u"},
            {"user_id": "u\u00a0"},
            {"user_id": "  "},
        ]
    )
    assert list(known_by_user(batch)) == ["u", "12345", "v"]
    assert batch.skipped == {"no_user_id": 3, "unreadable_user_id": 7, "not_an_object": 1}
    assert batch.unapplied == 1


def test_read__time_far_ahead_or_unreadable__skipped_with_the_reason() -> None:
    batch = cohorts(computed_time=str(int(NOW) + 86_400))
    assert (batch.updates, batch.skipped) == ([], {"time_ahead": 2})
    assert cohorts(computed_time=str(int(NOW) + 60)).skipped.total() == 0
    assert users({"user_id": "u", "event_time": "2999-01-01", "user_properties": {"a": 1}}).skipped == {"time_ahead": 1}
    assert users({"user_id": "u", "event_time": "soon", "user_properties": {"a": 1}}).skipped == {"unreadable_time": 1}


def test_read__text_values__have_the_types_of_the_profile_api_unless_listed() -> None:
    values = {"points": "12", "vip": "true", "gp:zip": "2134", "tags": '["a"]', "kept": 7, "name": "Ava"}
    typed = {"points": b"12", "vip": b"true", "zip": b'"2134"', "tags": b'["a"]', "kept": b"7", "name": b'"Ava"'}
    operators = {"$set": values}
    cohort = {"cohort_id": "c31", "in_cohort": True, "computed_time": NOW}
    for properties in (values, operators):
        user = {"user_id": "ava", "user_properties": properties}
        batches = (
            read_users(json.dumps(user).encode(), NOW, no_pause, frozenset({"zip"})),
            read_cohorts(json.dumps(cohort | {"users": [user]}).encode(), NOW, no_pause, frozenset({"zip"})),
        )
        for batch in batches:
            updates = parse_updates(batch.updates[0][1])
            assert {name: value for name, (_, value) in updates.properties.items()} == typed


def test_read_users__operators__applied_or_counted_as_unapplied() -> None:
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
    (result,) = known_by_user(batch).values()
    assert {name: value for name, (_, value) in result.properties.items()} == {
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
    assert result.whole_at is None


def test_read_users__clear_all__removes_earlier_values_but_is_not_whole() -> None:
    batch = users({"user_id": "u", "event_time": AT, "user_properties": {"$clearAll": "-", "$set": {"a": 1}}})
    ((_, pushed),) = batch.updates
    assert parse_updates(pushed).whole_at is None
    assert parse_updates(pushed).properties == {"a": (AT, b"1")}
    assert b"f" in pushed


def test_read_users__whole_flag__complete_set_unless_operators_are_used() -> None:
    event = {"user_id": "u", "event_time": AT, "user_properties": {"a": 1}}
    assert parse_updates(users(event).updates[0][1]).whole_at is None
    for word in (True, "true"):
        assert parse_updates(users(event | {"whole": word}).updates[0][1]).whole_at == AT
    assert parse_updates(users(event | {"whole": "no"}).updates[0][1]).whole_at is None
    changed = event | {"whole": True, "user_properties": {"$set": {"a": 1}}}
    assert parse_updates(users(changed).updates[0][1]).whole_at is None


def test_read_users__single_event_or_list__read_and_skips_counted() -> None:
    event_u = {"user_id": "u", "user_properties": {"a": 1}}
    event_v = {"user_id": "v", "user_properties": {"a": 1}}
    both = [event_u, event_v]
    bodies = (both, {"users": both}, {"events": both}, {"identification": both})
    for body in bodies:
        assert list(known_by_user(users(body))) == ["u", "v"]
    assert list(known_by_user(users({"identification": event_u}))) == ["u"]
    assert users([event_u, 3]).skipped == {"not_an_object": 1}
    assert users({"device_id": "d", "user_properties": {"a": 1}}).skipped == {"no_user_id": 1}
    assert users({"user_id": "u", "event_type": "click"}).skipped == {"no_properties": 1}
    assert users({"user_id": "u", "user_properties": {}}).skipped == {"nothing_to_apply": 1}


def test_message__id_in_the_payload__identifies_repeated_messages() -> None:
    event = {"user_id": "u", "user_properties": {"a": 1}}
    assert users(event).message is None
    assert users(event | {"uuid": "1"}).message == users(event | {"uuid": "1"}).message is not None
    assert users(event | {"uuid": "1"}).message != users(event | {"uuid": "2"}).message
    assert users({"users": [event], "uuid": "1"}).message is None
    assert cohorts().message == cohorts().message is not None
    assert cohorts().message != cohorts(in_cohort=False).message, "a custom template may repeat an id"
    assert cohorts(message_id="").message is None


@pytest.mark.contract("3 webhook order")
def test_message__same_id_with_other_users__different_message() -> None:
    event = {"insert_id": "signup", "user_properties": {"a": 1}}
    assert users(event | {"user_id": "u"}).message != users(event | {"user_id": "v"}).message
    assert cohorts().message != cohorts(users=[{"user_id": "other"}]).message


@settings(deadline=None)
@given(JSON | st.fixed_dictionaries(dict.fromkeys(COHORT, JSON)))
def test_read__any_json__read_or_refused_with_a_short_message(value: Any) -> None:
    body = json.dumps(value).encode()
    for read in (read_cohorts, read_users):
        try:
            batch = read(body, NOW, no_pause)
        except BadRequest as error:
            refused = error.detail
        else:
            refused = ""
            assert all(user_id.strip() == user_id != "" for user_id, _ in batch.updates)
        assert len(refused) < 200


@pytest.mark.parametrize("cohort_id", ["c ", "\u00a0c", " "])
def test_cohort_id__white_space_at_an_end__refused(cohort_id: str) -> None:
    body = {"cohort_id": cohort_id, "in_cohort": True, "computed_time": NOW, "users": []}
    with pytest.raises(BadRequest, match=r"cohort_id .*white space"):
        read_cohorts(json.dumps(body).encode(), NOW, lambda: None)
