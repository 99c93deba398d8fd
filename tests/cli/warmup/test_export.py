"""`python -m proxy warm --cohort` with a download: into a running service, and into Redis."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from proxy.amplitude.cohort_export import CohortExport
from proxy.cli.warmup.audience import Audience
from proxy.cli.warmup.destination import running
from proxy.cli.warmup.export import Content, Exporter
from proxy.cli.warmup.export_run import export_cohorts
from proxy.cli.warmup.progress import print_progress
from proxy.sandbox import cohort_api
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from tests.conftest import SECRET, Service, free_port
from tests.support.command import run
from tests.support.redis_server import RedisServer
from tests.support.wait import until

READ, PUSH = "a-secret-that-can-read", "a-secret-that-can-push"
KEYS = f"braze:{SECRET},reader:{READ}:read,pusher:{PUSH}:push"


@pytest.fixture(scope="module")
def target(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    """Return a service without Redis. Its sandbox is not the sandbox of the downloads."""
    with Sandbox(per_minute=100_000) as sandbox:
        yield start_module_service(
            sandbox, AMPLITUDE_REQUESTS_PER_MINUTE="12000", LOG_LEVEL="WARNING", PROXY_API_KEYS=KEYS
        )


@pytest.fixture
def amplitude(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sandbox]]:
    """Return a function that starts a sandbox whose exports are ready at once. `file` replaces the cohort file."""
    running: list[Sandbox] = []

    def start(file: bytes | None = None, **documented: Any) -> Sandbox:
        if file is not None:
            monkeypatch.setattr(cohort_api, "table", lambda *_, **__: file)
        running.append(Sandbox(per_minute=100_000, documented=Documented(cohort_polls=0, **documented)).__enter__())
        return running[-1]

    yield start
    for sandbox in running:
        sandbox.__exit__()


def amplitude_settings(sandbox: Sandbox) -> dict[str, str]:
    return {
        "AMPLITUDE_BASE_URL": sandbox.url,
        "AMPLITUDE_COHORTS_URL": sandbox.url,
        "AMPLITUDE_API_KEY": sandbox.api_key,
        "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
    }


def warm(
    service: Service, sandbox: Sandbox, *arguments: str, credentials: str = f"pusher:{PUSH}", **variables: str
) -> subprocess.CompletedProcess[str]:
    options = ["--url", service.url, "--credentials", credentials]
    return run("warm", *options, *arguments, **amplitude_settings(sandbox) | variables)


def profile(service: Service, query: str) -> dict[str, Any]:
    """Return the answer of /v1/profile, which must cost no call."""
    response = service.get(f"/v1/profile?include=properties,cohorts&{query}")
    assert response.headers["X-Amplitude-Calls"] == "0", response.text
    body: dict[str, Any] = response.json()
    assert body["ok"]
    return body


SWITCHES: list[dict[str, str]] = [
    {},
    *({"cohort_column": column} for column in ("User ID", "userId", "userID")),
    {"cohort_prefix": "gp"},
    {"cohort_quoting": "minimal"},
    {"cohort_empty": "null"},
    {"cohort_gzip": "yes"},
    {"cohort_gzip": "yes", "cohort_file": "inline"},
]


@pytest.mark.contract("6 export")
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_warm__cohort__members_and_others_are_answered_without_a_call(
    target: Service, amplitude: Callable[..., Sandbox], switches: dict[str, str]
) -> None:
    target.sandbox.reset()
    sandbox = amplitude(**switches)
    ended = warm(target, sandbox, "--cohort", "vip", "--keys", "first_name,gp:sizes,newsletter,loyalty_points,colour")
    assert ended.returncode == 0, ended.stderr
    assert "1 download and no calls" in ended.stderr
    assert "cohort vip: 1 member, snapshot installed, properties of 1 user stored" in ended.stdout
    answer = profile(target, "user_id=ava&cohort_id=vip&keys=first_name,sizes,newsletter,loyalty_points,colour")
    assert answer["properties"] == {
        "first_name": "Ava",
        "sizes": ["38", "M"],
        "newsletter": True,
        "loyalty_points": 420,
        "colour": None,
    }
    assert (answer["is_member"], answer["found"]) == (True, True)
    other = target.get("/v1/cohorts?user_id=another-user&cohort_id=vip")
    assert (other.json()["is_member"], other.headers["X-Amplitude-Calls"]) == (False, "0")
    assert sandbox.report()["calls"] == target.sandbox.report()["calls"] == 0
    assert sandbox.report()["cohorts"]["requests"] == 1


@pytest.mark.contract("6 export")
def test_warm__all_properties__count_as_the_whole_set(target: Service, amplitude: Callable[..., Sandbox]) -> None:
    target.sandbox.reset()
    sandbox = amplitude()
    ended = warm(target, sandbox, "--cohort", "newsletter", "--include", "properties")
    assert ended.returncode == 0, ended.stderr
    assert (
        "Amplitude may time out while it exports all properties; name the properties of the message with --keys"
        in ended.stderr
    )
    assert profile(target, "user_id=ben&cohort_id=vip")["properties"] == {"first_name": "Ben", "loyalty_points": 15}
    assert target.sandbox.report()["calls"] == 0


@pytest.mark.parametrize("option", [("--keys", "plan,$clearAll"), ()])
def test_warm__property_has_the_name_of_an_operator__skipped_with_the_reason(
    target: Service, amplitude: Callable[..., Sandbox], option: tuple[str, ...]
) -> None:
    sandbox = amplitude(b"user_id,plan,$clearAll\ncleo,gold,-\n")
    ended = warm(target, sandbox, "--cohort", "newsletter", "--include", "properties", *option)
    assert ended.returncode == 0, ended.stderr
    assert "property '$clearAll' was skipped" in ended.stdout
    body = target.get("/v1/properties?user_id=cleo&keys=plan")
    assert (body.json()["properties"], body.headers["X-Amplitude-Calls"]) == ({"plan": "gold"}, "0")


@pytest.mark.contract("6 types")
def test_warm__values_of_two_types__summary_names_the_setting(
    target: Service, amplitude: Callable[..., Sandbox]
) -> None:
    file = (
        b"user_id,zip,plan,active,tags\nkit,02134,gold,true,\nlou,90210,,false,[1]\nmax,10115,3,true,{}\n"
        b"lou,90211,gold,,\n,1,1,1,1\n oz,1,1,1,1\n"
    )
    ended = warm(target, amplitude(file), "--cohort", "any", "--keys", "zip,plan,active,tags,colour")
    assert ended.returncode == 1, "a user id was unreadable"
    assert [line for line in ended.stdout.splitlines() if line.startswith("cohort")] == [
        "cohort any: 3 members, snapshot installed, properties of 3 users stored"
    ]
    for line in (
        "zip: 2 numbers, 1 text; TEXT_PROPERTIES=zip keeps text",
        "plan: 1 number, 2 texts; TEXT_PROPERTIES=plan keeps text",
        "active: 2 booleans",
        "tags: 1 object",
        "property 'colour' is not in the cohort file; correct --keys",
        "skipped 1 line (line 6): user_id is blank",
        "skipped 1 line (line 7): user_id begins or ends with white space; remove the white space",
        "skipped 1 duplicate user id; the last row of each user was used",
    ):
        assert line in ended.stdout.splitlines()
    answer = profile(target, "user_id=lou&keys=zip,plan,active,tags&cohort_id=any")
    assert answer["properties"] == {"zip": 90211, "plan": "gold", "active": None, "tags": None}
    text = warm(target, amplitude(file), "--cohort", "any", "--keys", "zip", TEXT_PROPERTIES="zip")
    assert "zip:" not in text.stdout


def test_warm__property_that_no_member_has__summary_asks_to_check_its_name(
    target: Service, amplitude: Callable[..., Sandbox]
) -> None:
    ended = warm(target, amplitude(), "--cohort", "vip", "--keys", "first_name", "--keys", "frist_name")
    assert ended.returncode == 0, ended.stderr
    assert "no member has the property 'frist_name'; check its name in --keys" in ended.stdout.splitlines()
    assert "'first_name'" not in ended.stdout
    assert profile(target, "user_id=ava&cohort_id=vip&keys=first_name")["properties"] == {"first_name": "Ava"}
    every = warm(target, amplitude(b"user_id,plan\nava,\n"), "--cohort", "vip", "--include", "properties")
    assert "no member has" not in every.stdout, "the user did not name the property"


def test_warm__names_with_control_characters__escaped_for_the_terminal(
    target: Service, amplitude: Callable[..., Sandbox]
) -> None:
    file = b'user_id,\x1b[2Jzip,"a\nb"\nkit,2,1\nlou,x,2\n'
    ended = warm(target, amplitude(file), "--cohort", "any", "--include", "properties")
    assert ended.returncode == 0, ended.stderr
    assert r"'\x1b[2Jzip': 1 number, 1 text; TEXT_PROPERTIES='\x1b[2Jzip' keeps text" in ended.stdout.splitlines()
    assert r"'a\nb': 2 numbers" in ended.stdout.splitlines()


@pytest.mark.contract("6 export")
def test_warm__unusable_file__nothing_is_stored(target: Service, amplitude: Callable[..., Sandbox]) -> None:
    target.sandbox.reset()
    sandbox = amplitude()
    sandbox.break_with(Fault("cohort-two-columns"))
    for arguments, message in (
        (("--cohort", "app-users-2"), "cohort 'app-users-2' does not exist"),
        (
            ("--cohort", "c3", "--keys", "plan.type"),
            "property 'plan.type' has two columns in the cohort file (3 and 4)",
        ),
        (("--cohort", "c3", "--keys", "plan.type", "--api-key", ""), "--cohort needs AMPLITUDE_API_KEY"),
        (("--cohort", "c3", "--api-key", "wrong"), "Amplitude returned status 401"),
    ):
        ended = warm(target, sandbox, *arguments)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert message in ended.stderr
    for file, message in (
        (b'[{"user_id": "ava", "plan": "gold"}]', "JSON instead of CSV"),
        (b"user_id,zip\nava,1\n", "none of the requested properties"),
        (b"user_id,plan\n", "cohort c3 has no user ids"),
    ):
        ended = warm(target, amplitude(file), "--cohort", "c3", "--keys", "plan")
        assert ended.returncode == 1
        assert message in ended.stderr
    assert target.get("/v1/cohorts?user_id=ava&cohort_id=c3").headers["X-Amplitude-Calls"] == "1"


@pytest.mark.contract("6 export")
def test_warm__several_cohorts__one_download_each(target: Service, amplitude: Callable[..., Sandbox]) -> None:
    sandbox = amplitude()
    arguments = ("--cohort", "vip", "--cohort", "crowd-20", "--cohort", "vip", "--include", "cohorts")
    ended = warm(target, sandbox, *arguments)
    assert ended.returncode == 0, ended.stderr
    assert "2 downloads and no calls; the downloads take about 4 min" in ended.stderr
    assert sandbox.report()["cohorts"] == {"requests": 2, "polls": 2, "files": 2, "stored": 2}
    assert profile(target, "user_id=ava&cohort_id=vip,crowd-20&keys=first_name")["member"] == {
        "vip": True,
        "crowd-20": False,
    }


def test_warm__one_cohort_of_several_fails__others_are_stored(
    target: Service, amplitude: Callable[..., Sandbox]
) -> None:
    sandbox = amplitude()
    arguments = ("--cohort", "deleted-1", "--cohort", "c31", "--cohort", "deleted-2", "--cohort", "crowd-30")
    ended = warm(target, sandbox, *arguments, "--keys", "first_name")
    assert ended.returncode == 1
    assert "Error: cohort 'deleted-1' does not exist in Amplitude" in ended.stderr
    assert "cohort crowd-30: 30 members, snapshot installed, properties of 30 users stored" in ended.stdout
    assert "cohorts deleted-1, deleted-2 failed; correct the errors above, and run the command again" in ended.stdout
    assert profile(target, "user_id=ava&cohort_id=c31,crowd-30&keys=first_name")["member"] == {
        "c31": True,
        "crowd-30": False,
    }


@pytest.mark.contract("6 export")
def test_warm__key_without_the_scope__refused_before_the_download(
    target: Service, amplitude: Callable[..., Sandbox]
) -> None:
    sandbox = amplitude()
    recommendations = ("--include", "recommendations,cohorts", "--rec-id", "homepage", "--log-exposures")
    for credentials, arguments, message in (
        (f"reader:{READ}", (), "this route needs the scope push"),
        (
            f"pusher:{PUSH}",
            recommendations,
            "the run also makes calls; create an admin key: python -m proxy new-key NAME --scope admin",
        ),
        (f"pusher:{PUSH}", ("--no-export",), "this route needs the scope read"),
        ("pusher:a-secret-of-another", (), "rejects the credentials (401)"),
    ):
        ended = warm(target, sandbox, "--cohort", "vip", *arguments, credentials=credentials)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert message in ended.stderr
    assert sandbox.report()["cohorts"] == {}


@pytest.mark.contract("6 export")
def test_warm__recommendations_too__one_call_per_member(target: Service, amplitude: Callable[..., Sandbox]) -> None:
    target.sandbox.reset()
    include = ("--include", "recommendations,properties,cohorts", "--rec-id", "homepage")
    refused = warm(target, amplitude(), "--cohort", "c31", *include)
    assert refused.returncode == 2
    assert "add --log-exposures" in refused.stderr
    ended = warm(
        target, amplitude(), "--cohort", "crowd-12", *include, "--log-exposures", credentials=f"braze:{SECRET}"
    )
    assert ended.returncode == 0, ended.stderr
    assert "1 download and 1 call per member" in ended.stderr
    assert "12 users, 12 calls" in ended.stderr
    assert "all users fitted into CACHE_MAX_MB" in ended.stdout
    assert "0 failed, 0 not requested; 12 calls" in ended.stdout
    assert target.sandbox.report()["calls"] == target.sandbox.report()["exposures"] + (
        target.sandbox.report()["statuses"].get("400", 0)
    )


def test_warm__newer_snapshot__kept(target: Service, amplitude: Callable[..., Sandbox]) -> None:
    sandbox = amplitude()
    destination = running(target.url, f"pusher:{PUSH}")
    assert destination.install("crowd-30", 2_000_000_000.0, ["ava"]).status == 400, "too far ahead"
    client = CohortExport(sandbox.url, sandbox.api_key, sandbox.secret_key, on_progress=lambda _: None)
    staged = Audience()
    exporter = Exporter(client, destination, Content(True, False), frozenset(), staged, print_status=lambda _: None)
    result, requested_at = exporter.download("crowd-30")
    assert destination.install("crowd-30", requested_at + 1, ["ava"]).status == 200
    exporter.store(result, requested_at, threading.Event(), print_progress)
    assert result.snapshot == "a newer snapshot is already installed"
    assert result.complete
    staged.close()


def test_store__stopped__ends_between_two_batches(target: Service, amplitude: Callable[..., Sandbox]) -> None:
    sandbox = amplitude()
    client = CohortExport(sandbox.url, sandbox.api_key, sandbox.secret_key, on_progress=lambda _: None)
    staged, stop = Audience(), threading.Event()
    content = Content(True, True, ("first_name",))
    exporter = Exporter(
        client, running(target.url, f"pusher:{PUSH}"), content, frozenset(), staged, print_status=lambda _: stop.set()
    )
    result, requested_at = exporter.download("crowd-40")
    exporter.store(result, requested_at, stop, print_progress)
    assert (result.snapshot, result.stored, result.complete) == ("snapshot installed", 0, False)
    assert "stopped before all members were stored" in result.lines()
    staged.close()


@pytest.mark.contract("6 export")
def test_warm__cache_too_small__key_that_can_only_push_counts_the_users_that_did_not_fit(
    start_service: Callable[..., Service], amplitude: Callable[..., Sandbox]
) -> None:
    sandbox = amplitude()
    service = start_service(sandbox, CACHE_MAX_MB="1", LOG_LEVEL="WARNING", PROXY_API_KEYS=KEYS)
    for _ in range(2):  # in the second run, every batch evicts users of the first run
        ended = warm(service, sandbox, "--cohort", "crowd-2500", "--keys", "first_name")
        assert ended.returncode == 1, ended.stderr
        assert "the properties need CACHE_MAX_MB=2 or more; CACHE_MAX_MB is 1" in ended.stderr
        cached = service.get("/v1/snapshots").json()["cache"]["records"]
        assert 0 < cached < 2500
        assert (
            f"{2500 - cached:,} users did not fit into CACHE_MAX_MB (1); set CACHE_MAX_MB=2 or more, and run the "
            "command again"
        ) in ended.stdout.splitlines()
        assert "without Redis, a restart of the service loses this data" in ended.stdout
    ended = warm(service, sandbox, "--cohort", "crowd-100", "--keys", "first_name")
    assert ended.returncode == 0, ended.stdout
    assert "other users from the cache to make room for the members" in ended.stdout


def test_warm__service_does_not_report_its_cache__summary_says_so(
    target: Service,
    amplitude: Callable[..., Sandbox],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sandbox = amplitude()
    for name, value in amplitude_settings(sandbox).items():
        monkeypatch.setenv(name, value)
    destination = replace(running(target.url, f"pusher:{PUSH}"), cache_state=lambda: None)
    content = Content(cohorts=False, properties=True, keys=("first_name",))
    outcome = export_cohorts(["crowd-5"], sandbox.api_key, destination, content, None)
    assert outcome.complete
    assert (
        "the service did not report its cache, so users that did not fit into CACHE_MAX_MB are not counted; set "
        "CACHE_MAX_MB=1 or more"
    ) in capsys.readouterr().out.splitlines()


@pytest.mark.contract("6 export")
def test_warm__without_url__fills_redis_for_all_services(
    start_service: Callable[..., Service], amplitude: Callable[..., Sandbox]
) -> None:
    sandbox = amplitude()
    arguments = ("--cohort", "vip", "--keys", "first_name,loyalty_points,newsletter,colour")
    with RedisServer() as redis:
        settings = amplitude_settings(sandbox) | {"REDIS_URL": redis.url, "TEXT_PROPERTIES": "loyalty_points"}
        # The service starts before the command, so it must receive the snapshot from Redis.
        service = start_service(sandbox, REDIS_URL=redis.url, AMPLITUDE_API_KEY=sandbox.api_key, LOG_LEVEL="WARNING")
        for _ in range(2):
            ended = run("warm", *arguments, **settings)
            assert ended.returncode == 0, ended.stderr
            assert "cohort vip: 1 member, snapshot installed, properties of 1 user stored" in ended.stdout
            assert "newsletter: 1 boolean" in ended.stdout
            assert "loyalty_points" not in ended.stdout
        until(lambda: service.get("/v1/snapshots").json()["snapshots"], "the service did not load the snapshot")
        answer = profile(service, "user_id=ava&cohort_id=vip&keys=first_name,loyalty_points,newsletter,colour")
        assert answer["properties"] == {
            "first_name": "Ava",
            "loyalty_points": "420",
            "newsletter": True,
            "colour": None,
        }
        assert answer["is_member"]
    assert sandbox.report()["calls"] == 0
    assert sandbox.report()["cohorts"]["requests"] == 2


def test_warm__redis_does_not_answer__ends_before_the_download(amplitude: Callable[..., Sandbox]) -> None:
    sandbox = amplitude()
    settings = amplitude_settings(sandbox) | {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    ended = run("warm", "--cohort", "vip", **settings)
    assert ended.returncode == 1
    assert sandbox.report()["cohorts"] == {}


def test_warm__profile_api_is_off__only_the_download_works(
    start_service: Callable[..., Service], amplitude: Callable[..., Sandbox]
) -> None:
    sandbox = amplitude()
    service = start_service(sandbox, AMPLITUDE_PROFILE_API="off", LOG_LEVEL="WARNING")
    for arguments in (("--no-export",), ("--include", "computations,cohorts")):
        ended = warm(service, sandbox, "--cohort", "vip", *arguments, credentials=f"braze:{SECRET}")
        assert ended.returncode == 1
        assert "cannot be fetched, because AMPLITUDE_PROFILE_API is off" in ended.stderr
    ended = warm(service, sandbox, "--cohort", "vip", "--keys", "first_name", credentials=f"braze:{SECRET}")
    assert ended.returncode == 0, ended.stderr
    assert profile(service, "user_id=ava&cohort_id=vip&keys=first_name")["properties"] == {"first_name": "Ava"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cohort", "vip", "--keys", "plan", "--no-export"), "--keys needs a download of properties"),
        (("--cohort", "vip", "--keys", "plan", "--include", "cohorts"), "add properties to --include"),
        (("-", "--keys", "plan"), "--keys needs a download of properties"),
        (("-", "--no-export"), "--no-export needs --cohort"),
        (("--cohort", "vip,c31"), "--cohort takes one id; write --cohort vip --cohort c31"),
    ],
)
def test_warm__options_that_contradict_each_other__error_names_the_fix(
    arguments: tuple[str, ...], message: str
) -> None:
    ended = run("warm", *arguments, stdin="ava\n")
    assert ended.returncode == 2
    assert message in ended.stderr
