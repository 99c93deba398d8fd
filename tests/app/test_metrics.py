"""/metrics with several worker processes: sums over all workers, also after a worker was killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.sandbox.server import Sandbox
from tests.conftest import Service, free_port
from tests.support.redis_server import RedisServer
from tests.support.wait import until


def value(service: Service, name: str) -> float:
    lines = service.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"ccproxy_{name}"))


@pytest.mark.slow
@pytest.mark.contract("3 metrics")
def test_metrics__two_workers_and_one_killed__counts_kept_and_memory_of_live_workers(
    start_service: Callable[..., Service], sandbox: Sandbox, tmp_path: Path
) -> None:
    unreachable_redis = f"redis://127.0.0.1:{free_port()}"
    service = start_service(sandbox, WEB_CONCURRENCY="2", REDIS_URL=unreachable_redis, TMPDIR=str(tmp_path))
    until(lambda: len(service.workers()) == 2, "only one worker was started")
    (folder,) = tmp_path.glob("connected-content-proxy-metrics-*")
    for number in range(40):
        service.get(f"/v1/cohorts?user_id=user-{number}")
    misses = 'requests_total{cache="miss",route="/v1/cohorts",status="200"}'
    assert value(service, misses) == 40
    until(lambda: value(service, "cache_max_bytes") == 2 * 64 * 1024 * 1024, "a worker is not counted")
    assert value(service, "quota_calls_limit") == 600, "the quota is shared by all workers"

    os.kill(service.workers()[0], signal.SIGKILL)
    until(lambda: len(service.workers()) == 3, "the killed worker was not replaced")
    until(
        lambda: value(service, "cache_max_bytes") == 2 * 64 * 1024 * 1024,
        "the memory of the killed worker is still counted",
    )
    assert value(service, misses) == 40
    service.process.terminate()
    service.process.wait(30)
    assert not folder.exists()


def test_quota_metrics__two_services_with_two_workers_and_one_redis__calls_of_all_counted_once(
    start_service: Callable[..., Service], sandbox: Sandbox
) -> None:
    with RedisServer() as redis:
        services = [start_service(sandbox, WEB_CONCURRENCY="2", REDIS_URL=redis.url) for _ in range(2)]
        for service in services:
            until(lambda: value(service, "quota_calls_left") == 600, "the quota is not open")  # noqa: B023
        for number in range(8):
            services[number % 2].get(f"/v1/cohorts?user_id=user-{number}")
        for service in services:
            until(lambda: value(service, "quota_calls_used") == 8, "not the calls of all processes")  # noqa: B023
            # Another worker may answer, and learns of the calls a moment later.
            until(lambda: value(service, "quota_calls_left") == 592, "not the rest of all processes")  # noqa: B023
            until(
                lambda: service.get("/status.json").json()["now"]["quota_calls_left"] == 592,  # noqa: B023
                "not the rest of all processes in /status.json",
            )
        redis.stop()
        until(lambda: value(services[0], "quota_calls_left") == 0, "calls are left although no call is sent")
        until(lambda: services[0].get("/readyz").json()["quota"] == "spent", "no call is sent, but the quota is ok")
