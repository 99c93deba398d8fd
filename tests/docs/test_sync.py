"""Follows the guides to sync, event stream and Currents with the demo, and checks their commands and tables."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.app import create_app
from proxy.sandbox.braze_api import BrazeApi
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from proxy.settings import VARIABLES, Settings
from proxy.sync.currents import to_amplitude
from tests.conftest import KEYS, ROOT, SECRET, Service
from tests.support.command import environment, run_in_shell, running
from tests.support.docs import fragment, fragments


@pytest.fixture(scope="module")
def printed_commands() -> Iterator[list[str]]:
    """Start the demo as the guide shows, and return the commands for the three directions and the faults, in order."""
    shown = shlex.split(fragment("sync demo").block("sh"))
    assert shown[:3] == [".venv/bin/python", "-m", "proxy"]
    # The demo ignores the settings of the user's shell.
    with running(*shown[3:], REDIS_URL="redis://127.0.0.1:1", FORWARD_EVENTS="*") as (_, printed):
        steps = printed[printed.index("1. ") :].replace("\\\n", " ").splitlines()
        yield [line.strip() for line in steps if line.startswith("  ")]


def stdout(command: str) -> str:
    # REDIS_URL of the user must not be used.
    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env=environment(REDIS_URL="redis://127.0.0.1:1"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def delivered(command: str) -> set[str]:
    """Send an event until it is accepted, as Amplitude does. Return the outcomes. A busy machine can be too slow."""
    for _ in range(5):
        answer = json.loads(stdout(command))
        if answer.get("status") != 503:
            return set(answer["forwarded"])
    raise AssertionError(answer)


@pytest.mark.contract("7 sync")
@pytest.mark.slow
def test_walk__demo_with_sync__every_direction_arrives_as_the_guides_say(printed_commands: list[str]) -> None:
    dry_run, sync, users, event, events, currents, relayed, fault, clear = printed_commands
    shown = shlex.split(fragment("sync forecast").block("sh"))[3:]
    assert shlex.join(shown[:-1]) in dry_run
    assert dry_run.endswith(shown[-1])
    assert stdout(dry_run) == fragment("sync forecast").block("text")
    assert stdout(users) == "{}"
    assert stdout(sync) == fragment("sync first").block("text")
    assert stdout(sync) == fragment("sync second").block("text")
    assert stdout(users).startswith('{"')
    # The requests of sync arrive in any order, so the user can be after the end of the printed part.
    all_users = users.partition(" | ")[0]
    assert json.loads(stdout(all_users))["ava"] == {"loyalty_points": 420, "newsletter": True, "in_c31": True}

    assert delivered(event) <= {"accepted", "duplicate", "unchanged"}
    arrived, *_ = json.loads(stdout(events))
    assert (arrived["external_id"], arrived["name"], arrived["properties"]) == (
        "ava",
        "Order Completed",
        {"total": 42.5},
    )
    assert json.loads(stdout(all_users))["ava"]["plan"] == "gold"

    assert json.loads(stdout(currents)) == json.loads(fragment("currents answer").block("json"))
    (opened,) = json.loads(stdout(relayed))
    assert (opened["user_id"], opened["event_type"]) == ("ava", "[Braze] Email Open")

    later = event.replace('"order-', '"later-')  # the time alone could be the same second
    assert "error" not in json.loads(stdout(fault))
    assert json.loads(stdout(later))["status"] == 503
    assert json.loads(stdout(clear)) == {"fault": None}
    assert delivered(later) <= {"accepted", "duplicate", "unchanged"}


@pytest.fixture(scope="module")
def receiving() -> Iterator[Sandbox]:
    with Sandbox(braze=BrazeApi(known_users="all"), documented=Documented(cohort_polls=0)) as sandbox:
        yield sandbox


def shown_settings(name: str) -> dict[str, str]:
    """Return the variables in the shell block `name`."""
    words = shlex.split(fragment(name).block("sh"))
    return dict(word.split("=", 1) for word in words if word != "export")


def with_addresses(settings: dict[str, str], sandbox: Sandbox) -> dict[str, str]:
    """Return the settings with the values of the sandbox instead of those that a user fills in."""
    own = {
        "AMPLITUDE_API_KEY": sandbox.api_key,
        "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
        "BRAZE_REST_ENDPOINT": sandbox.url,
        "BRAZE_API_KEY": sandbox.braze.key,
    }
    return {name: own.get(name, value) for name, value in settings.items()}


@pytest.mark.parametrize("name", ["sync settings", "forward settings", "currents settings"])
def test_settings__of_a_guide__are_complete(name: str, receiving: Sandbox) -> None:
    shown = shown_settings(name)
    assert shown.keys() <= VARIABLES.keys() | set(VARIABLES.values())
    required = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS}
    settings = Settings.from_env(required | with_addresses(shown, receiving))
    assert bool(settings.braze_api_key) is (name != "currents settings")
    assert shown.keys() <= json.loads((ROOT / "app.json").read_text())["env"].keys()
    assert (
        shown.keys() <= yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["service"]["environment"].keys()
    )


@pytest.fixture(scope="module")
def service(start_module_service: Callable[..., Service], receiving: Sandbox) -> Service:
    """Return a service with the settings of the guides to the event stream and Currents."""
    settings = with_addresses(shown_settings("forward settings") | shown_settings("currents settings"), receiving)
    return start_module_service(
        receiving, AMPLITUDE_INGEST_URL=f"{receiving.url}/batch", RESPONSE_DEADLINE_SECONDS="20", **settings
    )


@pytest.mark.contract("7 event stream")
@pytest.mark.parametrize("name", ["forward answer", "currents answer"])
def test_curl__of_the_guide__answers_as_shown(service: Service, name: str) -> None:
    command = fragment(name).block("sh").replace("https://your-host", service.url).replace("the-secret", SECRET)
    assert json.loads(run_in_shell(command)) == json.loads(fragment(name).block("json"))
    if name == "forward answer":
        assert json.loads(run_in_shell(command))["forwarded"] == {"duplicate": 1, "unchanged": 1}
        assert service.sandbox.braze.attributes("12345") == {"plan": "gold"}
    else:
        assert service.sandbox.batch.by_insert_id()["open-1"]["event_type"] == "[Braze] Email Open"


def test_forward_skips_table__each_reason__occurs(receiving: Sandbox) -> None:
    settings = {
        "AMPLITUDE_SECRET_KEY": "k",
        "PROXY_API_KEYS": KEYS,
        "BRAZE_REST_ENDPOINT": receiving.url,
        "BRAZE_API_KEY": receiving.braze.key,
        "FORWARD_EVENTS": "*",
        "FORWARD_PROPERTIES": "*",
    }
    client = create_app(Settings.from_env(settings)).test_client()
    many = {f"key{number}": "x" * 200 for number in range(600)}
    users: list[dict[str, Any]] = [
        {"event_type": "Order"},
        {"user_id": "u1", "event_type": "[Braze] Email Open"},
        {"user_id": "u1", "event_type": " "},
        {"user_id": "u1", "event_type": "Order", "event_properties": {"time": 1, "text": "x" * 300}},
        {"user_id": "u1", "event_type": "Order", "event_properties": many},
        {"user_id": "u1", "user_properties": {"$add": {"visits": 1}}},
        {"user_id": "u1", "user_properties": {"email": "a@b.c", "a.b": 1, "n" * 256: 1, "list": [0] * 600}},
        {"user_id": "u1", "user_properties": {"tree": {"a b": 1}, "count": {"inc": 1}, "table": [[1]]}},
        {"user_id": "u1", "user_properties": {"large": many}},
    ]
    answer = client.post("/v1/webhooks/amplitude/users", json=users, headers={"X-API-Key": SECRET})
    assert answer.json is not None
    (part,) = fragments("forward skips")
    reasons = {reason for row in part.rows for reason in re.findall(r"`(\w+)`", row[0])}
    assert answer.json["forwarded"].keys() - {"accepted", "late", "unchanged"} == reasons


def test_currents_names_table__each_type__has_the_name_shown() -> None:
    for braze_name, shown in fragment("currents names").rows:
        event_type, *custom = re.findall(r"`([^`]+)`", braze_name)
        properties = {"name": custom[0]} if custom else {}
        event = {"event_type": event_type, "id": "1", "time": 1, "user": {"external_user_id": "u"}}
        converted = to_amplitude(event | {"properties": properties})
        assert isinstance(converted, dict)
        assert f"`{converted['event_type']}`" == shown


@pytest.mark.parametrize("name", ["sync cron", "sync heroku"])
def test_scheduled_command__of_the_guide__sends_values(name: str, receiving: Sandbox, tmp_path: Path) -> None:
    line = fragment(name).block("text").strip()
    if name == "sync cron":
        *when, line = line.split(maxsplit=5)
        assert when == ["30", "3", "*", "*", "*"]
    settings = with_addresses(shown_settings("sync settings"), receiving) | {"AMPLITUDE_COHORTS_URL": receiving.url}
    (tmp_path / "settings").write_text("".join(f"{variable}={value}\n" for variable, value in settings.items()))
    (tmp_path / "proxy").symlink_to(ROOT / "proxy")
    replaced = {
        "cd /opt/connected-content-proxy": f"cd {tmp_path}",
        "/etc/connected-content-sync": str(tmp_path / "settings"),
        "/var/log/": f"{tmp_path}/",
        ".venv/bin/python": sys.executable,
        "abc123": "c31",
    }
    for shown, own in replaced.items():
        line = line.replace(shown, own)
    if line.startswith("python "):
        line = line.replace("python", sys.executable, 1)
    receiving.braze.reset()
    variables = settings if name == "sync heroku" else {}
    ended = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=environment(**variables), capture_output=True, text=True, check=False
    )
    log = tmp_path / "connected-content-sync.log"
    output = log.read_text() if log.exists() else ended.stdout
    assert (ended.returncode, "sent 183 values of 183 users in 3 requests" in output) == (0, True), (
        output + ended.stderr
    )
    assert receiving.braze.attributes("ava") == {"loyalty_points": 420}
    assert (tmp_path / ".proxy-sync.sqlite3").exists()
