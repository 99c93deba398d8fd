"""The Dockerfile and compose.yaml, without a container engine."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from compose_spec import PyCompose

from proxy.sandbox.server import Sandbox
from proxy.settings import VARIABLES
from proxy.sync.sqlite_state import DEFAULT_PATH
from tests.conftest import KEYS, ROOT, SECRET, free_port
from tests.support import container
from tests.support.container import Image
from tests.support.docs import fragment
from tests.support.redis_server import RedisServer
from tests.support.service import GRACEFUL_SECONDS
from tests.support.wait import until


def compose(variables: Mapping[str, str] | None = None) -> str:
    """Return compose.yaml as Compose reads it: with `variables`, or the defaults, in place of `${NAME:-default}`."""
    values = variables or {}
    return re.sub(
        r"\$(?:\$|\{(\w+):-([^}]*)\})",
        lambda match: "$" if match[0] == "$$" else values.get(match[1], match[2]),
        (ROOT / "compose.yaml").read_text(),
    )


def compose_service(name: str) -> dict[str, Any]:
    """Return a service of compose.yaml."""
    service: dict[str, Any] = yaml.safe_load(compose())["services"][name]
    return service


def test_dockerfile__linter__finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_dockerfile__base_image__is_the_python_version_of_the_project() -> None:
    version = (ROOT / ".python-version").read_text().strip()
    images = [arguments.split()[0] for name, arguments in container.instructions() if name == "FROM"]
    assert images == [f"python:{version}-slim"] * 2


def test_dockerignore__files_sent_to_the_engine__are_those_that_are_copied() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    excluded = ["**/__pycache__", f"**/{DEFAULT_PATH}*", "proxy/web/pages/editor"]
    assert lines[-len(excluded) :] == excluded
    copied = [
        source
        for name, arguments in container.instructions()
        if name == "COPY" and "--from=" not in arguments
        for source in arguments.split()[:-1]
    ]
    assert sorted(line.removeprefix("!") for line in lines[1 : -len(excluded)]) == sorted(copied)
    assert f"{DEFAULT_PATH}*" in (ROOT / ".gitignore").read_text().splitlines()


def test_compose__specification__is_met() -> None:
    PyCompose.from_yaml(compose()).validate()


@pytest.mark.parametrize("broken", ["readonly: true", "stop_grace_period: soon"])
def test_compose__wrong_key_or_value__is_found(broken: str) -> None:
    with pytest.raises(ValueError, match=r"services\.service"):
        PyCompose.from_yaml(compose().replace("read_only: true", broken))


def test_compose__port_of_the_shell__is_the_same_inside_and_outside() -> None:
    service = yaml.safe_load(compose({"PORT": "9000"}))["services"]["service"]
    assert (service["ports"], service["environment"]["PORT"]) == (["127.0.0.1:9000:9000"], 9000)


def test_compose__time_to_stop__is_longer_than_the_time_that_gunicorn_takes() -> None:
    assert int(compose_service("service")["stop_grace_period"].removesuffix("s")) > GRACEFUL_SECONDS


def test_compose__redis__starts_with_these_options_and_evicts_nothing() -> None:
    _, *options = compose_service("redis")["command"]
    directives = dict(zip([name.removeprefix("--") for name in options[::2]], options[1::2], strict=True))
    with RedisServer(directives):
        assert (directives["maxmemory-policy"], directives["save"]) == ("noeviction", "")


def test_compose__settings_file_of_the_guide__has_settings_and_quotes_each_dollar() -> None:
    lines = fragment("compose settings").block("sh").splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    assert settings.keys() <= VARIABLES.keys()
    # Compose takes only text in single quotes as it is.
    assert [value for value in settings.values() if "$" in value and not re.fullmatch("'[^']+'", value)] == []
    assert (compose_service("service")["env_file"], (ROOT / ".gitignore").read_text().count("\n*.env\n")) == (
        [{"path": ".env", "required": False}],
        1,
    )


def test_compose__settings_from_the_shell__are_those_of_the_heroku_button_and_of_the_eu_guide() -> None:
    """Compose reads all other settings from `.env`, and on Heroku they are config vars."""
    compose_names = set(compose_service("service")["environment"])
    heroku_names = set(json.loads((ROOT / "app.json").read_text())["env"])
    assert compose_names | heroku_names <= VARIABLES.keys()
    only_compose = {"PROXY_API_KEYS", "PORT", "REDIS_URL", "WEB_CONCURRENCY"}
    only_heroku = {"REDIS_KEY_SECRET", "REDIS_TLS_VERIFY", "TRUSTED_PROXY_HOPS"}
    assert compose_names - only_compose == heroku_names - only_heroku
    in_the_guide = set(re.findall(r"^export (\w+)=", fragment("eu settings").block("sh"), re.MULTILINE))
    assert in_the_guide - only_compose <= compose_names & heroku_names


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    if reason := container.missing():
        pytest.skip(reason)
    return container.build(tmp_path_factory.mktemp("image"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def started(image: Image, log: Path) -> Iterator[Any]:
    """Return a function that starts a command in the image. Its output goes to `log`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], **variables: str) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            processes.append(image.start(command, output, **variables))
        return processes[-1]

    yield start
    for process in processes:
        process.terminate()
        process.wait(40)


@pytest.mark.slow
def test_image__read_only_and_without_root__serves_and_stops(image: Image, started: Any, log: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Sandbox() as sandbox, RedisServer() as redis:
        process = started(
            image.command,
            PORT=f"{port}",
            AMPLITUDE_BASE_URL=sandbox.url,
            AMPLITUDE_SECRET_KEY=sandbox.secret_key,
            PROXY_API_KEYS=KEYS,
            REDIS_URL=redis.url,
            WEB_CONCURRENCY="2",
        )
        until(lambda: image.run(image.healthcheck, PORT=f"{port}") == 0, "the health check fails", 60)
        assert process.poll() is None, log.read_text()
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.M), status
        session = requests.Session()
        session.auth = ("braze", SECRET)
        recommendations = f"{url}/v1/recommendations?user_id=ava&rec_id=homepage"
        # With a new Redis, no call is sent until all processes have had time to report their calls.
        until(lambda: session.get(recommendations, timeout=10).json()["ok"], "no call is allowed")
        assert session.get(recommendations, timeout=10).json()["personalized"] is True
        message = {"template": "{% connected_content https://h/v1/cohorts?user_id=ava :save c %}{{ c.ok }}"}
        assert session.post(f"{url}/playground/render", json=message, timeout=20).json()["message"] == "true"
        metrics = session.get(f"{url}/metrics", timeout=10).text
        assert re.search(r'^ccproxy_requests_total\{.*cache="miss"', metrics, re.M), metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert image.run(image.healthcheck, PORT=f"{port}") == 1


@pytest.mark.slow
def test_image__without_settings__names_the_missing_settings(image: Image, started: Any, log: Path) -> None:
    assert started(image.command).wait(30) == 1
    assert "AMPLITUDE_SECRET_KEY" in log.read_text()


@pytest.mark.slow
def test_compose__without_settings__demo_answers_at_the_printed_addresses(started: Any, log: Path) -> None:
    port = free_port()
    process = started(compose_service("service")["command"], PORT=f"{port}", REDIS_URL="redis://redis:6379")
    until(lambda: "Ctrl-C stops the demo" in log.read_text() or process.poll() is not None, "no demo started", 60)
    links = re.findall(r"http://demo:\S+/(?:playground|docs|status)", log.read_text())
    assert len(links) == 3, log.read_text()
    for link in links:
        # An engine connects from outside to the address of the container, so 127.0.0.1 alone is not enough.
        outside = link.replace(f"@127.0.0.1:{port}/", f"@127.0.0.2:{port}/")
        assert outside != link
        assert requests.get(outside, timeout=10).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0, log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["AMPLITUDE_SECRET_KEY", "PROXY_API_KEYS", "BRAZE_SECRET", "ADMIN_SECRET"])
def test_compose__only_some_settings__no_demo_starts(started: Any, log: Path, variable: str) -> None:
    secret = KEYS if variable == "PROXY_API_KEYS" else "a-secret-of-sixteen-or-more"
    assert started(compose_service("service")["command"], **{variable: secret}).wait(30) == 1
    assert "is required" in log.read_text()
    assert "demo" not in log.read_text()
