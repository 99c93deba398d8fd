"""The examples of README.md and the guides, answered by the running service and rendered."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from proxy.liquid.types import Answer, Request
from proxy.profile.parts import SECTIONS
from proxy.sandbox.server import Sandbox
from tests.conftest import ROOT, SECRET, Service
from tests.support import liquid
from tests.support.docs import Fragment, commands, fragment, fragments
from tests.support.service import environment
from tests.support.wait import request_lines

EXAMPLES = fragments("example")
HOST = "https://your-host"


@pytest.fixture(scope="module")
def quiet_service(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    """Return a service that has answered one request, about the user of the commands."""
    with Sandbox() as sandbox:
        service = start_module_service(sandbox)
        service.get("/v1/cohorts?user_id=12345")
        yield service


def run(command: str, service: Service) -> str:
    """Run a curl command with the host and the credentials of `service`, and return its output."""
    line = command.replace(HOST, service.url).replace("name:secret", f"braze:{SECRET}").replace("the-secret", SECRET)
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, check=True).stdout


def without_time(body: dict[str, Any]) -> dict[str, Any]:
    return {name: type(value) if name == "as_of" else value for name, value in body.items()}


def test_examples__every_route__has_an_example() -> None:
    routes = {route for example in EXAMPLES for route in re.findall(r"/v1/(\w+)", example.block("liquid"))}
    assert routes == {*SECTIONS, "profile", "userprofile"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example__sent_to_the_service__answers_and_renders_as_shown(
    service: Service, engine: liquid.Engine, example: Fragment
) -> None:
    answers = []

    def get(path: str) -> dict[str, Any]:
        answers.append(service.get(path).json())
        return answers[-1]  # type: ignore[no-any-return]

    assert liquid.render(example.block("liquid"), "ava", get, engine) == example.block("text").strip()
    # Further answers are for the findings.
    assert without_time(answers[0]) == without_time(json.loads(example.block("json")))


@pytest.mark.parametrize(("user", "place"), [("ava", 0), ("ben", 1), ("stranger", 1), ("", 1)])
def test_readme_message__each_kind_of_user__is_rendered_as_shown(service: Service, user: str, place: int) -> None:
    message = fragment("message")
    shown = [text.strip() for language, text in message.blocks if language == "text"]
    rendered = liquid.render(message.block("liquid"), user, lambda path: service.get(path).json(), liquid.python)
    assert rendered == shown[place]


SNIPPETS = {
    "brackets": ("dário & söhne", "São Paulo"),
    "post": ("ava", "trail-shoe, rain-shell, head-torch"),
    "retry": ("ava", "Chosen for you: trail-shoe, rain-shell, head-torch"),
}


def test_snippets__of_the_guides__are_those_rendered_here() -> None:
    assert {part.name.removeprefix("snippet ") for part in fragments("snippet")} == SNIPPETS.keys()


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet__sent_to_the_service__is_rendered(service: Service, engine: liquid.Engine, name: str) -> None:
    user, rendered = SNIPPETS[name]

    def ask(request: Request) -> Answer:
        response = requests.request(
            request.method,
            f"{service.url}{request.target}",
            data=request.body,
            headers={"X-API-Key": SECRET, "Content-Type": request.content_type},
            timeout=10,
        )
        return Answer(response.status_code, {}, response.text, 0.0)

    assert engine(fragment(f"snippet {name}").block("liquid"), user, ask).strip() == rendered


@pytest.mark.parametrize("shown", fragments("answer"), ids=lambda shown: shown.name)
def test_curl__run_as_shown__prints_the_json_shown(quiet_service: Service, shown: Fragment) -> None:
    printed = json.loads(run(f"{shown.block('sh').strip()} -s", quiet_service))
    assert without_time(printed) == without_time(json.loads(shown.block("json")))


def test_curl__other_commands_of_the_guides__succeed(quiet_service: Service) -> None:
    shown = {
        line
        for kind in ("answer", "symptom", "push", "client", "forward", "currents")
        for part in fragments(kind)
        for line in lines_of(part)
    }
    other_commands = [line for _, line in commands() if line.startswith("curl ") and line not in shown]
    assert other_commands
    for line in other_commands:
        assert run(f"{line} -s -o /dev/null -w '%{{http_code}}'", quiet_service) == "200", line


def lines_of(part: Fragment) -> list[str]:
    return [
        line for language, text in part.blocks if language == "sh" for line in text.replace("\\\n", " ").splitlines()
    ]


CLIENTS = {
    "client curl": ("sh", ["sh"], "jq"),
    "client python": ("python", [sys.executable, "-"], "python3"),
    "client node": ("js", ["node", "--input-type=module"], "node"),
}
"""The language, the command and the program of each example of a client."""


@pytest.mark.parametrize("name", CLIENTS)
def test_client_example__right_and_wrong_credentials__prints_the_text_shown_or_fails(
    service: Service, name: str
) -> None:
    language, command, program = CLIENTS[name]
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed; run apt-get install nodejs jq")
    source = fragment(name).block(language)
    assert len(source.splitlines()) <= 10
    assert "PROXY_CREDENTIALS" in source

    def run_with(credentials: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=source.replace(HOST, service.url),
            env=environment(PROXY_CREDENTIALS=credentials),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    ended = run_with(f"braze:{SECRET}")
    assert (ended.returncode, ended.stdout) == (0, fragment("client output").block("text")), ended.stderr
    assert run_with("braze:wrong").returncode != 0


@pytest.mark.parametrize("shown", fragments("run"), ids=lambda shown: shown.name)
def test_command__run_as_shown__prints_the_text_shown(shown: Fragment) -> None:
    _, *arguments = shlex.split(shown.block("sh"))
    ended = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == shown.block("text").strip()


def test_log_line__of_a_request__has_the_fields_shown(service: Service) -> None:
    answer = service.get("/v1/recommendations?user_id=user-31499&rec_id=homepage")
    (line,) = request_lines(service.log, answer)
    assert list(json.loads(fragment("log line").block("json"))) == list(line)
