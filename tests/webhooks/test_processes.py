"""Pushes with a shared Redis: merged in Redis, and looked up by every process that caches the user."""

from __future__ import annotations

import itertools
import random
import time
from functools import partial
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.monitoring.clock import Clock
from proxy.profile.parts import COHORTS, PROPERTIES, Identity
from proxy.profile.query import ProfileQuery
from proxy.profile.record import EMPTY, CachedPart, Record
from proxy.profile.updates import REMOVED, Updates, membership, merged, pack, parse_updates, properties
from proxy.storage.id_digests import UNKEYED
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.updates import RedisUpdates
from proxy.webhooks.ingest import UpdateIngester
from proxy.webhooks.parse import Batch
from tests.profile.test_updates import PUSHES, previous
from tests.storage.redis.test_processes import (
    POLICY,
    USER,
    left_of,
    running,
    settled,
    shared_server,
    stopped,
    valkey,
    wait_until,
)
from tests.storage.redis.test_processes import Process as BaseProcess
from tests.support.redis_server import RedisServer
from tests.webhooks.test_ingest import INVALID_BODIES, STATEMENTS, USERS, bodies, known_in, matches_truth, push_bodies

__all__ = ["running", "shared_server", "stopped", "valkey"]  # fixtures

_EXAMPLES = itertools.count()
ALL_COHORTS = ProfileQuery(("cohorts",))
C1 = ProfileQuery(("cohorts",), cohort_ids=("c1",))


class Process(BaseProcess):
    """A worker process that also accepts pushes."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.seconds_away = 0.0
        self.use_updates_for(POLICY.updates_usable_for)
        self.pushes_of_any_age = RedisUpdates(self.server, b"test:", kept_for=1e10)

    def use_updates_for(self, seconds: float) -> None:
        """Accept updates of up to this age from now on."""
        self.store.memory.updates_usable_for = seconds
        self.pushes = RedisUpdates(self.server, b"test:", kept_for=seconds)
        self.ingester = UpdateIngester(
            self.store.memory, self.pushes, clock=Clock(monotonic=lambda: time.monotonic() + self.seconds_away)
        )

    def register(self) -> None:
        super().register()
        self.ingester.catch_up()

    def push(self, *updates: tuple[str, Updates], message: str | None = None) -> bool:
        return self.ingester.push(Batch(message, list(updates)), self.ingester.generation)

    def cohorts(self, identity: Identity = USER) -> Any:
        """Return the cohorts in an answer about cohort c1. None if the answer needs a call."""
        record = self.store.memory.with_updates(identity, self.store.get(identity), C1)
        part = record.parts.get(COHORTS)
        return part and part.value

    def cohorts_are(self, value: bytes) -> bool:
        """Return whether `cohorts` returns `value`."""
        return bool(self.cohorts() == value)


def start(*processes: Process) -> None:
    """Start the processes. Return when each has found Redis, possibly before calls to Amplitude are allowed."""
    for process in processes:
        process.server.start()
    wait_until(lambda: all(process.quota.epoch for process in processes))


@pytest.fixture
def pair(valkey: RedisServer) -> tuple[Process, Process]:
    first, second = Process(valkey.url), Process(valkey.url)
    start(first, second)
    return first, second


@pytest.mark.contract("3 webhook processes")
def test_push__to_one_process__other_process_reads_it_in_one_round_trip(
    pair: tuple[Process, Process],
) -> None:
    first, second = pair
    first.push(("u", membership("c1", True, time.time())))
    for identity in (USER, Identity("u", "phone")):
        before = second.server.stats().round_trips
        answer = second.profiles.get(identity, [COHORTS], until=lambda: time.monotonic() + 1, query=C1)
        assert (answer.forwarded, answer.calls, answer.record.parts[COHORTS].value) == (None, 0, b'["c1"]')
        assert second.server.stats().round_trips - before == (1 if identity is USER else 0)
        assert second.profiles.get(identity, [COHORTS], until=lambda: time.monotonic() + 1, query=C1).forwarded is None
        assert second.server.stats().round_trips - before == (1 if identity is USER else 0)
    assert not second.source.calls


def test_push__user_cached_by_the_other_process__updated_there_within_a_second(pair: tuple[Process, Process]) -> None:
    first, second = pair
    pairs = [USER, Identity("u", "phone"), Identity("v", "tablet")]
    now = time.time()
    for identity in pairs:
        second.store.memory.merge(identity, Record({COHORTS: CachedPart(b'["far"]', now - 60)}))
        second.store.memory.keep_ready(identity, ALL_COHORTS, second.store.memory.read(identity), b"old", "etag")
        assert not has_no_ready_body(second, identity)
    began = time.monotonic()
    first.push(
        ("u", membership("c1", True, now)), ("v", membership("c1", True, now)), ("w", membership("c1", True, now))
    )
    for identity in pairs:
        wait_until(partial(has_no_ready_body, second, identity), seconds=1)
        shown = second.store.memory.with_updates(identity, second.store.memory.read(identity), ALL_COHORTS)
        assert shown.parts[COHORTS].value == b'["far","c1"]'
    assert time.monotonic() - began < 1
    assert second.store.memory.read(Identity("w", None)) is EMPTY
    assert second.store.memory.records == 4, "no updates are fetched for uncached users"


def has_no_ready_body(process: Process, identity: Identity) -> bool:
    """Return whether there is no ready body about all cohorts."""
    hit = [process.store.memory.fresh(identity, ALL_COHORTS) for _ in range(2)][-1]
    return hit is None or hit.ready is None


@pytest.mark.contract("3 webhook processes")
def test_push__ten_thousand_users__the_other_process_looks_up_only_cached_users(
    pair: tuple[Process, Process],
) -> None:
    first, second = pair
    now = time.time()
    for number in range(0, 10_000, 100):
        second.store.memory.merge(Identity(f"user-{number}", None), Record({COHORTS: CachedPart(b"[]", now - 60)}))
    update = membership("c1", True, now)
    first.push(*((f"user-{number}", update) for number in range(10_000)))
    wait_until(lambda: known_in(second.store.memory, "user-9900").cohorts, seconds=2)
    wait_until(lambda: all(known_in(second.store.memory, f"user-{number}").cohorts for number in range(0, 10_000, 100)))
    assert second.store.memory.records == 100
    assert first.store.memory.records == 0, "updates stored in Redis do not displace users from memory"
    assert first.cohorts(Identity("user-7", None)) == b'["c1"]'


def test_catch_up__absent_longer_than_announcements_last__looks_up_every_user(pair: tuple[Process, Process]) -> None:
    first, second = pair
    second.server.stop()
    wait_until(lambda: not second.server.stats().registers)
    second.store.memory.merge(USER, Record({COHORTS: CachedPart(b"[]", time.time() - 60)}))
    first.push(("u", membership("c1", True, time.time())))
    with redis.Redis.from_url(first.url) as operator:
        operator.delete(b"test:news")
    second.ingester.catch_up()
    assert not known_in(second.store.memory, "u").cohorts
    second.seconds_away = 3600
    second.ingester.catch_up()
    assert known_in(second.store.memory, "u").cohorts


def test_get__push_during_the_read__reads_again(pair: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = pair
    read = second.records.read
    results: list[Any] = []

    def read_during_a_push(identity: Identity) -> Any:
        result = read(identity)
        if not results:
            first.push(("u", membership("c1", True, time.time())))
            announced = second.store.memory.updates_announced
            wait_until(lambda: second.store.memory.updates_announced > announced)
        results.append(result)
        return result

    monkeypatch.setattr(second.records, "read", read_during_a_push)
    assert second.cohorts() == b'["c1"]'
    assert [bool(result.updates) for result in results] == [False, True]


def test_lease__user_with_updates__returns_them(pair: tuple[Process, Process]) -> None:
    first, _ = pair
    first.push(("u", membership("c1", True, time.time())))
    stored, _ = first.records.lease(Identity("u", "phone"), [COHORTS])
    assert parse_updates(stored.updates).cohorts.keys() == {"c1"}
    stored, _ = first.records.lease(Identity(None, "phone"), [COHORTS])
    assert stored.updates == {}


@pytest.mark.contract("3 webhook order")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PUSHES, min_size=1, max_size=6))
@example([properties({"a": REMOVED}, 2.0), properties({"a": b"12"}, 2.0), properties({"a": b"1"}, 2.0)])
@example([properties({"a": b"2"}, 2.0), properties({"a": b"\xc3"}, 2.0), properties({"a": b"12"}, 2.0)])
def test_save__any_updates_also_of_the_previous_version__merged_as_in_memory(
    pair: tuple[Process, Process], pushes: list[Updates]
) -> None:
    updates = pair[0].pushes_of_any_age
    user = f"merged-{next(_EXAMPLES)}"
    expected: Updates = {}
    with redis.Redis.from_url(pair[0].url) as operator:
        for number, push in enumerate(pushes):
            expected = merged(expected, push)
            updates.save([(user, push), (f"other-{user}", push)], time.time())
            if number % 2 and expected:
                operator.set(b"test:pushed:" + UNKEYED.user_id(user), pack(previous(expected)))
    stored, missing = updates.read([user, "stranger"])
    assert parse_updates(stored) == parse_updates(expected)
    assert not missing


@pytest.mark.contract("3 webhook order")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STATEMENTS, max_size=10), st.lists(INVALID_BODIES, max_size=3), st.randoms(use_true_random=False))
def test_push__to_any_process__latest_statements_win_in_all(
    pair: tuple[Process, Process], statements: list[Any], invalid: list[bytes], dice: random.Random
) -> None:
    for process in pair:
        process.use_updates_for(1e10)
    # Each example has its own users. One of them is cached by the first process beforehand.
    example = f"{next(_EXAMPLES)}-"
    named = [statement._replace(user=example + statement.user) for statement in statements]
    pair[0].store.memory.merge(Identity(example + USERS[0], None), Record({COHORTS: CachedPart(b"[]", 1.0)}))
    push_bodies(lambda: dice.choice(pair).ingester, bodies(named, invalid, dice))
    for user in (example + name for name in USERS):
        for process in pair:
            process.store.get(Identity(user, None))
            assert matches_truth(known_in(process.store.memory, user), named, user)


def test_redis_keys__after_a_push__expire_and_contain_no_ids(running: RedisServer) -> None:
    process = Process(running.url)
    start(process)
    process.push(("a-user-id", membership("c1", True, time.time())), message="a-message-id")
    with redis.Redis.from_url(running.url) as client:
        ages = {key: client.pttl(key) for key in client.scan_iter()}
        held = {key: client.dump(key) for key in ages}
    pushed = [key for key in ages if key.split(b":")[1] in (b"pushed", b"news", b"message")]
    assert len(pushed) == 3
    assert all(age > 0 for age in ages.values()), ages
    assert not any(word in key + held[key] for key in ages for word in (b"a-user-id", b"a-message-id"))


def test_push__update_too_old_to_be_served__not_stored(valkey: RedisServer) -> None:
    process = Process(valkey.url)
    start(process)
    now = time.time()
    process.push(
        ("u", membership("old", True, now - POLICY.updates_usable_for - 1)), ("u", membership("new", True, now))
    )
    assert parse_updates(process.pushes.read(["u"])[0]).cohorts.keys() == {"new"}


@pytest.mark.contract("3 webhook forget")
def test_forget__pushed_user__removed_everywhere_within_a_second(pair: tuple[Process, Process]) -> None:
    first, second = pair
    now = time.time()
    for process in pair:
        process.store.memory.merge(Identity("forget-me", "phone"), Record({COHORTS: CachedPart(b"[]", now - 60)}))
    first.push(
        ("forget-me", merged(membership("c1", True, now), properties({"a": b"1"}, now))),
        ("v", membership("c1", True, now)),
    )
    wait_until(lambda: known_in(second.store.memory, "forget-me").cohorts, seconds=1)
    assert first.forget_service.forget(Identity("forget-me", None)).records == 2
    wait_until(lambda: not known_in(second.store.memory, "forget-me").cohorts, seconds=1)
    assert not known_in(first.store.memory, "forget-me").cohorts
    assert first.pushes.read(["forget-me"]) == [{}]
    assert left_of(first.url, "forget-me") == []
    assert first.cohorts(Identity("v", None)) == b'["c1"]'
    assert first.forget_service.forget(Identity("v", None)).records == 1, "a user with only pushed data counts too"


@pytest.mark.contract("3 webhook forget")
def test_push__older_than_a_forget__not_stored_in_any_process(pair: tuple[Process, Process]) -> None:
    first, second = pair
    before, forgotten = second.store.memory.generation, time.time()
    first.forget_service.forget(USER)
    wait_until(lambda: second.store.memory.generation > before)
    second.store.memory.merge(USER, Record({PROPERTIES: CachedPart(b"{}", time.time())}))
    batch = Batch("m", [(user, membership("c1", True, forgotten)) for user in ("u", "v")])
    assert second.ingester.push(batch, second.ingester.generation)
    assert (batch.applied, batch.skipped) == (1, {"forgotten": 1})
    assert first.pushes.read(["u"]) == [{}]
    for process in pair:
        assert process.cohorts() is None
        assert process.cohorts(Identity("v", None)) == b'["c1"]'
    assert not second.pushes.remembers("m"), "a repetition may bring new data"
    assert first.push(("u", membership("c1", True, time.time() + 1)))
    for process in pair:
        wait_until(partial(process.cohorts_are, b'["c1"]'), seconds=1)
    batch = Batch("m", [("u", membership("c2", True, forgotten))])
    assert second.ingester.push(batch, second.ingester.generation)
    assert (batch.applied, batch.skipped) == (0, {"forgotten": 1}), "also if newer data of the user is stored"
    assert parse_updates(first.pushes.read(["u"])[0]).cohorts.keys() == {"c1"}


@pytest.mark.contract("3 webhook forget")
def test_forget__process_starts_later__keeps_updates_pushed_after_the_forget(
    pair: tuple[Process, Process], valkey: RedisServer
) -> None:
    first, _ = pair
    first.forget_service.forget(USER)
    first.push(("u", membership("c1", True, time.time())))
    late = Process(valkey.url)
    start(late)
    wait_until(lambda: late.store.memory.generation > 0)
    assert late.cohorts() == b'["c1"]'
    late.server.stop()


@pytest.mark.contract("3 webhook limits")
def test_push__too_many_properties_or_oversized_record__refused_or_replaced(
    pair: tuple[Process, Process],
) -> None:
    first, _ = pair
    now = time.time()
    for number in range(11):
        values = {f"name {number} {at}": b"1" for at in range(100)}
        batch = Batch(None, [("u", properties(values, now + number / 1000)), ("v", membership("c1", True, now))])
        first.ingester.push(batch, first.ingester.generation)
        assert batch.skipped == ({"too_large": 1} if number == 10 else {})
    with redis.Redis.from_url(first.url) as operator:
        (key,) = (key for key in operator.scan_iter(b"*:pushed:*") if operator.strlen(key) > 1000)
        operator.set(key, pack(properties({"a": b"1" * 70_000}, now)))
    assert first.pushes.read(["u"]) == [{}]
    first.push(("u", membership("c1", True, now)))
    assert parse_updates(first.pushes.read(["u"])[0]).cohorts


def test_save__many_different_properties__merged_in_several_round_trips(
    pair: tuple[Process, Process],
) -> None:
    first, _ = pair
    now = time.time()
    counts = [first.server.stats().round_trips]
    for number in range(3):
        values = properties({f"name {number} {at}": b"1" * 20 for at in range(300)}, now)
        assert first.pushes.save([(f"u{user}", values) for user in range(40)], now) == {}
        counts.append(first.server.stats().round_trips)
    assert counts[1] - counts[0] == 1
    assert counts[-1] - counts[0] > 6
    assert [len(parse_updates(first.pushes.read([f"u{user}"])[0]).properties) for user in range(40)] == [900] * 40


def test_push__repeated_message__ignored_by_every_process_once_applied(
    pair: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    update = ("u", membership("c1", True, time.time()))
    push = first.pushes.save

    def fail(*_: object) -> Any:
        raise RedisUnavailable

    monkeypatch.setattr(first.pushes, "save", fail)
    with pytest.raises(RedisUnavailable):
        first.push(update, message="m")
    monkeypatch.setattr(first.pushes, "save", push)
    assert first.push(update, message="m")
    assert not first.push(update, message="m")
    assert not second.push(update, message="m")


def test_push__redis_unavailable__stored_in_memory_and_raises(valkey: RedisServer) -> None:
    process = Process(valkey.url)
    start(process)
    valkey.stop()
    with pytest.raises(RedisUnavailable):
        process.push(("u", membership("c1", True, time.time())), message="m")
    assert process.cohorts() == b'["c1"]'
    valkey.start()
    wait_until(lambda: process.server.unavailable_since is None)
    assert process.push(("u", membership("c1", True, time.time())), message="m"), "the repeated message is applied"
    assert process.pushes.read(["u"]) != [{}]


def test_read__invalid_value_in_redis__treated_as_absent(valkey: RedisServer) -> None:
    process = Process(valkey.url)
    start(process)
    process.push(("u", membership("c1", True, time.time())))
    with redis.Redis.from_url(valkey.url) as client:
        (key,) = client.scan_iter(b"*:pushed:*")
        client.set(key, b"invalid")
    assert process.pushes.read(["u"]) == [{}]
    assert process.cohorts() is None
    process.push(("u", membership("c1", True, time.time())))
    assert process.cohorts() == b'["c1"]'


def test_get__properties_pushed_to_another_process__call_only_if_not_whole(
    pair: tuple[Process, Process],
) -> None:
    first, second = pair
    settled(first, second)
    now = time.time()
    first.push(("u", properties({"a": b"1"}, now, whole=True)), ("v", properties({"a": b"1"}, now)))
    assert second.get(PROPERTIES).forwarded is None
    assert second.get(PROPERTIES, identity=Identity("v", None)).forwarded == "miss"


@pytest.mark.parametrize("kind", [b"s", b"p"])
@pytest.mark.parametrize("field_lines", [True, False])
def test_update__stored_set_without_line_ends__takes_no_long_time_in_redis(
    running: RedisServer, kind: bytes, field_lines: bool
) -> None:
    process = Process(running.url)
    settled(process)
    now = time.time()
    new = properties({"a": b"1"}, now)
    (field, value), *_ = new.items()
    long = b"x" * 60_000
    stored = {field: value + long} if field_lines else {kind + long: value, b"s" + b"b\n": value}
    with redis.Redis.from_url(running.url) as operator:
        operator.set(b"test:pushed:" + UNKEYED.user_id("u"), pack(stored))
        operator.config_resetstat()
        process.push(("u", new))
        slowest = max(
            stats["usec_per_call"]
            for name, stats in operator.info("commandstats").items()
            if name.startswith("cmdstat_eval")
        )
    assert slowest < 2_000_000, "17 s before"
