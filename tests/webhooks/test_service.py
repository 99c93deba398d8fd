"""Amplitude's webhooks, called over HTTP under gunicorn as shipped: two workers before one Redis."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from proxy.sandbox.server import Sandbox
from tests.conftest import SECRET, Service
from tests.support.docs import fragment
from tests.support.redis_server import RedisServer

HEADERS = {"Authorization": f"Bearer {SECRET}", "User-Agent": "Amplitude/Webhook/1.0"}


@pytest.fixture(scope="module")
def pair(start_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox() as sandbox, RedisServer() as redis:
        yield start_service(sandbox, WEB_CONCURRENCY="2", REDIS_URL=redis.url)


def push(service: Service, *users: str, cohort_id: str, in_cohort: bool = True, ago: float = 0) -> requests.Response:
    """Send what Amplitude would: these users entered the cohort, or left it."""
    body = {
        "cohort_name": "A cohort",
        "cohort_id": cohort_id,
        "in_cohort": in_cohort,
        "computed_time": f"{time.time() - ago:.3f}",
        "message_id": f"{cohort_id}::{users[0]}::{in_cohort}::{ago}",
        "users": [{"user_id": user} for user in users],
    }
    return requests.post(f"{service.url}/v1/webhooks/amplitude/cohorts", json=body, headers=HEADERS, timeout=10)


def members(service: Service, user: str, cohort_id: str = "") -> list[list[str]]:
    """Ask over several connections at once, so that both workers answer, and return the cohorts each said."""
    narrowed = f"&cohort_id={cohort_id}" if cohort_id else ""
    met = threading.Barrier(8)

    def ask(_: int) -> list[str]:
        met.wait(10)
        return list(service.get(f"/v1/cohorts?user_id={user}{narrowed}").json()["cohort_ids"])

    with ThreadPoolExecutor(8) as callers:
        return list(callers.map(ask, range(8)))


def until_all(service: Service, user: str, expected: list[str], seconds: float) -> None:
    """Return when every answer is as expected, which it must be in time."""
    deadline = time.monotonic() + seconds
    while any(said != expected for said in members(service, user)):
        assert time.monotonic() < deadline, "some worker has not heard of it"


def test_what_was_pushed_to_one_worker_is_answered_by_both_and_costs_no_call(pair: Service) -> None:
    calls = pair.sandbox.report()["calls"]
    answer = push(pair, "user-501", "user-502", cohort_id="pushed")
    assert (answer.status_code, answer.json()["applied"]) == (200, 2)
    assert members(pair, "user-501", "pushed") == [["pushed"]] * 8
    asked = pair.get("/v1/cohorts?user_id=user-502&device_id=a-phone&cohort_id=pushed")
    assert (asked.headers["X-Amplitude-Calls"], asked.json()["is_member"]) == ("0", True)
    assert pair.sandbox.report()["calls"] == calls


@pytest.mark.contract("3 webhook processes")
def test_a_list_that_both_workers_hold_ready_changes_within_a_second(pair: Service) -> None:
    for _ in range(3):
        usual = members(pair, "ava")
    assert usual == [["vip", "c31"]] * 8
    push(pair, "ava", cohort_id="late")
    until_all(pair, "ava", ["vip", "c31", "late"], seconds=1)
    push(pair, "ava", cohort_id="vip", in_cohort=False)
    until_all(pair, "ava", ["c31", "late"], seconds=1)


@pytest.mark.contract("3 webhook forget")
def test_who_is_forgotten_loses_it_in_both_workers_within_a_second(pair: Service) -> None:
    push(pair, "user-503", cohort_id="pushed")
    assert members(pair, "user-503", "pushed") == [["pushed"]] * 8
    requests.delete(f"{pair.url}/v1/profile?user_id=user-503", headers=HEADERS, timeout=10)
    deadline = time.monotonic() + 1
    while any(members(pair, "user-503", "pushed")):
        assert time.monotonic() < deadline, "some worker still has it"


@pytest.mark.contract("3 webhook processes")
def test_cohort__ten_thousand_users_and_the_same_again__applied_within_a_second_and_repeated_sooner(
    pair: Service,
) -> None:
    workers = psutil.Process(pair.process.pid).children()

    def seconds_of_cpu() -> float:
        return sum(sum(worker.cpu_times()[:2]) for worker in workers)

    users = [f"crowd-{number}" for number in range(10_000)]
    body = {"cohort_id": "crowd", "in_cohort": True, "computed_time": time.time(), "message_id": "crowd::enter::0"}
    sent = json.dumps(body | {"users": [{"user_id": user} for user in users]})
    took = []
    for applied in (10_000, 0):
        began = seconds_of_cpu()
        answer = requests.post(
            f"{pair.url}/v1/webhooks/amplitude/cohorts",
            data=sent,
            headers=HEADERS | {"Content-Type": "application/json"},
            timeout=10,
        ).json()
        took.append(seconds_of_cpu() - began)
        assert (answer["applied"], answer["duplicate"]) == (applied, not applied)
    assert took[0] < 1
    assert took[1] < took[0]


def test_no_id_that_was_pushed_is_in_the_log(pair: Service) -> None:
    body = {"cohort_id": "c", "in_cohort": True, "computed_time": time.time(), "users": [{"user_id": "log-ava\n"}, 3]}
    answer = requests.post(f"{pair.url}/v1/webhooks/amplitude/cohorts", json=body, headers=HEADERS, timeout=10)
    assert answer.json()["skipped"] == 1
    lines = [json.loads(line) for line in pair.log.read_text().splitlines() if line.startswith("{")]
    told = [line for line in lines if line["event"] == "webhook_partially_applied"]
    assert told[-1]["skipped"] == {"not_an_object": 1}
    for word in ("log-ava", "crowd-", "user-50", SECRET):
        assert word not in pair.log.read_text()


def test_guide_command__pasted_as_shown__pushes_and_answers_as_shown(pair: Service) -> None:
    command, shown = fragment("push").block("sh"), fragment("push").block("json")
    pasted = command.replace("https://your-host", pair.url).replace("the-secret", SECRET).replace("12345", "user-504")
    said = subprocess.run(["sh", "-c", pasted], capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["applied"] == 1
    assert members(pair, "user-504", "c31") == [["c31"]] * 8
    some = [{"user_id": f"user-{number}"} for number in range(505, 505 + json.loads(shown)["applied"])]
    batch = {"cohort_id": "shown", "in_cohort": True, "computed_time": time.time(), "users": [*some, {}, {}]}
    told = requests.post(f"{pair.url}/v1/webhooks/amplitude/cohorts", json=batch, headers=HEADERS, timeout=10)
    assert json.dumps(told.json()) == shown.strip()


LARGE = 8 * 1024 * 1024
HEAD = (
    "POST /v1/webhooks/amplitude/cohorts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    f"Content-Type: application/json\r\nX-API-Key: {SECRET}\r\n"
)
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def alone(start_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox() as sandbox:
        yield start_service(sandbox)


def large_body() -> bytes:
    """Return a batch of one user in exactly 8 MiB."""
    begin = json.dumps({"cohort_id": "c", "in_cohort": True, "computed_time": time.time(), "users": [{"user_id": "u"}]})
    begin = begin[:-1] + ', "filler": "'
    return begin.encode() + b"x" * (LARGE - len(begin) - 2) + b'"}'


def send(service: Service, body: bytes, framing: str = "") -> bytes:
    """Send a body and return the status of the answer; nothing when the connection was closed without one."""
    with socket.create_connection(service.address, timeout=20) as connection:
        connection.sendall(f"{HEAD}{framing or f'Content-Length: {len(body)}'}\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # the service answers before it has read the body, and closes
            connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if framing == CHUNKED else body)
        with contextlib.suppress(OSError):
            return connection.recv(65536)[9:12]
    return b""


@pytest.mark.contract("3 webhook limits")
@pytest.mark.parametrize("framing", ["", CHUNKED])
def test_bodies__forty_of_8_mib_at_once__less_than_100_mib_of_memory(alone: Service, framing: str) -> None:
    (worker,) = psutil.Process(alone.process.pid).children()
    body = large_body()
    assert send(alone, body, framing) == b"200"
    before = peak = worker.memory_info().rss
    with ThreadPoolExecutor(40) as pool:
        sent = [pool.submit(send, alone, body, framing) for _ in range(40)]
        while not all(one.done() for one in sent):
            peak = max(peak, worker.memory_info().rss)
            time.sleep(0.005)
    assert (peak - before) / 2**20 < 100
    statuses = [one.result() for one in sent]
    assert set(statuses) <= {b"200", b"500", b""}
    assert statuses.count(b"200") >= 3
    assert send(alone, body, framing) == b"200", "all of the room was given back"


def test_bodies__large_ones_that_never_end__small_ones_are_taken_and_room_comes_back(alone: Service) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(3):
            connection = opened.enter_context(socket.create_connection(alone.address, timeout=10))
            connection.sendall(f"{HEAD}Content-Length: {LARGE}\r\n\r\n".encode() + b" " * 300_000)
        began = time.monotonic()
        while send(alone, large_body()) == b"200":  # until the service has begun to read all of those
            assert time.monotonic() - began < 5
        began = time.monotonic()
        assert (
            send(alone, b'{"cohort_id": "c", "in_cohort": true, "computed_time": "1700000000", "users": []}') == b"200"
        )
        assert time.monotonic() - began < 1
    assert send(alone, large_body()) == b"200", "the connections were closed in the midst of their bodies"
