"""Runs the guide for Amplitude's EU region: from an empty service to a rendered message, without a call."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from proxy.cli.client import running_service
from proxy.profile.parts import SECTIONS
from proxy.sandbox.server import Sandbox
from proxy.settings import Settings
from tests.conftest import ROOT, Service
from tests.support import liquid
from tests.support.command import environment, run
from tests.support.docs import fragment
from tests.support.redis_server import RedisServer

MESSAGE = fragment("eu message")
PARAMETERS = {"recommendations": "rec_id=r", "cohorts": "cohort_id=vip", "propensities": "prediction_id=p"}


class Guide(NamedTuple):
    """The service that the commands of the guide set up, and the secrets that they printed."""

    service: Service
    secrets: dict[str, str]

    def shell(self, name: str, **replaced: str) -> str:
        """Run the command `name` of the guide, and return its output."""
        line = fragment(name).block("sh").strip()
        own = {
            "https://your-host": self.service.url,
            "name:secret": f"braze:{self.secrets['braze']}",
            "the-secret": self.secrets["amplitude"],
            ".venv/bin/python": shlex.quote(sys.executable),
        }
        for shown, value in (own | replaced).items():
            line = line.replace(shown, value)
        ended = subprocess.run(
            ["sh", "-c", line], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def push(self, route: str, **body: Any) -> None:
        headers = {"Authorization": f"Bearer {self.secrets['amplitude']}"}
        url = f"{self.service.url}/v1/webhooks/amplitude/{route}"
        assert requests.post(url, json=body, headers=headers, timeout=10).json()["applied"] == 1


@pytest.fixture(scope="module")
def guide(start_module_service: Callable[..., Service]) -> Iterator[Guide]:
    """Follow the guide up to the first push, with Redis and without an Amplitude key."""
    secrets, entries = {}, []
    for command in fragment("eu keys").block("sh").splitlines():
        assert command.startswith(".venv/bin/python -m proxy ")
        arguments = shlex.split(command)[3:]
        printed = run(*arguments).stdout
        secrets[arguments[1]] = re.findall(r"^secret\s+(\S+)$", printed, re.M)[0]
        entries += re.findall(r"^export PROXY_API_KEYS='(.+)'$", printed, re.M)
    with Sandbox(profile_api=False) as sandbox, RedisServer() as redis:
        values = {"PROXY_API_KEYS": ",".join(entries), "REDIS_URL": redis.url}
        settings = dict(re.findall(r"^export (\w+)=(.+)$", fragment("eu settings").block("sh"), re.M))
        assert {name for name, value in settings.items() if value == "'…'"} == values.keys()
        settings |= values
        checked = run("check", **settings)
        assert checked.returncode == 0, checked.stdout
        service = start_module_service(sandbox, AMPLITUDE_SECRET_KEY="", **settings)
        yield Guide(service, secrets)
        assert sandbox.report()["calls"] == 0


@pytest.fixture
def pushed(guide: Guide) -> Guide:
    """Push the data of the message: the properties of ava by the webhook, and the cohort by a snapshot."""
    properties = {"first_name": "Ava", "loyalty_points": "420"}
    guide.push("users", user_id="ava", event_time=time.time(), whole=True, user_properties=properties)
    answer = json.loads(guide.shell("eu snapshot", **{"12345": "ava"}))
    assert (answer["cohort_id"], answer["members"]) == ("vip", 2)
    return guide


def test_readyz_and_status__service_of_the_guide_has_just_started__answers_as_shown_without_a_problem(
    guide: Guide,
) -> None:
    assert json.loads(guide.shell("eu ready")) == json.loads(fragment("eu ready").block("json"))
    url = f"{guide.service.url}/status.json"
    status = requests.get(url, auth=("braze", guide.secrets["braze"]), timeout=10).json()
    assert [finding["level"] for finding in status["findings"]] == ["good"]


@pytest.mark.contract("6 without the Profile API")
@pytest.mark.parametrize(("user", "place"), [("ava", 0), ("unknown-user", 1), ("", 1)])
def test_message__webhook_and_snapshot__rendered_as_shown(
    pushed: Guide, engine: liquid.Engine, user: str, place: int
) -> None:
    shown = [text.strip() for language, text in MESSAGE.blocks if language == "text"]
    ask = running_service(pushed.service.url, f"braze:{pushed.secrets['braze']}")
    assert engine(MESSAGE.block("liquid"), user, ask).strip() == shown[place]


def test_preview__message_of_the_guide__prints_the_message(pushed: Guide, tmp_path: Path) -> None:
    (file := tmp_path / "message.liquid").write_text(MESSAGE.block("liquid"))
    printed = pushed.shell("eu preview", **{"message.liquid": str(file), "12345": "ava"})
    assert printed.strip() == next(text for language, text in MESSAGE.blocks if language == "text").strip()


def test_abort__data_is_missing__message_is_not_sent(pushed: Guide, engine: liquid.Engine) -> None:
    ask = running_service(pushed.service.url, f"braze:{pushed.secrets['braze']}")
    template = fragment("eu abort").block("liquid")
    assert engine(template, "ava", ask).strip() == "Hi Ava!"
    assert engine(template, "unknown-user", ask).strip() == "aborted: the name is missing"


def test_check__cohort_was_pushed__ok(guide: Guide) -> None:
    guide.push(
        "cohorts", cohort_id="c31", in_cohort=True, computed_time=str(int(time.time())), users=[{"user_id": "12345"}]
    )
    assert json.loads(guide.shell("eu check"))["ok"] is True


def test_sections_table__each_section__missing_or_answered_as_the_table_says(pushed: Guide) -> None:
    shown = {name: text for name, (text,) in fragment("eu sections").table().items()}
    assert shown.keys() == set(SECTIONS)
    for section, text in shown.items():
        url = f"{pushed.service.url}/v1/{section}?user_id=ava&{PARAMETERS.get(section, '')}"
        answer = requests.get(url, auth=("braze", pushed.secrets["braze"]), timeout=10).json()
        assert answer["error"] == ("not_available" if text == "always missing" else None), section


def test_ages_table__defaults__are_those_of_the_settings() -> None:
    defaults = Settings.from_env({"AMPLITUDE_PROFILE_API": "off", "BRAZE_SECRET": "0123456789abcdef"})
    pushed, stale = defaults.cache_pushed_seconds, defaults.cache_stale_if_error_seconds
    hours = [int(default.split()[0]) * 3600 for _, default, _ in fragment("eu ages").rows if default]
    assert hours == [pushed, pushed + stale]


def test_download__cohort__answers_members_and_all_other_users(guide: Guide) -> None:
    sandbox = guide.service.sandbox
    line = {
        "AMPLITUDE_API_KEY=…": f"AMPLITUDE_API_KEY={sandbox.api_key}",
        "AMPLITUDE_SECRET_KEY=…": f"AMPLITUDE_SECRET_KEY={sandbox.secret_key}",
        "https://analytics.eu.amplitude.com": sandbox.url,
        "name:secret": f"amplitude:{guide.secrets['amplitude']}",
        "abc123": "crowd-40",
    }
    guide.shell("eu download", **line)
    for user_id, is_member in (("user-1", True), ("unknown-user", False)):
        url = f"{guide.service.url}/v1/cohorts?user_id={user_id}&cohort_id=crowd-40"
        answer = requests.get(url, auth=("braze", guide.secrets["braze"]), timeout=10).json()
        assert (answer["ok"], answer["is_member"]) == (True, is_member)
