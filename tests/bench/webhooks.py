"""How long Amplitude's webhooks take, and cached answers beside them: `python -m tests.bench.webhooks`.

The service as shipped, with one worker and with two workers and Redis, receives batches of almost the largest size,
while clients request 100 cached answers a second.
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
from tests.bench.processes import LASTING, SandboxProcess, Service
from tests.support.redis_server import RedisServer
from tests.support.service import SECRET

USERS = 10_000
_REQUESTS_A_SECOND = 100
_HEADERS = {"X-API-Key": SECRET, "Content-Type": "application/json"}


def cohort(number: int, *, properties: int = 0, users: int = USERS) -> bytes:
    """Return a batch of a cohort webhook: each user with that many properties, with other values in each batch."""

    def of(user: int) -> dict[str, Any]:
        values = {f"property {index:02}": f"value {number} {user} {index}" for index in range(properties)}
        return {"user_id": f"pushed-{user}", **({"user_properties": values} if values else {})}

    return json.dumps(
        {
            "cohort_name": "A cohort",
            "cohort_id": f"c{number % 2}",
            "in_cohort": True,
            "computed_time": str(int(time.time()) - 100 + number),
            "message_id": f"{properties}::{number}",
            "users": [of(user) for user in range(users)],
        }
    ).encode()


def events(number: int, *, properties: int, users: int = USERS) -> bytes:
    """Return an array of events with all properties of their users."""

    def of(user: int) -> dict[str, Any]:
        values = {f"property {index:02}": f"value {number} {user} {index}" for index in range(properties)}
        at = int(time.time() * 1000) - 100_000 + number * 1000
        return {"user_id": f"pushed-{user}", "event_time": at, "whole": True, "user_properties": values}

    return json.dumps([of(user) for user in range(users)]).encode()


@contextmanager
def cached_answers(port: int) -> Iterator[list[float]]:
    """Request cached answers over several connections, and collect the seconds that each took."""
    took: list[float] = []
    stop = threading.Event()

    def request(worker: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        number = 0
        while not stop.wait(4 / _REQUESTS_A_SECOND):
            number += 1
            began = time.perf_counter()
            connection.request("GET", f"/v1/cohorts?user_id=user-{number % 20 + 1}", headers=_HEADERS)
            connection.getresponse().read()
            took.append(time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=request, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield took
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def summary(seconds: Sequence[float]) -> str:
    """Return the median and the maximum in milliseconds."""
    return f"{statistics.median(seconds) * 1000:.0f} ms, at most {max(seconds) * 1000:.0f}"


def measure(url: str, port: int, path: str, bodies: Sequence[bytes]) -> str:
    """Send the bodies one after the other; return how long they took, and cached answers before and beside them."""
    seconds = []
    with cached_answers(port) as took:
        time.sleep(1)
        quiet = len(took)
        for body in bodies:
            began = time.perf_counter()
            answer = requests.post(f"{url}{path}", data=body, headers=_HEADERS, timeout=30)
            seconds.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
            assert answer.json()["applied"] == USERS, answer.text
            time.sleep(0.2)
    before, beside = sorted(took[:quiet]), sorted(took[quiet:])
    p99s = [times[int(len(times) * 0.99)] * 1000 for times in (before, beside)]
    size = max(map(len, bodies)) / 2**20
    return (
        f"{size:.1f} MiB: {summary(seconds)}; cached answers p99 before {p99s[0]:.0f} ms, beside {p99s[1]:.0f}, "
        f"at most {beside[-1] * 1000:.0f}"
    )


def main() -> None:
    """Measure each kind of batch with each kind of service, and print a line for each."""
    parser = command_line(__doc__)
    parser.add_argument("--batches", type=int, default=5, help="number of batches of each kind")
    numbers = range(parser.parse_args().batches)
    with SandboxProcess() as sandbox, RedisServer() as redis:
        for name, more in (
            ("one worker", {"CACHE_MAX_MB": "256"}),
            ("two workers and Redis", {"WEB_CONCURRENCY": "2", "REDIS_URL": redis.url}),
        ):
            with Service(sandbox, options=("--log-level", "error"), **LASTING, **more) as service:
                for number in range(20):
                    requests.get(f"{service.url}/v1/cohorts?user_id=user-{number + 1}", headers=_HEADERS, timeout=10)
                for kind, path, bodies in (
                    ("cohort, ids alone", "cohorts", [cohort(number) for number in numbers]),
                    ("cohort, 20 properties", "cohorts", [cohort(9 + number, properties=20) for number in numbers]),
                    ("whole sets of 20", "users", [events(30 + number, properties=20) for number in numbers]),
                ):
                    result = measure(service.url, service.port, f"/v1/webhooks/amplitude/{path}", bodies)
                    print(f"{name}; {kind}; {result}")


if __name__ == "__main__":
    main()
