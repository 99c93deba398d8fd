"""The start: invalid settings stop it, with one line for each, no traceback and no secret; a log line describes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from proxy import __version__
from proxy.sandbox.server import Sandbox
from tests.conftest import KEYS, ROOT, Service, free_port
from tests.support.wait import log_lines, request_lines

BAD = {
    "AMPLITUDE_BASE_URL": "http://profile-api.amplitude.com",
    "PROXY_API_KEYS": "braze:short-secret",
    "CACHE_FRESH_SECONDS": "soon",
}


def start(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")} | variables
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.contract("4 settings")
@pytest.mark.parametrize(
    "command", [["-m", "gunicorn", "wsgi:app", "--bind", f"127.0.0.1:{free_port()}"], ["-c", "import wsgi"]]
)
def test_start__invalid_settings__one_line_each_and_exit(command: list[str]) -> None:
    completed = start(command, **BAD)
    assert completed.returncode not in (0, None)
    faults = [line for line in completed.stderr.splitlines() if ", e.g. " in line]
    assert [line.split()[0] for line in faults] == [
        "AMPLITUDE_SECRET_KEY",
        "AMPLITUDE_BASE_URL",
        "PROXY_API_KEYS",
        "CACHE_FRESH_SECONDS",
    ]
    assert "Traceback" not in completed.stderr
    assert "short-secret" not in completed.stderr


def test_create_app__called__logging_of_the_process_is_unchanged() -> None:
    program = f"""
import logging
from proxy.app import create_app
from proxy.settings import Settings

loggers = [logging.getLogger(name) for name in ("", "proxy", "proxy.web.request_log", "urllib3", "requests")]

def state():
    settings = [(logger.level, logger.handlers[:], logger.propagate, logger.disabled) for logger in loggers]
    return settings, logging.logThreads, logging.logProcesses, logging.getLogRecordFactory()

before = state()
create_app(Settings.from_env({{"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": "{KEYS}", "LOG_LEVEL": "DEBUG"}}))
logging.basicConfig(format="%(filename)s")
logging.warning("")
print(state()[1:] == before[1:], state()[0][1:] == before[0][1:])
"""
    completed = start(["-c", program])
    assert (completed.stdout, completed.stderr) == ("True True\n", "<string>\n")


def test_worker__invalid_settings__not_respawned() -> None:
    completed = start(["-m", "gunicorn", "wsgi:app", "-c", os.devnull, "--bind", f"127.0.0.1:{free_port()}"], **BAD)
    assert completed.returncode == 4
    assert completed.stderr.count("AMPLITUDE_SECRET_KEY is required") == 1
    assert "Traceback" not in completed.stderr


def test_started_line__settings_with_secrets__version_pid_and_changed_settings_once(
    start_service: Callable[..., Service], sandbox: Sandbox
) -> None:
    service = start_service(sandbox, CACHE_MAX_MB="128", ADMIN_SECRET="a-secret-of-the-admin")
    (started,) = [line for line in log_lines(service.log) if line["event"] == "started"]
    assert (started["level"], started["version"], [started["pid"]]) == ("INFO", __version__, service.workers())
    assert started["settings"] == {
        "AMPLITUDE_SECRET_KEY": "set",
        "AMPLITUDE_BASE_URL": sandbox.url,
        "PROXY_API_KEYS": "set",
        "ADMIN_SECRET": "set",
        "CACHE_MAX_MB": "128",
        "LOG_LEVEL": "DEBUG",
    }


def test_request_lines__polls_and_other_requests__only_polls_at_debug(
    start_service: Callable[..., Service], sandbox: Sandbox
) -> None:
    service = start_service(sandbox)
    paths = ("/metrics", "/status", "/status.json", "/healthz", "/readyz", "/v1/cohorts?user_id=", "/playground")
    answers = [service.get(path) for path in paths]
    assert {answer.status_code for answer in answers} == {200}
    levels = {line["route"]: line["level"] for line in request_lines(service.log, *answers)}
    assert {route for route, level in levels.items() if level == "INFO"} == {"/v1/cohorts", "/playground"}
    assert levels["/metrics"] == levels["/status.json"] == levels["/status"] == "DEBUG"
