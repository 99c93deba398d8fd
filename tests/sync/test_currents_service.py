"""The relay in the real service, with the emulated Batch API and its faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import requests

from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from tests.bench import currents
from tests.support.batch_upstream import braze_event
from tests.support.service import SECRET, Service, batch_api


@pytest.fixture(scope="module")
def service(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox() as sandbox:
        yield start_module_service(sandbox, **batch_api(sandbox), AMPLITUDE_TIMEOUT_SECONDS="1")


@pytest.fixture(autouse=True)
def _no_events(service: Service) -> None:
    service.sandbox.batch.reset()
    service.sandbox.batch.faults.set(None)


@pytest.mark.contract("8 answers")
def test_service__duplicates_faults_and_an_outage__each_event_arrives_once(service: Service) -> None:
    """The short form of `python -m tests.bench.currents`."""
    figures = currents.campaign(
        service.url, service.sandbox.url, events=1_000, size=5, outage_seconds=0.1, longest_pause=0.05
    )
    assert figures.dropped == 0
    assert figures.statuses.keys() == {200, 503}
    assert currents.arrivals(service.sandbox.url) == {f"event-{number}": 1 for number in range(1_000)}
    report = service.sandbox.batch.report()
    assert report["duplicates"] > 0
    assert {status for status, count in report["statuses"].items() if count >= 2} == {
        "0",
        "200",
        "400",
        "413",
        "429",
        "503",
    }


@pytest.mark.contract("8 answers")
@pytest.mark.parametrize("kind", ["daily-quota-users", "invalid-fields", "missing-fields", "silenced"])
def test_service__amplitude_refuses_one_user__other_events_arrive(service: Service, kind: str) -> None:
    service.sandbox.batch.faults.set(Fault(kind, user_id="user-of-3,device-of-3"))  # type: ignore[arg-type]
    events = [braze_event(str(number)) for number in range(10)]
    answer = requests.post(
        f"{service.url}/v1/webhooks/braze/currents",
        json={"events": events},
        headers={"Authorization": f"Bearer {SECRET}"},
        timeout=10,
    )
    assert (answer.status_code, answer.json()["accepted"], answer.json()["skipped"]) == (200, 9, 1)
    assert set(service.sandbox.batch.by_insert_id()) == {str(number) for number in range(10) if number != 3}


@pytest.mark.contract("8 answers")
def test_service__text_that_is_not_unicode__event_arrives_unless_the_text_is_an_id(service: Service) -> None:
    properties = {"\ud800": "\udfff", "nested": [{"\udfff": 1}]}
    events = [
        braze_event("1", properties=properties),
        braze_event("\ud800"),
        braze_event("3", user={"external_user_id": "u\ud800"}),
    ]
    answer = requests.post(
        f"{service.url}/v1/webhooks/braze/currents",
        json={"events": events},
        headers={"Authorization": f"Bearer {SECRET}"},
        timeout=10,
    )
    assert (answer.status_code, answer.json()["accepted"], answer.json()["skipped"]) == (200, 1, 2)
    assert set(service.sandbox.batch.by_insert_id()) == {"1"}


@pytest.mark.contract("8 answers")
def test_service__log_at_debug__no_key_and_no_id(service: Service) -> None:
    service.sandbox.batch.faults.set(Fault("wrong-key", times=1))
    body = {"events": [braze_event("1"), braze_event("2", user={})]}
    headers = {"Authorization": f"Bearer {SECRET}"}
    for status in (503, 200):
        answer = requests.post(f"{service.url}/v1/webhooks/braze/currents", json=body, headers=headers, timeout=10)
        assert answer.status_code == status
    log = service.log.read_text()
    assert '"event":"currents_not_relayed"' in log
    assert '"event":"currents_events_skipped"' in log
    for secret in (service.sandbox.api_key, SECRET, "user-of-", "device-of-", "event-1"):
        assert secret not in log
