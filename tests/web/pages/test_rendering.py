"""Render processes of the real service: no delay of other requests, and no process remains."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import requests

from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from tests.conftest import SECRET, Service
from tests.support.command import run
from tests.support.wait import until

CALL = "{% connected_content https://h/v1/cohorts?user_id=rendered :save c %}"
ENDLESS = CALL + (
    "{% for i in (1..100) %}{% for j in (1..100) %}" + "{% assign x = i | plus: j %}" * 500 + "{% endfor %}{% endfor %}"
)
UNCLOSED = "{% connected_content " + "{{" * 7500 + " %}"


def render(service: Service, template: str) -> dict[str, Any]:
    answer = requests.post(
        f"{service.url}/playground/render",
        json={"template": template, "user_id": "ava"},
        headers={"X-API-Key": SECRET},
        timeout=30,
    )
    assert answer.status_code == 200
    result: dict[str, Any] = answer.json()
    return result


def children(service: Service) -> list[psutil.Process]:
    """Return the child processes of the service's workers: running renderings, and zombies."""
    workers = psutil.Process(service.process.pid).children()
    return [child for worker in workers for child in worker.children()]


def process_of_rendering(service: Service) -> psutil.Process:
    """Wait until the tag of a rendering calls Amplitude. Return the process of the rendering."""
    until(
        lambda: any(query.get("user_id") == "rendered" for _, query in service.sandbox.calls),
        "no rendering called Amplitude",
    )
    (child,) = (child for child in children(service) if child.status() != psutil.STATUS_ZOMBIE)
    return child


@pytest.fixture
def own_service(start_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox() as sandbox:
        sandbox.break_with(Fault("slow", seconds=0.5))
        yield start_service(sandbox)


@pytest.mark.contract("3 playground process")
def test_cached_answers__during_a_rendering__sent_before_it_ends(service: Service) -> None:
    assert service.get("/v1/cohorts?user_id=ava").json()["ok"]
    with ThreadPoolExecutor() as pool:
        result = pool.submit(render, service, ENDLESS)
        child = process_of_rendering(service)
        for _ in range(50):
            assert service.get("/v1/cohorts?user_id=ava").status_code == 200
        assert not result.done()
        child.kill()
        assert result.result()["outcome"] == "refused"


def test_render__unclosed_output_in_a_tag__refused(service: Service) -> None:
    assert render(service, UNCLOSED)["reason"].startswith("line 1: {{ in a tag is never closed")


def test_render__client_disconnects__process_ends_and_is_reaped(own_service: Service) -> None:
    body = json.dumps({"template": CALL}).encode()
    head = f"POST /playground/render HTTP/1.1\r\nHost: x\r\nX-API-Key: {SECRET}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(own_service.address) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        child = process_of_rendering(own_service)
    child.wait(15)  # the longest time that a rendering may take
    assert not child.is_running()
    assert render(own_service, "a")["message"] == "a"
    assert all(process.status() != psutil.STATUS_ZOMBIE for process in children(own_service))


def test_service__stopped_during_a_rendering__answers_and_leaves_no_process(own_service: Service) -> None:
    with ThreadPoolExecutor() as pool:
        result = pool.submit(render, own_service, CALL + "{{ c.found }}")
        child = process_of_rendering(own_service)
        own_service.process.terminate()
        assert result.result()["outcome"] == "sent"
    own_service.process.wait(30)
    assert not child.is_running()


@pytest.mark.slow
@pytest.mark.contract("3 playground process")
def test_worker__killed_during_a_rendering__leaves_no_process(own_service: Service) -> None:
    with ThreadPoolExecutor() as pool:
        result = pool.submit(render, own_service, ENDLESS)
        child = process_of_rendering(own_service)
        (worker,) = psutil.Process(own_service.process.pid).children()
        worker.kill()
        with pytest.raises(requests.ConnectionError):
            result.result()
    child.wait(5)
    assert not child.is_running()


def test_preview__unclosed_output__refused_within_10_cpu_seconds() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    completed = run("preview", "-", "--demo", stdin=UNCLOSED)
    assert completed.returncode == 1
    assert "refused: line 1: {{ in a tag is never closed" in completed.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10
