"""`python -m proxy warm --cohort` with faults of Amplitude, and stopped while it stores a cohort."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import requests

from proxy.amplitude.cohort_export import CohortExport
from proxy.cli.warmup import export_run
from proxy.monitoring.clock import Clock
from proxy.sandbox.faults import Fault
from proxy.sandbox.people import find
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from tests.conftest import KEYS, SECRET, Service
from tests.support.command import run, start
from tests.support.fakes import FakeClock
from tests.support.wait import until

MANY = 20_000
SHOWN = "first_name,loyalty_points"


@pytest.fixture(scope="module")
def target(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    """Return a service without Redis. Its sandbox is not the sandbox of the downloads."""
    with Sandbox() as sandbox:
        yield start_module_service(sandbox, LOG_LEVEL="WARNING")


def amplitude_settings(sandbox: Sandbox) -> dict[str, str]:
    return {
        "AMPLITUDE_BASE_URL": sandbox.url,
        "AMPLITUDE_COHORTS_URL": sandbox.url,
        "AMPLITUDE_API_KEY": sandbox.api_key,
        "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
    }


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """End each pause of a download at once, and return the list of the pauses in seconds."""
    clock, slept = FakeClock(), list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    client = partial(CohortExport, clock=Clock(monotonic=clock, sleep=sleep))
    monkeypatch.setattr(export_run, "CohortExport", client)
    return slept


@pytest.mark.contract("6 export")
@pytest.mark.parametrize(
    ("fault", "switches", "secret_key", "line"),
    [
        (
            Fault("cohort-429", seconds=7),
            {},
            None,
            "Error: 127.0.0.1 limits the rate of requests (429); try again later",
        ),
        (
            Fault("cohort-file-429", seconds=7),
            {},
            None,
            "Error: 127.0.0.1 limits the rate of requests (429); try again later",
        ),
        (Fault("cohort-500"), {}, None, "Error: 127.0.0.1 does not answer (status 500); try again later"),
        (Fault("cohort-stuck"), {}, None, "Error: the export was not ready after 60 min; try again later"),
        (
            Fault("cohort-expired"),
            {},
            None,
            "Error: the cohort file is incomplete (127.0.0.1 returned status 403); try again later",
        ),
        (Fault("cohort-cut-off"), {}, None, "Error: the cohort file is incomplete (ProtocolError); try again later"),
        (Fault("cohort-gzip-cut"), {}, None, "Error: the cohort file is incomplete (EOFError); try again later"),
        (
            None,
            {"cohort_format": "json"},
            None,
            "Error: the cohort file is JSON instead of CSV; add --no-export to warm, or pass the user ids in a "
            "file as USERS",
        ),
        (
            None,
            {},
            "wrong-secret",
            "Error: Amplitude returned status 401; compare AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY with the "
            "project's settings, and AMPLITUDE_COHORTS_URL with the project's region",
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_warm__permanent_fault_of_the_download__error_ends_with_the_fix_and_nothing_is_stored(
    target: Service,
    pauses: list[float],
    fault: Fault | None,
    switches: dict[str, Any],
    secret_key: str | None,
    line: str,
) -> None:
    before = target.get("/v1/snapshots").json()
    with Sandbox(documented=Documented(cohort_polls=0, **switches)) as sandbox:
        sandbox.break_with(fault)
        settings = amplitude_settings(sandbox)
        settings |= {"AMPLITUDE_SECRET_KEY": secret_key} if secret_key else {}
        options = ("--keys", "first_name", "--url", target.url, "--credentials", KEYS)
        ended = run("warm", "--cohort", "crowd-50", *options, **settings)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1] == line
    assert target.get("/v1/snapshots").json() == before


@pytest.mark.contract("6 export")
@pytest.mark.parametrize(
    ("fault", "line", "pause"),
    [
        (Fault("cohort-429", seconds=7, times=1), "127.0.0.1 limits the rate of requests (429); retrying in 7 s", 7),
        (Fault("cohort-500", times=2), "127.0.0.1 does not answer (status 500); retrying", 4),
        # The third request fetches the file.
        (
            Fault("cohort-storage-429", seconds=7, times=3),
            "127.0.0.1 limits the rate of requests (429); retrying in 7 s",
            7,
        ),
        (
            Fault("cohort-expired", times=3),
            "the cohort file is incomplete (127.0.0.1 returned status 403); retrying",
            2,
        ),
        (Fault("cohort-cut-off", times=3), "the cohort file is incomplete (ProtocolError); retrying", 2),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_warm__temporary_fault_of_the_download__retried_and_stored(
    target: Service, pauses: list[float], fault: Fault, line: str, pause: int
) -> None:
    with Sandbox(documented=Documented(cohort_polls=0)) as sandbox:
        sandbox.break_with(fault)
        options = ("--keys", "first_name", "--url", target.url, "--credentials", KEYS)
        ended = run("warm", "--cohort", "crowd-60", *options, **amplitude_settings(sandbox))
    assert ended.returncode == 0, ended.stderr
    assert line in ended.stderr.splitlines()
    assert pauses[-1] == pause
    assert "cohort crowd-60: 60 members, snapshot installed, properties of 60 users stored" in ended.stdout


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> None:
    assert process.stderr
    for line in process.stderr:
        if line.startswith(beginning):
            return
    raise AssertionError(f"the command ended without the line {beginning!r}")


def profiles(service: Service) -> list[Any]:
    """Return the answers about a sample of the members."""
    query = f"include=properties,cohorts&keys={SHOWN}&cohort_id=crowd-{MANY}"
    with requests.Session() as session:
        session.headers["X-API-Key"] = SECRET
        return [
            session.get(f"{service.url}/v1/profile?user_id=user-{number}&{query}", timeout=10)
            for number in range(1, MANY + 1, 400)
            if find(f"user-{number}", None)
        ]


@pytest.mark.slow
@pytest.mark.contract("5 warm resumed")
@pytest.mark.parametrize(
    ("number", "stage"),
    [(signal.SIGINT, "properties"), (signal.SIGKILL, "properties"), (signal.SIGKILL, "snapshot")],
)
def test_warm__stopped_while_it_stores_a_cohort__nothing_is_half_installed_and_a_second_run_completes(
    start_service: Callable[..., Service], number: signal.Signals, stage: str
) -> None:
    with Sandbox(documented=Documented(cohort_polls=0)) as sandbox:
        service = start_service(sandbox, CACHE_MAX_MB="512", LOG_LEVEL="WARNING")

        def state() -> Any:
            return service.get("/v1/snapshots").json()

        settings = amplitude_settings(sandbox)
        options = ("--cohort", f"crowd-{MANY}", "--keys", SHOWN, "--url", service.url, "--credentials", KEYS)
        process = start("warm", *options, **settings)
        if stage == "snapshot":
            wait_for_line(process, "the properties need")
            time.sleep(0.05)  # the command is sending the snapshot now
        else:
            until(lambda: state()["cache"]["records"] >= 1000, "the command stored no properties", 60)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=20)
        stopped = state()
        assert stopped["cache"]["records"] < MANY, "the run ended before the signal"
        installed = [snapshot["members"] for snapshot in stopped["snapshots"]]
        assert installed in ([MANY], [] if stage == "snapshot" else [MANY])
        if number == signal.SIGINT:
            assert process.returncode == 1
            assert "stopped before all members were stored" in printed
            assert "run the command again with the same options; it downloads the cohorts again" in printed
        else:
            assert (process.returncode, printed) == (-signal.SIGKILL, "")

        ended = run("warm", *options, **settings)
        assert ended.returncode == 0, ended.stderr
        assert f"cohort crowd-{MANY}: {MANY:,} members, snapshot installed" in ended.stdout
        assert f"properties of {MANY:,} users stored" in ended.stdout
        assert [snapshot["members"] for snapshot in state()["snapshots"]] == [MANY]
        for answer in profiles(service):
            assert answer.headers["X-Amplitude-Calls"] == "0"
            assert (answer.json()["is_member"], answer.json()["ok"]) == (True, True)
            assert None not in answer.json()["properties"].values()
        assert sandbox.report()["cohorts"]["requests"] == 2
        assert sandbox.report()["calls"] == 0
