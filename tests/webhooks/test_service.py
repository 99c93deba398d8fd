"""Amplitude's webhooks, called over HTTP under the shipped gunicorn configuration: two workers and one Redis."""

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
def pair(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox() as sandbox, RedisServer() as redis:
        yield start_module_service(sandbox, WEB_CONCURRENCY="2", REDIS_URL=redis.url)


def push(service: Service, *users: str, cohort_id: str, in_cohort: bool = True, ago: float = 0) -> requests.Response:
    """Push, in Amplitude's format, that these users entered or left the cohort."""
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
    """Return the cohorts in 8 answers. The requests are simultaneous, so that both workers answer."""
    narrowed = f"&cohort_id={cohort_id}" if cohort_id else ""
    barrier = threading.Barrier(8)

    def ask(_: int) -> list[str]:
        barrier.wait(10)
        return list(service.get(f"/v1/cohorts?user_id={user}{narrowed}").json()["cohort_ids"])

    with ThreadPoolExecutor(8) as callers:
        return list(callers.map(ask, range(8)))


def until_all(service: Service, user: str, expected: list[str], seconds: float) -> None:
    """Wait until every answer is as expected. Fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while any(cohorts != expected for cohorts in members(service, user)):
        assert time.monotonic() < deadline, "a worker does not have the push"


def test_push__to_one_worker__answered_by_both_without_a_call(pair: Service) -> None:
    calls = pair.sandbox.report()["calls"]
    answer = push(pair, "user-501", "user-502", cohort_id="pushed")
    assert (answer.status_code, answer.json()["applied"]) == (200, 2)
    assert members(pair, "user-501", "pushed") == [["pushed"]] * 8
    reply = pair.get("/v1/cohorts?user_id=user-502&device_id=a-phone&cohort_id=pushed")
    assert (reply.headers["X-Amplitude-Calls"], reply.json()["is_member"]) == ("0", True)
    assert pair.sandbox.report()["calls"] == calls


@pytest.mark.contract("3 webhook processes")
def test_push__answer_cached_by_both_workers__changes_within_a_second(pair: Service) -> None:
    for _ in range(3):
        usual = members(pair, "ava")
    assert usual == [["vip", "c31"]] * 8
    push(pair, "ava", cohort_id="late")
    until_all(pair, "ava", ["vip", "c31", "late"], seconds=1)
    push(pair, "ava", cohort_id="vip", in_cohort=False)
    until_all(pair, "ava", ["c31", "late"], seconds=1)


@pytest.mark.contract("3 webhook forget")
def test_forget__pushed_user__removed_from_both_workers_within_a_second(pair: Service) -> None:
    push(pair, "user-503", cohort_id="pushed")
    assert members(pair, "user-503", "pushed") == [["pushed"]] * 8
    requests.delete(f"{pair.url}/v1/profile?user_id=user-503", headers=HEADERS, timeout=10)
    deadline = time.monotonic() + 1
    while any(members(pair, "user-503", "pushed")):
        assert time.monotonic() < deadline, "a worker still has the user"


@pytest.mark.contract("3 webhook processes")
def test_push__ten_thousand_users_twice__takes_at_most_1_s_of_cpu_and_less_when_repeated(
    pair: Service,
) -> None:
    workers = psutil.Process(pair.process.pid).children()

    def seconds_of_cpu() -> float:
        return sum(sum(worker.cpu_times()[:2]) for worker in workers)

    users = [f"crowd-{number}" for number in range(10_000)]
    body = {"cohort_id": "crowd", "in_cohort": True, "computed_time": time.time(), "message_id": "crowd::enter::0"}
    sent = json.dumps(body | {"users": [{"user_id": user} for user in users]})
    cpu_seconds = []
    for applied in (10_000, 0):
        began = seconds_of_cpu()
        answer = requests.post(
            f"{pair.url}/v1/webhooks/amplitude/cohorts",
            data=sent,
            headers=HEADERS | {"Content-Type": "application/json"},
            timeout=10,
        ).json()
        cpu_seconds.append(seconds_of_cpu() - began)
        assert (answer["applied"], answer["duplicate"]) == (applied, not applied)
    assert cpu_seconds[0] < 1
    assert cpu_seconds[1] < cpu_seconds[0]


def test_log__pushed_ids__not_logged(pair: Service) -> None:
    users = [{"user_id": "log-ava"}, {"user_id": "log-ava\n"}, 3]
    body = {"cohort_id": "c", "in_cohort": True, "computed_time": time.time(), "users": users}
    answer = requests.post(f"{pair.url}/v1/webhooks/amplitude/cohorts", json=body, headers=HEADERS, timeout=10)
    assert answer.json()["skipped"] == 2
    lines = [json.loads(line) for line in pair.log.read_text().splitlines() if line.startswith("{")]
    log_lines = [line for line in lines if line["event"] == "webhook_partially_applied"]
    assert log_lines[-1]["skipped"] == {"not_an_object": 1, "unreadable_user_id": 1}
    for word in ("log-ava", "crowd-", "user-50", SECRET):
        assert word not in pair.log.read_text()


def test_guide_command__pasted_as_shown__pushes_and_answers_as_shown(pair: Service) -> None:
    command, shown = fragment("push").block("sh"), fragment("push").block("json")
    pasted = command.replace("https://your-host", pair.url).replace("the-secret", SECRET).replace("12345", "user-504")
    output = subprocess.run(["sh", "-c", pasted], capture_output=True, text=True, check=True).stdout
    assert json.loads(output)["applied"] == 1
    assert members(pair, "user-504", "c31") == [["c31"]] * 8
    users = [{"user_id": f"user-{number}"} for number in range(505, 505 + json.loads(shown)["applied"])]
    batch = {"cohort_id": "shown", "in_cohort": True, "computed_time": time.time(), "users": [*users, {}, {}]}
    reply = requests.post(f"{pair.url}/v1/webhooks/amplitude/cohorts", json=batch, headers=HEADERS, timeout=10)
    assert json.dumps(reply.json()) == shown.strip()


LARGE = 8 * 1024 * 1024
HEAD = (
    "POST /v1/webhooks/amplitude/cohorts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    f"Content-Type: application/json\r\nX-API-Key: {SECRET}\r\n"
)
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def single_worker(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox() as sandbox:
        yield start_module_service(sandbox)


def large_body() -> bytes:
    """Return a batch of one user in exactly 8 MiB."""
    begin = json.dumps({"cohort_id": "c", "in_cohort": True, "computed_time": time.time(), "users": [{"user_id": "u"}]})
    begin = begin[:-1] + ', "filler": "'
    return begin.encode() + b"x" * (LARGE - len(begin) - 2) + b'"}'


def as_one_chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def send(service: Service, body: bytes, framing: str = "") -> bytes:
    """Send a body and return the status of the answer, or nothing if the connection closes without an answer."""
    with socket.create_connection(service.address, timeout=20) as connection:
        connection.sendall(f"{HEAD}{framing or f'Content-Length: {len(body)}'}\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # the service may answer and close before it has read the body
            connection.sendall(body)
        with contextlib.suppress(OSError):
            return connection.recv(65536)[9:12]
    return b""


@pytest.mark.slow
@pytest.mark.contract("3 webhook limits")
@pytest.mark.parametrize("framing", ["", CHUNKED])
def test_bodies__forty_of_8_mib_at_once__use_less_than_100_mib(single_worker: Service, framing: str) -> None:
    (worker,) = psutil.Process(single_worker.process.pid).children()
    body = as_one_chunk(large_body()) if framing == CHUNKED else large_body()
    assert send(single_worker, body, framing) == b"200"
    before = peak = worker.memory_info().rss
    with ThreadPoolExecutor(40) as pool:
        futures = [pool.submit(send, single_worker, body, framing) for _ in range(40)]
        while not all(future.done() for future in futures):
            peak = max(peak, worker.memory_info().rss)
            time.sleep(0.005)
    assert (peak - before) / 2**20 < 100
    statuses = [future.result() for future in futures]
    assert set(statuses) <= {b"200", b"500", b""}
    assert statuses.count(b"200") >= 3
    assert send(single_worker, body, framing) == b"200", "all of the memory is available again"


@pytest.mark.slow
def test_bodies__large_bodies_never_end__small_bodies_accepted_and_memory_released(single_worker: Service) -> None:
    with contextlib.ExitStack() as connections:
        for _ in range(3):
            connection = connections.enter_context(socket.create_connection(single_worker.address, timeout=10))
            connection.sendall(f"{HEAD}Content-Length: {LARGE}\r\n\r\n".encode() + b" " * 300_000)
        began = time.monotonic()
        while send(single_worker, large_body()) == b"200":  # until the service reads all three large bodies
            assert time.monotonic() - began < 5
        began = time.monotonic()
        assert (
            send(single_worker, b'{"cohort_id": "c", "in_cohort": true, "computed_time": "1700000000", "users": []}')
            == b"200"
        )
        assert time.monotonic() - began < 1
    assert send(single_worker, large_body()) == b"200", "closed connections release their memory"
