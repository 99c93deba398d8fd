"""What Amplitude pushes, before one Redis: merged there, and heard of by every process that has the user."""

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
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.updates import RedisUpdates
from proxy.storage.tombstones import name_of
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
from tests.storage.redis.test_processes import Process as Alone
from tests.support.redis_server import RedisServer
from tests.webhooks.test_ingest import GARBAGE, STATEMENTS, USERS, agrees, bodies, deliver, known_in

__all__ = ["running", "shared_server", "stopped", "valkey"]  # fixtures

_EXAMPLES = itertools.count()
ALL_COHORTS = ProfileQuery(("cohorts",))
C1 = ProfileQuery(("cohorts",), cohort_ids=("c1",))


class Process(Alone):
    """A worker process that takes pushes too."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.seconds_away = 0.0
        self.use_updates_for(POLICY.updates_usable_for)
        self.pushes_of_any_age = RedisUpdates(self.server, b"test:", kept_for=1e10)

    def use_updates_for(self, seconds: float) -> None:
        """Take updates as old as that from now on."""
        self.store.memory.updates_usable_for = seconds
        self.pushes = RedisUpdates(self.server, b"test:", kept_for=seconds)
        self.ingester = UpdateIngester(
            self.store.memory, self.pushes, clock=Clock(monotonic=lambda: time.monotonic() + self.seconds_away)
        )

    def register(self) -> None:
        super().register()
        self.ingester.catch_up()

    def push(self, *news: tuple[str, Updates], message: str | None = None) -> bool:
        return self.ingester.push(Batch(message, list(news)), self.ingester.generation)

    def cohorts(self, identity: Identity = USER) -> Any:
        """Return what an answer about cohort c1 would say without a call: None when it could not."""
        record = self.store.memory.with_updates(identity, self.store.get(identity), C1)
        kept = record.parts.get(COHORTS)
        return kept and kept.value

    def cohorts_are(self, value: bytes) -> bool:
        """Say whether that is what it would say."""
        return bool(self.cohorts() == value)


def started(*processes: Process) -> None:
    """Return when all have found Redis, and need not yet be allowed a call to Amplitude."""
    for process in processes:
        process.server.start()
    wait_until(lambda: all(process.quota.epoch for process in processes))


@pytest.fixture
def pair(valkey: RedisServer) -> tuple[Process, Process]:
    one, other = Process(valkey.url), Process(valkey.url)
    started(one, other)
    return one, other


@pytest.mark.contract("3 webhook processes")
def test_what_one_process_was_pushed_the_other_finds_by_one_round_trip_and_then_by_none(
    pair: tuple[Process, Process],
) -> None:
    one, other = pair
    one.push(("u", membership("c1", True, time.time())))
    for identity in (USER, Identity("u", "phone")):
        before = other.server.stats().round_trips
        answer = other.profiles.get(identity, [COHORTS], until=time.monotonic() + 1, query=C1)
        assert (answer.forwarded, answer.calls, answer.record.parts[COHORTS].value) == (None, 0, b'["c1"]')
        assert other.server.stats().round_trips - before == (1 if identity is USER else 0)
        assert other.profiles.get(identity, [COHORTS], until=time.monotonic() + 1, query=C1).forwarded is None
        assert other.server.stats().round_trips - before == (1 if identity is USER else 0)
    assert not other.source.calls


def test_a_user_that_a_process_holds_is_heard_of_within_a_second(pair: tuple[Process, Process]) -> None:
    one, other = pair
    pairs = [USER, Identity("u", "phone"), Identity("v", "tablet")]
    now = time.time()
    for identity in pairs:
        other.store.memory.merge(identity, Record({COHORTS: CachedPart(b'["far"]', now - 60)}))
        other.store.memory.keep_ready(identity, ALL_COHORTS, other.store.memory.read(identity), b"old", "etag")
        assert not forgotten_as_ready(other, identity)
    began = time.monotonic()
    one.push(("u", membership("c1", True, now)), ("v", membership("c1", True, now)), ("w", membership("c1", True, now)))
    for identity in pairs:
        wait_until(partial(forgotten_as_ready, other, identity), seconds=1)
        shown = other.store.memory.with_updates(identity, other.store.memory.read(identity), ALL_COHORTS)
        assert shown.parts[COHORTS].value == b'["far","c1"]'
    assert time.monotonic() - began < 1
    assert other.store.memory.read(Identity("w", None)) is EMPTY
    assert other.store.memory.records == 4, "of whom nothing is kept here, nothing is fetched"


def forgotten_as_ready(process: Process, identity: Identity) -> bool:
    """Say whether no answer about all cohorts is ready any more."""
    found = [process.store.memory.fresh(identity, ALL_COHORTS) for _ in range(2)][-1]
    return found is None or found.ready is None


@pytest.mark.contract("3 webhook processes")
def test_ten_thousand_are_one_word_to_the_others_and_only_those_they_hold_are_looked_up(
    pair: tuple[Process, Process],
) -> None:
    one, other = pair
    now = time.time()
    for number in range(0, 10_000, 100):
        other.store.memory.merge(Identity(f"user-{number}", None), Record({COHORTS: CachedPart(b"[]", now - 60)}))
    news = membership("c1", True, now)
    one.push(*((f"user-{number}", news) for number in range(10_000)))
    wait_until(lambda: known_in(other.store.memory, "user-9900").cohorts, seconds=2)
    wait_until(lambda: all(known_in(other.store.memory, f"user-{number}").cohorts for number in range(0, 10_000, 100)))
    assert other.store.memory.records == 100
    assert one.store.memory.records == 0, "what Redis has is no reason for others to leave the memory"
    assert one.cohorts(Identity("user-7", None)) == b'["c1"]'


def test_catch_up__after_an_absence_too_long_to_hear_of_all__looks_up_every_user(pair: tuple[Process, Process]) -> None:
    one, other = pair
    other.server.stop()
    wait_until(lambda: not other.server.stats().registers)
    other.store.memory.merge(USER, Record({COHORTS: CachedPart(b"[]", time.time() - 60)}))
    one.push(("u", membership("c1", True, time.time())))
    with redis.Redis.from_url(one.url) as operator:
        operator.delete(b"test:news")
    other.ingester.catch_up()
    assert not known_in(other.store.memory, "u").cohorts
    other.seconds_away = 3600
    other.ingester.catch_up()
    assert known_in(other.store.memory, "u").cohorts


def test_a_push_that_comes_while_a_process_looks_is_not_missed(
    pair: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    read = other.records.read
    looked: list[Any] = []

    def slowly(identity: Identity) -> Any:
        found = read(identity)
        if not looked:
            one.push(("u", membership("c1", True, time.time())))
            heard = other.store.memory.updates_announced
            wait_until(lambda: other.store.memory.updates_announced > heard)
        looked.append(found)
        return found

    monkeypatch.setattr(other.records, "read", slowly)
    assert other.cohorts() == b'["c1"]'
    assert [bool(found.updates) for found in looked] == [False, True]


def test_what_is_fetched_while_something_is_pushed_comes_with_it(pair: tuple[Process, Process]) -> None:
    one, _ = pair
    one.push(("u", membership("c1", True, time.time())))
    stored, _ = one.records.lease(Identity("u", "phone"), [COHORTS])
    assert parse_updates(stored.updates).cohorts.keys() == {"c1"}
    stored, _ = one.records.lease(Identity(None, "phone"), [COHORTS])
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
                operator.set(b"test:pushed:" + name_of(user), pack(previous(expected)))
    stored, nothing = updates.read([user, "nobody"])
    assert parse_updates(stored) == parse_updates(expected)
    assert not nothing


@pytest.mark.contract("3 webhook order")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STATEMENTS, max_size=10), st.lists(GARBAGE, max_size=3), st.randoms(use_true_random=False))
def test_whichever_process_they_reach_they_end_in_the_truth(
    pair: tuple[Process, Process], statements: list[Any], garbage: list[bytes], dice: random.Random
) -> None:
    for process in pair:
        process.use_updates_for(1e10)
    # Users of its own for each example, and some of them known in one process before.
    example = f"{next(_EXAMPLES)}-"
    named = [one._replace(user=example + one.user) for one in statements]
    pair[0].store.memory.merge(Identity(example + USERS[0], None), Record({COHORTS: CachedPart(b"[]", 1.0)}))
    deliver(lambda: dice.choice(pair).ingester, bodies(named, garbage, dice))
    for user in (example + one for one in USERS):
        for process in pair:
            process.store.get(Identity(user, None))
            assert agrees(known_in(process.store.memory, user), named, user)


def test_every_key_of_a_push_expires_and_none_says_who(running: RedisServer) -> None:
    process = Process(running.url)
    started(process)
    process.push(("a-user-id", membership("c1", True, time.time())), message="a-message-id")
    with redis.Redis.from_url(running.url) as client:
        ages = {key: client.pttl(key) for key in client.scan_iter()}
        held = {key: client.dump(key) for key in ages}
    mine = [key for key in ages if key.split(b":")[1] in (b"pushed", b"news", b"message")]
    assert len(mine) == 3
    assert all(age > 0 for age in ages.values()), ages
    assert not any(word in key + held[key] for key in ages for word in (b"a-user-id", b"a-message-id"))


def test_what_is_of_no_use_any_more_does_not_pile_up(valkey: RedisServer) -> None:
    process = Process(valkey.url)
    started(process)
    now = time.time()
    process.push(
        ("u", membership("old", True, now - POLICY.updates_usable_for - 1)), ("u", membership("new", True, now))
    )
    assert parse_updates(process.pushes.read(["u"])[0]).cohorts.keys() == {"new"}


@pytest.mark.contract("3 webhook forget")
def test_who_is_forgotten_loses_what_was_pushed_everywhere_within_a_second(pair: tuple[Process, Process]) -> None:
    one, other = pair
    now = time.time()
    for process in pair:
        process.store.memory.merge(Identity("forget-me", "phone"), Record({COHORTS: CachedPart(b"[]", now - 60)}))
    one.push(
        ("forget-me", merged(membership("c1", True, now), properties({"a": b"1"}, now))),
        ("v", membership("c1", True, now)),
    )
    wait_until(lambda: known_in(other.store.memory, "forget-me").cohorts, seconds=1)
    assert one.forget_service.forget(Identity("forget-me", None)).records == 2
    wait_until(lambda: not known_in(other.store.memory, "forget-me").cohorts, seconds=1)
    assert not known_in(one.store.memory, "forget-me").cohorts
    assert one.pushes.read(["forget-me"]) == [{}]
    assert left_of(one.url, "forget-me") == []
    assert one.cohorts(Identity("v", None)) == b'["c1"]'
    assert one.forget_service.forget(Identity("v", None)).records == 1, "be it only something pushed"


@pytest.mark.contract("3 webhook forget")
def test_what_is_pushed_while_a_user_is_forgotten_is_kept_nowhere(pair: tuple[Process, Process]) -> None:
    one, other = pair
    before, forgotten = other.store.memory.generation, time.time()
    one.forget_service.forget(USER)
    wait_until(lambda: other.store.memory.generation > before)
    other.store.memory.merge(USER, Record({PROPERTIES: CachedPart(b"{}", time.time())}))
    batch = Batch("m", [(user, membership("c1", True, forgotten)) for user in ("u", "v")])
    assert other.ingester.push(batch, other.ingester.generation)
    assert (batch.applied, batch.skipped) == (1, {"forgotten": 1})
    assert one.pushes.read(["u"]) == [{}]
    for process in pair:
        assert process.cohorts() is None
        assert process.cohorts(Identity("v", None)) == b'["c1"]'
    assert not other.pushes.remembers("m"), "it may bring something new when it comes again"
    assert one.push(("u", membership("c1", True, time.time() + 1)))
    for process in pair:
        wait_until(partial(process.cohorts_are, b'["c1"]'), seconds=1)
    batch = Batch("m", [("u", membership("c2", True, forgotten))])
    assert other.ingester.push(batch, other.ingester.generation)
    assert (batch.applied, batch.skipped) == (0, {"forgotten": 1}), "also when there is something new of the user"
    assert parse_updates(one.pushes.read(["u"])[0]).cohorts.keys() == {"c1"}


@pytest.mark.contract("3 webhook forget")
def test_who_hears_late_of_a_forgetting_loses_nothing_that_was_said_after_it(
    pair: tuple[Process, Process], valkey: RedisServer
) -> None:
    one, _ = pair
    one.forget_service.forget(USER)
    one.push(("u", membership("c1", True, time.time())))
    late = Process(valkey.url)
    started(late)
    wait_until(lambda: late.store.memory.generation > 0)
    assert late.cohorts() == b'["c1"]'
    late.server.stop()


@pytest.mark.contract("3 webhook limits")
def test_what_would_be_too_much_of_one_user_is_refused_in_redis_and_what_is_there_already_ends(
    pair: tuple[Process, Process],
) -> None:
    one, _ = pair
    now = time.time()
    for number in range(11):
        values = {f"name {number} {at}": b"1" for at in range(100)}
        batch = Batch(None, [("u", properties(values, now + number / 1000)), ("v", membership("c1", True, now))])
        one.ingester.push(batch, one.ingester.generation)
        assert batch.skipped == ({"too_large": 1} if number == 10 else {})
    with redis.Redis.from_url(one.url) as operator:
        (key,) = (key for key in operator.scan_iter(b"*:pushed:*") if operator.strlen(key) > 1000)
        operator.set(key, pack(properties({"a": b"1" * 70_000}, now)))
    assert one.pushes.read(["u"]) == [{}]
    one.push(("u", membership("c1", True, now)))
    assert parse_updates(one.pushes.read(["u"])[0]).cohorts


def test_redis_takes_apart_no_more_at_once_than_others_can_wait_for_and_takes_all_in_the_end(
    pair: tuple[Process, Process],
) -> None:
    one, _ = pair
    now = time.time()
    counts = [one.server.stats().round_trips]
    for number in range(3):
        values = properties({f"name {number} {at}": b"1" * 20 for at in range(300)}, now)
        assert one.pushes.save([(f"u{user}", values) for user in range(40)], now) == {}
        counts.append(one.server.stats().round_trips)
    assert counts[1] - counts[0] == 1
    assert counts[-1] - counts[0] > 6
    assert [len(parse_updates(one.pushes.read([f"u{user}"])[0]).properties) for user in range(40)] == [900] * 40


def test_a_repeated_message_is_known_to_every_process_once_it_was_applied(
    pair: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    news = ("u", membership("c1", True, time.time()))
    push = one.pushes.save

    def fails(*_: object) -> Any:
        raise RedisUnavailable

    monkeypatch.setattr(one.pushes, "save", fails)
    with pytest.raises(RedisUnavailable):
        one.push(news, message="m")
    monkeypatch.setattr(one.pushes, "save", push)
    assert one.push(news, message="m")
    assert not one.push(news, message="m")
    assert not other.push(news, message="m")


def test_while_redis_is_gone_a_push_is_kept_here_and_said_to_be_incomplete(valkey: RedisServer) -> None:
    process = Process(valkey.url)
    started(process)
    valkey.stop()
    with pytest.raises(RedisUnavailable):
        process.push(("u", membership("c1", True, time.time())), message="m")
    assert process.cohorts() == b'["c1"]'
    valkey.start()
    wait_until(lambda: process.server.unavailable_since is None)
    assert process.push(("u", membership("c1", True, time.time())), message="m"), "so it comes again, and is applied"
    assert process.pushes.read(["u"]) != [{}]


def test_what_is_none_of_ours_in_redis_is_as_good_as_nothing(valkey: RedisServer) -> None:
    process = Process(valkey.url)
    started(process)
    process.push(("u", membership("c1", True, time.time())))
    with redis.Redis.from_url(valkey.url) as client:
        (key,) = client.scan_iter(b"*:pushed:*")
        client.set(key, b"garbage")
    assert process.pushes.read(["u"]) == [{}]
    assert process.cohorts() is None
    process.push(("u", membership("c1", True, time.time())))
    assert process.cohorts() == b'["c1"]'


def test_a_whole_set_that_was_pushed_answers_in_the_other_process_and_a_part_of_one_costs_a_call(
    pair: tuple[Process, Process],
) -> None:
    one, other = pair
    settled(one, other)
    now = time.time()
    one.push(("u", properties({"a": b"1"}, now, whole=True)), ("v", properties({"a": b"1"}, now)))
    assert other.get(PROPERTIES).forwarded is None
    assert other.get(PROPERTIES, identity=Identity("v", None)).forwarded == "miss"
