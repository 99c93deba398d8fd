"""The emulated Batch Event Upload API and its faults, over HTTP."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import requests

from proxy.sandbox.batch_api import BatchApi
from proxy.sandbox.faults import BatchFaultKind, Fault
from proxy.sandbox.server import Sandbox
from tests.support.fakes import FakeClock

INVALID = "Invalid field values on some events"
MISSING = "Request missing required field"
TOO_SHORT = "Invalid id length for user_id or device_id"


def event(insert_id: Any = "id-1", **fields: Any) -> dict[str, Any]:
    default = {"user_id": "user-1", "event_type": "[Braze] Email Open", "time": 1795909600000, "insert_id": insert_id}
    return {name: value for name, value in (default | fields).items() if value is not None}


def upload(sandbox: Sandbox, *events: Any, **fields: Any) -> requests.Response:
    body = {"api_key": sandbox.batch.key, "events": events} | fields
    return requests.post(f"{sandbox.url}/batch", json=body, timeout=10)


def test_batch__valid_events__stored_and_counted(braze_sandbox: Sandbox) -> None:
    response = upload(braze_sandbox, event(), event("id-2", event_properties={"campaign": "c"}))
    answer = response.json()
    assert response.status_code == 200
    assert answer.pop("server_upload_time") > 1_700_000_000_000
    size = len(response.request.body or b"")
    assert answer == {"code": 200, "events_ingested": 2, "payload_size_bytes": size}
    assert set(braze_sandbox.batch.by_insert_id()) == {"id-1", "id-2"}
    report = requests.get(f"{braze_sandbox.url}/emulator/batch", timeout=10).json()
    expected = {"requests": 1, "objects": 2, "events": 2, "duplicates": 0, "without_insert_id": 0, "fault": None}
    assert expected.items() <= report.items()
    assert report["event_types"] == {"[Braze] Email Open": 2}
    assert report["worst_minute"] == {"requests": 1, "objects": 2}


def test_emulator__details__returns_events_and_requests(braze_sandbox: Sandbox) -> None:
    upload(braze_sandbox, event())
    emulator = f"{braze_sandbox.url}/emulator/batch"
    assert requests.get(f"{emulator}/events", timeout=10).json() == [event()]
    (request,) = requests.get(f"{emulator}/requests", timeout=10).json()
    assert (request["objects"], request["status"], request["payload"]["events"]) == (1, 200, [event()])
    assert requests.get(f"{emulator}/users", timeout=10).status_code == 404
    assert requests.delete(emulator, timeout=10).json()["events"] == 0


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"api_key": "wrong"}, {"error": "Invalid API key: wrong"}),
        ({"api_key": None}, {"error": MISSING, "missing_field": "api_key"}),
        ({"events": []}, {"error": MISSING, "missing_field": "events"}),
        ({"events": {"a": 1}}, {"error": "Invalid JSON request body"}),
    ],
)
def test_batch__invalid_request__400_without_indexes(
    braze_sandbox: Sandbox, fields: dict[str, Any], answer: dict[str, Any]
) -> None:
    response = upload(braze_sandbox, event(), **fields)
    assert (response.status_code, response.json()) == (400, {"code": 400} | answer)
    assert braze_sandbox.batch.events == []


@pytest.mark.parametrize(("body", "content_type"), [(b"{", "application/json"), (b"[]", "application/json")])
def test_batch__malformed_body__400(braze_sandbox: Sandbox, body: bytes, content_type: str) -> None:
    response = requests.post(
        f"{braze_sandbox.url}/batch", data=body, headers={"Content-Type": content_type}, timeout=10
    )
    assert (response.status_code, response.json()["error"]) == (400, "Invalid JSON request body")


@pytest.mark.parametrize(
    ("invalid", "error", "indexes"),
    [
        (event(time="2026-11-28"), INVALID, {"events_with_invalid_fields": {"time": [1]}}),
        (event(time=1.5), INVALID, {"events_with_invalid_fields": {"time": [1]}}),
        (event(event_properties=["a"]), INVALID, {"events_with_invalid_fields": {"event_properties": [1]}}),
        (event(insert_id=7), INVALID, {"events_with_invalid_fields": {"insert_id": [1]}}),
        (event(event_type="[Amplitude] Start"), INVALID, {"events_with_invalid_fields": {"event_type": [1]}}),
        ("event", INVALID, {"events_with_invalid_fields": {"events": [1]}}),
        (event(event_type=None), MISSING, {"events_with_missing_fields": {"event_type": [1]}}),
        (event(user_id=None), MISSING, {"events_with_missing_fields": {"user_id": [1], "device_id": [1]}}),
        (event(user_id="ava"), TOO_SHORT, {"events_with_invalid_id_lengths": {"user_id": [1]}}),
    ],
)
def test_batch__invalid_event__400_with_its_index_and_nothing_stored(
    braze_sandbox: Sandbox, invalid: Any, error: str, indexes: dict[str, Any]
) -> None:
    response = upload(braze_sandbox, event(), invalid)
    assert (response.status_code, response.json()) == (400, {"code": 400, "error": error} | indexes)
    assert braze_sandbox.batch.events == []


def test_batch__short_id__dropped_from_the_event_unless_min_id_length_allows_it(braze_sandbox: Sandbox) -> None:
    short = event(user_id="ava", device_id="device-1")
    assert upload(braze_sandbox, short).status_code == 200
    assert upload(braze_sandbox, short | {"insert_id": "id-2"}, options={"min_id_length": 1}).status_code == 200
    assert [stored.get("user_id") for stored in braze_sandbox.batch.events] == [None, "ava"]


def test_batch__same_insert_id__stored_once_per_device_in_seven_days(braze_sandbox: Sandbox) -> None:
    clock = FakeClock()
    braze_sandbox.batch = BatchApi(clock=clock)
    for events in ([event(), event()], [event(user_id="user-2")], [event(device_id="device-1")]):
        assert upload(braze_sandbox, *events).json()["events_ingested"] == len(events)
    assert (len(braze_sandbox.batch.events), braze_sandbox.batch.report()["duplicates"]) == (3, 1)
    upload(braze_sandbox, event(user_id="user-3", device_id="device-1"))
    assert braze_sandbox.batch.report()["duplicates"] == 2
    clock.advance(7 * 24 * 3600 - 1)
    upload(braze_sandbox, event())
    assert braze_sandbox.batch.report()["duplicates"] == 3
    clock.advance(1)
    upload(braze_sandbox, event())
    upload(braze_sandbox, event(insert_id=None), event(insert_id=None))
    report = braze_sandbox.batch.report()
    assert (report["events"], report["duplicates"], report["without_insert_id"]) == (6, 3, 2)


def test_batch__too_many_events_or_bytes__413(braze_sandbox: Sandbox) -> None:
    too_large = (413, {"code": 413, "error": "Payload too large"})
    many = [event(f"id-{number}") for number in range(2001)]
    response = upload(braze_sandbox, *many)
    assert (response.status_code, response.json()) == too_large
    assert upload(braze_sandbox, *many[1:]).status_code == 200
    braze_sandbox.batch = BatchApi(max_bytes=500)
    response = upload(braze_sandbox, event(event_properties={"a": "x" * 500}))
    assert (response.status_code, response.json()) == too_large


QUOTAS: dict[str, Any] = {
    "throttled_devices": {},
    "throttled_users": {},
    "exceeded_daily_quota_users": {},
    "exceeded_daily_quota_devices": {},
    "throttled_events": [],
}
TOO_MANY = {
    "code": 429,
    "error": "Too many requests for some devices and users",
    "eps_threshold": 1000,
} | QUOTAS
REJECTED: dict[BatchFaultKind, tuple[int, dict[str, Any]]] = {
    "throttled": (
        429,
        TOO_MANY
        | {"throttled_users": {"user-9": 4000}, "throttled_devices": {"device-9": 4000}, "throttled_events": [1]},
    ),
    "daily-quota-users": (429, TOO_MANY | {"exceeded_daily_quota_users": {"user-9": 500200}}),
    "daily-quota-devices": (429, TOO_MANY | {"exceeded_daily_quota_devices": {"device-9": 500200}}),
    "silenced": (
        400,
        {"code": 400, "error": "Events silenced for device_id", "eps_threshold": 1000}
        | QUOTAS
        | {"silenced_devices": ["device-9"], "silenced_events": [1]},
    ),
    "invalid-fields": (400, {"code": 400, "error": INVALID, "events_with_invalid_fields": {"time": [1]}}),
    "missing-fields": (400, {"code": 400, "error": MISSING, "events_with_missing_fields": {"event_type": [1]}}),
    "bad-request": (400, {"code": 400, "error": "Invalid upload request"}),
    "wrong-key": (400, {"code": 400, "error": "Invalid API key: wrong-key"}),
    "too-large": (413, {"code": 413, "error": "Payload too large"}),
    "status": (503, {"code": 503, "error": "Internal Server Error"}),
}
UNANSWERED: dict[BatchFaultKind, bool] = {"hang": False, "reset": False, "hang-accepted": True, "uncertain": True}
"""By fault: whether Amplitude accepts the events."""
TEXTS: dict[BatchFaultKind, tuple[int, str]] = {
    "status-text": (503, "<html><body>Bad gateway</body></html>"),
    "broken-json": (200, '{"message": "succ'),
}
OTHERS = {"slow"}


def test_kinds__each__has_a_test() -> None:
    assert set(get_args(BatchFaultKind)) == {*REJECTED, *UNANSWERED, *TEXTS, *OTHERS}


@pytest.mark.parametrize(("kind", "answer"), REJECTED.items(), ids=str)
def test_fault__rejected__documented_answer_for_the_chosen_user(
    braze_sandbox: Sandbox, kind: BatchFaultKind, answer: tuple[int, dict[str, Any]]
) -> None:
    braze_sandbox.batch.faults.set(Fault(kind, status=503, user_id="user-9"))
    others, chosen = event(), event("id-9", user_id="user-9", device_id="device-9")
    response = upload(braze_sandbox, others, chosen)
    assert (response.status_code, response.json()) == answer
    assert braze_sandbox.batch.events == []
    assert upload(braze_sandbox, others).status_code == 200, "the fault affects other users"


@pytest.mark.parametrize(("kind", "answer"), TEXTS.items(), ids=str)
def test_fault__answer_is_not_json__sent_as_text(
    braze_sandbox: Sandbox, kind: BatchFaultKind, answer: tuple[int, str]
) -> None:
    braze_sandbox.batch.faults.set(Fault(kind, status=503))
    response = upload(braze_sandbox, event())
    assert (response.status_code, response.text) == answer


@pytest.mark.parametrize(("kind", "accepted"), UNANSWERED.items(), ids=str)
def test_fault__unanswered__connection_ends(braze_sandbox: Sandbox, kind: BatchFaultKind, accepted: bool) -> None:
    emulator = f"{braze_sandbox.url}/emulator/batch/fault"
    assert requests.post(f"{emulator}?kind={kind}&seconds=0.05&times=1", timeout=10).ok
    with pytest.raises(requests.ConnectionError):
        upload(braze_sandbox, event())
    assert len(braze_sandbox.batch.events) == int(accepted)
    assert upload(braze_sandbox, event()).status_code == 200
    assert (len(braze_sandbox.batch.events), braze_sandbox.batch.report()["duplicates"]) == (1, int(accepted))


def test_fault__slow__answered_after_its_seconds(braze_sandbox: Sandbox) -> None:
    braze_sandbox.batch.faults.set(Fault("slow", seconds=0.2))
    response = upload(braze_sandbox, event())
    assert (response.status_code, response.elapsed.total_seconds() >= 0.2) == (200, True)
