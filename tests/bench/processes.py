"""Starts the processes of a benchmark: the emulated Amplitude, and the service under gunicorn."""

from __future__ import annotations

import base64
import http.client
import json
import multiprocessing
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

import psutil

from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from tests.support.service import KEYS, environment, free_port, gunicorn, start

AUTHORIZATION = "Basic " + base64.b64encode(KEYS.encode()).decode()
UNLIMITED = 1_000_000
"""A quota in calls a minute that never delays warming."""
LONG_LIVED = {
    "AMPLITUDE_REQUESTS_PER_MINUTE": str(UNLIMITED),
    "CACHE_FRESH_SECONDS": "86400",
    "LOG_LEVEL": "WARNING",
}
"""Settings of a service whose cached data stays fresh during the benchmark, without a log line per request."""


@dataclass(frozen=True)
class Report:
    """The calls to the emulated Amplitude so far."""

    calls: list[tuple[float, str]]
    """The `time.monotonic()` of each call, which all processes of a machine share, and the requested user."""
    exposures: list[tuple[str, str]]
    statuses: Mapping[int, int]
    worst_minute: int
    """The maximum number of calls in any 60 seconds, including rejected calls."""


class _Sandbox(Sandbox):
    """A sandbox with methods for its attributes, because a manager shares only methods."""

    def address(self) -> tuple[int, str]:
        return self.port, self.secret_key

    def limit(self, per_minute: int) -> None:
        self.per_minute = per_minute

    def details(self) -> Report:
        calls = [(moment, query.get("user_id", "")) for moment, query in self.calls]
        return Report(calls, list(self.exposures), Counter(self.statuses), self.report()["worst_minute"])


class _Manager(BaseManager):
    pass


def _start_sandbox(arguments: Mapping[str, Any]) -> Sandbox:
    return _Sandbox(**arguments).__enter__()


_Manager.register("sandbox", _start_sandbox)


class SandboxProcess:
    """Runs the emulated Amplitude in a separate process. A context manager with the arguments of `Sandbox`."""

    def __init__(self, per_minute: int = UNLIMITED, **arguments: Any) -> None:
        self._manager = _Manager(ctx=multiprocessing.get_context("spawn"))
        self._arguments = {"per_minute": per_minute, **arguments}

    def __enter__(self) -> SandboxProcess:
        self._manager.start()
        self._sandbox: Any = self._manager.sandbox(self._arguments)  # type: ignore[attr-defined]  # registered above
        self.port, self.secret_key = self._sandbox.address()
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.shutdown()

    def break_with(self, fault: Fault | None) -> None:
        """Set the fault of future calls; None clears it."""
        self._sandbox.break_with(fault)

    def reset(self, per_minute: int) -> None:
        """Clear the counts, and set the quota."""
        self._sandbox.reset()
        self._sandbox.limit(per_minute)

    def calls(self) -> int:
        """Return the number of calls so far."""
        count: int = self._sandbox.report()["calls"]
        return count

    def downloads(self) -> dict[str, int]:
        """Return the number of requests for cohorts so far, by kind."""
        counts: dict[str, int] = self._sandbox.report()["cohorts"]
        return counts

    def report(self) -> Report:
        """Return all calls so far."""
        report: Report = self._sandbox.details()
        return report


class Service:
    """Runs the service, or another WSGI `app`, with the shipped configuration. A context manager.

    variables: settings by name.
    """

    def __init__(
        self, sandbox: SandboxProcess, *, app: str = "wsgi:app", options: Sequence[str] = (), **variables: str
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = gunicorn(app, self.port, *options)
        required = {
            "AMPLITUDE_BASE_URL": sandbox.url,
            "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
            "PROXY_API_KEYS": KEYS,
        }
        self._environment = environment(**required | variables)
        self._process: subprocess.Popen[bytes] | None = None

    def change(self, **variables: str) -> None:
        """Change settings for the next start."""
        self._environment |= variables

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the service, wait for its first answer, and set `seconds_to_start`."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            self._process = start(self._command, self.port, Path(folder) / "log", self._environment)
        self.seconds_to_start = time.monotonic() - began
        self._master = psutil.Process(self._process.pid)

    def stop(self) -> None:
        """Stop the service by SIGTERM, and wait for its end. Does nothing if the service is stopped."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(40)
            self._process = None

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes."""
        return self._master.children()

    def processor_seconds(self) -> float:
        """Return the processor time of the master and the workers."""
        return processor_seconds(self._master)

    def memory(self) -> int:
        """Return the memory of all processes in bytes. Shared pages count once."""
        total = 0
        for process in (self._master, *self._master.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
        return total


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor time of `process` and its running children."""
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children()))


def get_all(port: int, paths: Sequence[str], authorization: str = AUTHORIZATION) -> Iterator[tuple[Any, bytes]]:
    """Request the paths over one connection. Yield each response with its body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        for path in paths:
            connection.request("GET", path, headers={"Authorization": authorization})
            response = connection.getresponse()
            yield response, response.read()
    finally:
        connection.close()


def warm(port: int, paths: Sequence[str], *, connections: int = 16) -> None:
    """Request each path once. Raises RuntimeError if an answer is incomplete."""

    def warm_part(part: Sequence[str]) -> None:
        for response, body in get_all(port, part):
            if response.status != 200 or not json.loads(body)["ok"]:
                raise RuntimeError(f"warming failed: {response.status} {body[:200]!r}")

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(warm_part, [paths[first::connections] for first in range(connections)]))
