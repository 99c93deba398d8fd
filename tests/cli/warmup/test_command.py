"""`python -m proxy warm`, run as a marketer runs it: a service in front of the sandbox caches the users."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from proxy.cli.client import running_service
from proxy.cli.warmup import command
from proxy.cli.warmup.progress import print_progress
from proxy.cli.warmup.runner import Warmer
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from tests.conftest import SECRET, Service, free_port
from tests.support.balancer import balancer
from tests.support.command import run, start
from tests.support.redis_server import RedisServer

CREDENTIALS = f"braze:{SECRET}"
MANY = 200
"""Users that take about 1.5 s to warm, so that a test can stop `warm` halfway."""


@pytest.fixture(scope="module")
def target(start_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox(per_minute=100_000, latency=0.02, documented=Documented(cohort_polls=0)) as sandbox:
        yield start_service(sandbox, AMPLITUDE_REQUESTS_PER_MINUTE="12000", LOG_LEVEL="WARNING")


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `warm` retry and check Redis without long pauses."""
    monkeypatch.setattr(command, "Warmer", partial(Warmer, retry_interval=0.01, report_interval=0.05))


def warm_arguments(service: Service, users: Path | str, *arguments: str) -> list[str]:
    options = ["--url", service.url, "--credentials", CREDENTIALS, "--quota", "12000", *arguments]
    return ["warm", *([str(users)] if users else []), *options]


def amplitude_settings(sandbox: Sandbox) -> dict[str, str]:
    """Return the settings that download a cohort from `sandbox`."""
    return {
        "AMPLITUDE_COHORTS_URL": sandbox.url,
        "AMPLITUDE_API_KEY": sandbox.api_key,
        "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
    }


def warm(
    service: Service, users: Path | str, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return run(*warm_arguments(service, users, *arguments), stdin=stdin, **amplitude_settings(service.sandbox))


def write_users(tmp_path: Path, first: int, count: int) -> Path:
    users = tmp_path / "users.txt"
    users.write_text("".join(f"user-{number}\n" for number in range(first, first + count)))
    return users


def calls(service: Service, query: str) -> int:
    return int(service.get(f"/v1/profile?include=properties,cohorts&{query}").headers["X-Amplitude-Calls"])


@pytest.mark.contract("5 warm")
def test_warm__file_with_an_invalid_line__caches_valid_users_and_skips_them_next_time(
    target: Service, tmp_path: Path
) -> None:
    target.sandbox.reset()
    users = write_users(tmp_path, 1000, 60)
    with users.open("a") as file:
        file.write("nobody-here\n\nbad\x01id\nuser-1000\n")
    ended = warm(target, users)
    assert ended.returncode == 1, "a line of the file could not be read"
    assert "1 line could not be read: nobody there was asked about" in ended.stdout
    assert "mend it, and run it again: who is warm is passed over" in ended.stdout
    assert "61 users, 61 calls at 9,600 a minute: 1 min" in ended.stderr
    assert "line 63: user_id contains a control character" in ended.stderr
    assert "0 fresh already" in ended.stdout
    assert "0 failed, 0 not asked; 61 calls" in ended.stdout
    assert target.sandbox.report()["calls"] == 61
    assert [calls(target, f"user_id=user-{number}") for number in range(1000, 1060)] == [0] * 60
    answer = target.get("/v1/cohorts?user_id=user-1001")
    assert answer.headers["Cache-Control"] == "private, max-age=86400"
    again = warm(target, users)
    assert "0 done" in again.stdout
    assert target.sandbox.report()["calls"] - 61 < 10, "only unknown users are fetched again"
    users.write_text("\n".join(line for line in users.read_text().splitlines() if line != "bad\x01id"))
    assert warm(target, users).returncode == 0


def test_warm__column_of_csv_on_stdin__reads_the_user_ids(target: Service) -> None:
    target.sandbox.reset()
    ended = warm(target, "-", "--column", "id", stdin="\ufeffid,name\nava,A\nben,B\n")
    assert (ended.returncode, ended.stdout.partition(",")[0]) == (0, "2 done")
    ended = warm(target, "-", "--column", "id", stdin="id,name\nava,A\n,B\n")
    assert ended.returncode == 0, "a row without an id is not an error"
    assert "could not be read" not in ended.stdout
    ended = warm(target, "-", "--column", "user", stdin="id\nava\n")
    assert ended.returncode == 1
    assert "column 'user' is missing" in ended.stderr


@pytest.mark.contract("5 warm cohort")
def test_warm__cohort__downloads_and_caches_its_members(target: Service) -> None:
    target.sandbox.reset()
    ended = warm(target, "", "--cohort", "crowd-40")
    assert ended.returncode == 0, ended.stderr
    assert "40 users, 40 calls at 9,600 a minute" in ended.stderr
    assert "1 member without a user id passed over" in ended.stderr
    assert target.sandbox.report()["calls"] == 40
    assert target.sandbox.report()["cohorts"] == {"requests": 1, "polls": 1, "files": 1, "stored": 1}
    assert sum(calls(target, f"user_id=user-{number}") for number in range(1, 41)) < 5, (
        "only unknown users are fetched again"
    )
    for secret in (target.sandbox.secret_key, target.sandbox.api_key, SECRET):
        assert secret not in ended.stderr + ended.stdout


@pytest.mark.contract("5 warm cohort")
def test_warm__unavailable_cohort_or_wrong_options__fails_with_a_reason(target: Service, tmp_path: Path) -> None:
    target.sandbox.reset()
    for arguments, message in (
        (("--cohort", "nowhere"), "cohort 'nowhere' does not exist"),
        (("--cohort", "vip", "--api-key", "wrong"), "Amplitude returned status 401"),
        (("--cohort", "vip", "--api-key", ""), "give it by --api-key"),
        (("--cohort", "vip", "--api-key", "key:secret"), "AMPLITUDE_API_KEY holds a colon"),
        (("--cohort", "vip", "--column", "user_id"), "not both"),
        (("--cohort", " "), "who?"),
        ((), "who?"),
    ):
        ended = warm(target, "", *arguments)
        assert ended.returncode != 0
        assert message in " ".join(ended.stderr.split())
    assert "not both" in " ".join(warm(target, write_users(tmp_path, 1, 1), "--cohort", "vip").stderr.split())
    assert target.sandbox.report()["calls"] == 0


@pytest.mark.contract("5 warm faults")
def test_warm__csv_without_the_column_option__fails_with_a_hint(target: Service) -> None:
    target.sandbox.reset()
    for table, message in (
        ("name,user_id\nAva,ava\n", "--column user_id"),
        ("\nuser_id\nava\n", "--column user_id"),
        ("ava,Ava,Portugal\n", "is a table header"),
        ("id;name\n1;A\n", "save the table as CSV"),
    ):
        ended = warm(target, "-", stdin=table)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert message in ended.stderr
    assert target.sandbox.report()["calls"] == 0


def wait_for_calls(sandbox: Sandbox, calls: int) -> None:
    deadline = time.monotonic() + 20
    while sandbox.report()["calls"] < calls:
        assert time.monotonic() < deadline, "the sandbox received too few calls"
        time.sleep(0.01)


@pytest.mark.contract("5 warm faults")
def test_warm__ctrl_c_while_waiting_for_quota__stops_with_a_summary(target: Service, tmp_path: Path) -> None:
    target.sandbox.reset()
    process = start(*warm_arguments(target, write_users(tmp_path, 60_000, 30), "--quota", "1"))
    assert process.stderr
    assert "30 users, 30 calls at 1 a minute: 30 min" in process.stderr.readline()
    wait_for_calls(target.sandbox, 1)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "not asked" in printed


@pytest.mark.contract("5 warm resumed")
@pytest.mark.parametrize(
    ("number", "users"),
    [
        (signal.SIGINT, "file"),
        pytest.param(signal.SIGKILL, "file", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "cohort", marks=pytest.mark.slow),
    ],
)
def test_warm__stopped_halfway_and_run_again__caches_all_users_with_few_extra_calls(
    start_service: Callable[..., Service], tmp_path: Path, number: signal.Signals, users: str
) -> None:
    with Sandbox(per_minute=100_000, latency=0.02, documented=Documented(cohort_polls=0)) as sandbox:
        service = start_service(sandbox, AMPLITUDE_REQUESTS_PER_MINUTE="12000", LOG_LEVEL="WARNING")
        arguments = ["", "--cohort", f"crowd-{MANY}"] if users == "cohort" else [str(write_users(tmp_path, 1, MANY))]
        process = start(*warm_arguments(service, *arguments), **amplitude_settings(sandbox))
        wait_for_calls(sandbox, MANY // 4)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=20)
        assert sandbox.report()["calls"] < MANY, "`warm` ended before it was stopped"
        if number == signal.SIGINT:
            assert process.returncode == 1
            assert "run it again" in printed
        ended = warm(service, *arguments)
        assert ended.returncode == 0, ended.stderr
        unknown = sandbox.report()["statuses"].get("400", 0)
        assert sandbox.report()["calls"] <= MANY + 16 + unknown, "only calls in progress are repeated"
        with requests.Session() as session:
            session.auth = ("braze", SECRET)
            url = f"{service.url}/v1/cohorts?user_id=user-"
            answers = [session.get(f"{url}{user}", timeout=10) for user in range(1, MANY + 1)]
    caching = {answer.headers["Cache-Control"] for answer in answers if answer.json()["found"]}
    assert caching == {"private, max-age=86400"}


@pytest.mark.contract("5 warm resumed")
def test_warm__recommendations__fetched_only_with_log_exposures(target: Service, tmp_path: Path) -> None:
    target.sandbox.reset()
    users = write_users(tmp_path, 40_000, 3)
    options = ("--include", "recommendations", "--rec-id", "homepage")
    refused = warm(target, users, *options)
    assert refused.returncode == 2
    assert "logs an exposure" in " ".join(refused.stderr.split())
    assert target.sandbox.report()["calls"] == 0
    assert warm(target, users, *options, "--log-exposures").returncode == 0
    assert target.sandbox.report()["exposures"] > 0


@pytest.mark.contract("5 warm resumed")
@pytest.mark.usefixtures("short_intervals")
def test_warm__amplitude_fails__counts_failures_by_reason_and_exits_with_1(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    with Sandbox(per_minute=100_000) as sandbox:
        service = start_service(sandbox)
        sandbox.break_with(Fault("status", status=500))
        ended = warm(service, write_users(tmp_path, 1, 2))
    assert ended.returncode == 1
    assert "2 failed" in ended.stdout
    assert "failed: upstream_unavailable, 2 times" in ended.stdout


@pytest.mark.contract("5 warm resumed")
def test_warm__no_url__caches_in_redis_or_fails_without_redis_url(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    users = write_users(tmp_path, 1, 20)
    with RedisServer() as redis, Sandbox(latency=0.02) as sandbox:
        settings = {
            "AMPLITUDE_BASE_URL": sandbox.url,
            "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
            "AMPLITUDE_REQUESTS_PER_MINUTE": "1200",
        }
        ended = run("warm", str(users), **settings, REDIS_URL=redis.url)
        assert ended.returncode == 0, ended.stderr
        assert "0 failed, 0 not asked; 20 calls" in ended.stdout
        assert sandbox.report()["calls"] == 20
        service = start_service(sandbox, REDIS_URL=redis.url, AMPLITUDE_REQUESTS_PER_MINUTE="1200")
        answers = [service.get(f"/v1/cohorts?user_id=user-{number}") for number in range(1, 21)]
        calls_of_known = [answer.headers["X-Amplitude-Calls"] for answer in answers if answer.json()["found"]]
        assert len(calls_of_known) > 15
        assert set(calls_of_known) == {"0"}
        alone = run("warm", str(users), **settings)
        assert alone.returncode == 1
        assert "no REDIS_URL" in alone.stderr


@pytest.mark.contract("5 warm faults")
@pytest.mark.usefixtures("short_intervals")
@pytest.mark.parametrize("through", ["service", "redis"])
def test_warm__redis_stops__ends_with_the_reason(
    start_service: Callable[..., Service], tmp_path: Path, through: str
) -> None:
    users = write_users(tmp_path, 1, 3000)
    with Sandbox(per_minute=100_000, latency=0.02) as sandbox, RedisServer() as redis:
        settings = amplitude_settings(sandbox) | {
            "AMPLITUDE_BASE_URL": sandbox.url,
            "AMPLITUDE_REQUESTS_PER_MINUTE": "1200",
            "REDIS_URL": redis.url,
        }
        arguments = ["warm", str(users)]
        if through == "service":
            service = start_service(sandbox, REDIS_URL=redis.url, AMPLITUDE_REQUESTS_PER_MINUTE="1200")
            arguments = warm_arguments(service, users)

        def stop_redis() -> None:
            wait_for_calls(sandbox, 20)
            redis.stop()

        stopping = threading.Thread(target=stop_redis)
        stopping.start()
        ended = run(*arguments, **settings)
        stopping.join()
        assert ended.returncode == 1, ended.stderr
        assert "Redis does not answer: what is fetched now would be lost" in ended.stdout
        assert "run it again with the same file" in ended.stdout
        ended = run(*arguments, **settings)
        assert ended.returncode == 1
        assert "Redis does not answer" in ended.stderr + ended.stdout


def test_warm__temporary_errors_of_a_load_balancer__retries_until_all_are_cached(
    target: Service, tmp_path: Path
) -> None:
    target.sandbox.reset()
    passing = dict(enumerate([502, 503, 504, 500, 408, 429], start=12))
    with balancer(target.url, passing.get) as url:
        ended = warm(target, write_users(tmp_path, 70_000, 24), "--url", url)
    assert ended.returncode == 0, ended.stderr
    assert "0 failed, 0 not asked; 24 calls" in ended.stdout
    assert target.sandbox.report()["calls"] == 24


@pytest.mark.parametrize(
    ("status", "message"),
    [(302, "answered 302"), (404, "answered 404"), (502, "answered 502 all along")],
)
def test_warm__same_error_for_every_request__stops_and_prints_the_summary(
    target: Service, tmp_path: Path, status: int, message: str
) -> None:
    target.sandbox.reset()
    with balancer(target.url, lambda _: status) as url:
        ended = warm(target, write_users(tmp_path, 75_000, 40), "--url", url)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "0 done, 0 fresh already, 0 unknown to Amplitude" in ended.stdout
    assert target.sandbox.report()["calls"] == 0


def test_warm__address_refused_halfway__stops_and_prints_the_progress(target: Service, tmp_path: Path) -> None:
    target.sandbox.reset()
    with balancer(target.url, lambda number: 403 if number > 20 else None) as url:
        ended = warm(target, write_users(tmp_path, 76_000, 60), "--url", url)
    assert ended.returncode == 1
    assert "does not let this address ask (403)" in ended.stderr
    assert f"; {target.sandbox.report()['calls']} calls" in ended.stdout
    assert "0 failed, 40 not asked" in ended.stdout
    assert "run it again with the same file: who is warm is passed over" in ended.stdout


def test_warmer__load_balancer_error_on_the_last_try__counted_as_failed(target: Service) -> None:
    target.sandbox.reset()
    with balancer(target.url, lambda number: 502 if number > 4 else None) as url:
        asks = [running_service(url, CREDENTIALS)] * 2
        warmer = Warmer(asks, {"include": "cohorts"}, 10**6, report=print_progress, retry_interval=0.01)
        progress = warmer.run(map("user-77{}".format, range(6)), 6)
    assert (progress.done + progress.unknown, progress.failed, progress.remaining) == (4, 2, 0)
    assert progress.failures == {"no answer from the service (502)": 2}


def test_warm__wrong_option__stops_at_once_with_the_reason(target: Service, tmp_path: Path) -> None:
    users = write_users(tmp_path, 50_000, 3)
    for arguments, message in (
        (("--include", "wishes"), "--include takes"),
        (("--include", "propensities"), "--include propensities needs --prediction-id"),
        (("--include", "recommendations", "--log-exposures", "--rec-id", " ,"), "recommendations needs --rec-id"),
        (("--include", "propensities", "--prediction-id", "a", "--propensity-type", "b"), "answered 400: propensity_t"),
        (("--credentials", "braze:wrong-secret-of-a-test"), "refuses these credentials (401)"),
        (("--credentials", "braze:wrong-secret-of-a-test"), "by --credentials or PROXY_CREDENTIALS"),
        (("--url", "localhost:8000"), "no https:// or http:// in front"),
    ):
        ended = warm(target, users, *arguments)
        assert ended.returncode != 0
        assert message in ended.stderr
        assert "run it again" not in ended.stdout
    assert "nobody is named" in warm(target, "-", stdin="\n").stderr


def test_warm__missing_option__reported_before_users_are_read() -> None:
    with start("warm", "-", "--include", "propensities") as process:
        # Standard input stays open and empty, so that reading it first would block.
        assert process.wait(20) == 2


def test_warm__unreachable_service__fails_before_any_user_is_requested(target: Service, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = warm(target, write_users(tmp_path, 1, 3), "--url", url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"{url} gives no answer (ConnectionError): does it run there?" in ended.stderr
