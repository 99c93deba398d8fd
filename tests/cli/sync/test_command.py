"""`python -m proxy sync` over HTTP, from the emulated Amplitude to the emulated Braze."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from proxy.sandbox import cohort_api
from proxy.sandbox.braze_api import BrazeApi
from proxy.sandbox.faults import Fault
from proxy.sandbox.people import COMPUTATIONS, Person, find
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from proxy.storage.accepted_values import KEY_BYTES, AcceptedValue
from proxy.sync.sqlite_state import SqliteState
from tests.conftest import SECRET, Service
from tests.support.command import run, start
from tests.support.redis_server import RedisServer
from tests.support.wait import until


def connection(url: str) -> Any:
    return redis.Redis.from_url(url)


class World:
    """The emulated Amplitude, whose cohorts have the rows that a test sets, and the emulated Braze."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self.state = folder / "state"
        self.failures = folder / "failures.csv"
        self.files: dict[str, bytes] = {}
        self.settings = {
            "AMPLITUDE_BASE_URL": sandbox.url,
            "AMPLITUDE_COHORTS_URL": sandbox.url,
            "AMPLITUDE_API_KEY": sandbox.api_key,
            "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
            "AMPLITUDE_REQUESTS_PER_MINUTE": "100000",
            "BRAZE_REST_ENDPOINT": sandbox.url,
            "BRAZE_API_KEY": sandbox.braze.key,
        }

    @property
    def braze(self) -> BrazeApi:
        return self.sandbox.braze

    def cohort(self, header: str, rows: Iterable[str], cohort_id: str = "c31") -> None:
        self.files[cohort_id] = "\n".join([header, *rows, ""]).encode()

    def sync(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command. Without Redis, it has the state of the test."""
        state = [] if "REDIS_URL" in variables else ["--state", str(self.state)]
        return run("sync", *arguments, *state, **self.settings | variables)

    def sent(self) -> list[dict[str, Any]]:
        """Return the objects that arrived since the last call, without the field that is the same in all."""
        requests, self.braze.log.requests = self.braze.log.requests, []
        objects = [item for request in requests for item in request.payload["attributes"]]
        assert all(item.pop("_update_existing_only") is True for item in objects)
        return sorted(objects, key=lambda item: str(item["external_id"]))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with Sandbox(per_minute=100_000, documented=Documented(cohort_polls=0)) as sandbox:
        world = World(sandbox, tmp_path)
        monkeypatch.setattr(cohort_api, "table", lambda name, *_, **__: world.files.get(name))
        yield world


def crowd(count: int, start: int = 1) -> list[str]:
    return [f"user-{number}" for number in range(start, start + count)]


@pytest.mark.contract("7 sync")
def test_sync__first_second_and_changed_run__only_changes_are_sent(world: World) -> None:
    users = crowd(200)
    header = "amplitude_id,user_id,plan,gp:points,vip"
    world.cohort(header, (f"1,{user},gold,{place},true" for place, user in enumerate(users)))
    first = world.sync("--cohort", "c31", "--properties", "plan,gp:points,vip")
    assert first.returncode == 0, first.stderr + first.stdout
    assert "200 users, 600 changed values, 3 requests, about 600 data points; 0 % saved" in first.stderr
    assert first.stdout.splitlines() == [
        "points: 200 numbers",
        "vip: 200 booleans",
        "sent 600 values of 200 users in 3 requests; 0 unchanged; 0 users failed",
    ]
    assert {tuple(item.items()) for item in world.sent()} == {
        (("plan", "gold"), ("points", place), ("vip", True), ("external_id", user)) for place, user in enumerate(users)
    }
    second = world.sync("--cohort", "c31", "--properties", "plan,points,vip")
    assert "200 users, 0 changed values, 0 requests, about 0 data points; 100 % saved" in second.stderr
    assert world.sent() == []
    rows = [f"1,{user},{'silver' if place < 4 else 'gold'},{place}.0,true" for place, user in enumerate(users)]
    world.cohort(header, rows)
    third = world.sync("--cohort", "c31", "--properties", "plan,points,vip")
    assert "4 changed values, 1 request, about 4 data points; 99 % saved" in third.stderr
    assert [(item["external_id"], item["plan"], len(item)) for item in world.sent()] == [
        (user, "silver", 2) for user in sorted(users[:4])
    ]
    assert world.state.stat().st_mode & 0o777 == 0o600
    assert world.braze.report()["unchanged_values"] == 0


def test_sync__misspelt_names__a_line_for_each_name_without_a_value(world: World, tmp_path: Path) -> None:
    world.cohort("user_id,plan,palm", ["user-1,gold,"])
    ended = world.sync("--cohort", "c31", "--properties", "plan,palm")
    assert (ended.returncode, ended.stdout.splitlines()[0]) == (
        0,
        "property 'palm': no user has a value; check --properties",
    )
    (tmp_path / "users").write_text("ava\n")
    ended = world.sync(
        str(tmp_path / "users"),
        *("--properties", "loyalty_points,palm", "--computations", "comp-orders,comp-order"),
        *("--recommendations", "homepage,home", "--log-exposures"),
    )
    assert (ended.returncode, ended.stdout.splitlines()[:3]) == (
        0,
        [
            "property 'palm': no user has a value; check --properties",
            "recommendation 'home': no user has items; check --recommendations",
            "computations: 1 of 2 has a value; check --computations",
        ],
    )
    (tmp_path / "users").write_text("unknown-user\n")
    ended = world.sync(str(tmp_path / "users"), "--properties", "loyalty_points")
    assert "no user has a value" not in ended.stdout, "the line says nothing about a name if no user is known"


def test_sync__empty_cell__null_only_where_a_value_was_sent_and_only_once(world: World) -> None:
    options = ("--cohort", "c31", "--properties", "plan")
    world.cohort("user_id,plan", ["user-1,gold", "user-2,"])
    world.sync(*options)
    assert world.sent() == [{"external_id": "user-1", "plan": "gold"}]
    world.cohort("user_id,plan", ["user-1,", "user-2,"])
    ended = world.sync(*options)
    assert "null or false: 1 user" in ended.stdout
    assert world.sent() == [{"external_id": "user-1", "plan": None}]
    world.sync(*options)
    assert world.sent() == []
    world.cohort("user_id,plan", ["user-2,"])  # user-1 left, and keeps the attributes
    world.sync(*options)
    assert world.sent() == []


def test_sync__membership__false_after_leaving_and_true_after_returning(world: World) -> None:
    options = ("--cohort", "c31", "--membership", "vip", "--rename", "vip=is_vip")
    outcomes = []
    for users in (["user-1", "user-2"], ["user-2", "user-3"], ["user-2", "user-3"], ["user-1", "user-2"]):
        world.cohort("user_id", users)
        assert world.sync(*options).returncode == 0
        outcomes.append({item["external_id"]: item["is_vip"] for item in world.sent()})
    assert outcomes == [
        {"user-1": True, "user-2": True},
        {"user-1": False, "user-3": True},
        {},
        {"user-1": True, "user-3": False},
    ]


@pytest.mark.parametrize(
    "row", [b"user-1,gold,extra", b"user-1,g\xfcld", b" user-1,gold"], ids=["cells", "encoding", "user id"]
)
def test_sync__membership_and_unreadable_row__nobody_has_left(world: World, row: bytes) -> None:
    options = ("--cohort", "c31", "--properties", "plan", "--membership", "vip")
    world.cohort("user_id,plan", ["user-1,gold", "user-2,gold", "user-3,gold"])
    world.sync(*options)
    world.sent()
    world.files["c31"] = b"\n".join([b"user_id,plan", row, b"user-2,silver", b""])
    ended = world.sync(*options)
    assert ended.returncode == 1
    assert "vip: not set to false, because a user of a skipped line may still be in the cohort" in ended.stdout
    assert world.sent() == [{"external_id": "user-2", "plan": "silver"}]
    assert world.sync(*options, "--allow-removals").returncode == 1
    assert world.sent() == [{"external_id": "user-1", "vip": False}, {"external_id": "user-3", "vip": False}]


def test_sync__cohort_without_rows__stops_unless_removals_are_allowed(world: World) -> None:
    options = ("--cohort", "c31", "--membership", "vip")
    world.cohort("user_id", ["user-1"])
    world.sync(*options)
    world.sent()
    world.cohort("user_id", [])
    ended = world.sync(*options)
    assert ended.returncode == 1
    assert "cohort c31 has no user ids, so nothing was sent" in ended.stderr
    assert world.sent() == []
    assert world.sync(*options, "--allow-removals").returncode == 0
    assert world.sent() == [{"external_id": "user-1", "vip": False}]


def test_sync__too_many_removals__stops_unless_removals_are_allowed(world: World) -> None:
    options = ("--cohort", "c31", "--membership", "vip")
    world.cohort("user_id", crowd(1300))
    world.sync(*options)
    world.sent()
    world.cohort("user_id", crowd(299))
    ended = world.sync(*options)
    assert ended.returncode == 1
    assert "1,001 users of 1,300 in the state would get null or false, so nothing was sent" in ended.stderr
    assert "add --allow-removals" in ended.stderr
    assert world.sent() == []
    assert world.sync(*options, "--allow-removals").returncode == 0
    assert len(world.sent()) == 1001


def test_sync__dry_run__prints_the_costs_and_writes_nothing(world: World) -> None:
    world.cohort("user_id,zip,plan", ["user-1,02134,gold", "user-2,10115,3"])
    ended = world.sync("--cohort", "c31", "--properties", "zip,plan", "--dry-run", "--failures", str(world.failures))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "plan: 1 number, 1 text; TEXT_PROPERTIES=plan keeps text",
        "zip: 1 number, 1 text; TEXT_PROPERTIES=zip keeps text",
        "2 users, 4 changed values, 1 request, about 4 data points; 0 % saved by sending only changes",
        "dry run: nothing was sent",
    ]
    assert world.sent() == []
    assert not world.state.exists()
    assert not world.failures.exists()
    world.sync("--cohort", "c31", "--properties", "zip,plan", TEXT_PROPERTIES="zip,plan")
    assert world.sent() == [
        {"external_id": "user-1", "zip": "02134", "plan": "gold"},
        {"external_id": "user-2", "zip": "10115", "plan": "3"},
    ]


def test_sync__all__unchanged_values_are_sent_again(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold"])
    for arguments in ((), ("--all",)):
        world.sync("--cohort", "c31", "--properties", "plan", *arguments)
        assert world.sent() == [{"external_id": "user-1", "plan": "gold"}]


def test_sync__several_cohorts__members_of_both_are_sent_once(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold", "user-2,gold"])
    world.cohort("user_id,plan", ["user-2,gold", "user-3,"], "c32")
    ended = world.sync("--cohort", "c31", "--cohort", "c32", "--properties", "plan")
    assert "3 users, 2 changed values" in ended.stderr
    assert [item["external_id"] for item in world.sent()] == ["user-1", "user-2"]


def test_sync__computations_and_recommendations__one_call_per_user(world: World) -> None:
    users = ["ava", *crowd(40)]
    world.cohort("user_id", users)
    names = ("--computations", "orders,comp-zip", "--recommendations", "homepage", "--log-exposures")
    options = ("--cohort", "c31", *names, "--rename", "homepage=shop_homepage,lifetime_spend=x")
    refused = world.sync(*options, ALIASES="computations.orders=comp-orders")
    assert "--rename names 'lifetime_spend', which this run does not write" in refused.stderr
    assert world.sent() == []
    options = ("--cohort", "c31", *names, "--rename", "homepage=shop_homepage")
    ended = world.sync(*options, ALIASES="computations.orders=comp-orders")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "warning: the run shares no quota with the service" in ended.stderr
    sent = {item.pop("external_id"): item for item in world.sent()}
    people = {user: find(user, None) for user in users}
    known = {user: person for user, person in people.items() if person is not None}
    assert sent.keys() == known.keys()
    for user, person in known.items():
        entry = (person.recommendations or {}).get("homepage")
        items = [] if entry is None or entry["is_control"] else list(entry["items"])
        assert sent[user]["shop_homepage"] == items, user
        assert sent[user].keys() - {"shop_homepage"} == person.computations.keys() & {"orders", "zip"}
    unknown = len(users) - len(known)
    assert unknown > 0
    assert f"skipped {unknown} user" in ended.stdout
    assert world.sandbox.report()["exposures"] >= len(known)


def test_sync__file_of_users__properties_by_calls(world: World, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("id;mail\nava;a\nnobody-knows;b\nuser-3;c\n")
    options = (str(tmp_path / "users.csv"), "--column", "id", "--properties", "first_name,gp:loyalty_points,colour")
    refused = world.sync(*options)
    assert (
        "attribute 'first_name' is a profile field of Braze; rename it with --rename first_name=<name>"
        in refused.stderr
    )
    ended = world.sync(*options, "--rename", "first_name=amplitude_name")
    assert ended.returncode == 0, ended.stderr
    assert "skipped 1 user: unknown to Amplitude" in ended.stdout
    ava, other = world.sent()
    assert ava == {"external_id": "ava", "amplitude_name": "Ava", "loyalty_points": 420}
    assert other["external_id"] == "user-3"


def test_sync__calls_fail__users_are_skipped_and_named_only_in_the_file(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cli.warmup.runner._MAX_ATTEMPTS", 1)
    (tmp_path / "users").write_text("cleo\n")
    world.sandbox.faults.set(Fault("status", status=500))
    ended = world.sync(str(tmp_path / "users"), "--properties", "loyalty_points", "--failures", str(world.failures))
    assert ended.returncode == 1
    assert "skipped 1 user: no answer (upstream_unavailable); run the command again" in ended.stdout
    assert "cleo" not in ended.stdout + ended.stderr
    assert world.failures.read_text() == '"cleo","no answer: upstream_unavailable"\n'
    assert world.sent() == []


def test_sync__amplitude_rejects_the_key__output_names_the_setting(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cli.warmup.runner._MAX_ATTEMPTS", 1)
    (tmp_path / "users").write_text("ava\nuser-3\n")
    ended = world.sync(str(tmp_path / "users"), "--properties", "loyalty_points", AMPLITUDE_SECRET_KEY="wrong")
    assert ended.returncode == 1
    assert (
        "skipped 2 users: no answer (upstream_rejected); correct AMPLITUDE_SECRET_KEY, and AMPLITUDE_API_KEY if it is "
        "set" in ended.stdout
    )


def test_sync__object_errors__other_users_are_sent_and_the_failed_user_is_retried(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold", "user-2,gold"])
    world.braze.faults.set(Fault("object-errors", user_id="user-1"))
    options = ("--cohort", "c31", "--properties", "plan", "--failures", str(world.failures))
    ended = world.sync(*options)
    assert ended.returncode == 1
    reason = "provided external_id is blacklisted and disallowed"
    assert f"failed: {reason}, 1 user" in ended.stdout
    assert "user-1" not in ended.stdout + ended.stderr
    assert world.failures.read_text() == f'"user-1","{reason}"\n'
    assert world.failures.stat().st_mode & 0o777 == 0o600
    world.braze.faults.set(None)
    world.sent()
    assert world.sync(*options).returncode == 0
    assert [item["external_id"] for item in world.sent()] == ["user-1"]
    assert world.failures.read_text() == ""


def test_sync__failures_file_of_another_use__unchanged(world: World, tmp_path: Path) -> None:
    world.cohort("user_id,plan", ["user-1,gold"])
    options = ("--cohort", "c31", "--properties", "plan", "--failures")
    users = tmp_path / "users"
    users.write_text("ava\n")
    ended = world.sync(str(users), "--properties", "loyalty_points", "--failures", str(users))
    assert (ended.returncode, "is an input or the state of this run" in ended.stderr) == (1, True)
    assert users.read_text() == "ava\n"
    ended = world.sync(*options, str(world.state))
    assert (ended.returncode, "is an input or the state of this run" in ended.stderr) == (1, True)
    assert world.sync(*options, str(world.failures)).returncode == 0
    world.failures.write_text("of the run in progress\n")
    with closing(SqliteState(world.state)):
        assert world.sync(*options, str(world.failures)).returncode == 1
    assert world.failures.read_text() == "of the run in progress\n"


def test_sync__failures_file_is_a_pipe__mode_is_unchanged(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold"])
    world.braze.faults.set(Fault("object-errors"))
    os.mkfifo(world.failures, 0o666)
    mode = world.failures.stat().st_mode
    reader = os.open(world.failures, os.O_RDONLY | os.O_NONBLOCK)
    try:
        world.sync("--cohort", "c31", "--properties", "plan", "--failures", str(world.failures))
        assert os.read(reader, 100) == b'"user-1","provided external_id is blacklisted and disallowed"\n'
    finally:
        os.close(reader)
    assert world.failures.stat().st_mode == mode


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="the system has no full device")
def test_sync__disk_of_the_failures_file_is_full__other_values_are_sent(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold", "user-2,gold"])
    world.braze.faults.set(Fault("object-errors", user_id="user-1"))
    options = ("--cohort", "c31", "--properties", "plan")
    ended = world.sync(*options, "--failures", "/dev/full")
    assert ended.returncode == 1
    assert "--failures /dev/full cannot be written (No space left on device); choose another file" in ended.stderr
    assert "sent 1 value of 1 user" in ended.stdout
    world.braze.faults.set(None)
    world.sent()
    world.sync(*options)
    assert [item["external_id"] for item in world.sent()] == ["user-1"]


def test_sync__wrong_key__stops_and_the_state_has_no_owner(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold"])
    ended = world.sync("--cohort", "c31", "--properties", "plan", BRAZE_API_KEY="a-wrong-key-of-a-test")
    assert ended.returncode == 1
    assert "BRAZE_API_KEY" in ended.stderr
    assert "BRAZE_REST_ENDPOINT" in ended.stderr
    assert world.sync("--cohort", "c31", "--properties", "plan").returncode == 0


def test_sync__another_key__stops_until_all_or_keep_state(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold"])
    options = ("--cohort", "c31", "--properties", "plan")
    world.sync(*options)
    world.sent()
    world.braze.key = "another-key-of-a-test"
    key = {"BRAZE_API_KEY": "another-key-of-a-test"}
    ended = world.sync(*options, **key)
    assert (ended.returncode, "with another BRAZE_API_KEY; add --all to start over" in ended.stderr) == (1, True)
    assert "--keep-state for a new key of the same workspace" in ended.stderr
    assert world.sync(*options, "--keep-state", "--dry-run", **key).returncode == 0
    assert world.sync(*options, **key).returncode == 1, "a dry run changed the owner"
    world.cohort("user_id,plan", ["user-1,silver"])
    assert world.sync(*options, "--keep-state", **key).returncode == 0
    assert len(world.sent()) == 1
    assert world.sync(*options, **key).returncode == 0
    world.braze.key = "a-third-key-of-a-test"
    key = {"BRAZE_API_KEY": "a-third-key-of-a-test"}
    world.cohort("user_id,plan", ["user-2,gold"])
    assert world.sync(*options, "--all", **key).returncode == 0
    with closing(SqliteState(world.state)) as state:
        assert [user for user, _ in state.users()] == ["user-2"], "the run did not start over"


MISTAKES: list[tuple[tuple[str, ...], str]] = [
    ((), "specify either USERS"),
    (("--cohort", "c31"), "nothing to write; add --properties"),
    (("--cohort", "c31,c32", "--properties", "plan"), "--cohort takes one id; write --cohort c31 --cohort c32"),
    (("--cohort", "c31", "--recommendations", "homepage"), "add --log-exposures"),
    (("--cohort", "c31", "--cohort", "c32", "--membership", "vip"), "--membership needs exactly one --cohort"),
    (("-", "--membership", "vip"), "--membership needs exactly one --cohort"),
    (("--cohort", "c31", "--properties", "external_id"), "has a special meaning in requests to Braze"),
    (("--cohort", "c31", "--membership", "push_tokens", "--allow-reserved"), "has a special meaning"),
    (("--cohort", "c31", "--properties", "gp:email"), "is a profile field of Braze; rename it with --rename email="),
    (("--cohort", "c31", "--properties", "plan", "--rename", "plan=email"), "is a profile field of Braze"),
    (("--cohort", "c31", "--properties", "plan,gp:plan"), "'plan' is the name of two values; remove one"),
    (("--cohort", "c31", "--properties", "vip", "--membership", "vip"), "remove one, or change --membership"),
    (("--cohort", "c31", "--properties", "plan,zip", "--rename", "zip=plan"), "both have the attribute 'plan'"),
    (("--cohort", "c31", "--properties", "plan", "--rename", "zip=x"), "--rename names 'zip', which this run does not"),
    (("--cohort", "c31", "--properties", "plan", "--rename", "plan"), "is not OLD=NEW"),
    (("--cohort", "c31", "--properties", "plan", "--rename", "plan=a,plan=b"), "names 'plan' twice"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_sync__mistake__error_names_the_fix(arguments: tuple[str, ...], message: str) -> None:
    ended = run("sync", *arguments)
    assert ended.returncode == 2
    assert message in " ".join(ended.stderr.split())


def test_sync__missing_settings__error_has_their_names(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold"])
    options = ("--cohort", "c31", "--properties", "plan")
    assert (
        "BRAZE_REST_ENDPOINT and BRAZE_API_KEY are required; set both"
        in world.sync(*options, BRAZE_REST_ENDPOINT="", BRAZE_API_KEY="").stderr
    )
    assert "--cohort needs AMPLITUDE_API_KEY" in world.sync(*options, AMPLITUDE_API_KEY="").stderr
    ended = run("sync", *options, "--state", "x", **world.settings, REDIS_URL="redis://127.0.0.1:1")
    assert (ended.returncode, "remove --state" in ended.stderr) == (2, True)
    assert not world.state.exists()


def test_sync__state_in_use__second_run_is_refused(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold"])
    with closing(SqliteState(world.state)):
        ended = world.sync("--cohort", "c31", "--properties", "plan")
    assert (ended.returncode, "is in use by another run" in ended.stderr) == (1, True)


def test_sync__reserved_names_and_values_over_limits__sent_cut_and_reported(world: World) -> None:
    world.cohort("user_id,email,bio,bad", [f'user-1,a@b.example,{"x" * 300},"{{""a.b"":1}}"'])
    ended = world.sync("--cohort", "c31", "--properties", "email,bio,bad,colour", "--allow-reserved")
    assert ended.returncode == 1, "a property is not in the file"
    assert world.sent() == [{"external_id": "user-1", "email": "a@b.example", "bio": "x" * 255}]
    for line in (
        "property 'colour' is not in the file; correct --properties",
        "bio: 1 value cut to 255 characters",
        "bad: 1 value left out: an object has a key that Braze rejects, for example with a space, a dot or $",
    ):
        assert line in ended.stdout.splitlines()


def test_sync__name_with_a_dot__left_out_and_sent_with_rename(world: World) -> None:
    world.cohort("user_id,plan.type,city", ["user-1,gold,Porto"])
    options = ("--cohort", "c31", "--properties", "plan.type,city")
    ended = world.sync(*options)
    assert world.sent() == [{"external_id": "user-1", "city": "Porto"}]
    assert world.braze.report()["object_errors"] == 0
    line = "plan.type: 1 value left out: the name has a dot or $; choose another name with --rename"
    assert (ended.returncode, line in ended.stdout.splitlines()) == (0, True)
    assert world.sync(*options, "--rename", "plan.type=plan_type").returncode == 0
    assert world.sent() == [{"external_id": "user-1", "plan_type": "gold"}]


def test_sync__redis__state_is_shared_and_second_run_sends_nothing(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold"])
    with RedisServer() as server:
        for objects in (1, 0):
            ended = world.sync("--cohort", "c31", "--properties", "plan", REDIS_URL=server.url)
            assert ended.returncode == 0, ended.stderr
            assert len(world.sent()) == objects
        with connection(server.url) as database:
            (lock,) = (key + b":lock" for key in database.keys("*:sent"))
            database.set(lock, b"another run")
            refused = world.sync("--cohort", "c31", "--properties", "plan", REDIS_URL=server.url)
            assert (refused.returncode, "in use by another run; wait until" in refused.stderr) == (1, True)
            dry_run = world.sync("--cohort", "c31", "--properties", "plan", "--dry-run", REDIS_URL=server.url)
            assert (dry_run.returncode, database.get(lock)) == (0, b"another run")
            database.delete(lock)
            world.braze.faults.set(Fault("no-permission"))
            failed = world.sync("--cohort", "c31", "--properties", "plan", "--all", REDIS_URL=server.url)
            assert failed.returncode == 1
            (key,) = database.keys("*:sync-runs")
            stored = database.hget(key, "runs")
        # The service reports these in /metrics and on its status page. The refused run and the dry run do not count.
        runs = json.loads(stored)
        assert (runs["runs"], runs["users"]) == ({"complete": 2, "failed": 1}, {"sent": 1, "unchanged": 1, "failed": 0})
        assert (runs["last"]["result"], runs["values"]) == ("failed", 1)
        assert runs["last"]["error"] in failed.stderr
        assert "users.track" in runs["last"]["error"]


def test_sync__redis_loses_the_state_during_a_run__values_accepted_later_are_not_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cli.sync.sending._STATE_RETRY_SECONDS", 0)
    receive = world.braze.receive
    world.cohort("user_id,plan", ["user-1,gold", "user-2,gold"])
    options = ("--cohort", "c31", "--properties", "plan")
    with RedisServer() as server, connection(server.url) as database:

        def receive_and_replace(path: str, headers: Any, body: bytes) -> Any:
            if b"user-2" in body:
                until(lambda: database.keys("*:sent"), "the first user was not recorded", 10)
                (state,) = database.keys("*:sent")
                until(lambda: database.hexists(state, "uuser-1"), "the first user was not recorded", 10)
                database.delete(state)
                database.hset(state, "key", b"k" * KEY_BYTES)  # as of another process
            return receive(path, headers, body)

        monkeypatch.setattr(world.braze, "receive", receive_and_replace)
        assert world.sync(*options, REDIS_URL=server.url, BRAZE_BATCH_OBJECTS="1").returncode == 0
        monkeypatch.setattr(world.braze, "receive", receive)
        world.sent()
        assert world.sync(*options, REDIS_URL=server.url).returncode == 0
        assert [item["external_id"] for item in world.sent()] == ["user-1"]


def test_sync__state_of_a_clock_that_was_ahead__skipped_values_are_reported(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold"])
    with closing(SqliteState(world.state)) as state:
        state.record([("user-1", {"plan": AcceptedValue(state.digest("silver"), time.time() + 86400)})])
    ended = world.sync("--cohort", "c31", "--properties", "plan")
    assert "skipped 1 value: Braze has a newer value; if this repeats, a clock was ahead" in ended.stdout
    assert world.sent() == []


def test_sync__running_service__calls_go_through_it(
    world: World, start_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = start_service(world.sandbox, AMPLITUDE_REQUESTS_PER_MINUTE="6000")
    (tmp_path / "users").write_text("ava\n")
    options = ["--url", service.url, "--credentials", f"braze:{SECRET}", "--properties", "loyalty_points"]
    ended = world.sync(str(tmp_path / "users"), *options, AMPLITUDE_SECRET_KEY="")
    assert ended.returncode == 0, ended.stderr
    assert "warning" not in ended.stderr
    assert world.sent() == [{"external_id": "ava", "loyalty_points": 420}]


@pytest.mark.slow
def test_sync__killed_twice__no_value_is_lost_and_only_requests_in_flight_are_repeated(world: World) -> None:
    users = crowd(6000)
    world.cohort("user_id,plan", (f"{user},gold" for user in users))
    world.braze.latency = 0.05

    def has_users(count: float) -> bool:
        return len(world.braze.profiles.attributes) > count

    for share in (1 / 3, 2 / 3, None):
        process = start(
            "sync", "--cohort", "c31", "--properties", "plan", "--state", str(world.state),
            **world.settings, BRAZE_BATCH_OBJECTS="20",
        )  # fmt: skip
        if share is not None:
            until(partial(has_users, 6000 * share), "nothing was sent", 60)
            os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate(timeout=120)
    assert process.returncode == 0, output
    until(lambda: len(world.braze.profiles.attributes) == len(users), "a value is lost")
    sent = sum(request.objects for request in world.braze.log.requests)
    assert sent - len(users) <= 2 * 16 * 20, "more than the requests in flight were repeated"
    assert world.braze.overlapping_users == 0


@pytest.mark.slow
def test_sync__interrupted_while_a_cohort_is_exported__says_how_to_continue(world: World) -> None:
    world.cohort("user_id,plan", ["user-1,gold"])
    world.sandbox.faults.set(Fault("cohort-stuck"))
    options = ("--cohort", "c31", "--properties", "plan", "--state", str(world.state))
    process = start("sync", *options, **world.settings)
    assert process.stderr is not None
    printed = ""
    while "is exporting" not in printed:
        printed = process.stderr.readline()
        assert printed, "the command ended"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (
        1,
        "stopped; run the command again, and values already sent are skipped\n",
    )


@pytest.mark.slow
def test_sync__interrupted__ends_after_the_requests_in_flight_and_a_second_run_sends_the_rest(world: World) -> None:
    users = crowd(2000)
    world.cohort("user_id,plan", (f"{user},gold" for user in users))
    world.braze.latency = 0.05
    options = ("--cohort", "c31", "--properties", "plan", "--state", str(world.state))
    variables = world.settings | {"BRAZE_BATCH_OBJECTS": "5"}
    process = start("sync", *options, **variables)
    until(lambda: len(world.braze.profiles.attributes) > 200, "nothing was sent", 60)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 1, errors
    assert "stopped before all values were sent; run the command again" in output
    sent = len(world.braze.profiles.attributes)
    assert f"sent {sent:,} values of {sent:,} users" in output
    ended = world.sync("--cohort", "c31", "--properties", "plan", BRAZE_BATCH_OBJECTS="5")
    assert f"{2000 - sent:,} changed values" in ended.stderr
    assert world.braze.report()["unchanged_values"] == 0


def person(user_id: str, computations: dict[str, str]) -> Person:
    """Return a user with computed values, by name."""
    return Person(user_id, None, "has computed values", computations=computations)


def test_sync__computed_value_disappears__null_is_sent(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users").write_text("ava\nben\n")
    values = {"ava": {"orders": "3"}, "ben": {"orders": "4"}}
    monkeypatch.setattr("proxy.sandbox.server.find", lambda user_id, _: person(user_id, values[user_id]))
    options = (str(tmp_path / "users"), "--computations", "comp-orders")
    assert world.sync(*options).returncode == 0
    assert [item["orders"] for item in world.sent()] == [3, 4]
    values["ava"] = {}
    assert "null or false: 1 user" in world.sync(*options).stdout
    assert world.sent() == [{"external_id": "ava", "orders": None}]


def test_sync__name_of_a_computed_value_has_control_characters__shown_escaped(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users").write_text("ava\n")
    name = "or\x1b[31mders"
    monkeypatch.setitem(COMPUTATIONS, "comp-orders", name)
    monkeypatch.setattr("proxy.sandbox.server.find", lambda user_id, _: person(user_id, {name: "x" * 300}))
    ended = world.sync(str(tmp_path / "users"), "--computations", "comp-orders")
    assert "'or\\x1b[31mders': 1 value cut to 255 characters" in ended.stdout
    assert "\x1b" not in ended.stdout + ended.stderr
