"""The emulated /users/track, over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import requests

from proxy.sandbox.braze_api import BrazeApi, RateLimitHeader
from proxy.sandbox.braze_objects import parse_time
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from tests.support.fakes import FakeClock

NO_VALID_DATA = "Valid data must be provided in the 'attributes', 'events', or 'purchases' fields."
AVA = {"external_id": "ava"}
EVENT = {**AVA, "name": "order", "time": "2026-11-28T10:00:00Z"}
PURCHASE = {**AVA, "product_id": "shoe", "currency": "EUR", "price": 9.5, "time": "2026-11-28T10:00:00Z"}


def track(sandbox: Sandbox, path: str = "/users/track", key: str | None = None, /, **arrays: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {key or sandbox.braze.key}"}
    return requests.post(sandbox.url + path, json=arrays, headers=headers, timeout=10)


def problem(sandbox: Sandbox, array: str, item: Any) -> str:
    """Send a valid attributes object and `item`, and return the text of the only error."""
    arrays: dict[str, list[Any]] = {"attributes": [{**AVA, "plan": "gold"}]}
    arrays.setdefault(array, []).append(item)
    answer = track(sandbox, **arrays)
    assert answer.status_code == 201
    (error,) = answer.json()["errors"]
    assert (error["input_array"], error["index"]) == (array, len(arrays[array]) - 1)
    assert sandbox.braze.attributes("ava") == {"plan": "gold"}, "the valid object was not processed"
    return str(error["type"])


def test_track__all_arrays__stores_them_and_counts_processed_objects(braze_sandbox: Sandbox) -> None:
    answer = track(
        braze_sandbox,
        attributes=[{**AVA, "plan": "gold", "points": 3}, {**AVA, "points": 4}],
        events=[EVENT],
        purchases=[PURCHASE],
    )
    assert (answer.status_code, answer.json()) == (
        201,
        {"message": "success", "attributes_processed": 1, "events_processed": 1, "purchases_processed": 1},
    )
    assert braze_sandbox.braze.attributes("ava") == {"plan": "gold", "points": 4}
    report = requests.get(f"{braze_sandbox.url}/emulator/braze", timeout=10).json()
    expected = {"requests": 1, "objects": 4, "users": 1, "attributes": 2, "events": 1, "purchases": 1, "fault": None}
    assert expected.items() <= report.items()
    assert report["statuses"] == {"201": 1}
    assert report["data_points_by_attribute"] == {"plan": 1, "points": 2}
    assert report["worst_minute"] == {"requests": 1, "objects": 4}


def test_emulator__details__returns_users_events_purchases_and_requests(braze_sandbox: Sandbox) -> None:
    sent = {"attributes": [{**AVA, "plan": "gold"}], "events": [EVENT], "purchases": [PURCHASE]}
    track(braze_sandbox, **sent)

    def details(name: str) -> requests.Response:
        return requests.get(f"{braze_sandbox.url}/emulator/braze/{name}", timeout=10)

    assert details("users").json() == {"ava": {"plan": "gold"}}
    assert details("events").json() == [EVENT]
    assert details("purchases").json() == [PURCHASE]
    (request,) = details("requests").json()
    assert (request["objects"], request["status"], request["payload"]) == (3, 201, sent)
    assert details("others").status_code == 404
    cleared = requests.delete(f"{braze_sandbox.url}/emulator/braze", timeout=10).json()
    assert (cleared["requests"], cleared["users"]) == (0, 0)
    assert requests.delete(f"{braze_sandbox.url}/emulator/others", timeout=10).status_code == 404
    assert requests.get(f"{braze_sandbox.url}/emulator/others", timeout=10).status_code == 404


@pytest.mark.parametrize(
    ("path", "key", "status", "message"),
    [
        ("/users/track", "another key", 401, "Invalid API key"),
        ("/users/track/", None, 403, "Forbidden"),
        ("/users/track", None, 400, NO_VALID_DATA),
    ],
)
def test_track__without_objects__key_path_and_body_decide(
    braze_sandbox: Sandbox, path: str, key: str | None, status: int, message: str
) -> None:
    answer = track(braze_sandbox, path, key)
    assert (answer.status_code, answer.json()) == (status, {"message": message})
    assert not braze_sandbox.braze.profiles.attributes


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"{", "application/json", "Bad Request"),
        (b"[]", "application/json", "Bad Request"),
        (b"[" * 100_000, "application/json", "Bad Request"),
        (b'{"attributes": [{"external_id": "ava", "points": NaN}]}', "application/json", "Bad Request"),
        (b'{"attributes": [{"external_id": "ava"}]}', "text/plain", "Bad Request"),
        (b'{"attributes": {"external_id": "ava"}}', "application/json", NO_VALID_DATA),
        (b'{"attributes": []}', "application/json", NO_VALID_DATA),
    ],
)
def test_track__malformed_body__400(braze_sandbox: Sandbox, body: bytes, content_type: str, message: str) -> None:
    headers = {"Authorization": f"Bearer {braze_sandbox.braze.key}", "Content-Type": content_type}
    answer = requests.post(f"{braze_sandbox.url}/users/track", data=body, headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["message"]) == (400, message)


def test_track__76_objects_over_all_arrays__max_input_length_exceeded(braze_sandbox: Sandbox) -> None:
    attributes = [{"external_id": f"user-{number}", "plan": "gold"} for number in range(1, 75)]
    answer = track(braze_sandbox, attributes=attributes, events=[EVENT, EVENT])
    assert (answer.status_code, answer.json()) == (400, {"message": "Max Input Length Exceeded"})
    assert track(braze_sandbox, attributes=attributes, events=[EVENT]).status_code == 201
    assert len(braze_sandbox.braze.profiles.events) == 1


def test_track__body_above_the_limits__400_for_the_option_and_413_for_4_mb(braze_sandbox: Sandbox) -> None:
    braze_sandbox.braze = BrazeApi(max_bytes=2000)
    long = {**AVA, "about": ["x" * 250] * 10}
    answer = track(braze_sandbox, attributes=[long])
    assert (answer.status_code, answer.json()) == (400, {"message": "Max Input Length Exceeded"})
    assert track(braze_sandbox, attributes=[long | {"about": "x"}]).status_code == 201
    assert track(braze_sandbox, attributes=[{**AVA, "about": "x" * 4_000_000}]).status_code == 413


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ({"plan": "gold"}, "'external_id', 'braze_id', 'user_alias', 'email' or 'phone' is required"),
        ({**AVA, "braze_id": "b"}, "only one of 'external_id', 'braze_id' or 'user_alias' is allowed"),
        ({"external_id": 7}, "'external_id' is not valid"),
        ({"external_id": ""}, "'external_id' is not valid"),
        ({"user_alias": {"alias_name": "a"}}, "'user_alias' is not valid"),
        ({**AVA, "_update_existing_only": "yes"}, "'_update_existing_only' is not valid"),
        ("ava", "object is not valid"),
        ({**AVA, "email": "ava"}, "The value provided for the 'email' field is not a valid email."),
        ({**AVA, "gender": "female"}, "'gender' is not valid"),
        ({**AVA, "country": "Germany"}, "'country' is not valid"),
        ({**AVA, "first_name": 7}, "'first_name' is not valid"),
        ({**AVA, "dob": "28.11.1990"}, "'dob' is not valid"),
        ({**AVA, "current_location": [1, 2]}, "'current_location' is not valid"),
        ({**AVA, "date_of_last_session": "yesterday"}, "'date_of_last_session' is not valid"),
        ({**AVA, "a.b": 1}, "'a.b' is not a valid attribute name"),
        ({**AVA, "$a": 1}, "'$a' is not a valid attribute name"),
        ({**AVA, "": 1}, "'' is not a valid attribute name"),
        ({**AVA, "a" * 256: 1}, f"'{'a' * 256}' is not a valid attribute name"),
        ({**AVA, "a": "x" * 256}, "'a' exceeds the maximum length of 255 characters"),
        ({**AVA, "a": ["x" * 256]}, "'a' exceeds the maximum length of 255 characters"),
        ({**AVA, "a": [1] * 501}, "'a' exceeds the maximum of 500 items"),
        ({**AVA, "a": [[1]]}, "'a' is not valid"),
        ({**AVA, "a": {"inc": "x"}}, "'a' is not valid"),
        ({**AVA, "a": {"add": "x"}}, "'a' is not valid"),
        ({**AVA, "a": {"remove": ["x" * 256]}}, "'a' exceeds the maximum length of 255 characters"),
        ({**AVA, "a": {"b c": 1}}, "'a' has a key that is not valid"),
        ({**AVA, "a": {"b": {"c.d": 1}}}, "'a' has a key that is not valid"),
        ({**AVA, "a": {f"b{n}": "x" * 250 for n in range(400)}}, "'a' exceeds the maximum size of 100 KB"),
    ],
    ids=lambda value: json.dumps(value)[:40] if not isinstance(value, str) else "",
)
def test_attributes__invalid_object__error_with_index(braze_sandbox: Sandbox, item: Any, error: str) -> None:
    assert problem(braze_sandbox, "attributes", item) == error


@pytest.mark.parametrize(
    "attributes",
    [
        {"a": "x" * 255, "a b": 1.5, "b": True, "c": ["x"] * 500, "d": {"e": [{"f": "\ud800"}]}, "g": None},
        {"email": "ava@example.com", "gender": "F", "dob": "1990-11-28", "email_subscribe": "opted_in"},
        {"current_location": {"longitude": 1.5, "latitude": 2}, "date_of_first_session": "2026-11-28T10:00:00.000Z"},
    ],
)
def test_attributes__valid_values__accepted(braze_sandbox: Sandbox, attributes: dict[str, Any]) -> None:
    answer = track(braze_sandbox, attributes=[AVA | attributes])
    assert answer.json() == {"message": "success", "attributes_processed": 1}
    stored = {name: value for name, value in attributes.items() if value is not None}
    assert braze_sandbox.braze.attributes("ava") == stored


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ({**EVENT, "name": None}, "'name' is required"),
        ({**EVENT, "name": "x" * 256}, "'name' is not valid"),
        ({**EVENT, "time": None}, "'time' is required"),
        ({**EVENT, "time": 1795909600}, "'time' is not valid"),
        ({**EVENT, "time": "20261128"}, "'time' is not valid"),
        ({**EVENT, "time": "2026-13-28T10:00:00Z"}, "'time' is not valid"),
        ({**EVENT, "properties": ["a"]}, "'properties' is not valid"),
        ({**EVENT, "properties": {"$a": 1}}, "'properties' is not valid"),
        ({**EVENT, "properties": {"a": "x" * 256}}, "'properties' is not valid"),
        ({**EVENT, "properties": {"a": ["x" * 250] * 200}}, "'properties' is not valid"),
        ({**EVENT, "external_id": None}, "'external_id', 'braze_id', 'user_alias', 'email' or 'phone' is required"),
    ],
    ids=lambda value: json.dumps(value)[-40:] if not isinstance(value, str) else "",
)
def test_events__invalid_object__error_with_index(braze_sandbox: Sandbox, item: Any, error: str) -> None:
    assert problem(braze_sandbox, "events", item) == error
    assert braze_sandbox.braze.profiles.events == []


@pytest.mark.parametrize(
    "moment",
    ["2026-11-28", "2026-11-28T10:00:00Z", "2026-11-28T10:00:00.123+01:00", "2026-11-28T10:00:00:123+0100"],
)
def test_events__documented_time_formats__accepted(braze_sandbox: Sandbox, moment: str) -> None:
    assert track(braze_sandbox, events=[EVENT | {"time": moment}]).json() == {
        "message": "success",
        "events_processed": 1,
    }


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"product_id": None}, "'product_id' is required"),
        ({"currency": "Euro"}, "'currency' is not valid"),
        ({"price": "9.5"}, "'price' is not valid"),
        ({"quantity": 0}, "'quantity' is not valid"),
        ({"time": "now"}, "'time' is not valid"),
        ({"properties": 7}, "'properties' is not valid"),
    ],
)
def test_purchases__invalid_object__error_with_index(braze_sandbox: Sandbox, change: Any, error: str) -> None:
    assert problem(braze_sandbox, "purchases", PURCHASE | change) == error


def test_track__every_object_is_invalid__400_with_errors(braze_sandbox: Sandbox) -> None:
    answer = track(braze_sandbox, attributes=[{"plan": "gold"}])
    (error,) = answer.json().pop("errors")
    assert (answer.status_code, answer.json()["message"]) == (400, NO_VALID_DATA)
    assert (error["input_array"], error["index"]) == ("attributes", 0)
    assert braze_sandbox.braze.report()["object_errors"] == 1


def test_update_existing_only__unknown_user__silently_ignored(braze_sandbox: Sandbox) -> None:
    braze = braze_sandbox.braze
    braze.create_users("created")
    users = ("ava", "user-7", "created", "stranger")
    objects = [{"external_id": user, "_update_existing_only": True, "plan": "gold"} for user in users]
    assert track(braze_sandbox, attributes=objects).json() == {"message": "success", "attributes_processed": 4}
    assert set(braze.profiles.attributes) == {"ava", "user-7", "created"}
    assert (braze.report()["ignored_objects"], braze.report()["data_points"]) == (1, 3)
    track(braze_sandbox, attributes=[{"external_id": "stranger", "plan": "gold"}])
    assert braze.attributes("stranger") == {"plan": "gold"}


@pytest.mark.parametrize(("known_users", "users"), [("all", {"stranger", "ava"}), ("none", set())])
def test_known_users__all_or_none__determine_existing_users(
    braze_sandbox: Sandbox, known_users: Any, users: set[str]
) -> None:
    braze_sandbox.braze = BrazeApi(known_users=known_users)
    objects = [{"external_id": user, "_update_existing_only": True, "plan": "gold"} for user in ("stranger", "ava")]
    track(braze_sandbox, attributes=objects)
    assert set(braze_sandbox.braze.profiles.attributes) == users


def test_identifiers__alias_and_braze_id__are_separate_users(braze_sandbox: Sandbox) -> None:
    alias = {"alias_name": "a", "alias_label": "crm"}
    objects = [
        {"user_alias": alias, "ignored": 1},  # an alias is not created unless _update_existing_only is false
        {"user_alias": alias, "_update_existing_only": False, "plan": "gold"},
        {"braze_id": "b1", "plan": "silver"},
    ]
    track(braze_sandbox, attributes=objects)
    assert braze_sandbox.braze.profiles.attributes == {
        "user_alias:crm:a": {"plan": "gold"},
        "braze_id:b1": {"plan": "silver"},
    }


def test_attributes__null__removes_the_value_and_costs_a_data_point(braze_sandbox: Sandbox) -> None:
    track(braze_sandbox, attributes=[{**AVA, "plan": "gold"}])
    track(braze_sandbox, attributes=[{**AVA, "plan": None}])
    assert braze_sandbox.braze.attributes("ava") == {}
    report = braze_sandbox.braze.report()
    assert (report["data_points"], report["unchanged_values"]) == (2, 0)


def test_attributes__same_value_again__counted_as_unchanged(braze_sandbox: Sandbox) -> None:
    for value in (1, 1, 1.0, 2):
        track(braze_sandbox, attributes=[{**AVA, "points": value}])
    track(braze_sandbox, attributes=[{**AVA, "plan": None}])
    assert braze_sandbox.braze.report()["unchanged_values"] == 2


@pytest.mark.parametrize(
    ("first", "later", "stored"),
    [
        ("gold", 7, "7"),
        ("gold", True, "true"),
        ("gold", "2026-11-28", "2026-11-28"),
        (7, "8.5", 8.5),
        (True, "false", False),
        (7, "gold", 7),
        ("2026-11-28", "gold", "2026-11-28"),
        (["a"], "a", ["a"]),
        ("gold", {"a": 1}, "gold"),
        ({"a": 1}, {"a": None}, {"a": 1}),
    ],
)
def test_attributes__value_of_another_type__converted_or_ignored_without_an_error(
    braze_sandbox: Sandbox, first: Any, later: Any, stored: Any
) -> None:
    track(braze_sandbox, attributes=[{**AVA, "a": first}])
    answer = track(braze_sandbox, attributes=[{**AVA, "a": later}])
    assert answer.json() == {"message": "success", "attributes_processed": 1}
    assert braze_sandbox.braze.attributes("ava") == {"a": stored}
    assert braze_sandbox.braze.report()["ignored_values"] == (1 if stored == first else 0)


def test_attributes__operations__change_numbers_and_lists(braze_sandbox: Sandbox) -> None:
    track(braze_sandbox, attributes=[{**AVA, "points": 1, "tags": ["a", "b"]}])
    track(braze_sandbox, attributes=[{**AVA, "points": {"inc": 2}, "tags": {"add": ["a", "c"], "remove": ["b"]}}])
    assert braze_sandbox.braze.attributes("ava") == {"points": 3, "tags": ["a", "c"]}


def test_parse_time__no_offset__is_utc_in_any_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert parse_time("1970-01-02T00:00:00") == parse_time("1970-01-02T01:00:00+01:00") == 86400
    finally:
        monkeypatch.undo()
        time.tzset()


def test_events__repeated_and_late__stored_each_time_and_counted(braze_sandbox: Sandbox) -> None:
    late = EVENT | {"time": "2026-11-28T09:00:00Z"}
    other_user = late | {"external_id": "ben"}
    track(braze_sandbox, events=[EVENT, EVENT, other_user])
    track(braze_sandbox, events=[late, dict(reversed(EVENT.items()))])
    assert braze_sandbox.braze.profiles.events == [EVENT, EVENT, other_user, late, EVENT]
    report = braze_sandbox.braze.report()
    assert (report["duplicate_events"], report["order_violations"]) == (2, 1)


def test_worst_minute__requests_and_objects__largest_in_any_60_seconds(braze_sandbox: Sandbox) -> None:
    clock = FakeClock()
    braze_sandbox.braze = BrazeApi(clock=clock)
    for objects in (1, 5, 5, 1):
        track(braze_sandbox, events=[EVENT] * objects)
        clock.advance(30)
    assert braze_sandbox.braze.report()["worst_minute"] == {"requests": 2, "objects": 10}


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ("retry-after", {"X-Ratelimit-Retry-After": "50"}),
        ("reset-epoch", {"X-RateLimit-Reset": "1000060"}),
        ("reset-remaining", {"X-RateLimit-Reset": "50"}),
        ("no-time", {}),
    ],
)
def test_rate_limit__exceeded__429_until_the_oldest_request_is_a_minute_old(
    braze_sandbox: Sandbox, form: RateLimitHeader, headers: dict[str, str]
) -> None:
    clock = FakeClock()
    braze_sandbox.braze = BrazeApi(per_minute=2, rate_limit_header=form, clock=clock)
    first = track(braze_sandbox, events=[EVENT])
    assert (first.headers["X-RateLimit-Limit"], first.headers["X-RateLimit-Remaining"]) == ("2", "1")
    assert first.headers["X-RateLimit-Reset"] == "1000060"
    clock.advance(10)
    assert track(braze_sandbox, events=[EVENT]).status_code == 201
    limited = track(braze_sandbox, events=[EVENT])
    assert limited.status_code == 429
    times = ("X-Ratelimit-Retry-After", "X-RateLimit-Reset")
    assert {name: limited.headers[name] for name in times if name in limited.headers} == headers
    clock.advance(50)
    assert track(braze_sandbox, events=[EVENT]).status_code == 201
    assert len(braze_sandbox.braze.profiles.events) == 3


def test_overlapping_users__second_request_before_the_first_answer__counted(braze_sandbox: Sandbox) -> None:
    clock = FakeClock()
    braze_sandbox.braze = BrazeApi(latency=0.01, clock=clock)
    braze_sandbox.braze.faults.set(Fault("slow", seconds=0.01, times=1))
    for user in ("ava", "ava", "ben"):  # at the same moment of the clock
        track(braze_sandbox, attributes=[{"external_id": user, "plan": "gold"}])
    assert braze_sandbox.braze.report()["overlapping_users"] == 1
    clock.advance(1)
    braze_sandbox.braze.faults.set(Fault("hang-accepted", seconds=0.01, times=1))
    with pytest.raises(requests.ConnectionError):
        track(braze_sandbox, attributes=[{**AVA, "plan": "gold"}])
    track(braze_sandbox, attributes=[{**AVA, "plan": "gold"}])
    assert braze_sandbox.braze.report()["overlapping_users"] == 1, "a retry after a lost answer is no overlap"
