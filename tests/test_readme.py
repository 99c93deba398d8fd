"""The README, tried: what it shows is what happens."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import MISSING, fields
from typing import Any

import pytest

from proxy.api.errors import BLANK_ID
from proxy.api.openapi.document import document
from proxy.cli.formats import format_minutes
from proxy.cli.warmup.estimate import Plan
from proxy.profile.errors import UpstreamError
from proxy.profile.parts import SECTIONS
from proxy.settings import Settings
from tests.conftest import ROOT, Service
from tests.support import liquid

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(
    r"^### (.+?)\n.*?^```liquid\n(.+?)^```\n\n^```json\n(.+?)^```\n\n^```text\n(.+?)^```", README, re.M | re.S
)
MESSAGE = re.findall(r"^\n```\n(\{% connected_content.+?)^```$", README, re.M | re.S)[0]
ROUTES = {tag for _, message, _, _ in EXAMPLES for tag in re.findall(r"/v1/(\w+)", message)}


def rows(first_header: str) -> dict[str, list[str]]:
    """Return the table whose first column has this header: first cell, without backticks, to the other cells."""
    table = re.search(rf"^\| {re.escape(first_header)} \|.*?\n\|[ \-|]+\n((?:\|.*\n)+)", README, re.M)
    assert table, first_header
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[1].splitlines()]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_data_route_has_an_example() -> None:
    assert {*SECTIONS, "profile", "userprofile"} == ROUTES


@pytest.mark.parametrize(
    ("message", "shown", "sent"), [example[1:] for example in EXAMPLES], ids=[e[0] for e in EXAMPLES]
)
def test_an_example_answers_and_renders_as_shown(
    service: Service, engine: liquid.Engine, message: str, shown: str, sent: str
) -> None:
    answers = []

    def get(path: str) -> dict[str, Any]:
        answers.append(service.get(path).json())
        return answers[-1]  # type: ignore[no-any-return]

    assert liquid.render(message, "ava", get, engine) == sent.strip()
    expected = json.loads(shown)
    if "as_of" in expected:
        expected["as_of"] = answers[0]["as_of"]
    assert answers == [expected]


@pytest.mark.parametrize(("user", "sent"), [("ava", "For you: trail-shoe, rain-shell, head-torch")] + [
    (user, "Our bestsellers") for user in ("ben", "nobody", "")
])  # fmt: skip
def test_the_message_at_the_top_is_sent_as_promised(service: Service, user: str, sent: str) -> None:
    assert liquid.render(MESSAGE, user, lambda path: service.get(path).json(), liquid.python) == sent


@pytest.mark.contract("4 settings")
def test_the_settings_table_is_the_settings() -> None:
    table = rows("variable")
    for one in fields(Settings):
        default, meaning = table.pop(one.name.upper())
        assert meaning == one.metadata["help"]
        if one.default is MISSING:
            assert default == "required"
        elif one.default in (None, ()):
            assert default == "none"
        else:
            shown = default.strip("`")
            assert one.metadata["read"](shown) == one.default
    assert not table, "a variable that does not exist"


@pytest.mark.contract("5 plan")
def test_the_planning_table_is_what_the_plan_says() -> None:
    table = rows("recipients")
    speed = table.pop("a cold send, messages a minute")
    for recipients, cells in table.items():
        for calls, (said, slow) in enumerate(zip(cells, speed, strict=True), start=1):
            plan = Plan(int(recipients.replace(",", "")), calls, 600, 0.8)
            assert (said, slow) == (format_minutes(plan.minutes), str(plan.messages_a_minute))
    assert len(table) == 5


def test_every_error_word_is_explained_and_no_other() -> None:
    assert set(rows("`error`")) == {BLANK_ID, *(kind.word for kind in UpstreamError.__subclasses__())}


def test_every_status_that_asks_for_a_mend_is_told_and_no_other() -> None:
    found = re.search(r"^no `abort_message`.+? retry\. (.+?) have a\n?\s?`detail`", README, re.M | re.S)
    assert found
    openapi = document()
    shared = (one["content"]["application/problem+json"] for one in openapi["components"]["responses"].values())
    statuses = {f"{one['example']['status']}" for one in shared}
    statuses |= set(re.findall(r"\b4\d\d\b", openapi["info"]["description"]))
    assert set(re.findall(r"\b4\d\d\b", found[1])) == statuses - {"500"}


def test_every_key_of_the_envelope_is_explained() -> None:
    keys = {key.strip("` ") for names in rows("key") for key in names.split(",")}
    envelope = list(json.loads(EXAMPLES[0][2]))
    assert keys == set(envelope[: envelope.index("items")])


def test_ci_runs_the_very_test_command_of_the_readme() -> None:
    commands = [line for line in README.splitlines() if line.endswith("-m pytest")]
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_commands_are_the_ones_the_program_has() -> None:
    from proxy.cli.main import main

    assert set(re.findall(r"-m proxy ([a-z][a-z-]+)", README)) == set(main.commands)


def test_every_link_within_leads_to_a_heading_and_every_file_is_there() -> None:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S), re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors
    files = re.findall(r'(?:src|srcset)="([^"]+)"|\]\((?!#|https:)([^)]+)\)|(proxy/\S+\.liquid)', README)
    assert len(files) >= 3
    for name in ("".join(one) for one in files):
        assert (ROOT / name).is_file(), name


def test_the_preview_prints_what_is_said_of_it() -> None:
    found = re.search(r"^\.venv/bin/python (-m proxy preview .+)$\n```\n\nprints `(.+?)` and `(.+?)`", README, re.M)
    assert found
    command, *said = found.groups()
    ended = subprocess.run(
        [sys.executable, *shlex.split(command)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip().splitlines() == said
