"""The state of sent values: one suite over the SQLite file and Redis."""

from __future__ import annotations

import os
import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from proxy.storage.accepted_values import KEY_BYTES, AcceptedValue, ValueDigester, pack, unpack
from proxy.storage.id_digests import IdDigester
from proxy.storage.redis import RedisUnavailable, StateInUse
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.permissions import KEY_PREFIX
from proxy.storage.redis.sync_state import RedisSyncState
from proxy.sync.owned_state import OwnedState
from proxy.sync.recent_values import RecentValues
from proxy.sync.sqlite_state import SqliteState, StateUnavailable
from proxy.sync.state import SyncState
from tests.support.redis_server import RedisServer
from tests.support.wait import until

pytestmark = pytest.mark.contract("7 state")

ENDPOINT, KEY = "https://rest.iad-01.braze.com", "a-rest-api-key-of-a-test"
PREFIX = KEY_PREFIX + b"test:"

OpenState = Callable[[], SyncState]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def connect(server: RedisServer) -> Iterator[Callable[..., RedisSyncState]]:
    """Return a function that returns a state in an empty Redis, as of another process."""
    clients: list[RedisClient] = []
    with redis.Redis.from_url(server.url) as administrator:
        administrator.flushall()

    def connect(secret: str | None = None) -> RedisSyncState:
        clients.append(RedisClient(server.url))
        return RedisSyncState(clients[-1], PREFIX, PREFIX, digester=IdDigester(secret), secret=secret)

    yield connect
    for client in clients:
        client.stop()
    until(lambda: not any(client.stats().registers for client in clients), "the threads did not end")


@pytest.fixture(params=["sqlite", "redis"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenState]:
    """Return a function that opens the state as the next run does."""
    if request.param == "redis":
        yield request.getfixturevalue("connect")
        return
    states: list[SqliteState] = []

    def open_file() -> SqliteState:
        for state in states:
            state.close()
        states.append(SqliteState(tmp_path / "state"))
        return states[-1]

    yield open_file
    for state in states:
        state.close()


def accepted(state: SyncState, at: float = 1000.5, **values: object) -> dict[str, AcceptedValue]:
    return {name: AcceptedValue(state.digest(value), at) for name, value in values.items()}


def test_record__another_run__has_the_values(reopen: OpenState) -> None:
    state = reopen()
    ava, ben = accepted(state, plan="gold", points=3), accepted(state, 7.25, plan=None)
    state.record([("ava", ava), ("ben", ben)])
    state = reopen()
    assert state.read(["ben", "nobody", "ava"]) == [ben, {}, ava]
    assert state.digest("gold") == ava["plan"].digest
    assert (state.count(), dict(state.users())) == (2, {"ava": ava, "ben": ben})


def test_record__other_attributes__stay(reopen: OpenState) -> None:
    state = reopen()
    first, second = accepted(state, plan="gold", points=3), accepted(state, 2000.0, plan="silver", vip=True)
    state.record([("ava", first)])
    state.record([("ava", second)])
    assert state.read(["ava"]) == [first | second]
    assert state.count() == 1


def test_record__older_value__does_not_replace_a_newer_one(reopen: OpenState) -> None:
    state = reopen()
    newer, older = accepted(state, 2000.001, plan="new"), accepted(state, 2000.0, plan="old", points=1)
    state.record([("ava", newer)])
    state.record([("ava", older)])
    assert state.read(["ava"]) == [older | newer]
    same_time = accepted(state, 2000.001, plan="newest")
    state.record([("ava", same_time)])
    assert state.read(["ava"]) == [older | same_time]


def test_record__user_twice_in_one_call__both_are_merged(reopen: OpenState) -> None:
    state = reopen()
    plan, points = accepted(state, plan="gold"), accepted(state, points=3)
    state.record([("ava", plan), ("ava", points)])
    assert state.read(["ava"]) == [plan | points]


def test_record__many_users__all_are_stored(reopen: OpenState) -> None:
    state = reopen()
    names = [f"user-{number}" for number in range(2500)]
    value = accepted(state, plan="gold")
    state.record([(name, value) for name in names])
    assert state.count() == len(names)
    assert state.read(names) == [value] * len(names)
    assert sorted(name for name, _ in state.users()) == sorted(names)


@pytest.mark.parametrize("user_id", ["dário", "a b:c{d}", "😀" * 100, "k", "key", "owner", "user\x00", "\udcff"])
def test_record__unusual_id_or_name__is_stored(reopen: OpenState, user_id: str) -> None:
    state = reopen()
    state.claim(ENDPOINT, KEY, clear=False)
    value = {"名前" * 85: AcceptedValue(state.digest(1), 1.0), user_id: AcceptedValue(state.digest(2), 2.0)}
    state.record([(user_id, value)])
    state = reopen()
    assert state.read([user_id]) == [value]
    assert dict(state.users()) == {user_id: value}
    assert (state.count(), state.forget([user_id]), state.count()) == (1, 1, 0)


def test_forget__known_and_unknown_users__only_those_users_are_removed(reopen: OpenState) -> None:
    state = reopen()
    state.record([(name, accepted(state, plan="gold")) for name in ("ava", "ben", "kit")])
    assert state.forget(["ava", "kit", "nobody"]) == 2
    assert state.forget([]) == 0
    state = reopen()
    assert [name for name, _ in state.users()] == ["ben"]
    assert state.read(["ava"]) == [{}]


def test_owner__other_endpoint_or_key__named(reopen: OpenState) -> None:
    state = reopen()
    assert state.compare_owner(ENDPOINT, KEY) == []
    state.claim(ENDPOINT, KEY, clear=False)
    state = reopen()
    assert state.compare_owner(ENDPOINT, KEY) == []
    assert state.compare_owner(ENDPOINT, "another-key") == ["BRAZE_API_KEY"]
    assert state.compare_owner("https://rest.fra-01.braze.eu", KEY) == ["BRAZE_REST_ENDPOINT"]
    assert state.compare_owner("https://rest.fra-01.braze.eu", "another-key") == [
        "BRAZE_REST_ENDPOINT",
        "BRAZE_API_KEY",
    ]


@pytest.mark.parametrize("clear", [False, True])
def test_claim__new_owner__values_stay_unless_cleared(reopen: OpenState, clear: bool) -> None:
    state = reopen()
    value = accepted(state, plan="gold")
    state.claim(ENDPOINT, KEY, clear=False)
    state.record([(f"user-{number}", value) for number in range(450)])
    state.claim(ENDPOINT, "another-key", clear=clear)
    state = reopen()
    assert state.compare_owner(ENDPOINT, "another-key") == []
    assert state.count() == (0 if clear else 450)
    assert state.digest("gold") == value["plan"].digest


def test_record__two_threads__no_value_is_lost(reopen: OpenState) -> None:
    state = reopen()

    def record(name: str) -> None:
        for number in range(30):
            state.record([("ava", accepted(state, float(number), **{name: number}))])

    threads = [threading.Thread(target=record, args=[name]) for name in ("plan", "points")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.read(["ava"]) == [accepted(state, 29.0, plan=29, points=29)]


EQUAL = [
    (1, 1.0),
    (0, -0.0),
    (10**16, 1e16),
    ({"a": 1, "b": [2.0, {"c": None, "d": True}]}, {"b": [2, {"d": True, "c": None}], "a": 1.0}),
]
DIFFERENT: list[object] = [
    None,
    True,
    False,
    1,
    0,
    1.5,
    "1",
    "true",
    "null",
    "",
    [],
    {},
    [1, 2],
    [2, 1],
    ["1"],
    {"a": 1},
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_digest__equal_json_values__are_equal(one: object, other: object) -> None:
    digester = ValueDigester(b"k" * KEY_BYTES)
    assert digester.value(one) == digester.value(other)


def test_digest__different_values_keys_or_secrets__are_different() -> None:
    digesters = [ValueDigester(b"k" * KEY_BYTES), ValueDigester(b"l" * KEY_BYTES), ValueDigester(b"k" * KEY_BYTES, "s")]
    digests = [digester.value(value) for digester in digesters for value in DIFFERENT]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_unpack__damaged_value__only_whole_attributes(cut: int) -> None:
    sent = {"plan": AcceptedValue(b"12345678", 1.0), "points": AcceptedValue(b"abcdefgh", 2.0)}
    assert unpack(pack(sent)) == sent
    assert unpack(pack(sent)[:-cut]).items() <= sent.items()


# The file


def test_file__new__has_mode_0600_and_no_value_or_key(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        state = SqliteState(tmp_path / "state")
        state.claim(ENDPOINT, KEY, clear=False)
        state.record([("ava", accepted(state, plan="a-value-in-plain-text"))])
        modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    state.close()
    assert modes == {0o600}
    content = (tmp_path / "state").read_bytes()
    assert b"ava" in content
    assert b"a-value-in-plain-text" not in content
    assert KEY.encode() not in content


def test_file__copied_with_another_mode__gets_mode_0600(tmp_path: Path) -> None:
    SqliteState(tmp_path / "state").close()
    (tmp_path / "state").chmod(0o644)
    SqliteState(tmp_path / "state").close()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600


def test_file__forgotten_user__leaves_no_bytes(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state")
    state.record([("a-user-to-forget", accepted(state, plan="gold"))])
    state.forget(["a-user-to-forget"])
    state.close()
    assert all(b"a-user-to-forget" not in path.read_bytes() for path in tmp_path.iterdir())


def test_file__in_use__second_run_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state")
    for create in (True, False):
        with pytest.raises(StateUnavailable, match="state is in use by another run; wait until that run ends"):
            SqliteState(tmp_path / "state", create=create)
    state.record([("ava", accepted(state, plan="gold"))])  # the refused run did not end the lock
    state.close()
    SqliteState(tmp_path / "state").close()


def test_file__missing_and_not_to_create__is_empty_and_stays_missing(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state", create=False)
    assert (state.count(), state.read(["ava"]), state.compare_owner(ENDPOINT, KEY)) == (0, [{}], [])
    state.close()
    assert list(tmp_path.iterdir()) == []


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return a path and the expected error for each kind of file that is not a state."""
    paths = {name: folder / name for name in ("text", "link", "folder", "pipe", "other", "newer")}
    paths["text"].write_text("a list of something, which is longer than the header of a database\n" * 100)
    paths["link"].symlink_to(folder / "target")
    paths["folder"].mkdir()
    os.mkfifo(paths["pipe"])
    for name, command in (("other", "CREATE TABLE t (c)"), ("newer", "PRAGMA user_version = 99")):
        if name == "newer":
            SqliteState(paths[name]).close()
        _execute(paths[name], command)
    return {
        "text": (paths["text"], "not a state of this command"),
        "link": (paths["link"], "is a symbolic link; choose the file itself"),
        "folder": (paths["folder"], r"cannot be opened \(Is a directory\)"),
        "pipe": (paths["pipe"], "is not a regular file"),
        "other": (paths["other"], "is not a state of this command; choose another file"),
        "newer": (paths["newer"], "was written by another version"),
        "missing": (folder / "no" / "state", "the folder of .* does not exist; create it"),
    }


def _execute(path: Path, command: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(command)


def test_file__not_a_state__error_names_the_file_and_the_file_is_unchanged(tmp_path: Path) -> None:
    for path, message in broken_files(tmp_path).values():
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(StateUnavailable, match=message) as raised:
            SqliteState(path)
        assert str(path) in str(raised.value)
        assert (path.read_bytes() if path.is_file() else b"") == before
    assert not (tmp_path / "target").exists()


def test_file__disk_full__error_and_the_former_values_stay(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state")
    value = accepted(state, plan="gold")
    state.record([("ava", value)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "state").stat().st_size, limits[1]))
    try:
        with pytest.raises(StateUnavailable, match=f"{tmp_path}/state .*disk"):
            state.record([(f"user-{number}", value) for number in range(5000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert dict(state.users()) == {"ava": value}
    state.close()


# Redis


def test_redis__digests_without_a_record__nothing_is_written(
    connect: Callable[..., RedisSyncState], server: RedisServer
) -> None:
    state = connect()
    state.digest("gold")
    assert (state.read(["ava"]), state.compare_owner(ENDPOINT, KEY), list(state.users())) == ([{}], [], [])
    with redis.Redis.from_url(server.url) as administrator:
        assert administrator.dbsize() == 0


def test_redis__another_secret__named_and_digests_differ(connect: Callable[..., RedisSyncState]) -> None:
    connect("s" * 32).claim(ENDPOINT, KEY, clear=False)
    state = connect("t" * 32)
    assert state.compare_owner(ENDPOINT, KEY) == ["REDIS_KEY_SECRET"]
    assert state.digest(1) != connect("s" * 32).digest(1)


def test_redis__state_created_by_two_processes__the_second_uses_the_key_of_the_first(
    connect: Callable[..., RedisSyncState],
) -> None:
    first, second = connect(), connect()
    values = [accepted(state, plan="gold") for state in (first, second)]
    assert values[0] != values[1]
    first.record([("ava", values[0])])
    with pytest.raises(RedisUnavailable, match="replaced"):
        second.record([("ben", values[1])])
    assert accepted(second, plan="gold") == values[0]
    second.record([("ben", values[0])])
    assert first.count() == 2


def accept(state: OwnedState, user_id: str, plan: str, at: float = 1.0) -> bool:
    """Record a value as the event stream does, and return whether it had to be sent."""
    (stored,) = state.read([user_id])
    value = AcceptedValue(state.digest(plan), at)
    if stored.get("plan") == value:
        return False
    state.record([(user_id, {"plan": value})])
    return True


def test_owned__only_read__state_has_no_owner(connect: Callable[..., RedisSyncState]) -> None:
    wrong = OwnedState(connect(), RecentValues(), ENDPOINT, "a-wrong-key-of-a-test")
    assert wrong.read(["ava"]) == [{}]
    wrong.digest("gold")
    assert connect().compare_owner(ENDPOINT, KEY) == []
    assert accept(OwnedState(connect(), RecentValues(), ENDPOINT, KEY), "ava", "gold")
    assert connect().compare_owner(ENDPOINT, KEY) == []
    assert connect().compare_owner(ENDPOINT, "a-wrong-key-of-a-test") == ["BRAZE_API_KEY"]


def test_owned__state_created_by_two_processes__both_use_it(connect: Callable[..., RedisSyncState]) -> None:
    first, second = (OwnedState(connect(), RecentValues(), ENDPOINT, KEY) for _ in range(2))
    for service in (first, second):
        service.read(["ava"])
        service.digest("gold")
    assert accept(first, "ava", "gold")
    assert not accept(second, "ava", "gold")


def test_owned__run_takes_over_the_state__values_of_the_former_key_stay_out(
    connect: Callable[..., RedisSyncState],
) -> None:
    service, run = OwnedState(connect(), RecentValues(), ENDPOINT, KEY), connect()
    assert accept(service, "ava", "gold")
    service.read(["ben"])
    digest = service.digest("gold")
    run.claim(ENDPOINT, "another-key-of-a-test", clear=True)
    service.record([("ben", {"plan": AcceptedValue(digest, 1.0)})])  # accepted by Braze at the same time
    assert accept(service, "cleo", "gold")
    assert not accept(service, "cleo", "gold")
    assert run.count() == 0
    assert run.compare_owner(ENDPOINT, "another-key-of-a-test") == []
    run.claim(ENDPOINT, KEY, clear=False)
    assert accept(service, "ava", "gold")
    assert run.count() == 1


def test_owned__redis_lost_the_state__has_an_owner_again(
    connect: Callable[..., RedisSyncState], server: RedisServer
) -> None:
    service = OwnedState(connect(), RecentValues(), ENDPOINT, KEY)
    assert accept(service, "ava", "gold")
    with redis.Redis.from_url(server.url) as administrator:
        administrator.flushall()
    assert accept(service, "ava", "gold")
    assert connect().compare_owner(ENDPOINT, "another-key-of-a-test") == ["BRAZE_API_KEY"]


def test_redis__forgotten_user__older_values_are_not_recorded(
    connect: Callable[..., RedisSyncState], server: RedisServer
) -> None:
    state = connect()
    with redis.Redis.from_url(server.url) as administrator:
        administrator.set(PREFIX + b"forgot:" + IdDigester().user_id("ava"), "1500.5")
    state.record([("ava", accepted(state, 1500.5, plan="gold")), ("ben", accepted(state, 1500.5, plan="gold"))])
    assert [name for name, _ in state.users()] == ["ben"]
    state.record([("ava", accepted(state, 1500.6, plan="gold"))])
    assert state.count() == 2


def test_redis__lock__second_run_is_refused_and_a_lost_lock_is_reported(
    connect: Callable[..., RedisSyncState], server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.storage.redis.sync_state._EXTEND_SECONDS", 0.02)
    lost = threading.Event()
    first, second = connect(), connect()
    with first.locked(lost.set), redis.Redis.from_url(server.url) as administrator:
        with (
            pytest.raises(
                StateInUse, match=r"in use by another run; wait until that run ends \(the lock of a killed run"
            ),
            second.locked(lost.set),
        ):
            raise AssertionError("both runs have the lock")
        second.record([("ava", accepted(second, plan="gold"))])  # as the service does
        assert 0 < administrator.pttl(PREFIX + b"sent:lock") <= 30_000
        administrator.pexpire(PREFIX + b"sent:lock", 1000)
        until(lambda: administrator.pttl(PREFIX + b"sent:lock") > 5_000, "the lock was not extended")
        assert not lost.is_set()
        administrator.set(PREFIX + b"sent:lock", b"another run")
        assert lost.wait(5)
    with redis.Redis.from_url(server.url) as administrator:
        assert administrator.getdel(PREFIX + b"sent:lock") == b"another run"
    with second.locked(lost.set):
        pass
    with first.locked(lost.set):
        pass
