"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy import __version__
from proxy.api.keys import KeyRing, parse
from proxy.sandbox.faults import Fault
from proxy.sandbox.people import find
from proxy.sandbox.server import Sandbox
from tests.conftest import ROOT, free_port
from tests.support.redis_server import RedisServer


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


@contextmanager
def running(*arguments: str, until: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a command and yield it with what it printed up to the line that has `until`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if until in line:
                break
        yield process, printed
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


def gone(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError as error:
        return "refused" in str(error)
    return False


@pytest.mark.contract("5 commands")
def test_version() -> None:
    assert run("--version").stdout.strip().endswith(__version__)


@pytest.mark.contract("5 commands")
def test_new_key_prints_a_secret_and_an_entry_that_accepts_it() -> None:
    printed = run("new-key", "braze").stdout
    secret = re.search(r"^secret\s+(\S+)$", printed, re.MULTILINE)
    assert secret
    line = printed.strip().splitlines()[-1]
    # As a shell would read it: unquoted, the $ and what follows it would be lost.
    entry = subprocess.run(
        ["sh", "-c", f'{line}; printf %s "$PROXY_API_KEYS"'], capture_output=True, text=True, check=True
    ).stdout
    assert KeyRing(parse(entry)).check(secret[1], "braze") == "braze"
    assert secret[1] not in entry


def test_new_key_refuses_a_name_that_no_entry_can_have() -> None:
    refused = run("new-key", "a b")
    assert refused.returncode == 2
    assert "letters, digits" in refused.stderr


def test_a_command_that_does_not_exist_says_which_do() -> None:
    assert run("dmeo").returncode == 2
    assert "demo" in run("--help").stdout


def checked(sandbox: Sandbox, **variables: str) -> tuple[int, list[str]]:
    """Run `check` in front of `sandbox`; return its exit code and the mark of each point."""
    code, lines = check(sandbox, **variables)
    return code, [" ".join(line.split(":")[0].split()) for line in lines]


def check(sandbox: Sandbox, **variables: str) -> tuple[int, list[str]]:
    """Run `check` in front of `sandbox`; return its exit code and its lines."""
    env = {
        "AMPLITUDE_BASE_URL": sandbox.url,
        "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
        "PROXY_API_KEYS": "braze:0123456789abcdef",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "proxy", "check"],
        cwd=ROOT,
        env=os.environ | env | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    assert sandbox.secret_key not in ended.stdout
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.contract("5 commands")
def test_check_says_point_by_point_what_is_right_and_spends_one_call(sandbox: Sandbox) -> None:
    code, points = checked(sandbox)
    assert code == 0
    assert points == ["ok settings", "ok callers", "ok networks", "ok reachable", "ok credentials", "ok quota"]
    assert sandbox.report()["calls"] == 1
    assert not sandbox.exposures


def test_check_says_what_is_wrong(sandbox: Sandbox) -> None:
    assert checked(sandbox, AMPLITUDE_SECRET_KEY="another")[1][3:] == ["ok reachable", "wrong credentials", "? quota"]
    code, points = checked(sandbox, AMPLITUDE_BASE_URL=f"http://127.0.0.1:{free_port()}")
    assert (code, points[3:]) == (1, ["wrong reachable", "? credentials", "? quota"])
    sandbox.break_with(Fault("quota"))
    assert checked(sandbox)[1][3:] == ["ok reachable", "? credentials", "wrong quota"]
    sandbox.break_with(Fault("redirect"))
    assert checked(sandbox)[1][3] == "wrong reachable"
    code, points = checked(sandbox, PROXY_API_KEYS="", CACHE_MAX_MB="x")
    assert code == 1
    assert [point.split()[:2] for point in points] == [["wrong", "PROXY_API_KEYS"], ["wrong", "CACHE_MAX_MB"]]


def test_check_warns_of_what_braze_will_not_wait_for_and_of_misspelt_variables(sandbox: Sandbox) -> None:
    misspelt = {"CACHE_FRESH_SECOND": "a-value", "AMPLITUDE_TIMEOUT": "a-value", "cache_max_mb": "a-value"}
    others = {"REDIS_TLS_URL": "rediss://host", "CACHE_DIR": "/var/cache", "NAME": "host", "PROXY_CREDENTIALS": "a:b"}
    code, lines = check(sandbox, RESPONSE_DEADLINE_SECONDS="2", **misspelt, **others)
    assert code == 0
    warned = [line for line in lines if line.startswith("warn ")]
    assert len(warned) == 4, lines
    for told in (
        "AMPLITUDE_TIMEOUT is no setting: is AMPLITUDE_TIMEOUT_SECONDS meant?",
        "CACHE_FRESH_SECOND is no setting: is CACHE_FRESH_SECONDS meant?",
        "cache_max_mb is no setting: is CACHE_MAX_MB meant?",
        "Braze gives up at 2 s: set it lower, e.g. RESPONSE_DEADLINE_SECONDS=1.5",
    ):
        assert any(told in line for line in warned), warned
    assert "a-value" not in "".join(lines)


def test_check_warns_of_a_misspelt_variable_also_where_a_setting_is_missing(sandbox: Sandbox) -> None:
    code, lines = check(sandbox, AMPLITUDE_SECRET_KEY="", AMPLITUDE_SECRETKEY="a-value")
    assert code == 1
    assert [line.split()[:2] for line in lines] == [["warn", "variables:"], ["wrong", "AMPLITUDE_SECRET_KEY"]]
    assert "is AMPLITUDE_SECRET_KEY meant?" in lines[0]


def test_check__former_name_of_a_variable__warns(sandbox: Sandbox) -> None:
    code, lines = check(sandbox, NAMES="cohorts.vip=c31")
    assert code == 0
    assert lines[0] == "warn   variables: NAMES is now called ALIASES: rename the variable"
    code, lines = check(sandbox, NAMES="cohorts.vip=c31", ALIASES="cohorts.vip=c31")
    assert (code, lines[1].split()[:4]) == (1, ["wrong", "ALIASES", "and", "NAMES,"])


@pytest.mark.contract("5 commands")
def test_demo_prints_curl_lines_that_work_and_ends_with_ctrl_c() -> None:
    port = free_port()
    # Whatever the user's shell has set, the demo needs none of it and heeds none of it.
    noise = {"AMPLITUDE_REQUESTS_PER_MINUTE": "nonsense", "WEB_CONCURRENCY": "5", "GUNICORN_CMD_ARGS": "--bad"}
    with running("demo", "--port", str(port), until="Ctrl-C", **noise) as (process, printed):
        whole = [line.strip() for line in printed.replace("\\\n", " ").splitlines()]
        lines = [line for line in whole if line.startswith("curl")]
        (pushed,) = [lines.pop(number) for number, line in enumerate(lines) if "/v1/webhooks/" in line]
        (warmed,) = [line for line in whole if " warm --cohort " in line and " -m proxy " in line]
        asked = [line for line in lines if "/v1/" in line]
        assert [line.split("/v1/")[1].split("?")[0] for line in asked] == [
            "recommendations",
            "properties",
            "cohorts",
            "computations",
            "propensities",
            "profile",
            "userprofile",
        ]
        for line in asked:
            body = json.loads(subprocess.run(shlex.split(line), capture_output=True, check=True).stdout)
            assert body.get("ok", True)
            assert body.get("userData", body)["user_id"] == "ava"
        for line in lines:
            if "/v1/" not in line:
                json.loads(subprocess.run(shlex.split(line), capture_output=True, check=True).stdout)
        assert json.loads(in_a_shell(pushed))["applied"] == 1
        assert "1 done" in in_a_shell(warmed)
        tags = [line.strip() for line in printed.splitlines() if "{% connected_content" in line]
        assert len(tags) == len(asked)
        addresses = set(re.findall(r"http://127\.0\.0\.1:\d+", printed))
        assert len(addresses) == 2
        assert "drip-headers, drip-body and bad-header befall who is known: try user_id=user-9" in printed
        assert find("user-9", None), "somebody unknown shows none of them"
        for page in ("/playground", "/docs", "/status"):
            assert f"http://127.0.0.1:{port}{page} " in printed
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
        assert all(gone(address) for address in addresses)
    assert process.returncode == 0


def in_a_shell(line: str) -> str:
    """Paste a line into a shell in the project's folder, and return what it said."""
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_demo_takes_the_next_port_when_its_own_is_taken() -> None:
    port = free_port()
    with (
        running("demo", "--port", str(port), until="Ctrl-C") as (_, first),
        running("demo", "--port", str(port), until="Ctrl-C") as (second, printed),
    ):
        assert f"http://127.0.0.1:{port} " in first
        assert f"http://127.0.0.1:{port} " not in printed
        second.send_signal(signal.SIGTERM)
        assert second.wait(15) == 0


@pytest.mark.contract("5 commands")
def test_sandbox_runs_alone_breaks_and_mends_over_http() -> None:
    port = free_port()
    with running("sandbox", "--port", str(port), "--unknown-status", "404", until="Ctrl-C") as (process, printed):
        base = f"http://127.0.0.1:{port}"
        assert f"AMPLITUDE_BASE_URL={base} AMPLITUDE_SECRET_KEY=sandbox-secret-key" in printed

        def call(method: str, path: str) -> dict[str, object]:
            request = urllib.request.Request(base + path, method=method)
            request.add_header("Authorization", "Api-Key sandbox-secret-key")
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)  # type: ignore[no-any-return]

        assert call("GET", "/v1/userprofile?user_id=ava&get_cohort_ids=true")["userData"]
        assert call("POST", "/sandbox/fault?kind=broken-json&times=1")["fault"]
        assert call("DELETE", "/sandbox/fault") == {"fault": None}
        assert call("GET", "/sandbox/report")["calls"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_sandbox_finds_a_port_beside_another_and_its_line_starts_the_service_in_front_of_it() -> None:
    with running("sandbox", until="Ctrl-C") as (_, first), running("sandbox", until="Ctrl-C") as (_, printed):
        (line,) = re.findall(r"^  (AMPLITUDE_BASE_URL=.*gunicorn.*)$", printed, re.M)
        assert re.findall(r"BASE_URL=\S+", line) != re.findall(r"BASE_URL=\S+", first)
        found = re.search(r"name (\S+) with the secret (\S+):", printed)
        bound = re.search(r"--bind (\S+)", line)
        assert found
        assert bound
        service = subprocess.Popen(["sh", "-c", f"exec env {line}"], cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            curl = [
                "curl",
                "-s",
                "--retry",
                "40",
                "--retry-delay",
                "1",
                "--retry-connrefused",
                "-u",
                ":".join(found.groups()),
            ]
            asked = subprocess.run(
                [*curl, f"http://{bound[1]}/v1/cohorts?user_id=ava"], capture_output=True, check=True
            )
        finally:
            service.terminate()
            service.wait(20)
        assert json.loads(asked.stdout)["cohort_ids"] == ["vip", "c31"]


def test_sandbox_says_what_to_do_when_its_port_is_taken() -> None:
    port = free_port()
    with running("sandbox", "--port", str(port), until="Ctrl-C"):
        refused = run("sandbox", "--port", str(port))
    assert refused.returncode == 1
    assert "--port" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.contract("5 plan")
def test_plan_says_minutes_to_warm_and_the_speed_of_a_cold_send() -> None:
    printed = run("plan", "--recipients", "100000", "--calls", "2", "--quota", "600", "--share", "80").stdout
    assert "200,000 (2 a user), at 480 a minute" in printed
    assert "6 h 57 min" in printed
    assert "send 240 messages a minute at most" in printed
    too_slow = run("plan", "--recipients", "10", "--calls", "3", "--quota", "2", "--share", "100").stdout
    assert "not even one message a minute" in too_slow
    assert run("plan", "--recipients", "0").returncode == 2


def test_check_says_whether_redis_answers(sandbox: Sandbox) -> None:
    with RedisServer() as running:
        code, points = checked(sandbox, REDIS_URL=running.url)
        assert (code, "ok redis" in points) == (0, True)
    code, points = checked(sandbox, REDIS_URL=running.url)
    assert (code, "wrong redis" in points) == (1, True)
