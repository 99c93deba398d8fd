"""Snapshots in several processes over HTTP, with forgotten users and killed processes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
import requests
from redis import Redis

from proxy.profile.snapshot import PIECES
from proxy.sandbox.server import Sandbox
from tests.conftest import SECRET, Service
from tests.support.redis_server import RedisServer
from tests.support.wait import until

HEADERS = {"X-API-Key": SECRET, "Content-Type": "application/x-ndjson"}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def lines(first: int, count: int) -> bytes:
    return b"".join(b'"user-%d"\n' % number for number in range(first, first + count))


def is_member(service: Service, user_id: str) -> object:
    """Return the answer of one of the workers. Each request has a new connection."""
    answer = requests.get(f"{service.url}/v1/cohorts?user_id={user_id}&cohort_id=c31", headers=HEADERS, timeout=10)
    return answer.json()["is_member"] if answer.headers["X-Amplitude-Calls"] == "0" else None


def every_process_answers(services: list[Service], user_id: str, expected: bool) -> None:
    until(
        lambda: {is_member(service, user_id) for service in services for _ in range(10)} == {expected},
        f"not every process answers {expected}",
    )


@pytest.mark.contract("6 snapshot forget")
def test_forget__two_services__in_no_snapshot_of_any_process(
    start_service: Callable[..., Service], sandbox: Sandbox, redis: RedisServer
) -> None:
    services = [start_service(sandbox, REDIS_URL=redis.url) for _ in range(2)]
    put = requests.put(f"{services[0].url}/v1/snapshots/c31", data=lines(0, 100), headers=HEADERS, timeout=10)
    assert put.json()["members"] == 100
    every_process_answers(services, "user-7", True)
    forgotten = requests.delete(f"{services[1].url}/v1/profile?user_id=user-7", headers=HEADERS, timeout=10)
    assert forgotten.status_code == 200
    every_process_answers(services, "user-7", False)
    started = start_service(sandbox, REDIS_URL=redis.url)
    assert is_member(started, "user-8") is True, "the first answer of a new process does not use the snapshot"
    for service in (*services, started):
        every_process_answers([service], "user-8", True)
        assert is_member(service, "user-7") is False
        (listed,) = requests.get(f"{service.url}/v1/snapshots", headers=HEADERS, timeout=10).json()["snapshots"]
        assert listed["members"] == 99


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["half sent", "all sent", "first pieces stored", "half of the pieces stored", "listed"]
)
def test_install__worker_is_killed__old_or_new_snapshot_and_a_rerun_installs_the_new_one(
    start_service: Callable[..., Service], sandbox: Sandbox, redis: RedisServer, step: str
) -> None:
    service = start_service(sandbox, REDIS_URL=redis.url, WEB_CONCURRENCY="2")
    store = Redis.from_url(redis.url)
    old, new, count = 0, 1_000_000, 300_000

    def install(first: int) -> None:
        path = f"{service.url}/v1/snapshots/c31"
        assert requests.put(path, data=lines(first, count), headers=HEADERS, timeout=60).status_code == 200

    install(old)
    every_process_answers([service], f"user-{old}", True)

    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        for first in range(new, new + count, count // 10):
            yield lines(first, count // 10)
            sent += 1

    def interrupted_install() -> None:
        with contextlib.suppress(OSError):
            requests.put(f"{service.url}/v1/snapshots/c31", data=parts(), headers=HEADERS, timeout=60)

    (old_pieces,) = store.scan_iter("*snapshot:*")
    (index,) = store.scan_iter("*snapshots")
    listed = store.hgetall(index)

    def stored() -> int:
        """Return the number of stored pieces of the new snapshot."""
        return max((int(store.hlen(key)) for key in store.scan_iter("*snapshot:*") if key != old_pieces), default=0)

    reached: dict[str, Callable[[], bool]] = {
        "half sent": lambda: sent >= 5,
        "all sent": lambda: sent == 10,
        "first pieces stored": lambda: stored() > 0,
        "half of the pieces stored": lambda: stored() >= PIECES // 2,
        "listed": lambda: store.hgetall(index) != listed,
    }
    upload = threading.Thread(target=interrupted_install)
    upload.start()
    until(reached[step], f"the installation did not reach the step: {step}", 60)
    for worker in service.workers():
        os.kill(worker, signal.SIGKILL)
    upload.join()
    until(lambda: has_snapshot(service), "the new processes have no snapshot", 30)
    # A new worker may have taken the upload from the queue, and the other worker then loads the new snapshot later.
    until(lambda: len({is_member(service, f"user-{old}") for _ in range(20)}) == 1, "the processes differ")
    # All members are in the same snapshot. A process that has not loaded it yet fetches a user, which gives None.
    sample = range(0, count, 5_000)
    in_old, in_new = ({is_member(service, f"user-{first + number}") for number in sample} for first in (old, new))
    assert (in_old - {None}, in_new - {None}) in (({True}, {False}), ({False}, {True}))
    install(new)
    every_process_answers([service], f"user-{new}", True)
    every_process_answers([service], f"user-{old}", False)


def has_snapshot(service: Service) -> bool:
    try:
        listed = requests.get(f"{service.url}/v1/snapshots", headers=HEADERS, timeout=10)
    except OSError:
        return False
    return bool(listed.json()["snapshots"])
