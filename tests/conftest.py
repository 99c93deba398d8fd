"""Fixtures: a clock, settings, the application with a fake Amplitude, and the real service before the sandbox."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.sandbox.server import Sandbox
from proxy.settings import Settings
from tests.support import browser as browsers
from tests.support import liquid
from tests.support.browser import Browser
from tests.support.fakes import FakeClock, FakeSource

ROOT = Path(__file__).parent.parent
SECRET = "a-secret-of-a-test"
KEYS = f"braze:{SECRET}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped anything where NO_SKIPS is set: there, everything needed is installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("NO_SKIPS") and reporter and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def settings() -> Settings:
    return Settings.from_env({"AMPLITUDE_SECRET_KEY": "amplitude-secret", "PROXY_API_KEYS": KEYS})


@pytest.fixture
def source(clock: FakeClock) -> FakeSource:
    return FakeSource(clock)


@pytest.fixture
def app(settings: Settings, source: FakeSource, clock: FakeClock) -> Flask:
    return create_app(settings, fetch=source.fetch, clock=clock)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def caller() -> dict[str, str]:
    return {"X-API-Key": SECRET}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@dataclass
class Service:
    """The real service under gunicorn with its shipped configuration, in front of a sandbox."""

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
        """Return the process ids of the workers started so far."""
        return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log.read_text())]


@pytest.fixture(scope="session")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Return a function that starts a service in front of a sandbox, with settings by name.

    `before` is a command that runs the one given to it, `options` are gunicorn's own.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(
        sandbox: Sandbox, *, before: tuple[str, ...] = (), options: tuple[str, ...] = (), **variables: str
    ) -> Service:
        port = free_port()
        log = tmp_path_factory.mktemp("service") / "log"
        rest = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "gunicorn", "wsgi:app", "--bind", f"127.0.0.1:{port}", *options],
                cwd=ROOT,
                env=rest
                | {
                    "AMPLITUDE_BASE_URL": sandbox.url,
                    "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
                    "PROXY_API_KEYS": KEYS,
                    "LOG_LEVEL": "DEBUG",
                }
                | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        service = Service(f"http://127.0.0.1:{port}", sandbox, log, process)
        deadline = time.monotonic() + 20
        while True:
            try:
                requests.get(f"{service.url}/healthz", timeout=20)
                return service
            except requests.ConnectionError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "the service did not start"
                time.sleep(0.05)

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(30)


@pytest.fixture(scope="session")
def shared_service(start_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox(latency=0.05) as sandbox:
        service = start_service(sandbox)
        yield service
        # Everything that was asked of it, at DEBUG and with every fault: nothing of it may be in the log.
        log = service.log.read_text()
        assert '"event": "request"' in log
        people = r"user-\d+|user_id|rec_id=|device-ava|d%C3%A1rio|dário|hidden-user|nobody knows me"
        found = re.findall(rf"{people}|{SECRET}|{sandbox.secret_key}|{sandbox.api_key}", log)
        assert not found, f"ids or secrets in the log: {set(found)}"


@pytest.fixture
def service(shared_service: Service) -> Service:
    """Return the service before a sandbox without faults or counts. It keeps its cache: ask for users of your own."""
    shared_service.sandbox.break_with(None)
    shared_service.sandbox.reset()
    return shared_service


@pytest.fixture(scope="session")
def ruby() -> Iterator[liquid.Engine]:
    if liquid.ruby_is_missing():
        pytest.skip("Ruby's Liquid is not installed: apt-get install ruby ruby-liquid")
    with liquid.ruby() as running:
        yield running


@pytest.fixture(params=["python-liquid", "ruby-liquid"])
def engine(request: pytest.FixtureRequest) -> liquid.Engine:
    if request.param == "python-liquid":
        return liquid.python
    found: liquid.Engine = request.getfixturevalue("ruby")
    return found


@pytest.fixture(scope="session")
def shared_browser() -> Iterator[Browser]:
    if absent := browsers.missing():
        pytest.skip(absent)
    with browsers.running() as running:
        yield running


@pytest.fixture
def browser(shared_browser: Browser) -> Browser:
    """Return a window of desktop size in light colours."""
    shared_browser.dress()
    return shared_browser


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
