"""Measures Amplitude's webhooks, and cached answers at the same time: `python -m tests.bench.webhooks`.

The service has the shipped configuration, with one worker, and with two workers and Redis. It receives batches of
almost the maximum size, while clients request 100 cached answers a second.
"""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import requests

from tests.bench.load import command_line
from tests.bench.processes import LONG_LIVED, SandboxProcess, Service
from tests.support.redis_server import RedisServer
from tests.support.service import SECRET

USERS = 10_000
_REQUESTS_A_SECOND = 100
_HEADERS = {"X-API-Key": SECRET, "Content-Type": "application/json"}


def cohort(number: int, *, properties: int = 0, users: int = USERS) -> bytes:
    """Return a batch of a cohort webhook. Each user has `properties` properties, with new values in each batch."""

    def user_of(user: int) -> dict[str, Any]:
        values = {f"property {index:02}": f"value {number} {user} {index}" for index in range(properties)}
        return {"user_id": f"pushed-{user}", **({"user_properties": values} if values else {})}

    return json.dumps(
        {
            "cohort_name": "A cohort",
            "cohort_id": f"c{number % 2}",
            "in_cohort": True,
            "computed_time": str(int(time.time()) - 100 + number),
            "message_id": f"{properties}::{number}",
            "users": [user_of(user) for user in range(users)],
        }
    ).encode()


def events(number: int, *, properties: int, users: int = USERS) -> bytes:
    """Return an array of events with all properties of the users."""

    def user_of(user: int) -> dict[str, Any]:
        values = {f"property {index:02}": f"value {number} {user} {index}" for index in range(properties)}
        at = int(time.time() * 1000) - 100_000 + number * 1000
        return {"user_id": f"pushed-{user}", "event_time": at, "whole": True, "user_properties": values}

    return json.dumps([user_of(user) for user in range(users)]).encode()


@contextmanager
def cached_answers(port: int) -> Iterator[list[float]]:
    """Request cached answers over several connections, and collect the times in seconds."""
    times: list[float] = []
    stop = threading.Event()

    def request(worker: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        number = 0
        while not stop.wait(4 / _REQUESTS_A_SECOND):
            number += 1
            began = time.perf_counter()
            connection.request("GET", f"/v1/cohorts?user_id=user-{number % 20 + 1}", headers=_HEADERS)
            connection.getresponse().read()
            times.append(time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=request, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield times
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def summary(seconds: Sequence[float]) -> str:
    """Format the median and the maximum in milliseconds."""
    return f"{statistics.median(seconds) * 1000:.0f} ms, maximum {max(seconds) * 1000:.0f} ms"


def measure(url: str, port: int, path: str, bodies: Sequence[bytes]) -> str:
    """Send the bodies one after another. Return their times, and the times of cached answers before and during them."""
    seconds = []
    with cached_answers(port) as times:
        time.sleep(1)
        quiet = len(times)
        for body in bodies:
            began = time.perf_counter()
            answer = requests.post(f"{url}{path}", data=body, headers=_HEADERS, timeout=30)
            seconds.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
            assert answer.json()["applied"] == USERS, answer.text
            time.sleep(0.2)
    before, during = sorted(times[:quiet]), sorted(times[quiet:])
    p99s = [part[int(len(part) * 0.99)] * 1000 for part in (before, during)]
    size = max(map(len, bodies)) / 2**20
    return (
        f"{size:.1f} MiB: {summary(seconds)}; cached answers: p99 before {p99s[0]:.0f} ms, during {p99s[1]:.0f} ms, "
        f"maximum {during[-1] * 1000:.0f} ms"
    )


def main() -> None:
    """Measure each kind of batch with each kind of service. Print a line for each measurement."""
    parser = command_line(__doc__)
    parser.add_argument("--batches", type=int, default=5, help="number of batches of each kind")
    numbers = range(parser.parse_args().batches)
    with SandboxProcess() as sandbox, RedisServer() as redis:
        for name, more in (
            ("one worker", {"CACHE_MAX_MB": "256"}),
            ("two workers and Redis", {"WEB_CONCURRENCY": "2", "REDIS_URL": redis.url}),
        ):
            with Service(sandbox, options=("--log-level", "error"), **LONG_LIVED, **more) as service:
                for number in range(20):
                    requests.get(f"{service.url}/v1/cohorts?user_id=user-{number + 1}", headers=_HEADERS, timeout=10)
                for kind, path, bodies in (
                    ("cohort without properties", "cohorts", [cohort(number) for number in numbers]),
                    (
                        "cohort with 20 properties each",
                        "cohorts",
                        [cohort(9 + number, properties=20) for number in numbers],
                    ),
                    (
                        "whole sets of 20 properties",
                        "users",
                        [events(30 + number, properties=20) for number in numbers],
                    ),
                ):
                    result = measure(service.url, service.port, f"/v1/webhooks/amplitude/{path}", bodies)
                    print(f"{name}; {kind}; {result}")


if __name__ == "__main__":
    main()
