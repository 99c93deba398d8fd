"""Fixtures: a clock, settings, the application with a fake Amplitude, and the real service with the sandbox."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Generator, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.sandbox.batch_api import BatchApi
from proxy.sandbox.braze_api import BrazeApi
from proxy.sandbox.server import Sandbox
from proxy.settings import Settings
from tests.support import browser as browsers
from tests.support import liquid
from tests.support.browser import Browser
from tests.support.fakes import FakeClock, FakeSource
from tests.support.service import KEYS, ROOT, SECRET, Service, StartService, batch_api, free_port, services
from tests.support.wait import request_lines

# pytest stores the test modules whose asserts it has rewritten. Without the stored files, each process of a run spends
# half of its collection time on rewriting, so PYTHONDONTWRITEBYTECODE is overruled.
sys.dont_write_bytecode = False

__all__ = ["KEYS", "ROOT", "SECRET", "Service", "StartService", "free_port"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector away from the collected tests and imported modules, which live until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run with skipped tests if NO_SKIPS is set. Set it where all optional programs are installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("NO_SKIPS") and reporter and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line("\nA test was skipped although NO_SKIPS is set; install the missing program", red=True)


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
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def shared_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def braze_sandbox(shared_sandbox: Sandbox) -> Sandbox:
    """Return a sandbox whose emulated Braze and Batch API have received nothing. The server is shared, so this is fast.

    Braze: `url` is BRAZE_REST_ENDPOINT, and `braze.key` is BRAZE_API_KEY. `ava` and all `user-N` exist.
    Replace `braze` by `BrazeApi(…)` for other options. Set a fault with
    `braze.faults.set(Fault("429-retry-after", seconds=2, times=1))`. Read `braze.report()`, `braze.attributes("ava")`,
    `braze.profiles.events` and `braze.log.requests`.
    Batch API: `url + "/batch"` is AMPLITUDE_INGEST_URL, and `batch.key` is AMPLITUDE_API_KEY. Read `batch.report()`,
    `batch.events` and `batch.by_insert_id()`.
    """
    shared_sandbox.braze, shared_sandbox.batch = BrazeApi(), BatchApi()
    return shared_sandbox


@pytest.fixture
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartService]:
    """Return a function that starts a service. The services are stopped after the test."""
    with services(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="module")
def start_module_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartService]:
    """Return a function that starts a service. The services are stopped after the last test of the module."""
    with services(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Sandbox(latency=0.05) as sandbox, services(tmp_path_factory) as start:
        service = start(sandbox, **batch_api(sandbox))
        yield service
        # All tests share this service, with LOG_LEVEL=DEBUG and all faults. The log must contain no ids or secrets.
        request_lines(service.log, service.get("/v1/profile?user_id=user-1"))
        log = service.log.read_text()
        ids = r"user-\d+|user_id|rec_id=|device-ava|d%C3%A1rio|dário|hidden-user|stranger to all"
        log = log.replace('"parameter":"user_id"', "")  # the name of a parameter with a problem, without its value
        leaks = re.findall(rf"{ids}|{SECRET}|{sandbox.secret_key}|{sandbox.api_key}", log)
        assert not leaks, f"the log contains ids or secrets: {set(leaks)}"


@pytest.fixture
def service(shared_service: Service) -> Service:
    """Return the shared service, with its sandbox reset. The cache is not cleared, so each test needs its own users."""
    shared_service.sandbox.break_with(None)
    shared_service.sandbox.reset()
    return shared_service


@pytest.fixture(scope="session")
def ruby() -> Iterator[liquid.Engine]:
    if liquid.ruby_is_missing():
        pytest.skip("Ruby's Liquid is not installed; run apt-get install ruby ruby-liquid")
    with liquid.ruby() as engine:
        yield engine


@pytest.fixture(params=["python-liquid", "ruby-liquid"])
def engine(request: pytest.FixtureRequest) -> liquid.Engine:
    if request.param == "python-liquid":
        return liquid.python
    ruby_engine: liquid.Engine = request.getfixturevalue("ruby")
    return ruby_engine


@pytest.fixture(scope="session")
def shared_browser() -> Iterator[Browser]:
    if reason := browsers.missing():
        pytest.skip(reason)
    with browsers.running() as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Browser) -> Browser:
    """Return the browser with a desktop window and the light colour scheme."""
    shared_browser.leave()
    shared_browser.set_display()
    return shared_browser
