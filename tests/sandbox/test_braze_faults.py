"""The faults of the emulated Braze, over HTTP: the answer, and whether Braze accepted the request."""

from __future__ import annotations

import time
from typing import Any, get_args

import pytest
import requests

from proxy.sandbox.braze_api import BrazeApi
from proxy.sandbox.faults import BrazeFaultKind, Fault
from proxy.sandbox.server import Sandbox
from tests.support.fakes import FakeClock

OBJECTS = [{"external_id": "ava", "plan": "gold"}, {"external_id": "ben", "plan": "gold"}]
ANSWERED: dict[BrazeFaultKind, tuple[int, str]] = {
    "status": (503, '{"message": "Internal Server Error"}'),
    "status-text": (503, "<html><body>Bad gateway</body></html>"),
    "maintenance": (503, "<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>"),
    "message": (201, '{"message": "The workspace is not available"}'),
    "wrong-key": (401, '{"message": "Invalid API key"}'),
    "wrong-instance": (401, '{"message": "Invalid API key"}'),
    "no-permission": (403, '{"message": "Forbidden"}'),
    "too-long": (400, '{"message": "Max Input Length Exceeded"}'),
    "429-retry-after": (429, '{"message": "You have been rate limited"}'),
    "429-reset-epoch": (429, '{"message": "You have been rate limited"}'),
    "429-reset-remaining": (429, '{"message": "You have been rate limited"}'),
    "429-no-time": (429, '{"message": "You have been rate limited"}'),
}
"""The faults of requests that Braze does not accept."""
ACCEPTED: dict[BrazeFaultKind, tuple[int, str]] = {
    "slow": (201, '{"message": "success", "attributes_processed": 2}'),
    "queued": (202, '{"message": "queued"}'),
    "broken-json": (201, '{"message": "succ'),
}
UNANSWERED: dict[BrazeFaultKind, bool] = {"hang": False, "reset": False, "hang-accepted": True, "uncertain": True}
"""By fault: whether Braze accepts the request."""
OTHERS = {"object-errors"}


def track(sandbox: Sandbox, objects: list[dict[str, Any]] = OBJECTS) -> requests.Response:
    headers = {"Authorization": f"Bearer {sandbox.braze.key}"}
    return requests.post(f"{sandbox.url}/users/track", json={"attributes": objects}, headers=headers, timeout=10)


def test_kinds__each__has_a_test() -> None:
    assert set(get_args(BrazeFaultKind)) == {*ANSWERED, *ACCEPTED, *UNANSWERED, *OTHERS}


@pytest.mark.parametrize(("kind", "answer"), (ANSWERED | ACCEPTED).items(), ids=str)
def test_fault__answered__expected_answer_once(
    braze_sandbox: Sandbox, kind: BrazeFaultKind, answer: tuple[int, str]
) -> None:
    braze_sandbox.braze.faults.set(Fault(kind, seconds=0.01, status=503, times=1))
    response = track(braze_sandbox)
    assert (response.status_code, response.text) == answer
    users = set(braze_sandbox.braze.profiles.attributes)
    assert users == (set() if kind in ANSWERED else {"ava", "ben"})
    assert track(braze_sandbox).status_code == 201, "the fault was not limited to one call"


@pytest.mark.parametrize(("kind", "accepted"), UNANSWERED.items(), ids=str)
def test_fault__unanswered__connection_ends(braze_sandbox: Sandbox, kind: BrazeFaultKind, accepted: bool) -> None:
    braze_sandbox.braze.faults.set(Fault(kind, seconds=0.05, times=1))
    with pytest.raises(requests.ConnectionError):
        track(braze_sandbox)
    assert set(braze_sandbox.braze.profiles.attributes) == ({"ava", "ben"} if accepted else set())
    statuses = braze_sandbox.braze.report()["statuses"]
    assert statuses == ({"0": 1} if accepted else {}), "a request that was not read is not in the log"


@pytest.mark.parametrize("kind", ["hang", "hang-accepted", "slow"])
def test_fault__hanging__lasts_for_its_seconds(braze_sandbox: Sandbox, kind: BrazeFaultKind) -> None:
    braze_sandbox.braze.faults.set(Fault(kind, seconds=0.3, times=1))
    started = time.monotonic()
    try:
        track(braze_sandbox)
    except requests.ConnectionError:
        assert kind != "slow"
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        ("429-retry-after", {"X-Ratelimit-Retry-After": "3"}),
        ("429-reset-epoch", {"X-RateLimit-Reset": "1000003"}),
        ("429-reset-remaining", {"X-RateLimit-Reset": "3"}),
        ("429-no-time", {}),
    ],
)
def test_fault__429__has_only_the_documented_time(
    braze_sandbox: Sandbox, kind: BrazeFaultKind, headers: dict[str, str]
) -> None:
    braze_sandbox.braze = BrazeApi(clock=FakeClock())
    braze_sandbox.braze.faults.set(Fault(kind, seconds=2.5))
    response = track(braze_sandbox)
    times = ("X-Ratelimit-Retry-After", "X-RateLimit-Reset", "Retry-After")
    assert {name: response.headers[name] for name in times if name in response.headers} == headers


def test_fault__object_errors__only_objects_of_chosen_users_fail(braze_sandbox: Sandbox) -> None:
    braze_sandbox.braze.faults.set(Fault("object-errors", user_id="ben,cleo"))
    response = track(braze_sandbox)
    (error,) = response.json()["errors"]
    assert (response.status_code, error["input_array"], error["index"]) == (201, "attributes", 1)
    assert set(braze_sandbox.braze.profiles.attributes) == {"ava"}
    assert "errors" not in track(braze_sandbox, OBJECTS[:1]).json()
    braze_sandbox.braze.faults.set(Fault("object-errors"))
    assert track(braze_sandbox).status_code == 400


def test_fault__of_a_user__spares_requests_without_the_user(braze_sandbox: Sandbox) -> None:
    braze_sandbox.braze.faults.set(Fault("status", user_id="ben", times=1))
    assert track(braze_sandbox, OBJECTS[:1]).status_code == 201
    assert track(braze_sandbox).status_code == 500
    assert track(braze_sandbox).status_code == 201


def test_fault__over_http__set_shown_and_cleared(braze_sandbox: Sandbox) -> None:
    emulator = f"{braze_sandbox.url}/emulator/braze"
    query = {"kind": "429-retry-after", "seconds": "7", "times": "3", "user_id": "ava"}
    assert requests.post(f"{emulator}/fault", params=query, timeout=10).json()["fault"]["seconds"] == 7
    assert requests.get(emulator, timeout=10).json()["fault"]["kind"] == "429-retry-after"
    assert track(braze_sandbox).status_code == 429
    assert requests.delete(f"{emulator}/fault", timeout=10).json() == {"fault": None}
    assert track(braze_sandbox).status_code == 201
    refused = requests.post(f"{emulator}/fault?kind=throttled", timeout=10)
    assert refused.status_code == 400
    assert "object-errors" in refused.json()["error"]
    assert requests.post(f"{braze_sandbox.url}/emulator/others/fault?kind=slow", timeout=10).status_code == 404
