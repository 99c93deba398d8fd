"""The command line, run as a user runs each command."""

from __future__ import annotations

import ast
import json
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from proxy import __version__
from proxy.api.caller_keys import Caller, KeyRing, Scope, parse
from proxy.sandbox.faults import Fault
from proxy.sandbox.people import find
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from proxy.settings import EU_COHORTS_URL
from tests.conftest import ROOT, free_port
from tests.support.browser import Browser
from tests.support.command import run, run_in_shell, running
from tests.support.docs import fragment
from tests.support.picture import PLAYGROUND
from tests.support.redis_server import RedisServer
from tests.support.wait import until


def refuses_connections(url: str) -> bool:
    try:
        requests.get(url, timeout=2)
    except requests.ConnectionError:
        return True
    return False


@pytest.mark.contract("5 commands")
def test_main__version__is_printed() -> None:
    assert run("--version").stdout.strip().endswith(__version__)


@pytest.mark.contract("5 commands")
@pytest.mark.parametrize(
    ("options", "scope"), [((), "read"), (("--scope", "push"), "push"), (("--scope", "admin"), "admin")]
)
def test_new_key__name__prints_a_secret_and_an_entry_that_accepts_the_secret(
    options: tuple[str, ...], scope: Scope
) -> None:
    printed = run("new-key", "braze", *options).stdout
    secret = re.search(r"^secret\s+(\S+)$", printed, re.MULTILINE)
    assert secret
    line = printed.strip().splitlines()[-1]
    # Parsed by a shell, because without quotes the shell would drop the part after $.
    entry = subprocess.run(
        ["sh", "-c", f'{line}; printf %s "$PROXY_API_KEYS"'], capture_output=True, text=True, check=True
    ).stdout
    assert KeyRing(parse(entry)).check(secret[1], "braze") == Caller("braze", scope)
    assert f"scope   {scope}" in printed.splitlines()
    assert secret[1] not in entry


def test_new_key__invalid_name__is_rejected() -> None:
    refused = run("new-key", "a b")
    assert refused.returncode == 2
    assert "letters, digits" in refused.stderr


def test_main__unknown_command__is_rejected_and_help_lists_the_commands() -> None:
    assert run("dmeo").returncode == 2
    listed = run("--help").stdout
    assert "demo" in listed
    assert "..." not in listed.partition("Commands:")[2], "a summary is cut off"


def check(sandbox: Sandbox, **variables: str) -> tuple[int, list[str]]:
    """Run `check` in front of `sandbox`; return its exit code and its lines."""
    settings = {
        "AMPLITUDE_BASE_URL": sandbox.url,
        "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
        "PROXY_API_KEYS": "braze:0123456789abcdef",
    }
    ended = run("check", **settings | variables)
    assert sandbox.secret_key not in ended.stdout
    assert ended.stderr == ""
    return ended.returncode, ended.stdout.splitlines()


def marks(sandbox: Sandbox, **variables: str) -> tuple[int, list[str]]:
    """Run `check` in front of `sandbox`; return its exit code and the mark of each check."""
    code, lines = check(sandbox, **variables)
    return code, [" ".join(line.split(":")[0].split()) for line in lines]


@pytest.mark.contract("5 commands")
def test_check__everything_right__all_checks_pass_with_one_call(sandbox: Sandbox) -> None:
    code, points = marks(sandbox)
    assert code == 0
    assert points == ["ok settings", "ok callers", "ok networks", "ok reachable", "ok credentials", "ok quota"]
    assert sandbox.report()["calls"] == 1
    assert not sandbox.exposures


def test_check__problems__are_marked(sandbox: Sandbox) -> None:
    assert marks(sandbox, AMPLITUDE_SECRET_KEY="another")[1][3:] == ["ok reachable", "wrong credentials", "? quota"]
    code, points = marks(sandbox, AMPLITUDE_BASE_URL=f"http://127.0.0.1:{free_port()}")
    assert (code, points[3:]) == (1, ["wrong reachable", "? credentials", "? quota"])
    sandbox.break_with(Fault("quota"))
    assert marks(sandbox)[1][3:] == ["ok reachable", "? credentials", "wrong quota"]
    sandbox.break_with(Fault("redirect"))
    assert marks(sandbox)[1][3] == "wrong reachable"
    sandbox.break_with(Fault("status", status=503))
    assert "gives no usable answer (Amplitude returned status 503" in check(sandbox)[1][3]
    code, points = marks(sandbox, PROXY_API_KEYS="", CACHE_MAX_MB="x")
    assert code == 1
    assert [point.split()[:2] for point in points] == [["wrong", "PROXY_API_KEYS"], ["wrong", "CACHE_MAX_MB"]]
    assert "create an entry: python -m proxy new-key" in check(sandbox, PROXY_API_KEYS="")[1][0]


def test_check__credentials_are_rejected__other_scheme_is_tried_and_reported() -> None:
    with Sandbox(documented=Documented(credentials="api-key")) as sandbox:
        code, lines = check(sandbox, AMPLITUDE_API_KEY=sandbox.api_key)
        assert (code, sandbox.report()["calls"]) == (1, 2)
        assert "copy AMPLITUDE_API_KEY again from the project settings in Amplitude, or remove" in lines[4]
        assert "Currents (2 calls: Basic was rejected; Api-Key with the secret key alone was accepted)" in lines[4]
        _, lines = check(sandbox, AMPLITUDE_API_KEY=sandbox.api_key, AMPLITUDE_SECRET_KEY="another")
        assert "copy AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY again" in lines[4]
        assert "secret key alone failed" in lines[4]
    with Sandbox(documented=Documented(credentials="basic")) as sandbox:
        assert "set AMPLITUDE_API_KEY too (Basic was not tried)" in check(sandbox)[1][4]
        assert check(sandbox, AMPLITUDE_API_KEY=sandbox.api_key)[0] == 0


def test_check__long_deadline_and_misspelt_variables__warns(sandbox: Sandbox) -> None:
    misspelt = {"CACHE_FRESH_SECOND": "a-value", "AMPLITUDE_TIMEOUT": "a-value", "cache_max_mb": "a-value"}
    extra = {"REDIS_TLS_URL": "rediss://host", "CACHE_DIR": "/var/cache", "NAME": "host", "PROXY_CREDENTIALS": "a:b"}
    code, lines = check(sandbox, RESPONSE_DEADLINE_SECONDS="2", **misspelt, **extra)
    assert code == 0
    warned = [line for line in lines if line.startswith("warn ")]
    assert len(warned) == 4, lines
    for warning in (
        "AMPLITUDE_TIMEOUT is not a setting; if you mean AMPLITUDE_TIMEOUT_SECONDS,",
        "CACHE_FRESH_SECOND is not a setting; if you mean CACHE_FRESH_SECONDS,",
        "cache_max_mb is not a setting; if you mean CACHE_MAX_MB,",
        "lower the deadline, e.g. RESPONSE_DEADLINE_SECONDS=1.5",
    ):
        assert any(warning in line for line in warned), warned
    assert "a-value" not in "".join(lines)


def test_check__misspelt_variable_and_missing_setting__reports_both(sandbox: Sandbox) -> None:
    code, lines = check(sandbox, AMPLITUDE_SECRET_KEY="", AMPLITUDE_SECRETKEY="a-value")
    assert code == 1
    assert [line.split()[:2] for line in lines] == [["warn", "variables:"], ["wrong", "AMPLITUDE_SECRET_KEY"]]
    assert "if you mean AMPLITUDE_SECRET_KEY," in lines[0]


def test_check__former_name_of_a_variable__warns_and_fails_if_both_are_set(sandbox: Sandbox) -> None:
    code, lines = check(sandbox, NAMES="cohorts.vip=c31")
    assert code == 0
    assert lines[0] == "warn   variables: NAMES is now called ALIASES; rename the variable"
    code, lines = check(sandbox, NAMES="cohorts.vip=c31", ALIASES="cohorts.vip=c31")
    assert (code, lines[1].split()[:4]) == (1, ["wrong", "ALIASES", "and", "its"])


@pytest.mark.contract("5 commands")
def test_demo__port_is_taken__prints_15_lines_whose_links_work_and_ends_with_ctrl_c() -> None:
    # The demo ignores the settings of the user's shell.
    ignored = {"AMPLITUDE_REQUESTS_PER_MINUTE": "nonsense", "WEB_CONCURRENCY": "5", "GUNICORN_CMD_ARGS": "--bad"}
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        running("demo", "--port", str(port := taken.getsockname()[1]), **ignored) as (process, printed),
    ):
        assert len(printed.splitlines()) == 15
        links = re.findall(r"http://demo:\S+", printed)
        assert (found := PLAYGROUND.search(printed))
        assert f"{found[1]}/playground" == links[0]
        assert [link.rpartition("/")[2] for link in links] == ["playground", "docs", "status"]
        assert [run_in_shell(f"curl -s -o /dev/null -w '%{{http_code}}' {link}") for link in links] == ["200"] * 3
        assert re.findall(r"^  (ava|ben|cleo) ", printed, re.M) == ["ava", "ben", "cleo"]
        (curl,) = re.findall(r"^  (curl .*)$", printed, re.M)
        assert json.loads(run_in_shell(curl))["user_id"] == "ava"
        assert f"127.0.0.1:{port}/" not in printed
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
        assert refuses_connections(links[0])


@pytest.mark.slow
@pytest.mark.contract("5 commands")
def test_demo__more__prints_commands_and_tags_that_work() -> None:
    with running("demo", "--more") as (_, printed):
        joined = [line.strip() for line in printed.replace("\\\n", " ").splitlines()]
        curls = [line for line in joined if line.startswith("curl")]
        (push,) = [curls.pop(number) for number, line in enumerate(curls) if "/v1/webhooks/" in line]
        (warm,) = [line for line in joined if " warm --cohort " in line and " -m proxy " in line]
        routes = [line.split("/v1/")[1].split("?")[0] for line in curls if "/v1/" in line]
        assert routes == [
            "recommendations",
            "properties",
            "cohorts",
            "computations",
            "propensities",
            "profile",
            "userprofile",
        ]
        for line in curls:
            body = json.loads(run_in_shell(line))
            if "/v1/" in line:
                assert body.get("ok", True)
                assert body.get("userData", body)["user_id"] == "ava"
        assert json.loads(run_in_shell(push))["applied"] == 1
        assert "1 member, snapshot installed" in run_in_shell(warm)
        assert printed.count("{% connected_content") == len(routes)
        assert "only to known users, e.g. user_id=user-9" in printed
        assert find("user-9", None), "the faults have no effect for an unknown user"


@pytest.mark.contract("6 without the Profile API")
@pytest.mark.slow
def test_demo__no_profile_api__printed_commands_and_messages_show_pushed_data_without_a_call() -> None:
    shown = shlex.split(fragment("eu demo").block("sh"))
    assert shown[:3] == [".venv/bin/python", "-m", "proxy"]
    with running(*shown[3:], "--more") as (_, printed):
        joined = [line.strip() for line in printed.replace("\\\n", " ").splitlines()]
        answers = {line: json.loads(run_in_shell(line)) for line in joined if line.startswith("curl ")}
        data = [body for line, body in answers.items() if "/v1/" in line and "?" in line]
        assert [(body["ok"], body["error"], body["user_id"]) for body in data] == [(True, None, "ava")] * 3
        assert data[0]["properties"] == {"first_name": "Ava", "loyalty_points": 420}
        assert data[1]["is_member"] is True
        (snapshots,) = (body["snapshots"] for line, body in answers.items() if line.endswith("/v1/snapshots"))
        assert {"vip", "c31", "newsletter"} <= {snapshot["cohort_id"] for snapshot in snapshots}
        (login,) = re.findall(r"(http://demo:\S+)/playground", printed)
        for template, user_id, message in (
            ("{{ props.properties.first_name }}", "ava", "Ava"),
            ("{{ cohorts.is_member }}", "cleo", "false"),
            ("{{ profile.properties.first_name }} {{ profile.is_member }}", "ben", "Ben false"),
        ):
            (tag,) = [
                line for line in joined if line.startswith("{%") and f":save {template[3:].split('.')[0]} " in line
            ]
            body = {"template": tag + template, "user_id": user_id}
            rendered = requests.post(f"{login}/playground/render", json=body, timeout=30).json()
            assert (rendered["outcome"], rendered["message"]) == ("sent", message)
        (amplitude,) = re.findall(r"(http://\S+)/sandbox/report", printed)
        assert requests.get(f"{amplitude}/sandbox/report", timeout=5).json()["calls"] == 0
        assert requests.get(f"{amplitude}/v1/userprofile?user_id=ava", timeout=5).status_code == 404
        assert not re.search("recommendation|computation|propensit|user-1", printed)


@pytest.mark.slow
def test_demo__open__browser_shows_the_playground_signed_in_and_stores_no_secret(
    browser: Browser, tmp_path: Path
) -> None:
    opened, command = tmp_path / "url", tmp_path / "browser"
    command.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    command.chmod(0o700)
    with running("demo", "--open", BROWSER=str(command)) as (_, printed):
        (secret,) = set(re.findall(r"http://demo:(\S+)@", printed))
        until(lambda: opened.exists() and opened.read_text(), "no browser was started", 10)
        url = opened.read_text()
        assert secret not in url
        browser.open(url)
        browser.find("#user").send_keys("ava")
        browser.press("#render")
        browser.until(lambda: browser.text("#outcome") == "sent", "the rendered message")
        assert browser.errors() == []
        assert refuses_connections(url), "the URL works more than once"
        browser.open("about:blank")
        visited = until_visited(browser, "/playground")
    assert not [address for address in visited if secret in address]


def until_visited(browser: Browser, path: str) -> list[str]:
    """Wait until the history of the browser has a URL with `path`, and return all URLs. The browser writes it late."""
    file = Path(browser.driver.capabilities["chrome"]["userDataDir"], "Default", "History")
    visited: list[str] = []

    def read() -> bool:
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{file}?immutable=1", uri=True)) as data:
            visited[:] = [url for (url,) in data.execute("SELECT url FROM urls")]
        return any(urlsplit(url).path == path for url in visited)

    until(read, "the browser wrote no history", 30)
    return visited


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 2), (3, 10, 13)])
def test_import__old_python__one_line_names_the_version(version: tuple[int, ...]) -> None:
    program = f"import sys; sys.version_info = {version}; import proxy"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    (required,) = re.findall(r'requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text())
    assert line.startswith(f"Python {required} or newer is required")
    ast.parse((ROOT / "proxy" / "__init__.py").read_text(), feature_version=(3, 4))


@pytest.mark.contract("5 commands")
def test_sandbox__started_alone__answers_and_injects_faults_until_sigterm() -> None:
    port = free_port()
    with running("sandbox", "--port", str(port), "--unknown-status", "404") as (process, printed):
        base = f"http://127.0.0.1:{port}"
        assert f"AMPLITUDE_BASE_URL={base} AMPLITUDE_SECRET_KEY=sandbox-secret-key" in printed

        def call(method: str, path: str) -> dict[str, object]:
            headers = {"Authorization": "Api-Key sandbox-secret-key"}
            return requests.request(method, base + path, headers=headers, timeout=5).json()  # type: ignore[no-any-return]

        assert call("GET", "/v1/userprofile?user_id=ava&get_cohort_ids=true")["userData"]
        assert call("POST", "/sandbox/fault?kind=broken-json&times=1")["fault"]
        assert call("DELETE", "/sandbox/fault") == {"fault": None}
        assert call("GET", "/sandbox/report")["calls"] == 1
        refused = run("sandbox", "--port", str(port))
        assert refused.returncode == 1
        assert "--port" in refused.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_sandbox__braze_options__apply_and_are_printed() -> None:
    options = ["--latency=0", "--braze-key=k", "--braze-users=none", "--braze-batch-objects=1"]
    faults = ["--braze-fault", "kind=429-retry-after&seconds=7&times=1", "--batch-fault", "kind=throttled&times=1"]
    with running("sandbox", "--port", str(free_port()), *options, *faults) as (_, printed):
        (url,) = set(re.findall(r"BRAZE_REST_ENDPOINT=(\S+) BRAZE_API_KEY=k", printed))
        (ingest,) = re.findall(r"AMPLITUDE_INGEST_URL=(\S+) AMPLITUDE_API_KEY=sandbox-api-key", printed)

        def track(*users: str) -> requests.Response:
            body = {"attributes": [{"external_id": user, "_update_existing_only": True, "a": 1} for user in users]}
            headers = {"Authorization": "Bearer k"}
            return requests.post(f"{url}/users/track", json=body, headers=headers, timeout=10)

        limited = track("ava")
        assert (limited.status_code, limited.headers["X-Ratelimit-Retry-After"]) == (429, "7")
        assert track("ava").status_code == 201
        assert track("ava", "ben").json() == {"message": "Max Input Length Exceeded"}
        report = requests.get(f"{url}/emulator/braze", timeout=10).json()
        assert (report["requests"], report["ignored_objects"]) == (3, 1)
        batch = {"api_key": "sandbox-api-key", "events": [{"user_id": "user-1", "event_type": "open"}]}
        assert [requests.post(ingest, json=batch, timeout=10).status_code for _ in range(2)] == [429, 200]


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--braze-fault", "kind=throttled", "kind must be one of slow, "),
        ("--batch-fault", "kind=slow&seconds=long", "seconds, status and times must be numbers"),
        ("--braze-fault", "kind=slow&until=now", "unknown parameters: until; remove them"),
    ],
)
def test_sandbox__invalid_fault__error_names_the_option(option: str, value: str, problem: str) -> None:
    ended = run("sandbox", option, value)
    assert ended.returncode == 2
    assert f"'{option}': {problem}" in ended.stderr


@pytest.mark.slow
def test_sandbox__default_port_is_taken__printed_command_starts_the_service() -> None:
    with ExitStack() as stack:
        with suppress(OSError):  # another program uses the port
            stack.enter_context(socket.create_server(("127.0.0.1", 8001)))
        _, printed = stack.enter_context(running("sandbox"))
        (line,) = re.findall(r"^  (AMPLITUDE_BASE_URL=.*gunicorn.*)$", printed, re.M)
        assert "AMPLITUDE_BASE_URL=http://127.0.0.1:8001 " not in line
        (credentials,) = re.findall(r"name (\S+), secret (\S+)\):", printed)
        (address,) = re.findall(r"--bind (\S+)", line)
        service = subprocess.Popen(["sh", "-c", f"exec env {line}"], cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            with requests.Session() as session:
                session.mount(
                    "http://", HTTPAdapter(max_retries=Retry(connect=60, backoff_factor=0.1, backoff_max=0.2))
                )
                answer = session.get(f"http://{address}/v1/cohorts?user_id=ava", auth=credentials, timeout=20)
        finally:
            service.terminate()
            service.wait(20)
        assert answer.json()["cohort_ids"] == ["vip", "c31"]


@pytest.mark.contract("5 plan")
def test_plan__recipients__prints_duration_and_send_rate() -> None:
    printed = run("plan", "--recipients", "100000", "--calls", "2", "--quota", "600", "--share", "80").stdout
    assert "6 h 57 min: 200,000 calls (2 per user), at 480 a minute" in printed
    assert "at most 240 messages a minute" in printed
    too_slow = run("plan", "--recipients", "10", "--calls", "3", "--quota", "2", "--share", "100").stdout
    assert "less than one message a minute" in too_slow
    assert run("plan", "--recipients", "0").returncode == 2


def test_check__redis_up_or_down__is_reported(sandbox: Sandbox) -> None:
    with RedisServer() as running:
        code, points = marks(sandbox, REDIS_URL=running.url)
        assert (code, "ok redis" in points) == (0, True)
    code, points = marks(sandbox, REDIS_URL=running.url)
    assert (code, "wrong redis" in points) == (1, True)


@pytest.mark.parametrize(
    ("fault", "mark", "text"),
    [
        (None, "ok", "Braze accepts the key at this instance"),
        (Fault("wrong-key"), "wrong", "status 401: BRAZE_API_KEY is wrong, or BRAZE_REST_ENDPOINT names another"),
        (Fault("no-permission"), "wrong", "status 403: BRAZE_API_KEY lacks the permission users.track"),
        (Fault("429-retry-after"), "warn", "lower BRAZE_REQUESTS_PER_MINUTE"),
        (Fault("maintenance"), "wrong", "gives no usable answer (Braze returned status 503); check"),
    ],
    ids=["right", "401", "403", "429", "503"],
)
def test_check__braze__one_request_that_writes_nothing(
    sandbox: Sandbox, fault: Fault | None, mark: str, text: str
) -> None:
    sandbox.braze.faults.set(fault)
    code, lines = check(sandbox, BRAZE_REST_ENDPOINT=sandbox.url, BRAZE_API_KEY=sandbox.braze.key)
    assert code == (mark == "wrong")
    (line,) = [line for line in lines if "braze: " in line]
    assert line.split()[0] == mark
    assert text in line
    assert sandbox.braze.key not in "\n".join(lines)
    report = sandbox.braze.report()
    assert (report["requests"], report["objects"]) == (1, 0)


def test_check__forwarded_names_that_braze_never_gets__warns(sandbox: Sandbox) -> None:
    braze = {"BRAZE_REST_ENDPOINT": sandbox.url, "BRAZE_API_KEY": sandbox.braze.key}
    code, lines = check(
        sandbox,
        **braze,
        FORWARD_EVENTS=f"Order,[Braze] Email Open,{'e' * 256}",
        FORWARD_PROPERTIES=f"email,plan,app_id,address.city,$price,{'p' * 256}",
    )
    assert code == 0
    (stream,) = [line for line in lines if line.startswith("ok     event stream")]
    assert "forwards to Braze: Order as events and plan as custom attributes" in stream
    assert [line.removeprefix("warn").strip() for line in lines if line.startswith("warn   event stream")] == [
        "event stream: FORWARD_EVENTS has events that came from Braze, which are never forwarded; remove [Braze] Email "
        "Open",
        "event stream: FORWARD_EVENTS has names that Braze does not accept, which are never forwarded; remove "
        f"{'e' * 256}",
        "event stream: FORWARD_PROPERTIES has fields of Braze, which are never forwarded; remove app_id, email",
        "event stream: FORWARD_PROPERTIES has names that Braze does not accept, which are never forwarded; remove "
        f"$price, address.city, {'p' * 256}",
    ]


@pytest.mark.parametrize(("scope", "warned"), [("read", True), ("push", False), ("admin", False)])
def test_check__event_stream_without_a_push_key__warns(sandbox: Sandbox, scope: str, warned: bool) -> None:
    braze = {"BRAZE_REST_ENDPOINT": sandbox.url, "BRAZE_API_KEY": sandbox.braze.key}
    code, lines = check(sandbox, **braze, FORWARD_EVENTS="*", PROXY_API_KEYS=f"amplitude:{'s' * 32}:{scope}")
    assert code == 0
    warning = (
        "warn   event stream: PROXY_API_KEYS has no key with the scope push, so Amplitude's messages get status 403; "
        "create a key: python -m proxy new-key amplitude --scope push"
    )
    assert (warning in lines) == warned


def test_check__directions_switched_on__lists_each_direction(sandbox: Sandbox) -> None:
    braze = {"BRAZE_REST_ENDPOINT": sandbox.url, "BRAZE_API_KEY": sandbox.braze.key}
    code, lines = check(
        sandbox, **braze, FORWARD_EVENTS="Order,App Open", FORWARD_PROPERTIES="*", BRAZE_REQUESTS_PER_MINUTE="600"
    )
    assert code == 0
    (stream, sync) = lines[-2:]
    assert stream.endswith(
        "forwards to Braze: App Open, Order as events and all as custom attributes; Braze ignores users that it does "
        "not know"
    )
    assert f"writes to {sandbox.url}, with at most 600 requests a minute; the state is in the file of --state" in sync
    _, lines = check(sandbox, **braze, FORWARD_EVENTS="*", BRAZE_CREATE_USERS="true")
    assert "forwards to Braze: all as events; Braze creates unknown users" in lines[-2]
    _, lines = check(sandbox, AMPLITUDE_API_KEY=sandbox.api_key, AMPLITUDE_COHORTS_URL=EU_COHORTS_URL)
    assert lines[-1].endswith("/v1/webhooks/braze/currents sends events to https://api.eu.amplitude.com/batch")


def test_check__without_braze__no_request_to_braze(sandbox: Sandbox) -> None:
    lines = check(sandbox)[1]
    assert not any(word in line for line in lines for word in ("braze: ", "event stream: ", "sync: ", "currents: "))
    assert sandbox.braze.report()["requests"] == 0


def test_check__profile_api_off__no_call_and_a_warning_for_each_gap(sandbox: Sandbox) -> None:
    off = {"AMPLITUDE_PROFILE_API": "off", "RESPONSE_DEADLINE_SECONDS": "3", "CACHE_FRESH_SECONDS": "900"}
    code, lines = check(sandbox, **off, AMPLITUDE_SECRET_KEY="")
    assert code == 0
    assert [" ".join(line.split(":")[0].split()) for line in lines] == [
        "ok settings",
        "ok callers",
        "ok networks",
        "ok profile API",
        "warn variables",
        "warn data",
        "warn downloads",
        "warn downloads",
    ]
    assert "no call was made" in lines[3]
    assert "AMPLITUDE_BASE_URL, RESPONSE_DEADLINE_SECONDS have no effect" in lines[4]
    assert "set REDIS_URL" in lines[5]
    assert "needs AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY" in lines[6]
    assert "set AMPLITUDE_COHORTS_URL=https://analytics.eu.amplitude.com" in lines[7]
    with RedisServer() as running:
        complete = {"REDIS_URL": running.url, "AMPLITUDE_API_KEY": "key", "AMPLITUDE_COHORTS_URL": sandbox.url}
        code, lines = check(sandbox, AMPLITUDE_PROFILE_API="off", REDIS_KEY_SECRET="0" * 64, **complete)
    assert (code, [line for line in lines if not line.startswith("ok ")]) == (0, [])
    assert sandbox.report()["calls"] == 0
