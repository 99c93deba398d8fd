"""`python -m proxy preview`, run as a template author runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from tests.conftest import ROOT, SECRET, Service, free_port
from tests.support.command import run

SNIPPETS = ROOT / "proxy" / "web" / "pages" / "snippets"
RECS = SNIPPETS / "1-recommendations-with-a-default.liquid"
CHOSEN = "Chosen for you:\n- trail-shoe\n- rain-shell\n- head-torch"


def preview(*arguments: str | Path, stdin: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    return run("preview", *map(str, arguments), stdin=stdin, **variables)


@pytest.mark.contract("5 preview")
def test_preview__demo_without_settings__renders_the_message() -> None:
    ended = preview(RECS, "--user", "ava", "--demo")
    assert (ended.returncode, ended.stdout.strip()) == (0, CHOSEN)
    for message in ("line 1: GET https://your-host/v1/recommendations?user_id=ava", "1 call to Amplitude", "exposure"):
        assert message in ended.stderr
    assert preview(RECS, "--demo").stdout.strip().startswith("Our bestsellers")


@pytest.mark.contract("5 preview")
def test_preview__settings_in_the_environment__renders_with_one_call(sandbox: Sandbox) -> None:
    settings = {"AMPLITUDE_BASE_URL": sandbox.url, "AMPLITUDE_SECRET_KEY": sandbox.secret_key}
    ended = preview(RECS, "--user", "ava", **settings, ALLOWED_NETWORKS="192.0.2.0/24", LOG_LEVEL="DEBUG")
    assert (ended.returncode, ended.stdout.strip()) == (0, CHOSEN)
    assert sandbox.report()["calls"] == 1
    assert '"event"' not in ended.stderr, "the log of the temporary service is not printed"
    assert sandbox.secret_key not in ended.stderr

    sandbox.break_with(Fault("status", status=500))
    ended = preview(SNIPPETS / "8-retry-when-missing.liquid", "--user", "ben", **settings)
    assert ended.returncode == 1
    assert "retried: the call in line 1 failed with 500" in ended.stderr


@pytest.mark.contract("5 preview")
def test_preview__running_service__renders_unless_credentials_are_wrong(service: Service) -> None:
    ended = preview(RECS, "--user", "ava", "--url", service.url, PREVIEW_CREDENTIALS=f"braze:{SECRET}")
    assert (ended.returncode, ended.stdout.strip()) == (0, CHOSEN)
    ended = preview(RECS, "--user", "ava", "--url", service.url, "--credentials", "braze:wrong")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Error: the service refuses these credentials (401)")
    assert "by --credentials or PROXY_CREDENTIALS" in ended.stderr


def test_preview__message_that_aborts__fails_with_its_reason() -> None:
    ended = preview("-", "--demo", stdin="before{% abort_message('nobody home') %}after")
    assert (ended.returncode, ended.stdout.strip()) == (1, "")
    assert "aborted: nobody home" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-"], 1, "AMPLITUDE_SECRET_KEY is missing"),
        (["-", "--demo", "--url", "https://h"], 2, "exclude each other"),
        (["-", "--url", "http://example.com", "--credentials", "a:b"], 1, "must start with https://"),
        (["-", "--url", "localhost:8000", "--credentials", "a:b"], 1, "no https:// or http:// in front"),
        (["-", "--url", "your-host", "--credentials", "a:b"], 1, "no https:// or http:// in front"),
        (["-", "--url", "ftp://example.com", "--credentials", "a:b"], 1, "https://your-host"),
        (["-", "--url", "https://a:b@example.com", "--credentials", "a:b"], 1, "https://your-host"),
        (["nowhere.liquid"], 2, "No such file"),
    ],
)
def test_preview__wrong_option_or_setting__fails_with_the_reason(arguments: list[str], code: int, message: str) -> None:
    ended = preview(*arguments, stdin=RECS.read_text(encoding="utf-8"))
    assert (ended.returncode, ended.stdout) == (code, "")
    assert message in ended.stderr


def test_preview__unreachable_service__fails_with_its_url_but_no_secret() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = preview(RECS, "--url", url, "--credentials", f"braze:{SECRET}")
    assert ended.returncode == 1
    assert f"{url} gives no answer" in ended.stderr
    assert SECRET not in ended.stderr


def test_preview__url_of_another_service__fails_without_rendering(sandbox: Sandbox) -> None:
    ended = preview(RECS, "--user", "ava", "--url", sandbox.url, "--credentials", f"braze:{SECRET}")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "answered 404: it is another service, or something in front of it" in ended.stderr


def test_preview__file_not_in_utf_8__fails_and_names_the_encoding(tmp_path: Path) -> None:
    file = tmp_path / "message.liquid"
    file.write_bytes("é".encode("latin-1"))
    ended = preview(file, "--demo")
    assert ended.returncode == 1
    assert "UTF-8" in ended.stderr


def test_preview__problems_in_the_message__prints_line_and_fix() -> None:
    message = "{% connected_content http://h/v1/properties?user_id={{${user_id}}} :save p %}\n{{ p.gp:email }}"
    ended = preview("-", "--user", "ava", "--demo", stdin=message)
    assert ended.returncode == 0
    assert "line 1: http:// sends" in ended.stderr
    assert "fix: write {{${user_id} | url_param_escape}}" in ended.stderr
    assert "line 2: Liquid cannot read .gp:email" in ended.stderr
