"""`python -m proxy forget`, run as an operator runs the command."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from proxy.app import create_app
from proxy.sandbox.server import Sandbox
from proxy.settings import Settings
from proxy.storage.accepted_values import AcceptedValue
from proxy.sync.sqlite_state import SqliteState
from proxy.sync.state import SyncState
from proxy.web.services import installed
from tests.conftest import KEYS, SECRET, Service, free_port
from tests.support.command import run, start
from tests.support.redis_server import RedisServer
from tests.support.wait import until


def forget(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run("forget", *arguments, **variables)


def calls(service: Service, query: str) -> int:
    return int(service.get(f"/v1/cohorts?{query}").headers["X-Amplitude-Calls"])


@pytest.mark.contract("5 forget")
def test_forget__running_service__deletes_the_named_users(service: Service) -> None:
    for user in ("user-7001", "user-7002", "user-7003"):
        calls(service, f"user_id={user}")
    ended = forget(
        "--user", "user-7001", "--user", "user-7002", "--url", service.url, "--credentials", f"braze:{SECRET}"
    )
    assert (ended.returncode, ended.stdout) == (0, "deleted 2 records\n")
    assert [calls(service, f"user_id=user-700{number}") for number in (1, 2, 3)] == [1, 1, 0]


@pytest.mark.contract("5 forget")
def test_forget__shared_redis__reaches_the_service_within_a_second(start_service: Callable[..., Service]) -> None:
    with RedisServer() as redis, Sandbox() as sandbox:
        service = start_service(sandbox, REDIS_URL=redis.url)
        deadline = time.monotonic() + 20
        while calls(service, "user_id=ava") or not sandbox.report()["calls"]:
            assert time.monotonic() < deadline, "the user was never cached"
        settings = {
            "AMPLITUDE_BASE_URL": sandbox.url,
            "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
            "PROXY_API_KEYS": KEYS,
        }
        ended = forget("--user", "ava", **settings, REDIS_URL=redis.url)
        assert (ended.returncode, ended.stdout) == (0, "deleted 1 record\n"), ended.stderr
        forgotten_at = time.monotonic()
        while not calls(service, "user_id=ava"):
            assert time.monotonic() < forgotten_at + 1, "the service still answers from its cache"


def sent(state: SyncState) -> list[tuple[str, dict[str, AcceptedValue]]]:
    return [(user, {"plan": AcceptedValue(state.digest("gold"), 1000.0)}) for user in ("ava", "ben", "kit")]


@pytest.mark.contract("7 state")
def test_forget__state_file__deletes_the_named_users(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with closing(SqliteState(path)) as state:
        state.record(sent(state))
    ended = forget("--user", "ava", "--user", " kit ", "--user", "nobody", "--state", str(path))
    assert (ended.returncode, ended.stdout) == (0, "deleted 2 records\n")
    with closing(SqliteState(path)) as state:
        assert [user for user, _ in state.users()] == ["ben"]
        assert "is in use by another run" in forget("--user", "ben", "--state", str(path)).stderr
    for arguments, message in (
        (("--state", str(tmp_path / "other")), "does not exist; correct --state"),
        (("--state", str(path), "--device", "d"), "--state contains only user ids; remove --url and --device"),
        (("--state", str(path), "--url", "http://127.0.0.1:1"), "remove --url and --device"),
    ):
        ended = forget("--user", "ben", *arguments)
        assert (ended.returncode != 0, message in ended.stderr) == (True, True)


@pytest.mark.contract("7 state")
@pytest.mark.parametrize("way", ["redis", "url"])
def test_forget__state_in_redis__deletes_the_user(start_service: Callable[..., Service], way: str) -> None:
    secret = {"REDIS_KEY_SECRET": "0123456789abcdef" * 4}
    with RedisServer() as redis, Sandbox() as sandbox:
        settings = {"AMPLITUDE_BASE_URL": sandbox.url, "AMPLITUDE_SECRET_KEY": sandbox.secret_key}
        settings |= {"PROXY_API_KEYS": KEYS, "REDIS_URL": redis.url, **secret}
        services = installed(create_app(Settings.from_env(settings)))
        state, client = services.sync_state, services.redis
        assert state is not None
        assert client is not None
        state.record(sent(state))
        options = ["--url", start_service(sandbox, **settings).url, "--credentials", KEYS] if way == "url" else []
        ended = forget("--user", "ava", *options, **(settings if way == "redis" else {}))
        assert (ended.returncode, ended.stdout) == (0, "deleted 1 record\n"), ended.stderr
        assert sorted(user for user, _ in state.users()) == ["ben", "kit"]
        state.record(sent(state))
        assert sorted(user for user, _ in state.users()) == ["ben", "kit"], "the values are older than the request"
        client.stop()


@pytest.mark.contract("5 forget")
def test_forget__mistake_or_failure__names_the_cause(service: Service) -> None:
    to_the_service = ("--url", service.url, "--credentials")
    alone = {"AMPLITUDE_SECRET_KEY": "k"}
    for arguments, variables, message in (
        ((), {}, "specify --user or --device"),
        (("--user", " "), {}, "specify --user or --device"),
        (("--user", "u", *to_the_service, "braze:wrong-secret-of-a-test"), {}, "credentials (401)"),
        (("--user", "u", *to_the_service, "braze:wrong-secret-of-a-test"), {}, "PROXY_CREDENTIALS=name:secret"),
        (
            ("--user", "u", "--url", service.sandbox.url, "--credentials", "a:b"),
            {},
            "the answer is not from this service",
        ),
        (("--user", "u", "--url", "your-host", "--credentials", "a:b"), {}, "must begin with https:// or http://"),
        (("--user", "u" * 600, *to_the_service, f"braze:{SECRET}"), {}, "answered 400: user_id is too long"),
        (("--user", "u", "--url", f"http://127.0.0.1:{free_port()}", "--credentials", "a:b"), {}, "check the URL"),
        (("--user", "u"), {"REDIS_URL": "redis://127.0.0.1"}, "AMPLITUDE_SECRET_KEY is required"),
        (("--user", "u"), alone, "REDIS_URL is not set"),
        (("--user", "u"), alone | {"REDIS_URL": f"redis://127.0.0.1:{free_port()}"}, "Redis does not answer"),
    ):
        ended = forget(*arguments, **variables)
        assert ended.returncode != 0
        assert message in ended.stderr
        assert ended.stdout == ""


@pytest.mark.contract("2 scopes")
def test_forget__key_without_the_scope__error_names_the_scope_and_the_fix(
    start_service: Callable[..., Service], sandbox: Sandbox
) -> None:
    service = start_service(sandbox, PROXY_API_KEYS=f"{KEYS}:read")
    ended = forget("--user", "u", "--url", service.url, "--credentials", KEYS)
    assert ended.returncode == 1
    assert "answered 403" in ended.stderr
    assert "needs the scope admin" in ended.stderr
    assert "new-key NAME --scope admin" in ended.stderr


@pytest.mark.contract("5 forget")
@pytest.mark.parametrize(
    ("option", "variables"),
    [
        (["--credentials", KEYS], {"PROXY_CREDENTIALS": "braze:wrong"}),
        ([], {"PROXY_CREDENTIALS": KEYS, "FORGET_CREDENTIALS": "braze:wrong"}),
        ([], {"FORGET_CREDENTIALS": KEYS}),
    ],
)
def test_credentials__option_variable_and_former_variable__the_first_is_used(
    service: Service, option: list[str], variables: dict[str, str]
) -> None:
    assert forget("--user", "user-7004", "--url", service.url, *option, **variables).returncode == 0


def test_credentials__missing_without_a_terminal__usage_error_without_warning(service: Service) -> None:
    commands = ["forget", "--user", "u"], ["warm", "-"], ["preview", "-"]
    # Each process has its own session; otherwise the prompt would appear in the terminal of the tests.
    for process in [start(*command, "--url", service.url) for command in commands]:
        _, errors = process.communicate("", timeout=30)
        assert process.returncode == 2
        assert "--url needs credentials" in errors
        assert "Warning" not in errors


def test_forget__another_redis_key_secret__refused_and_a_second_try_with_the_right_secret_works(
    start_service: Callable[..., Service],
) -> None:
    right, wrong = {"REDIS_KEY_SECRET": "0123456789abcdef" * 4}, {"REDIS_KEY_SECRET": "fedcba9876543210" * 4}
    with Sandbox() as sandbox, RedisServer() as server:
        service = start_service(sandbox, REDIS_URL=server.url, **right)
        until(lambda: service.get("/v1/cohorts?user_id=user-7001").json()["ok"], "the call was not sent")
        settings = {
            "REDIS_URL": server.url,
            "AMPLITUDE_BASE_URL": sandbox.url,
            "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
        }
        refused = forget("--user", "user-7001", **settings, **wrong)
        assert (refused.returncode, "REDIS_KEY_SECRET differs" in refused.stderr) == (
            1,
            True,
        )
        checked = run("check", **settings, **wrong, PROXY_API_KEYS=KEYS)
        assert "a running service has another REDIS_KEY_SECRET" in checked.stdout
        assert "deleted 1 record" in forget("--user", "user-7001", **settings, **right).stdout
        unset = run("check", **settings | {"PROXY_API_KEYS": KEYS, "AMPLITUDE_SECRET_KEY": "another-key"})
        assert "REDIS_KEY_SECRET is not set" in unset.stdout
        assert "set a different AMPLITUDE_PROJECT" in unset.stdout
