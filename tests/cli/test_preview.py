"""`python -m proxy preview`, run as a user runs the command."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from tests.conftest import ROOT, SECRET, Service, StartService, free_port
from tests.support.command import run

SNIPPETS = ROOT / "proxy" / "web" / "pages" / "snippets"
RECS = SNIPPETS / "1-products-picked-for-the-user.liquid"
CHOSEN = "Chosen for you:\n- trail-shoe\n- rain-shell\n- head-torch"


def preview(*arguments: str | Path, stdin: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    return run("preview", *map(str, arguments), stdin=stdin, **variables)


@pytest.mark.contract("5 preview")
def test_preview__demo__renders_without_settings() -> None:
    ended = preview(RECS, "--user", "ava", "--demo")
    assert (ended.returncode, ended.stdout.strip()) == (0, CHOSEN)
    for message in ("line 1: GET https://your-host/v1/recommendations?user_id=ava", "1 call to Amplitude", "exposure"):
        assert message in ended.stderr
    assert preview(RECS, "--demo").stdout.strip().startswith("Our bestsellers")


@pytest.mark.contract("5 preview")
def test_preview__settings_of_the_environment__one_call_to_amplitude(sandbox: Sandbox) -> None:
    settings = {"AMPLITUDE_BASE_URL": sandbox.url, "AMPLITUDE_SECRET_KEY": sandbox.secret_key}
    ended = preview(RECS, "--user", "ava", **settings, ALLOWED_NETWORKS="192.0.2.0/24", LOG_LEVEL="DEBUG")
    assert (ended.returncode, ended.stdout.strip()) == (0, CHOSEN)
    assert sandbox.report()["calls"] == 1
    assert '"event"' not in ended.stderr, "the temporary service must print no log"
    assert sandbox.secret_key not in ended.stderr

    sandbox.break_with(Fault("status", status=500))
    ended = preview(SNIPPETS / "8-retry-without-recommendations.liquid", "--user", "ben", **settings)
    assert ended.returncode == 1
    assert "retried: the call on line 1 failed with status 500" in ended.stderr


@pytest.mark.contract("5 preview")
def test_preview__running_service__uses_the_credentials(service: Service) -> None:
    ended = preview(RECS, "--user", "ava", "--url", service.url, PREVIEW_CREDENTIALS=f"braze:{SECRET}")
    assert (ended.returncode, ended.stdout.strip()) == (0, CHOSEN)
    ended = preview(RECS, "--user", "ava", "--url", service.url, "--credentials", "braze:wrong")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Error: the service rejects the credentials (401)")
    assert "PROXY_CREDENTIALS=name:secret" in ended.stderr


def test_preview__running_service_has_aliases__finding_suggests_the_alias(
    sandbox: Sandbox, start_service: StartService
) -> None:
    service = start_service(sandbox, ALIASES="recommendations.front_shelf=homepage")
    template = RECS.read_text(encoding="utf-8").replace("rec_id=homepage", "rec_id=front_shelff")
    ended = preview("-", "--user", "ava", "--url", service.url, "--credentials", f"braze:{SECRET}", stdin=template)
    assert "this user has no recommendation front_shelff\n    fix: write front_shelf\n" in ended.stderr


def test_preview__test_values__used_in_the_message(tmp_path: Path) -> None:
    template = "{{${city}}} {{custom_attribute.${n} | plus: 1}} {{context.${list} | join: '-'}} {{${country}}}"
    file = tmp_path / "values.json"
    file.write_text('{"context.${list}": ["a", "b"], "${city}": "Rome"}', encoding="utf-8")
    values = ("--values", file, "--value", "${city}=Bonn", "--value", "custom_attribute.${n}=2")
    ended = preview("-", "--demo", *values, stdin=template)
    assert (ended.returncode, ended.stdout) == (0, "Bonn 3 a-b \n")
    assert "only Braze knows the value of ${country}" in ended.stderr
    assert "${city}" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--value", "city=Bonn"), "--value, --values: city is not a valid name; write the name as in the message"),
        (("--value", "${city}"), "--value: ${city} has no value; write NAME=VALUE"),
        (("--values", __file__), "is not JSON; write an object"),
    ],
)
def test_preview__invalid_test_value__error_with_the_fix(arguments: tuple[str, ...], problem: str) -> None:
    ended = preview("-", "--demo", *arguments, stdin="x")
    assert ended.returncode == 2
    assert problem in " ".join(ended.stderr.split())


def test_preview__message_from_stdin_aborts__exits_with_1() -> None:
    ended = preview("-", "--demo", stdin="before{% abort_message('no item') %}after")
    assert (ended.returncode, ended.stdout.strip()) == (1, "")
    assert "aborted: no item" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-"], 1, "AMPLITUDE_SECRET_KEY is required"),
        (["-", "--demo", "--url", "https://h"], 2, "either --demo or --url"),
        (["-", "--url", "http://example.com", "--credentials", "a:b"], 1, "must start with https:"),
        (["-", "--url", "localhost:8000", "--credentials", "a:b"], 1, "must begin with https:// or http://"),
        (["-", "--url", "your-host", "--credentials", "a:b"], 1, "must begin with https:// or http://"),
        (["-", "--url", "ftp://example.com", "--credentials", "a:b"], 1, "https://your-host"),
        (["-", "--url", "https://a:b@example.com", "--credentials", "a:b"], 1, "https://your-host"),
        (["nowhere.liquid"], 2, "No such file"),
    ],
)
def test_preview__mistake__is_reported_in_one_line(arguments: list[str], code: int, message: str) -> None:
    ended = preview(*arguments, stdin=RECS.read_text(encoding="utf-8"))
    assert (ended.returncode, ended.stdout) == (code, "")
    assert message in ended.stderr


def test_preview__no_service__error_names_the_url() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = preview(RECS, "--url", url, "--credentials", f"braze:{SECRET}")
    assert ended.returncode == 1
    assert f"{url} does not answer" in ended.stderr
    assert SECRET not in ended.stderr


def test_preview__other_service__is_reported_without_a_message(sandbox: Sandbox) -> None:
    ended = preview(RECS, "--user", "ava", "--url", sandbox.url, "--credentials", f"braze:{SECRET}")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "answered 404: the answer is not from this service" in ended.stderr


def test_preview__file_in_another_encoding__error_names_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "message.liquid"
    file.write_bytes("é".encode("latin-1"))
    ended = preview(file, "--demo")
    assert ended.returncode == 1
    assert "UTF-8" in ended.stderr


def test_preview__empty_message__exits_with_1_and_the_reason() -> None:
    ended = preview("-", "--demo", stdin=" \n")
    assert (ended.returncode, ended.stdout) == (1, " \n")
    assert "sent: the message is empty" in ended.stderr


def test_preview__message_with_problems__prints_line_and_fix() -> None:
    message = "{% connected_content http://h/v1/properties?user_id={{${user_id}}} :save p %}\n{{ p.gp:email }}."
    ended = preview("-", "--user", "ava", "--demo", stdin=message)
    assert ended.returncode == 0
    assert "line 1: http:// sends" in ended.stderr
    assert "fix: write {{${user_id} | url_param_escape}}" in ended.stderr
    assert "line 2: Liquid cannot read gp:email" in ended.stderr


def test_preview__misspelt_alias__names_the_alias(sandbox: Sandbox) -> None:
    settings = {"AMPLITUDE_BASE_URL": sandbox.url, "AMPLITUDE_SECRET_KEY": sandbox.secret_key}
    message = RECS.read_text("utf-8").replace("rec_id=homepage", "rec_id=bestselers")
    ended = preview("-", "--user", "ava", stdin=message, **settings, ALIASES="recommendations.bestsellers=homepage")
    assert ended.returncode == 0
    assert "line 1: this user has no recommendation bestselers\n    fix: write bestsellers\n" in ended.stderr
