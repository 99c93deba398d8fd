"""The real service with AMPLITUDE_PROFILE_API=off, with a sandbox that counts calls: no feature makes a call."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from proxy.sandbox.server import Sandbox
from tests.conftest import KEYS, SECRET, Service
from tests.support.command import run
from tests.support.redis_server import RedisServer

HEADERS = {"X-API-Key": SECRET}
IDS = "user_id=ava&rec_id=homepage&prediction_id=pred-buy"
ROUTES = ("recommendations", "properties", "cohorts", "computations", "propensities", "profile?include=properties")
TAG = "{% connected_content https://h/v1/properties?user_id={{${user_id}}} :basic_auth us :save p %}"
MESSAGE = TAG + "Hi {{ p.properties.first_name | default: 'there' }}!"


@pytest.fixture(scope="module")
def service(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox(profile_api=False) as sandbox:
        service = start_module_service(
            sandbox, AMPLITUDE_PROFILE_API="off", AMPLITUDE_SECRET_KEY="", CACHE_PUSHED_SECONDS="60"
        )
        yield service
        assert sandbox.report()["statuses"] == {}


@pytest.fixture(autouse=True)
def no_calls(service: Service) -> Iterator[None]:
    """Fail if the test caused a call to the User Profile API, or a download of a cohort."""
    yield
    report = service.sandbox.report()
    assert (report["calls"], report["cohorts"]) == (0, {})


def push(service: Service, user_id: str, age: float, **properties: object) -> None:
    user = {"user_id": user_id, "event_time": time.time() - age, "whole": True, "user_properties": properties}
    answer = requests.post(f"{service.url}/v1/webhooks/amplitude/users", json=user, headers=HEADERS, timeout=10)
    assert answer.json()["applied"] == 1


@pytest.mark.contract("6 without the Profile API")
def test_data_routes__every_kind_of_request__no_call(service: Service) -> None:
    push(service, "ava", 70, first_name="Ava")  # already stale: with the Profile API, a request would refresh the data
    for route in ROUTES:
        url = f"{service.url}/v1/{route}{'&' if '?' in route else '?'}{IDS}"
        for more in ({}, {"Cache-Control": "no-cache"}, {"Cache-Control": "max-age=1"}, {"Priority": "u=7"}):
            for query in ("", "&on_error=retry"):
                answer = requests.get(url + query, headers=HEADERS | more, timeout=10)
                known = "properties" in route
                assert (answer.status_code, answer.json()["ok"], answer.json()["stale"]) == (200, known, known)
                assert answer.headers["X-Amplitude-Calls"] == "0"
    for query in ("get_amp_props=true", "get_recs=true&rec_id=homepage", ""):
        answer = service.get(f"/v1/userprofile?user_id=ben&{query}")
        assert (answer.status_code, answer.json()) == (500, {"error": "not_available"})
    assert service.get("/v1/userprofile?user_id=ava&get_amp_props=true").json()["userData"]["amp_props"]
    metrics = service.get("/metrics").text
    assert float(re.findall(r'^ccproxy_answers_missing_total{error="not_available"} (\S+)$', metrics, re.M)[0]) > 20
    assert requests.delete(f"{service.url}/v1/profile?user_id=ava", headers=HEADERS, timeout=10).status_code == 200
    assert requests.get(f"{service.url}/readyz", timeout=10).json() == {
        "status": "ok",
        "upstream": "off",
        "quota": "ok",
    }


def test_pages_and_commands__no_call(service: Service, tmp_path: Path) -> None:
    push(service, "cleo", 0, first_name="Cleo")
    body = {"template": MESSAGE, "user_id": "cleo"}
    rendered = requests.post(f"{service.url}/playground/render", json=body, headers=HEADERS, timeout=30).json()
    assert (rendered["outcome"], rendered["message"]) == ("sent", "Hi Cleo!")
    for page in ("/playground", "/status", "/status.json", "/docs", "/healthz"):
        assert service.get(page).status_code == 200

    settings = {"AMPLITUDE_BASE_URL": service.sandbox.url, "AMPLITUDE_PROFILE_API": "off"}
    credentials = ("--url", service.url, "--credentials", f"braze:{SECRET}")
    assert run("preview", "-", "--user", "cleo", *credentials, stdin=MESSAGE).stdout.strip() == "Hi Cleo!"
    assert run("preview", "-", "--user", "cleo", stdin=MESSAGE, **settings).stdout.strip() == "Hi there!"
    assert run("check", PROXY_API_KEYS=KEYS, **settings).returncode == 0

    (users := tmp_path / "users.txt").write_text("ava\nben\n")
    keys = {"AMPLITUDE_API_KEY": service.sandbox.api_key, "AMPLITUDE_SECRET_KEY": service.sandbox.secret_key}
    with RedisServer() as redis:
        for arguments, variables in (
            ((str(users), *credentials), {}),
            ((str(users),), settings | {"REDIS_URL": redis.url}),
            ((str(users), "--include", "computations"), settings | keys | {"REDIS_URL": redis.url}),
        ):
            ended = run("warm", *arguments, **variables)
            assert (ended.returncode, ended.stdout) == (1, "")
            assert re.search("AMPLITUDE_PROFILE_API(=| is )off", ended.stderr)


def test_plan__profile_api_off__no_calls_and_the_time_of_a_download() -> None:
    printed = run("plan", "--recipients", "100000", AMPLITUDE_PROFILE_API="off").stdout
    rows = {line[:21].strip(): line[21:] for line in printed.splitlines()}
    assert list(rows) == ["requests", "calls", "warming by download", "send"]
    assert rows["calls"] == "0, because AMPLITUDE_PROFILE_API is off"
    assert rows["warming by download"].startswith("about 2 min: no calls, and 1 of 500 cohort downloads a month; ")
    assert run("plan", "--recipients", "100000", AMPLITUDE_PROFILE_API="maybe").returncode == 2


def test_started_line__no_key_is_set__names_the_mode_and_no_key(service: Service) -> None:
    (line,) = [line for line in service.log.read_text().splitlines() if '"event":"started"' in line]
    settings = json.loads(line)["settings"]
    assert settings["AMPLITUDE_PROFILE_API"] == "off"
    assert "AMPLITUDE_SECRET_KEY" not in settings
