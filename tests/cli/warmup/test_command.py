"""`python -m proxy warm`, run as a marketer runs the command, with a service and the sandbox."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from proxy.cli.client import running_service
from proxy.cli.warmup import fetching
from proxy.cli.warmup.progress import print_progress
from proxy.cli.warmup.runner import Warmer
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from tests.conftest import SECRET, Service, free_port
from tests.support.balancer import balancer
from tests.support.command import run, start
from tests.support.redis_server import RedisServer
from tests.support.wait import until

CREDENTIALS = f"braze:{SECRET}"
MANY = 200
"""Number of users. Warming takes about 1.5 s, so that a test can stop the run half-way."""


@pytest.fixture(scope="module")
def target(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    with Sandbox(per_minute=100_000, latency=0.02, documented=Documented(cohort_polls=0)) as sandbox:
        yield start_module_service(sandbox, AMPLITUDE_REQUESTS_PER_MINUTE="12000", LOG_LEVEL="WARNING")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `warm` retry and check Redis without long pauses."""
    monkeypatch.setattr(fetching, "Warmer", partial(Warmer, retry_interval=0.01, report_interval=0.05))


def warm_arguments(service: Service, users: Path | str, *arguments: str) -> list[str]:
    options = ["--url", service.url, "--credentials", CREDENTIALS, "--quota", "12000", *arguments]
    return ["warm", *([str(users)] if users else []), *options]


def amplitude_settings(sandbox: Sandbox) -> dict[str, str]:
    """Return the settings with which a cohort is downloaded from `sandbox`."""
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
def test_warm__file__all_users_are_cached_and_skipped_the_second_time(target: Service, tmp_path: Path) -> None:
    target.sandbox.reset()
    users = write_users(tmp_path, 1000, 60)
    with users.open("a") as file:
        file.write("stranger-here\n\nbad\x01id\nuser-1000\n")
    ended = warm(target, users)
    assert ended.returncode == 1, "a user in the file was not fetched"
    for output in (ended.stdout, ended.stderr):
        assert "skipped 1 line (line 63): user_id contains a control character" in output
        assert "skipped 1 line (line 62): the line is blank" in output
        assert "skipped 1 duplicate user id" in output
    assert "correct the unreadable line and run the command again; users already cached are skipped" in ended.stdout
    assert "61 users, 61 calls at 9,600 a minute: about 1 min" in ended.stderr
    assert "0 already cached" in ended.stdout
    assert "0 failed, 0 not requested; 61 calls" in ended.stdout
    assert target.sandbox.report()["calls"] == 61
    assert [calls(target, f"user_id=user-{number}") for number in range(1000, 1060)] == [0] * 60
    answer = target.get("/v1/cohorts?user_id=user-1001")
    assert answer.headers["Cache-Control"] == "private, max-age=86400"
    again = warm(target, users)
    assert "0 fetched" in again.stdout
    assert target.sandbox.report()["calls"] - 61 < 10, "only unknown users are fetched again"
    users.write_text("\n".join(line for line in users.read_text().splitlines() if line != "bad\x01id"))
    assert warm(target, users).returncode == 0


def test_warm__table_on_stdin__reads_the_column(target: Service) -> None:
    target.sandbox.reset()
    ended = warm(target, "-", "--column", "id", stdin="\ufeffid,name\nava,A\nben,B\n")
    assert (ended.returncode, ended.stdout.partition(",")[0]) == (0, "2 fetched")
    ended = warm(target, "-", "--column", "id", stdin="id,name\nava,A\n,B\n")
    assert ended.returncode == 0, "a row without an id is not an error"
    assert "skipped 1 line (line 3): user_id is blank" in ended.stdout
    ended = warm(target, "-", "--column", "user", stdin="id\nava\n")
    assert ended.returncode == 1
    assert "column 'user' is missing" in ended.stderr


@pytest.mark.contract("5 warm cohort")
def test_warm__cohort_without_export__all_members_are_fetched(target: Service) -> None:
    target.sandbox.reset()
    ended = warm(target, "", "--cohort", "crowd-40", "--no-export")
    assert ended.returncode == 0, ended.stderr
    assert "40 users, 40 calls at 9,600 a minute" in ended.stderr
    assert "skipped 1 line (line 42): user_id is blank" in ended.stderr
    assert target.sandbox.report()["calls"] == 40
    assert target.sandbox.report()["cohorts"] == {"requests": 1, "polls": 1, "files": 1, "stored": 1}
    assert sum(calls(target, f"user_id=user-{number}") for number in range(1, 41)) < 5, "only unknown users need a call"
    for secret in (target.sandbox.secret_key, target.sandbox.api_key, SECRET):
        assert secret not in ended.stderr + ended.stdout


@pytest.mark.contract("5 warm cohort")
def test_warm__cohort_not_available__error_names_the_fix(target: Service, tmp_path: Path) -> None:
    target.sandbox.reset()
    for arguments, message in (
        (("--cohort", "nowhere"), "cohort 'nowhere' does not exist in Amplitude"),
        (("--cohort", "vip", "--api-key", "wrong"), "Amplitude returned status 401"),
        (("--cohort", "vip", "--api-key", ""), "add --api-key"),
        (("--cohort", "vip", "--api-key", "key:secret"), "AMPLITUDE_API_KEY contains a colon"),
        (("--cohort", "vip", "--column", "user_id"), "specify either USERS"),
        (("--cohort", " "), "specify either USERS"),
        ((), "specify either USERS"),
    ):
        ended = warm(target, "", *arguments)
        assert ended.returncode != 0
        assert message in " ".join(ended.stderr.split())
    assert "specify either USERS" in " ".join(
        warm(target, write_users(tmp_path, 1, 1), "--cohort", "vip").stderr.split()
    )
    assert target.sandbox.report()["calls"] == 0


@pytest.mark.contract("5 warm faults")
def test_warm__table_without_column__error_names_the_option(target: Service) -> None:
    target.sandbox.reset()
    for table, message in (
        ("name,user_id\nAva,ava\n", "--column user_id"),
        ("\nuser_id\nava\n", "--column user_id"),
        ("ava,Ava,Portugal\n", "is a table header"),
        ("id;name\n1;A\n", "--column id"),
        ("customer_id\nava\n", "--column customer_id"),
    ):
        ended = warm(target, "-", stdin=table)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert message in ended.stderr
    assert target.sandbox.report()["calls"] == 0


def wait_for_calls(sandbox: Sandbox, calls: int) -> None:
    until(lambda: sandbox.report()["calls"] >= calls, "the run made too few calls", 20)


@pytest.mark.contract("5 warm faults")
def test_warm__ctrl_c_during_wait_for_quota__ends(target: Service, tmp_path: Path) -> None:
    target.sandbox.reset()
    process = start(*warm_arguments(target, write_users(tmp_path, 60_000, 30), "--quota", "1"))
    assert process.stderr
    assert "30 users, 30 calls at 1 a minute: about 30 min" in process.stderr.readline()
    wait_for_calls(target.sandbox, 1)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "not requested" in printed


@pytest.mark.contract("5 warm resumed")
@pytest.mark.parametrize(
    ("number", "users"),
    [
        (signal.SIGINT, "file"),
        pytest.param(signal.SIGKILL, "file", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "cohort", marks=pytest.mark.slow),
    ],
)
def test_warm__stopped_half_way_and_run_again__fetches_all_users(
    start_service: Callable[..., Service], tmp_path: Path, number: signal.Signals, users: str
) -> None:
    with Sandbox(per_minute=100_000, latency=0.02, documented=Documented(cohort_polls=0)) as sandbox:
        service = start_service(sandbox, AMPLITUDE_REQUESTS_PER_MINUTE="12000", LOG_LEVEL="WARNING")
        arguments = (
            ["", "--cohort", f"crowd-{MANY}", "--no-export"]
            if users == "cohort"
            else [str(write_users(tmp_path, 1, MANY))]
        )
        process = start(*warm_arguments(service, *arguments), **amplitude_settings(sandbox))
        wait_for_calls(sandbox, MANY // 4)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=20)
        assert sandbox.report()["calls"] < MANY, "the run ended before the signal"
        if number == signal.SIGINT:
            assert process.returncode == 1
            assert "run the command again" in printed
        ended = warm(service, *arguments)
        assert ended.returncode == 0, ended.stderr
        unknown = sandbox.report()["statuses"].get("400", 0)
        assert sandbox.report()["calls"] <= MANY + 16 + unknown, "only requests in progress are repeated"
        with requests.Session() as session:
            session.auth = ("braze", SECRET)
            url = f"{service.url}/v1/cohorts?user_id=user-"
            answers = [session.get(f"{url}{user}", timeout=10) for user in range(1, MANY + 1)]
    caching = {answer.headers["Cache-Control"] for answer in answers if answer.json()["found"]}
    assert caching == {"private, max-age=86400"}


@pytest.mark.contract("5 warm resumed")
def test_warm__recommendations__need_log_exposures(target: Service, tmp_path: Path) -> None:
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
@pytest.mark.usefixtures("impatient")
def test_warm__users_fail__are_counted_by_reason_and_exit_code_is_1(
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
def test_warm__without_url__fills_redis_within_the_shared_quota(
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
        assert "0 failed, 0 not requested; 20 calls" in ended.stdout
        assert sandbox.report()["calls"] == 20
        service = start_service(sandbox, REDIS_URL=redis.url, AMPLITUDE_REQUESTS_PER_MINUTE="1200")
        answers = [service.get(f"/v1/cohorts?user_id=user-{number}") for number in range(1, 21)]
        calls_of_known = [answer.headers["X-Amplitude-Calls"] for answer in answers if answer.json()["found"]]
        assert len(calls_of_known) > 15
        assert set(calls_of_known) == {"0"}
        alone = run("warm", str(users), **settings)
        assert alone.returncode == 1
        assert "REDIS_URL is not set" in alone.stderr


@pytest.mark.contract("5 warm faults")
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("through", ["service", "redis"])
def test_warm__redis_ends__stops_before_data_is_lost(
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
        assert "Redis does not answer, so fetched data would be lost" in ended.stdout
        assert "run the command again with the same file" in ended.stdout
        ended = run(*arguments, **settings)
        assert ended.returncode == 1
        assert "Redis does not answer" in ended.stderr + ended.stdout


def test_warm__errors_of_a_load_balancer__are_retried(target: Service, tmp_path: Path) -> None:
    target.sandbox.reset()
    passing = dict(enumerate([502, 503, 504, 500, 408, 429], start=12))
    with balancer(target.url, passing.get) as url:
        ended = warm(target, write_users(tmp_path, 70_000, 24), "--url", url)
    assert ended.returncode == 0, ended.stderr
    assert "0 failed, 0 not requested; 24 calls" in ended.stdout
    assert target.sandbox.report()["calls"] == 24


@pytest.mark.parametrize(
    ("status", "message"),
    [(302, "answered 302"), (404, "answered 404"), (502, "answered 502 to the last")],
)
def test_warm__every_answer_is_unexpected__ends_with_a_summary(
    target: Service, tmp_path: Path, status: int, message: str
) -> None:
    target.sandbox.reset()
    with balancer(target.url, lambda _: status) as url:
        ended = warm(target, write_users(tmp_path, 75_000, 40), "--url", url)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "0 fetched, 0 already cached, 0 unknown to Amplitude" in ended.stdout
    assert target.sandbox.report()["calls"] == 0


def test_warm__refused_half_way__summary_counts_the_progress(target: Service, tmp_path: Path) -> None:
    target.sandbox.reset()
    with balancer(target.url, lambda number: 403 if number > 20 else None) as url:
        ended = warm(target, write_users(tmp_path, 76_000, 60), "--url", url)
    assert ended.returncode == 1
    assert "rejects the address of this machine (403)" in ended.stderr
    assert f"; {target.sandbox.report()['calls']} calls" in ended.stdout
    assert "0 failed, 40 not requested" in ended.stdout
    assert "run the command again with the same file; users already cached are skipped" in ended.stdout


def test_warmer__load_balancer_fails_every_attempt__users_are_counted_as_failed(target: Service) -> None:
    target.sandbox.reset()
    with balancer(target.url, lambda number: 502 if number > 4 else None) as url:
        ask_functions = [running_service(url, CREDENTIALS)] * 2
        warmer = Warmer(ask_functions, {"include": "cohorts"}, 10**6, report=print_progress, retry_interval=0.01)
        progress = warmer.run(map("user-77{}".format, range(6)), 6)
    assert (progress.done + progress.unknown, progress.failed, progress.remaining) == (4, 2, 0)
    assert progress.failures == {"no answer from the service (502)": 2}


def test_warm__mistake__error_names_the_fix(target: Service, tmp_path: Path) -> None:
    users = write_users(tmp_path, 50_000, 3)
    for arguments, message in (
        (("--include", "wishes"), "--include must name"),
        (("--include", "propensities"), "--include propensities needs ids; add --prediction-id"),
        (
            ("--include", "recommendations", "--log-exposures", "--rec-id", " ,"),
            "recommendations needs ids; add --rec-id",
        ),
        (("--include", "propensities", "--prediction-id", "a", "--propensity-type", "b"), "answered 400: propensity_t"),
        (("--credentials", "braze:wrong-secret-of-a-test"), "rejects the credentials (401)"),
        (("--credentials", "braze:wrong-secret-of-a-test"), "PROXY_CREDENTIALS=name:secret"),
        (("--url", "localhost:8000"), "must begin with https:// or http://"),
    ):
        ended = warm(target, users, *arguments)
        assert ended.returncode != 0
        assert message in ended.stderr
        assert "run the command again" not in ended.stdout
    assert "standard input has no user ids" in warm(target, "-", stdin="\n").stderr
    assert "standard input: the file is empty" in warm(target, "-", stdin="").stderr
    for path, message in ((tmp_path, "Is a directory"), (tmp_path / "no.csv", "No such file or directory")):
        ended = warm(target, path)
        assert (ended.returncode, str(path) in ended.stderr, message in ended.stderr) == (2, True, True)
    unclosed = tmp_path / "users.csv"
    unclosed.write_text('user_id,name\nava,"A\nben,B\n')
    ended = warm(target, unclosed, "--column", "user_id")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"{unclosed}: line 2: a quote is not closed" in ended.stderr


def test_warm__missing_option__is_reported_before_input_is_read() -> None:
    with start("warm", "-", "--include", "propensities") as process:
        # Standard input stays open without data, so reading it first would block.
        assert process.wait(20) == 2


def test_warm__no_service__ends_before_the_first_request(target: Service, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = warm(target, write_users(tmp_path, 1, 3), "--url", url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"{url} does not answer (ConnectionError); check the URL" in ended.stderr
