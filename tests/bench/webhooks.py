"""How long Amplitude's webhooks take, and who waits meanwhile: `python -m tests.bench.webhooks`.

The service as shipped, alone and as two workers before Redis, is sent batches as large as they may be, while 100 cached
answers a second are asked of it.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.bench.options import command_line
from tests.bench.running import Processes
from tests.conftest import SECRET

USERS = 10_000
_ASKS_A_SECOND = 100
_HEADERS = {"X-API-Key": SECRET, "Content-Type": "application/json"}


def cohort(number: int, *, properties: int = 0, users: int = USERS) -> bytes:
    """Return a batch of a cohort webhook: each user with that many properties, different ones in each batch."""

    def of(user: int) -> dict[str, Any]:
        some = {f"property {one:02}": f"value {number} {user} {one}" for one in range(properties)}
        return {"user_id": f"pushed-{user}", **({"user_properties": some} if some else {})}

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
    """Return an array of events that say all properties of their users."""

    def of(user: int) -> dict[str, Any]:
        some = {f"property {one:02}": f"value {number} {user} {one}" for one in range(properties)}
        at = int(time.time() * 1000) - 100_000 + number * 1000
        return {"user_id": f"pushed-{user}", "event_time": at, "whole": True, "user_properties": some}

    return json.dumps([of(user) for user in range(users)]).encode()


@contextmanager
def asking(port: int) -> Iterator[list[float]]:
    """Ask for cached answers all the time, over several connections, and collect how many seconds each took."""
    took: list[float] = []
    over = threading.Event()

    def ask(worker: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        number = 0
        while not over.wait(4 / _ASKS_A_SECOND):
            number += 1
            began = time.perf_counter()
            connection.request("GET", f"/v1/cohorts?user_id=user-{number % 20 + 1}", headers=_HEADERS)
            connection.getresponse().read()
            took.append(time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield took
    finally:
        over.set()
        for thread in threads:
            thread.join()


def spoken(seconds: Sequence[float]) -> str:
    """Return median and worst of some times, in milliseconds."""
    return f"{statistics.median(seconds) * 1000:.0f} ms, at most {max(seconds) * 1000:.0f}"


def measure(url: str, port: int, path: str, bodies: Sequence[bytes]) -> str:
    """Send the bodies one after the other; return how long that took, and how long others waited meanwhile."""
    seconds = []
    with asking(port) as took:
        time.sleep(1)
        quiet = len(took)
        for body in bodies:
            began = time.perf_counter()
            answer = requests.post(f"{url}{path}", data=body, headers=_HEADERS, timeout=30)
            seconds.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
            assert answer.json()["applied"] == USERS, answer.text
            time.sleep(0.2)
    before, meanwhile = sorted(took[:quiet]), sorted(took[quiet:])
    p99s = [some[int(len(some) * 0.99)] * 1000 for some in (before, meanwhile)]
    size = max(map(len, bodies)) / 2**20
    return (
        f"{size:.1f} MiB: {spoken(seconds)}; cached answers p99 before {p99s[0]:.0f} ms, meanwhile {p99s[1]:.0f}, "
        f"at most {meanwhile[-1] * 1000:.0f}"
    )


def main() -> None:
    """Measure each kind of batch before each kind of service, and print a line for each."""
    parser = command_line(__doc__)
    parser.add_argument("--batches", type=int, default=5, help="of each kind; a figure is of them all")
    numbers = range(parser.parse_args().batches)
    with tempfile.TemporaryDirectory() as folder, Processes(Path(folder)) as processes:
        sandbox = processes.sandbox()
        for name, more in (
            ("one worker", {"CACHE_MAX_MB": "256"}),
            ("two workers and Redis", {"WEB_CONCURRENCY": "2", "REDIS_URL": processes.redis()}),
        ):
            with processes.once() as these:
                service = these.gunicorn("wsgi:app", sandbox, **more)
                for number in range(20):
                    requests.get(f"{service.url}/v1/cohorts?user_id=user-{number + 1}", headers=_HEADERS, timeout=10)
                for kind, path, bodies in (
                    ("cohort, ids alone", "cohorts", [cohort(number) for number in numbers]),
                    ("cohort, 20 properties", "cohorts", [cohort(9 + number, properties=20) for number in numbers]),
                    ("whole sets of 20", "users", [events(30 + number, properties=20) for number in numbers]),
                ):
                    told = measure(service.url, service.port, f"/v1/webhooks/amplitude/{path}", bodies)
                    print(f"{name}; {kind}; {told}")


if __name__ == "__main__":
    main()
