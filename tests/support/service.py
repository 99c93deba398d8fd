"""Runs the real service under gunicorn."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from proxy.sandbox.server import Sandbox
from tests.support.wait import until

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-of-a-test"
KEYS = f"braze:{SECRET}"
GRACEFUL_SECONDS = int(re.findall(r"^graceful_timeout = (\d+)$", (ROOT / "gunicorn.conf.py").read_text(), re.M)[0])
"""Time that gunicorn takes to stop, at most."""


def environment(**variables: str) -> dict[str, str]:
    """Return `variables` and the environment variables that every program needs."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ} | variables


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def gunicorn(app: str, port: int, *options: str) -> list[str]:
    """Return the command that runs `app` with the shipped configuration."""
    return [sys.executable, "-m", "gunicorn", app, "--bind", f"127.0.0.1:{port}", *options]


def start(
    command: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server and wait until it answers. Raises AssertionError with the server's log if the server stops."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until(lambda: _answers(port) or process.poll() is not None, "the server did not start", 30)
        assert process.poll() is None, log.read_text()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/healthz")
        connection.getresponse()
    except OSError:
        return False
    finally:
        connection.close()
    return True


@dataclass
class Service:
    """A running service in front of the emulated Amplitude."""

    url: str
    sandbox: Sandbox
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", headers={"X-API-Key": SECRET}, timeout=10, **options)

    def workers(self) -> list[int]:
        """Return the process ids of all workers that were started."""
        return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log.read_text())]


StartService = Callable[..., Service]


def batch_api(sandbox: Sandbox) -> dict[str, str]:
    """Return the settings with which a service sends events to the sandbox."""
    return {"AMPLITUDE_API_KEY": sandbox.api_key, "AMPLITUDE_INGEST_URL": f"{sandbox.url}/batch"}


@contextmanager
def services(folders: pytest.TempPathFactory) -> Iterator[StartService]:
    """Yield a function that starts the service with a sandbox as Amplitude. Stop the services at the end.

    before: a command that gunicorn's command is appended to. options: options of gunicorn. variables: settings by name.
    """
    started: list[subprocess.Popen[bytes]] = []

    def launch(
        sandbox: Sandbox, *, before: tuple[str, ...] = (), options: tuple[str, ...] = (), **variables: str
    ) -> Service:
        port = free_port()
        log = folders.mktemp("service") / "log"
        settings = {
            "AMPLITUDE_BASE_URL": sandbox.url,
            "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
            "PROXY_API_KEYS": KEYS,
            "LOG_LEVEL": "DEBUG",
        }
        command = [*before, *gunicorn("wsgi:app", port, *options)]
        started.append(start(command, port, log, environment(**settings | variables)))
        return Service(f"http://127.0.0.1:{port}", sandbox, log, started[-1])

    try:
        yield launch
    finally:
        for process in started:
            process.send_signal(signal.SIGQUIT)  # after SIGTERM, idle connections stay open for 2 s
        for process in started:
            process.wait(30)
