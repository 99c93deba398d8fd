"""The processes of a benchmark: the sandbox, and whatever gunicorn runs under the shipped configuration."""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from proxy.settings import Settings
from tests.bench.options import leave_on_sigterm
from tests.conftest import KEYS, ROOT, SECRET, free_port
from tests.support.redis_server import RedisServer

AUTHORIZATION = "Basic " + base64.b64encode(f"braze:{SECRET}".encode()).decode()
_OF_ANOTHER = {one.name.upper() for one in fields(Settings)} | {
    "WEB_CONCURRENCY",
    "GUNICORN_CMD_ARGS",
    "REDIS_URL",
    "REDIS_TLS_VERIFY",
}
ENOUGH = 1_000_000
"""Calls a minute, so that warming waits for nothing but the machine."""


@dataclass(frozen=True)
class Running:
    """A process that answers at `url`; `started` is the seconds until it did first."""

    url: str
    port: int
    process: int
    started: float


class Processes:
    """Starts processes, each on a port of its own, and ends all of them on leaving; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Processes:
        leave_on_sigterm()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def once(self) -> Processes:
        """Return the same for a shorter time."""
        return Processes(self._folder)

    def sandbox(self) -> Running:
        """Start the emulated Amplitude, with quota enough and without latency."""
        port = free_port()
        command = [sys.executable, "-m", "proxy", "sandbox", "--port", str(port), "--latency", "0"]
        return self.start([*command, "--requests-per-minute", str(ENOUGH)], port)

    def gunicorn(self, app: str, sandbox: Running, **more: str) -> Running:
        """Start `app` as the service is started; with no access log, which for the service is its lines at INFO."""
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", app, "--bind", f"127.0.0.1:{port}", "--log-level", "error"]
        return self.start(command, port, environment(sandbox.url) | more)

    def redis(self) -> str:
        """Start an empty Redis and return its URL."""
        return self._stack.enter_context(RedisServer()).url

    def start(self, command: Sequence[str], port: int, env: Mapping[str, str] | None = None) -> Running:
        """Start `command` and return once it answers."""
        return self._stack.enter_context(running(command, port, self._folder / f"{port}.log", env))


def environment(amplitude: str) -> dict[str, str]:
    """Return the service's environment: nothing of this shell's settings, and a cache that outlives the benchmark."""
    rest = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER}
    return rest | {
        "AMPLITUDE_BASE_URL": amplitude,
        "AMPLITUDE_SECRET_KEY": "sandbox-secret-key",
        "AMPLITUDE_REQUESTS_PER_MINUTE": str(ENOUGH),
        "PROXY_API_KEYS": KEYS,
        "CACHE_FRESH_SECONDS": "86400",
        "LOG_LEVEL": "WARNING",
    }


@contextmanager
def running(command: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run `command` until the block is left. RuntimeError with its last lines when it does not come up."""
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > began + 30:
                raise RuntimeError(f"{' '.join(command)} did not start: {log.read_text()[-800:]}")
            time.sleep(0.002)
        yield Running(f"http://127.0.0.1:{port}", port, process.pid, time.monotonic() - began)
    finally:
        process.terminate()
        process.wait(40)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(port: int, paths: Sequence[str], *, authorization: str = AUTHORIZATION) -> Iterator[Answer]:
    """Ask for each path in order over one connection, as the caller whom the service knows."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        for path in paths:
            connection.request("GET", path, headers={"Authorization": authorization})
            answer = connection.getresponse()
            yield Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def warm(port: int, paths: Sequence[str], *, at_once: int = 16) -> None:
    """Ask for each path once. RuntimeError unless every one is answered whole."""

    def part(some: Sequence[str]) -> None:
        for answer in ask(port, some):
            if answer.status != 200 or not json.loads(answer.body)["ok"]:
                raise RuntimeError(f"warming failed: {answer.status} {answer.body[:200]!r}")

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(part, [paths[first::at_once] for first in range(at_once)]))


def calls(sandbox: Running) -> int:
    """Return how many calls the sandbox has counted."""
    report: dict[str, Any] = json.loads(next(ask(sandbox.port, ["/sandbox/report"])).body)
    return int(report["calls"])


def break_with(sandbox: Running, fault: str | None) -> None:
    """Set the sandbox's fault, e.g. `kind=slow&seconds=2`; None ends it."""
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
    connection.request("DELETE" if fault is None else "POST", f"/sandbox/fault?{fault or ''}")
    connection.getresponse().read()
    connection.close()
