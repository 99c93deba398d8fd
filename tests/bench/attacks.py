"""Measures cached answers during attacks: `python -m tests.bench.attacks`.

One worker with the shipped configuration answers 500 requests a second over 64 connections, first without an attack,
then during each attack. The table has the times of the cached answers, the restarts of the worker, and its maximum
memory. The time of an answer starts when its request is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from tests.bench.load import Offered, command_line, offer, percentile, table
from tests.bench.processes import AUTHORIZATION, LONG_LIVED, SandboxProcess, Service, warm
from tests.support.service import SECRET

RATE = 500
CONNECTIONS = 64
USERS = 100
GRACE_SECONDS = 60
"""Time after the end of the load until a service that does not answer counts as down."""

Attack = Callable[[int, float], None]
"""A function of the port and the `time.monotonic()` of the end of the attack."""


def endless_chunks(path: str) -> Attack:
    """Return an attack that sends endless 1-byte chunks at 2 MB/s, without credentials."""

    def attack(port: int, end: float) -> None:
        piece = b"1\r\nx\r\n" * 2000
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
                peer.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
                while time.monotonic() < end:
                    peer.sendall(piece)
                    time.sleep(len(piece) / 2e6)
            time.sleep(0.05)

    return attack


def many_small_chunks(port: int, end: float) -> None:
    """Open 200 connections a second. Each sends a request with 8 KB of 1-byte chunks in one piece."""
    request = b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1300
    while time.monotonic() < end:
        with contextlib.ExitStack() as peers, contextlib.suppress(OSError):
            for _ in range(200):
                peers.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)).sendall(request)
            time.sleep(1)


def large_headers(port: int, end: float) -> None:
    """Send requests with 791 KB of headers, each on a new connection, eight at once."""
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(
        b"X-%d: %s\r\n" % (number, b"y" * 8000) for number in range(98)
    )
    request += b"\r\n"

    def send() -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30) as peer:
                peer.sendall(request)
                peer.recv(65536)
            time.sleep(0.05)  # an attacker that uses both cores would slow down any service

    _run_together([send] * 8)


def renderings(template: str) -> Attack:
    """Return an attack that renders `template` in the playground, ten times at once."""
    body = json.dumps({"template": template, "user_id": "user-1", "device_id": ""}).encode()

    def attack(port: int, end: float) -> None:
        _run_together([lambda: _post_repeatedly(port, "/playground/render", body, end)] * 10)

    return attack


def large_webhooks(port: int, end: float) -> None:
    """Send webhooks of almost 8 MiB, forty at once."""
    user = '{"user_id": "pushed-%d", "user_properties": {"note": "' + "x" * 800 + '"}}'
    users = ",".join(user % number for number in range(9_600))
    now = int(time.time())
    body = f'{{"cohort_id": "c1", "in_cohort": true, "computed_time": "{now}", "users": [{users}]}}'.encode()
    _run_together([lambda: _post_repeatedly(port, "/v1/webhooks/amplitude/cohorts", body, end)] * 40)


ALL = "all"
ATTACKS: dict[str, Attack] = {
    "endless chunks to /healthz": endless_chunks("/healthz"),
    "endless chunks to /v1/cohorts (401)": endless_chunks("/v1/cohorts?user_id=ava"),
    "8 KB of 1-byte chunks, 200 at once": many_small_chunks,
    "791 KB of headers, 8 at once": large_headers,
    "unclosed brackets in a tag, 10 at once": renderings("{% connected_content " + "{" * 15_000 + " %}"),
    "nested loops, 10 at once": renderings(
        "{% for i in (1..100) %}{% for j in (1..100) %}"
        + "{% assign x = i | plus: j %}" * 500
        + "{% endfor %}{% endfor %}"
    ),
    "webhooks of 8 MiB, 40 at once": large_webhooks,
}


def _run_together(tasks: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _post_repeatedly(port: int, path: str, body: bytes, end: float) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {SECRET}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30) as peer:
            peer.sendall(head)
            peer.sendall(body)
            while peer.recv(65536):
                pass
        time.sleep(0.05)


@dataclass(frozen=True)
class Measurement:
    """The load during an attack. `offered` is None if the service did not answer in time."""

    offered: Offered | None
    restarts: int
    megabytes: float

    def row(self, name: str) -> list[str]:
        """Return the row of the table."""
        if self.offered is None:
            times = ["no answers"] * 3
        else:
            hits = self.offered.hits
            times = [f"{value:.1f}" for value in (percentile(hits, 0.5), percentile(hits, 0.99), max(hits))]
        unanswered = str(self.offered.unanswered) if self.offered else "?"
        return [name, *times, unanswered, str(self.restarts), f"{self.megabytes:.0f}"]


def measure(service: Service, attack: Attack | None, seconds: float) -> Measurement:
    """Send the load for `seconds` during `attack`, which runs in a separate process."""
    workers = service.workers()
    maximum = [0.0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            with contextlib.suppress(psutil.Error):
                maximum[0] = max(maximum[0], *(worker.memory_info().rss / 2**20 for worker in service.workers()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    context = multiprocessing.get_context("fork")
    attacker = context.Process(target=attack, args=(service.port, time.monotonic() + seconds + 2)) if attack else None
    if attacker:
        attacker.start()
    try:
        offered = asyncio.run(_offered(service.port, seconds))
    finally:
        if attacker:
            attacker.join(GRACE_SECONDS)
            attacker.kill()
        stop.set()
        watcher.join()
    return Measurement(offered, len({w.pid for w in service.workers()} - {w.pid for w in workers}), maximum[0])


async def _offered(port: int, seconds: float) -> Offered | None:
    try:
        async with asyncio.timeout(seconds + GRACE_SECONDS):
            return await offer(port, _requests(), rate=RATE, connections=CONNECTIONS, seconds=seconds)
    except (TimeoutError, OSError):
        return None


def _requests() -> Iterator[bytes]:
    for number in itertools.cycle(range(1, USERS + 1)):
        head = f"GET {_path(number)} HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZATION}\r\n\r\n"
        yield head.encode()


def _path(number: int) -> str:
    return f"/v1/properties?user_id=user-{2 * number + 1}"  # users known to the emulated Amplitude


def main() -> None:
    """Measure without an attack and during each attack. Print each line of the table at once."""
    parser = command_line(__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="duration of each attack")
    parser.add_argument("--attack", choices=[ALL, *ATTACKS], default=ALL, help="measure only this attack")
    options = parser.parse_args()
    columns = ["attack", "median ms", "p99 ms", "slowest ms", "unanswered", "worker restarts", "worker MiB"]
    print(table(columns, []), flush=True)
    with SandboxProcess() as sandbox:
        for name in [None, *(ATTACKS if options.attack == ALL else [options.attack])]:
            with Service(sandbox, options=("--log-level", "error"), **LONG_LIVED) as service:
                warm(service.port, [_path(number) for number in range(1, USERS + 1)])
                measurement = measure(service, ATTACKS[name] if name else None, options.seconds)
                print(f"| {' | '.join(measurement.row(name or 'none'))} |", flush=True)


if __name__ == "__main__":
    main()
