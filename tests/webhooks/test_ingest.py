"""What Amplitude pushes, taken: in whatever order, portions and repetitions, with garbage between."""

from __future__ import annotations

import itertools
import json
import logging
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.api.errors import BadRequest
from proxy.profile import encoding
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity
from proxy.profile.query import ProfileQuery
from proxy.profile.record import EMPTY, CachedPart, Record
from proxy.profile.updates import ParsedUpdates, checksum, parse_updates
from proxy.storage.memory import MemoryStore
from proxy.storage.tombstones import names
from proxy.webhooks.ingest import UpdateIngester
from proxy.webhooks.parse import Batch, read_cohorts, read_users
from tests.support.fakes import FakeClock
from tests.webhooks.test_envelope import nothing

LIFETIMES = FreshnessPolicy(fresh=900, negative=60, pushed=86_400)
START = 1_700_000_000.0
USERS = ("ann", "bob", "çem")
NAMES = ("plan", "city")


class Statement(NamedTuple):
    """One thing that is true of a user from one moment on."""

    at: int
    user: str
    cohort: str | None = None
    is_in: bool = False
    values: tuple[tuple[str, int], ...] = ()
    gone: tuple[str, ...] = ()
    whole: bool = False


MOMENTS = st.integers(int(START) - 20, int(START))
STATEMENTS = st.one_of(
    st.tuples(MOMENTS, st.sampled_from(USERS), st.sampled_from(["c1", "c2"]), st.booleans()).map(
        lambda drawn: Statement(*drawn)
    ),
    st.tuples(
        MOMENTS,
        st.sampled_from(USERS),
        st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9), min_size=1),
        st.booleans(),
    ).map(lambda drawn: Statement(drawn[0], drawn[1], values=tuple(drawn[2].items()), whole=drawn[3])),
    st.tuples(MOMENTS, st.sampled_from(USERS), st.sampled_from(NAMES)).map(
        lambda drawn: Statement(drawn[0], drawn[1], gone=(drawn[2],))
    ),
)
GARBAGE = st.sampled_from([b"", b"{", b"[]", b"null", b'{"cohort_id": "c1"}', b'{"users": [1, {}]}', b"\xff"])
STRAYS: list[Any] = [{}, 3, None, {"user_id": ""}, {"user_id": "a\nb"}, {"user_id": ["ann"]}]


def truth(statements: list[Statement], user: str) -> tuple[dict[str, bool], dict[str, int], int | None]:
    """Return, by brute force, the cohorts, the properties and the moment of the whole set that hold at the end.

    Of two statements of one moment that differ the greater holds: a cohort entered, the greater number, one at all.
    """
    mine = [one for one in statements if one.user == user]
    cohorts: dict[str, bool] = {}
    for cohort in {one.cohort for one in mine if one.cohort}:
        last = max(one.at for one in mine if one.cohort == cohort)
        cohorts[cohort] = any(one.is_in for one in mine if one.cohort == cohort and one.at == last)
    whole_at = max((one.at for one in mine if one.whole), default=None)
    values: dict[str, int] = {}
    for name in NAMES:
        said = [(one.at, value) for one in mine for said, value in one.values if said == name]
        said += [(one.at, -1) for one in mine if name in one.gone]
        said = [one for one in said if whole_at is None or one[0] >= whole_at]
        if said and max(said)[1] >= 0:
            values[name] = max(said)[1]
    return cohorts, values, whole_at


def body_of(some: list[Statement], dice: random.Random) -> tuple[bool, bytes]:
    """Return what Amplitude would send of statements that can go in one body, and whether of a cohort."""
    first = some[0]
    if first.cohort:
        users: list[Any] = [{"user_id": one.user} for one in some]
        users[dice.randrange(len(users)) : 0] = dice.sample(STRAYS, dice.randrange(3))
        body: Any = {
            "cohort_id": first.cohort,
            "in_cohort": first.is_in,
            "computed_time": str(first.at),
            "message_id": f"{first}",
            "users": users,
        }
        return True, json.dumps(body).encode()
    events: list[Any] = []
    for one in some:
        said: Any = dict(one.values) if one.values else {"$unset": dict.fromkeys(one.gone, "-")}
        if one.values and not one.whole and dice.random() < 0.5:
            said = {"$set": said}
        events.append({"user_id": one.user, "event_time": one.at * 1000, "whole": one.whole, "user_properties": said})
    return False, json.dumps(events if len(events) > 1 or dice.random() < 0.5 else events[0]).encode()


def bodies(statements: list[Statement], garbage: list[bytes], dice: random.Random) -> list[tuple[bool, bytes]]:
    """Return the statements in bodies, some of them twice, garbage between, in no order."""
    groups: dict[Any, list[Statement]] = {}
    for one in statements:
        key = (one.at, one.cohort, one.is_in) if one.cohort else dice.randrange(3)
        groups.setdefault(key, []).append(one)
    found = [body_of(some, dice) for some in groups.values()]
    found += dice.choices(found, k=dice.randrange(4)) if found else []
    found += [(dice.random() < 0.5, one) for one in garbage]
    dice.shuffle(found)
    return found


def deliver(to: Callable[[], UpdateIngester], sent: list[tuple[bool, bytes]]) -> None:
    """Bring each body to whichever process `to` returns."""
    for is_cohort, body in sent:
        ingester = to()
        try:
            batch = (read_cohorts if is_cohort else read_users)(body, START, nothing)
        except BadRequest:
            continue
        ingester.push(batch, ingester.generation)


def agrees(found: ParsedUpdates, statements: list[Statement], user: str) -> bool:
    """Say whether what is known of the user is the truth."""
    cohorts, values, whole_at = truth(statements, user)
    there = {name: json.loads(value) for name, (_, value) in found.properties.items() if value}
    return ({c: is_in for c, (_, is_in) in found.cohorts.items()}, there, found.whole_at) == (cohorts, values, whole_at)


def a_store(max_bytes: int = 1_000_000) -> MemoryStore:
    return MemoryStore(max_bytes=max_bytes, policy=LIFETIMES, clock=FakeClock(START))


def known_in(store: MemoryStore, user: str) -> ParsedUpdates:
    return parse_updates(store.updates(user))


@pytest.mark.contract("3 webhook order")
@settings(max_examples=300, deadline=None)
@given(st.lists(STATEMENTS, max_size=12), st.lists(GARBAGE, max_size=3), st.randoms(use_true_random=False))
def test_any_order_portions_repeats_and_garbage_end_in_the_truth(
    statements: list[Statement], garbage: list[bytes], dice: random.Random
) -> None:
    store = a_store()
    ingester = UpdateIngester(store, clock=FakeClock(START))
    deliver(lambda: ingester, bodies(statements, garbage, dice))
    for user in USERS:
        assert agrees(known_in(store, user), statements, user)


@settings(deadline=None)
@given(st.lists(STATEMENTS, max_size=8), st.randoms(use_true_random=False), MOMENTS)
def test_an_answer_over_a_copy_that_was_fetched_says_what_was_pushed_later(
    statements: list[Statement], dice: random.Random, fetched: int
) -> None:
    store = a_store()
    ingester = UpdateIngester(store, clock=FakeClock(START))
    deliver(lambda: ingester, bodies(statements, [], dice))
    kept = {
        COHORTS: CachedPart(b'["c1","far"]', float(fetched)),
        PROPERTIES: CachedPart(encoding.write({"gp:plan": 5}), float(fetched)),
    }
    for user in USERS:
        shown = store.with_updates(Identity(user, "device"), Record(kept), ProfileQuery(("cohorts", "properties")))
        cohorts, values, whole_at = truth([one for one in statements if one.at > fetched], user)
        expected = {"c1", "far"} - {c for c, is_in in cohorts.items() if not is_in} | {
            c for c, is_in in cohorts.items() if is_in
        }
        assert set(encoding.read(shown.parts[COHORTS].value)) == expected
        found = encoding.read(shown.parts[PROPERTIES].value)
        found = {name.removeprefix("gp:"): value for name, value in found.items()}
        if whole_at is not None:
            assert found == values
        elif not any(one.gone for one in statements):
            assert found == {"plan": 5} | values


def a_batch(
    *users: str, message: str | None = None, at: float = START - 10, is_in: bool = True, now: float = START
) -> Batch:
    body: dict[str, Any] = {"cohort_id": "c1", "in_cohort": is_in, "computed_time": at, "message_id": message}
    return read_cohorts(json.dumps(body | {"users": [{"user_id": one} for one in users]}).encode(), now, nothing)


def test_a_repeated_message_is_known_for_a_day() -> None:
    clock = FakeClock(START)
    ingester = UpdateIngester(a_store(), clock=clock)
    assert ingester.push(a_batch("u", message="m"), 0)
    assert not ingester.push(a_batch("u", message="m"), 0)
    assert ingester.push(a_batch("u", message="other"), 0)
    assert ingester.push(a_batch("u"), 0)
    assert ingester.push(a_batch("u"), 0)
    clock.advance(86_401)
    assert ingester.push(a_batch("u", message="m"), 0)


@pytest.mark.contract("3 webhook order")
def test_a_message_that_failed_half_way_is_not_known_and_its_repetition_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = a_store()
    ingester = UpdateIngester(store, clock=FakeClock(START))
    push = store.push

    def half(news: Any, generation: int, **options: Any) -> None:
        push(news[: len(news) // 2], generation, **options)
        raise MemoryError

    monkeypatch.setattr(store, "push", half)
    with pytest.raises(MemoryError):
        ingester.push(a_batch("u", "v", message="m"), 0)
    monkeypatch.setattr(store, "push", push)
    assert ingester.push(a_batch("u", "v", message="m"), 0)
    assert known_in(store, "u").cohorts == known_in(store, "v").cohorts == {"c1": (START - 10, True)}


def test_without_redis_it_is_said_once_that_one_process_alone_has_it(caplog: pytest.LogCaptureFixture) -> None:
    ingester = UpdateIngester(a_store(), clock=FakeClock(START))
    with caplog.at_level(logging.WARNING, "proxy"):
        ingester.push(a_batch("u"), 0)
        ingester.push(a_batch("v"), 0)
    assert [line.getMessage() for line in caplog.records] == ["webhooks_without_redis"]


@pytest.mark.contract("3 webhook forget")
def test_who_is_forgotten_loses_what_was_pushed_and_what_is_being_pushed() -> None:
    store = a_store()
    ingester = UpdateIngester(store, clock=FakeClock(START))
    ingester.push(a_batch("u", "v"), ingester.generation)
    before = ingester.generation
    assert len(store.forget(names(Identity("u", None)))) == 1
    assert store.with_updates(Identity("u", "d"), EMPTY, ProfileQuery(("cohorts",), cohort_ids=("c1",))) == EMPTY
    ingester.push(a_batch("u"), before)
    assert not known_in(store, "u").cohorts
    assert known_in(store, "v").cohorts
    new = a_batch("u", at=START + 1, now=START + 2)
    for _ in range(2):
        again = a_batch("u", message="old")
        assert ingester.push(again, ingester.generation), "of whom nothing was kept, that message is not known"
    assert (again.applied, again.skipped) == (0, {"forgotten": 1})
    assert not known_in(store, "u").cohorts, "Amplitude tries for four hours"
    ingester.push(new, ingester.generation)
    assert known_in(store, "u").cohorts == {"c1": (START + 1, True)}, "what is said after that is kept"
    assert new.applied == 1


@pytest.mark.contract("3 webhook limits")
def test_what_is_too_old_or_would_be_too_much_of_one_user_is_counted_and_not_kept() -> None:
    store = a_store()
    ingester = UpdateIngester(store, clock=FakeClock(START))
    old = a_batch("u", "v", at=START - 90_000)
    ingester.push(old, 0)
    assert (old.applied, old.skipped, store.records) == (0, {"too_old": 2}, 0)
    for number in range(40):
        values = {f"name {number} {one}": one for one in range(100)}
        body = {"user_id": "u", "event_time": START - 40 + number, "user_properties": values}
        batch = read_users(json.dumps(body).encode(), START, nothing)
        ingester.push(batch, 0)
        assert batch.skipped == ({"too_large": 1} if number >= 10 else {})
    assert len(known_in(store, "u").properties) == 1000


def test_of_those_who_wait_to_be_looked_up_none_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store()
    for number in range(1000):
        store.merge(Identity(f"user-{number}", None), Record({COHORTS: CachedPart(b"[]", START)}))
    told = frozenset(checksum(f"user-{number}") for number in range(1000))
    looked: list[str] = []

    def read(users: list[str]) -> list[Any]:
        looked.extend(users)
        return [{} for _ in users]

    shared: Any = SimpleNamespace(announced=lambda _: (told, 1.0), announces_for=lambda _: True, read=read)
    monkeypatch.setattr("proxy.webhooks.ingest.CATCH_UP_USERS", 250)
    ingester = UpdateIngester(store, shared, clock=FakeClock(START))
    for _ in range(4):
        ingester.catch_up()
    assert len(set(looked)) == 1000


def test_a_device_that_is_forgotten_takes_nothing_with_it_that_was_pushed_about_its_user() -> None:
    store = a_store()
    user = Identity("u", None)
    store.merge(user, Record({COHORTS: CachedPart(b"[]", START - 20)}, None, "u", "phone"))
    store.push(a_batch("u").updates, store.generation)
    store.forget(names(Identity(None, "phone")))
    assert store.read(user) == EMPTY
    assert known_in(store, "u").cohorts


@pytest.mark.contract("3 webhook processes")
def test_an_answer_that_was_kept_ready_is_not_served_over_a_later_push() -> None:
    store = a_store()
    query = ProfileQuery(("cohorts",))

    def ready(identity: Identity) -> bytes | None:
        found = [store.fresh(identity, query) for _ in range(2)][-1]
        return found.ready.body if found and found.ready else None

    for identity in (Identity("u", None), Identity("u", "d")):
        store.merge(identity, Record({COHORTS: CachedPart(b"[]", START - 20)}))
        store.keep_ready(identity, query, store.read(identity), b"{}", "etag")
        assert ready(identity) == b"{}"
    store.push(a_batch("u").updates, store.generation)
    for identity in (Identity("u", None), Identity("u", "d")):
        assert ready(identity) is None
        old = store.read(identity)
        store.keep_ready(identity, query, old, b"old", "etag")  # who was slow to write it down
        assert ready(identity) is None
        shown = store.fresh(identity, query)
        assert shown is not None
        assert shown.record == store.with_updates(identity, old, query)
        store.keep_ready(identity, query, shown.record, b"new", "etag")
        assert ready(identity) == b"new"
    store.push(a_batch("u").updates, store.generation)
    assert ready(Identity("u", "d")), "a repetition changes nothing"
    store.push(a_batch("u", at=START - 30, is_in=False).updates, store.generation)
    assert ready(Identity("u", "d")), "nor does what was said before"


def test_what_was_pushed_is_counted_within_the_bound_and_leaves_with_the_longest_unused() -> None:
    store = a_store(max_bytes=100_000)
    for number in range(500):
        store.push(a_batch(f"user-{number}").updates, store.generation)
        assert store.size <= 100_000
    assert known_in(store, "user-499").cohorts
    assert not known_in(store, "user-0").cohorts
    assert store.evicted > 0


def test_the_bytes_counted_for_what_was_pushed_are_the_bytes_taken() -> None:
    import tracemalloc

    store = a_store(max_bytes=1 << 30)

    def fill(prefix: str) -> None:
        for number in range(4000):
            body = {"user_id": f"{prefix}-{number:06}", "user_properties": {"name": f"value {number:06}" * 10}}
            store.push(read_users(json.dumps(body).encode(), START, nothing).updates, store.generation)

    fill("warm")
    tracemalloc.start()
    before = store.size
    fill("user")
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.85 < (store.size - before) / taken < 1.2


def test_others_have_their_turn_every_millisecond_while_ten_thousand_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[float] = []
    looks = itertools.count()
    # Each user takes a tenth of a millisecond, as it were.
    watch = SimpleNamespace(perf_counter=lambda: next(looks) / 10_000, sleep=turns.append)
    monkeypatch.setattr("proxy.storage.checkpoint.time", watch)
    store = a_store(max_bytes=100_000_000)
    ingester = UpdateIngester(store, clock=FakeClock(START))
    assert ingester.push(a_batch(*[f"user-{number}" for number in range(10_000)]), 0)
    assert store.records == 10_000
    assert len(turns) > 10_000 / 12
    assert all(seconds > 0 for seconds in turns), "for nothing, gevent would not look at who has sent something"
