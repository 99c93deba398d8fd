"""A Redis user with exactly the documented permissions, on real servers, and users without one of them."""

from __future__ import annotations

import itertools
import logging
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from proxy.amplitude import rate_limiter_redis
from proxy.amplitude.rate_limiter_fallback import FallbackRateLimiter
from proxy.monitoring.clock import SYSTEM_CLOCK
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, Identity
from proxy.profile.record import CachedPart, Record
from proxy.sandbox.server import Sandbox
from proxy.storage.redis import RedisRefused, RedisUnavailable
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.permissions import COMMANDS, KEY_PREFIX, acl_rule
from proxy.storage.redis.profiles import RedisProfiles
from tests.conftest import KEYS, ROOT, Service, free_port
from tests.support import command
from tests.support.fakes import FakeClock
from tests.support.redis_server import RedisServer, program
from tests.support.service import SECRET, environment
from tests.support.wait import until

POLICY = FreshnessPolicy(fresh=900, negative=60, stale_while_revalidate=100, stale_if_error=5000)
USER = Identity("ava", None)
PREFIX = KEY_PREFIX + b"test:"


class Operator:
    """A connection with all permissions, and the URL of a user whose permissions the test sets.

    Each test has a user of its own, because commands that ran in this process leave connections behind.
    """

    _numbers = itertools.count(1)

    def __init__(self, server: RedisServer) -> None:
        self.redis: Any = redis.Redis.from_url(server.url)
        self.user = f"limited-{next(self._numbers)}"
        self.url = server.url.replace("//", f"//{self.user}:p%40ss@")
        self.redis.flushall()
        self.redis.acl_log_reset()
        self.permit("reset", "on", ">p@ss", *acl_rule().split())

    def permit(self, *rules: str) -> None:
        self.redis.execute_command("ACL", "SETUSER", self.user, *rules)

    def refused(self) -> list[object]:
        """Return what Redis refused to this user."""
        entries: list[object] = self.redis.execute_command("ACL", "LOG")
        return entries


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    binary = program() if request.param == "valkey" else shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed; run apt-get install redis-server")
    with RedisServer(binary=binary) as running:
        yield running


@pytest.fixture
def operator(server: RedisServer) -> Iterator[Operator]:
    operator = Operator(server)
    with operator.redis:
        yield operator


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RedisClient]]:
    """Return RedisClient. The threads of all clients end before the next test. The quota opens after 0.05 s."""
    monkeypatch.setattr(rate_limiter_redis, "SETTLE_SECONDS", 0.05)
    clients: list[RedisClient] = []

    def connect(*arguments: object, **options: object) -> RedisClient:
        clients.append(RedisClient(*arguments, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield connect
    for client in clients:
        client.stop()
    until(lambda: not any(client.stats().registers for client in clients), "the threads did not end")


def fixes(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """Return the fixes in the log lines of an event. A busy machine may cause other lines."""
    return [vars(line)["fix"] for line in caplog.records if line.getMessage() == event]


def problem(url: str) -> RedisUnavailable | None:
    try:
        RedisClient(url).probe()
    except RedisUnavailable as error:
        return error
    return None


def session() -> requests.Session:
    session = requests.Session()
    session.headers["X-API-Key"] = SECRET
    return session


def settings(sandbox: Sandbox, url: str) -> dict[str, str]:
    return {
        "AMPLITUDE_BASE_URL": sandbox.url,
        "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
        "PROXY_API_KEYS": KEYS,
        "REDIS_URL": url,
    }


def test_commands__lua_scripts_and_client__all_in_the_rule() -> None:
    scripts = "".join(path.read_text() for path in Path(ROOT, "proxy").rglob("*.lua"))
    called = {name.lower() for name in re.findall(r"redis\.p?call\(\s*'(\w+)'", scripts)}
    assert len(re.findall(r"redis\.p?call\(", scripts)) == len(re.findall(r"redis\.p?call\(\s*'\w+'", scripts))
    sent_by_client = {
        "evalsha",
        "get",
        "hgetall",
        "hlen",
        "hscan",
        "mget",
        "script|load",
        "select",
        "set",
        "zrangebyscore",
    }
    assert set(COMMANDS) == called | sent_by_client


@pytest.mark.parametrize("server", ["valkey"], indirect=True)
def test_service__user_with_the_documented_rule__nothing_is_refused(
    start_service: Callable[..., Service], operator: Operator, sandbox: Sandbox, tmp_path: Path
) -> None:
    service = start_service(sandbox, REDIS_URL=operator.url.replace("/0", "/1"), WEB_CONCURRENCY="2")
    variables = settings(sandbox, operator.url.replace("/0", "/1"))
    until(lambda: service.get("/v1/cohorts?user_id=ava").json()["ok"], "the service got no quota")
    assert service.get("/v1/recommendations?user_id=ava&rec_id=homepage").json()["ok"]
    batch = {"cohort_id": "c1", "computed_time": str(int(time.time())), "in_cohort": True, "message_id": "m"}
    hook = session().post(
        f"{service.url}/v1/webhooks/amplitude/cohorts",
        json={**batch, "users": [{"user_id": "ava"}, {"user_id": "user-1"}]},
    )
    assert hook.status_code == 200, hook.text
    users = tmp_path / "users"
    users.write_text("user-2\nuser-3\nnobody-knows-me\n")
    assert command.run("check", **variables).returncode == 0
    warmed = command.run("warm", str(users), **variables)
    assert warmed.returncode == 0, warmed.stderr + warmed.stdout
    assert command.run("forget", "--user", "ava", "--device", "d", **variables).returncode == 0
    assert session().delete(f"{service.url}/v1/profile?user_id=user-2").json()["records"] == 1
    assert service.get("/readyz").json()["redis"] == "ok"
    assert operator.refused() == []
    assert "redis_" not in service.log.read_text()


def test_quota__user_with_the_documented_rule__nothing_is_refused(
    operator: Operator, connect: Callable[..., RedisClient]
) -> None:
    client = connect(operator.url)
    quota = FallbackRateLimiter(client, PREFIX, 600, clock=SYSTEM_CLOCK, longest=8)
    client.set_registration(quota.register)
    client.start()
    until(lambda: quota.reserve(0) is not None, "no call could be reserved")
    first, second = quota.reserve(0), quota.reserve(60)
    assert first
    assert second
    assert quota.cancel(second)
    assert quota.complete(first, 0)
    quota.pause(5)
    assert client.unavailable_since is None
    assert operator.refused() == []


def test_probe__command_is_forbidden__named_with_the_fix(operator: Operator) -> None:
    for name in COMMANDS:
        operator.permit(f"-{name}")
        error = problem(operator.url.replace("/0", "/1"))
        assert isinstance(error, RedisRefused)
        assert str(error) == f"REDIS_URL has a user without the permissions +{name}; run ACL SETUSER <user> +{name}"
        operator.permit(f"+{name}")
        assert problem(operator.url) is None


@pytest.mark.parametrize("keys", ["", "~another:*", "%R~ccp2:*", "%W~ccp2:*"])
def test_probe__keys_are_forbidden__named_with_the_fix(operator: Operator, keys: str) -> None:
    operator.permit("resetkeys", *([keys] if keys else []))
    assert str(problem(operator.url)).endswith("; run ACL SETUSER <user> ~ccp2:*")


def test_probe__no_permission_at_all__every_permission_is_named_except_those_that_need_a_key(
    operator: Operator,
) -> None:
    operator.permit("resetkeys", "-@all")
    named = str(problem(operator.url)).partition("<user> ")[2].split()
    assert set(named) == {f"+{name}" for name in COMMANDS} - {"+sadd", "+select"}
    operator.permit("-@all", "+@read", "+@write")
    named = str(problem(operator.url)).partition("<user> ")[2].split()
    assert set(named) == {"+evalsha", "+script|load", "+time", "~ccp2:*"}


def test_probe__repeated__leaves_no_key_and_changes_none(operator: Operator) -> None:
    operator.redis.set("ccp2:x", "value")
    for rules in ((), ("-set",), ("-del",), ("-sadd",), ("-set", "-pexpire", "-del")):
        operator.permit("reset", "on", ">p@ss", *acl_rule().split(), *rules)
        problem(operator.url)
    until(lambda: operator.redis.keys() == [b"ccp2:x"], "a probe left a key", 2)
    assert operator.redis.get("ccp2:x") == b"value"


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "Redis is full; raise maxmemory"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "names a read-only replica; use the address of the primary"),
        ("ACL SETUSER USER >another <p@ss", "PING", "no user or password, or wrong ones"),
        ("ACL SETUSER USER off", "PING", "no user or password, or wrong ones"),
    ],
    ids=["full", "replica", "password", "off"],
)
def test_probe__redis_cannot_be_used__cause_is_named(operator: Operator, begin: str, end: str, words: str) -> None:
    operator.redis.execute_command(*begin.replace(" USER ", f" {operator.user} ").split())
    try:
        assert words in str(problem(operator.url))
    finally:
        operator.redis.execute_command(*end.split())
    assert "database number" in str(problem(operator.url.replace(f"{operator.user}:p%40ss@", "").replace("/0", "/99")))


def test_probe__cluster__is_named(tmp_path: Path) -> None:
    files = {"dir": str(tmp_path), "cluster-port": str(free_port())}
    with RedisServer({"cluster-enabled": "yes", **files}) as cluster:
        error = problem(cluster.url)
        assert isinstance(error, RedisRefused)
        assert "Redis Cluster" in str(error)
        with redis.Redis.from_url(cluster.url) as operator:
            operator.cluster("ADDSLOTSRANGE", "0", "16383")
        assert "Redis Cluster" in str(problem(cluster.url))


@pytest.mark.parametrize("server", ["redis"], indirect=True)
def test_start__permission_is_missing__stops_with_one_line(operator: Operator, sandbox: Sandbox) -> None:
    operator.permit("-script|load", "-zcount")
    completed = subprocess.run(
        [sys.executable, "-m", "gunicorn", "wsgi:app", "--bind", f"127.0.0.1:{free_port()}"],
        cwd=ROOT,
        env=environment(**settings(sandbox, operator.url)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert completed.returncode != 0
    line = (
        "REDIS_URL has a user without the permissions +script|load +zcount; run ACL SETUSER <user> +script|load +zcount"
    )
    assert completed.stderr.splitlines().count(line) == 1
    assert "Traceback" not in completed.stderr
    assert "p%40ss" not in completed.stderr


@pytest.mark.parametrize("server", ["redis"], indirect=True)
@pytest.mark.parametrize("arguments", [("check",), ("forget", "--user", "u"), ("warm", "-")])
def test_commands__permission_is_missing__named(
    operator: Operator, sandbox: Sandbox, arguments: tuple[str, ...]
) -> None:
    operator.permit("-sadd")
    ended = command.run(*arguments, stdin="u\n", **settings(sandbox, operator.url))
    assert ended.returncode == 1
    assert "without the permissions +sadd; run ACL SETUSER <user> +sadd" in ended.stdout + ended.stderr


def test_permission__taken_away_outside_the_quota__calls_continue_and_it_is_logged_once_a_minute(
    operator: Operator, connect: Callable[..., RedisClient], caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    client = connect(operator.url, clock=clock)
    quota = FallbackRateLimiter(client, PREFIX, 600, clock=SYSTEM_CLOCK, longest=8)
    records = RedisProfiles(client, PREFIX, POLICY, longest=8)
    client.set_registration(quota.register)
    client.start()
    until(lambda: quota.reserve(0) is not None, "no call could be reserved")
    operator.permit("-hgetall")
    for _ in range(5):
        with pytest.raises(RedisUnavailable):
            records.read(USER)
        assert quota.reserve(60) is not None
    until(lambda: fixes(caplog, "redis_permission_missing"), "nothing was logged")
    with pytest.raises(RedisUnavailable):
        records.save(USER, Record({COHORTS: CachedPart(b"[]", time.time())}), [], time.time())
    assert client.unavailable_since is None
    text = "REDIS_URL has a user without the permissions +hgetall; run ACL SETUSER <user> +hgetall"
    assert fixes(caplog, "redis_permission_missing") == [text]
    clock.advance(61)
    until(lambda: len(fixes(caplog, "redis_permission_missing")) == 2, "the log was not repeated after a minute")
    operator.permit("+hgetall")
    assert records.read(USER).record == Record()


def test_redis__full__only_user_data_is_not_stored_and_it_is_logged_once_a_minute(
    operator: Operator, connect: Callable[..., RedisClient], caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(operator.url)
    quota = FallbackRateLimiter(client, PREFIX, 600, clock=SYSTEM_CLOCK, longest=8)
    records = RedisProfiles(client, PREFIX, POLICY, longest=8)
    client.set_registration(quota.register)
    client.start()
    record = Record({COHORTS: CachedPart(b"[]", time.time())})
    records.save(USER, record, [], time.time())
    operator.redis.config_set("maxmemory", 1)
    try:
        until(lambda: quota.reserve(0) is not None, "no call could be reserved")
        for _ in range(5):
            with pytest.raises(RedisUnavailable):
                records.save(USER, record, [], time.time())
            reservation = quota.reserve(60)
            assert reservation
            assert quota.complete(reservation, 0)
        assert records.read(USER).record == record
        assert records.forget(USER)
        assert client.unavailable_since is None
        assert client.full
        assert len(fixes(caplog, "redis_full")) == 1
    finally:
        operator.redis.config_set("maxmemory", 0)
    records.save(USER, record, [], time.time())
    until(lambda: not client.full, "Redis still counts as full")


def test_permission__of_the_quota_taken_away__named_and_used_again_when_granted(
    operator: Operator, connect: Callable[..., RedisClient], caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(operator.url)
    quota = FallbackRateLimiter(client, PREFIX, 600, clock=SYSTEM_CLOCK, longest=8)
    client.set_registration(quota.register)
    client.start()
    until(lambda: quota.reserve(0) is not None, "no call could be reserved")
    with caplog.at_level(logging.INFO, "proxy"):
        operator.permit("-zcount")  # only the scripts of the quota use this command
        quota.reserve(0)
        until(lambda: fixes(caplog, "redis_permission_missing"), "nothing was logged")
        assert client.unavailable_since is not None
        operator.permit("+zcount")
        until(lambda: client.unavailable_since is None, "Redis stayed unavailable")
    until(lambda: quota.reserve(0) is not None, "no call could be reserved")
    assert len(fixes(caplog, "redis_permission_missing")) == 1
    assert caplog.records[-1].getMessage() == "redis_available"


def test_documentation__acl_rule__is_the_rule_of_the_code() -> None:
    assert acl_rule() in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
