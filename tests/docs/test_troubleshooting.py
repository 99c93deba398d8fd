"""The troubleshooting guide: the test causes each symptom, and the command of the guide finds the cause."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from tests.conftest import ROOT, SECRET, Service
from tests.support.docs import fragment, fragments


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs the command of a symptom against a service, and returns the output."""

    def run(service: Service, symptom: str, *, user: str = "12345", secret: str = SECRET, message: str = "") -> str:
        (tmp_path / "message.liquid").write_text(message)
        line = (
            fragment(f"symptom {symptom}")
            .block("sh")
            .replace("https://your-host", service.url)
            .replace("name:secret", f"braze:{secret}")
        )
        line = line.replace("12345", user).replace(".venv/bin/python", shlex.quote(sys.executable))
        env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        completed = subprocess.run(
            ["sh", "-c", line],
            cwd=tmp_path,
            env=env | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return completed.stdout + completed.stderr

    return run


@pytest.fixture(scope="module")
def rejected(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox() as sandbox:
        yield start_module_service(sandbox, AMPLITUDE_SECRET_KEY="another", PROXY_API_KEYS=f"braze:{SECRET}")


@pytest.fixture(scope="module")
def poor(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox() as sandbox:
        yield start_module_service(sandbox, AMPLITUDE_REQUESTS_PER_MINUTE="1")


def test_symptoms__of_the_guide__are_those_tested() -> None:
    tested = {"no content", "401", "403", "all users", "some users", "old data", "quota", *PROBLEMS}
    assert {part.name.removeprefix("symptom ") for part in fragments("symptom")} == tested


def test_no_content__fault_or_control_group__answer_names_the_cause(service: Service, run: Callable[..., str]) -> None:
    service.sandbox.break_with(Fault("status", status=500))
    output = run(service, "no content", user="user-31401")
    assert "Cache-Status: connected-content-proxy; fwd=miss; detail=upstream_unavailable" in output
    assert '"error":"upstream_unavailable"' in output.replace('": "', '":"')
    service.sandbox.break_with(None)
    assert '"is_control":true' in run(service, "no content", user="ben").replace(" ", "")


def test_401__right_or_wrong_secret__status_differs_without_a_call(service: Service, run: Callable[..., str]) -> None:
    before = service.sandbox.report()["calls"]
    assert run(service, "401").startswith("HTTP/1.1 200")
    assert run(service, "401", secret="a-secret-that-is-not-stored").startswith("HTTP/1.1 401")
    assert service.sandbox.report()["calls"] == before


def test_403__secret_that_may_read_or_do_everything__code_names_the_scope(
    start_service: Callable[..., Service], sandbox: Sandbox, run: Callable[..., str]
) -> None:
    reader = "the-secret-of-a-reader"
    service = start_service(sandbox, PROXY_API_KEYS=f"braze:{SECRET}", BRAZE_SECRET=reader)
    assert '"code": "scope"' in run(service, "403", secret=reader)
    assert run(service, "403").startswith("HTTP/1.1 415")


def test_all_users__credentials_or_quota_or_ids__word_names_the_cause(
    service: Service, rejected: Service, poor: Service, run: Callable[..., str]
) -> None:
    for _ in range(2):
        rejected.get("/v1/cohorts?user_id=ava")
    assert '"upstream":"rejected"' in run(rejected, "all users").replace(" ", "")
    for user in ("ava", "ben", "cleo"):
        poor.get(f"/v1/cohorts?user_id={user}")
    assert '"quota":"spent"' in run(poor, "all users").replace(" ", "")
    assert "Quota used up" in run(poor, "quota")
    assert '"found":false' in run(service, "no content", user="an-unknown-user").replace(" ", "")


@pytest.mark.contract("1 another user")
def test_some_users__merged_in_amplitude__error_and_log_name_the_setting(
    start_service: Callable[..., Service], sandbox: Sandbox, run: Callable[..., str]
) -> None:
    sandbox.break_with(Fault("another-user"))
    service = start_service(sandbox)
    assert '"error":"upstream_invalid"' in run(service, "some users", user="ava")
    (why,) = re.findall(r'"why":"(.+?)"', service.log.read_text())
    assert why.startswith("the answer is about another user")
    mapped = start_service(sandbox, ACCEPT_MAPPED_USERS="true")
    output = run(mapped, "some users", user="ava")
    assert '"error":null' in output
    assert '"user_id":"another-user"' in output


def test_old_data__no_cache__is_fetched_again(service: Service, run: Callable[..., str]) -> None:
    service.get("/v1/recommendations?user_id=user-31411&rec_id=homepage")
    output = run(service, "old data", user="user-31411")
    assert "fwd=request; stored" in output
    assert "last_updated" in output


PROBLEMS = {
    "liquid error": (
        "{% if p.properties.first_name > 3 %}x{% endif %}\n{{ p.gp:first_name }}",
        ("line 2: Liquid prints “Liquid error: comparison", "line 3: Liquid cannot read gp:first_name"),
    ),
    "only in braze": (
        "",
        ("line 1: http:// sends", "| url_param_escape", "line 1: the tag has no credentials"),
    ),
}


@pytest.mark.parametrize(
    ("symptom", "message", "expected"), [(key, *value) for key, value in PROBLEMS.items()], ids=PROBLEMS
)
def test_preview__message_that_breaks_in_braze__names_the_line(
    service: Service, run: Callable[..., str], symptom: str, message: str, expected: tuple[str, ...]
) -> None:
    tag = "{% connected_content http://h/v1/properties?user_id={{${user_id}}} :save p %}\n"
    output = run(service, symptom, user="ava", message=tag + message)
    assert all(title in output for title in expected), output
