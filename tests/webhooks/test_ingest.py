"""Storing pushes from Amplitude: in any order and portions, with repetitions and invalid bodies."""

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
from proxy.storage.id_digests import UNKEYED
from proxy.storage.memory import MemoryStore
from proxy.webhooks.ingest import UpdateIngester
from proxy.webhooks.parse import Batch, read_cohorts, read_users
from tests.support.fakes import FakeClock
from tests.webhooks.test_envelope import no_pause

LIFETIMES = FreshnessPolicy(fresh=900, negative=60, pushed=86_400)
START = 1_700_000_000.0
USERS = ("ann", "bob", "çem")
NAMES = ("plan", "city")


class Statement(NamedTuple):
    """A fact about a user that is true from the time `at` on."""

    at: int
    user: str
    cohort: str | None = None
    is_in: bool = False
    values: tuple[tuple[str, int], ...] = ()
    removed: tuple[str, ...] = ()
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
        lambda drawn: Statement(drawn[0], drawn[1], removed=(drawn[2],))
    ),
)
INVALID_BODIES = st.sampled_from([b"", b"{", b"[]", b"null", b'{"cohort_id": "c1"}', b'{"users": [1, {}]}', b"\xff"])
INVALID_USERS: list[Any] = [{}, 3, None, {"user_id": ""}, {"user_id": "a\nb"}, {"user_id": ["ann"]}]


def truth(statements: list[Statement], user: str) -> tuple[dict[str, bool], dict[str, int], int | None]:
    """Return the final cohorts, properties and time of the whole set, by brute force.

    Of two different statements with the same time, the greater wins: an entered cohort, the greater number, or a number
    over a removal.
    """
    own = [statement for statement in statements if statement.user == user]
    cohorts: dict[str, bool] = {}
    for cohort in {statement.cohort for statement in own if statement.cohort}:
        last = max(statement.at for statement in own if statement.cohort == cohort)
        cohorts[cohort] = any(
            statement.is_in for statement in own if statement.cohort == cohort and statement.at == last
        )
    whole_at = max((statement.at for statement in own if statement.whole), default=None)
    values: dict[str, int] = {}
    for name in NAMES:
        history = [(statement.at, value) for statement in own for key, value in statement.values if key == name]
        history += [(statement.at, -1) for statement in own if name in statement.removed]
        history = [(at, value) for at, value in history if whole_at is None or at >= whole_at]
        if history and max(history)[1] >= 0:
            values[name] = max(history)[1]
    return cohorts, values, whole_at


def body_of(statements: list[Statement], dice: random.Random) -> tuple[bool, bytes]:
    """Return whether the statements are about a cohort, and the body in which Amplitude would send them."""
    first = statements[0]
    if first.cohort:
        users: list[Any] = [{"user_id": statement.user} for statement in statements]
        users[dice.randrange(len(users)) : 0] = dice.sample(INVALID_USERS, dice.randrange(3))
        body: Any = {
            "cohort_id": first.cohort,
            "in_cohort": first.is_in,
            "computed_time": str(first.at),
            "message_id": f"{first}",
            "users": users,
        }
        return True, json.dumps(body).encode()
    events: list[Any] = []
    for statement in statements:
        change: Any = dict(statement.values) if statement.values else {"$unset": dict.fromkeys(statement.removed, "-")}
        if statement.values and not statement.whole and dice.random() < 0.5:
            change = {"$set": change}
        events.append(
            {
                "user_id": statement.user,
                "event_time": statement.at * 1000,
                "whole": statement.whole,
                "user_properties": change,
            }
        )
    return False, json.dumps(events if len(events) > 1 or dice.random() < 0.5 else events[0]).encode()


def bodies(statements: list[Statement], invalid: list[bytes], dice: random.Random) -> list[tuple[bool, bytes]]:
    """Return the statements in bodies: shuffled, some bodies twice, mixed with invalid ones."""
    groups: dict[Any, list[Statement]] = {}
    for statement in statements:
        key = (statement.at, statement.cohort, statement.is_in) if statement.cohort else dice.randrange(3)
        groups.setdefault(key, []).append(statement)
    result = [body_of(group, dice) for group in groups.values()]
    result += dice.choices(result, k=dice.randrange(4)) if result else []
    result += [(dice.random() < 0.5, body) for body in invalid]
    dice.shuffle(result)
    return result


def push_bodies(choose_ingester: Callable[[], UpdateIngester], sent: list[tuple[bool, bytes]]) -> None:
    """Push each body to the ingester that `choose_ingester` returns."""
    for is_cohort, body in sent:
        ingester = choose_ingester()
        try:
            batch = (read_cohorts if is_cohort else read_users)(body, START, no_pause)
        except BadRequest:
            continue
        ingester.push(batch, ingester.generation)


def matches_truth(result: ParsedUpdates, statements: list[Statement], user: str) -> bool:
    """Return whether the known data of the user equals the truth."""
    cohorts, values, whole_at = truth(statements, user)
    properties = {name: json.loads(value) for name, (_, value) in result.properties.items() if value}
    return ({c: is_in for c, (_, is_in) in result.cohorts.items()}, properties, result.whole_at) == (
        cohorts,
        values,
        whole_at,
    )


def new_store(max_bytes: int = 1_000_000) -> MemoryStore:
    return MemoryStore(max_bytes=max_bytes, policy=LIFETIMES, clock=FakeClock(START))


def known_in(store: MemoryStore, user: str) -> ParsedUpdates:
    return parse_updates(store.updates(user))


@pytest.mark.contract("3 webhook order")
@settings(max_examples=300, deadline=None)
@given(st.lists(STATEMENTS, max_size=12), st.lists(INVALID_BODIES, max_size=3), st.randoms(use_true_random=False))
def test_push__any_order_repeats_and_invalid_bodies__latest_statements_win(
    statements: list[Statement], invalid: list[bytes], dice: random.Random
) -> None:
    store = new_store()
    ingester = UpdateIngester(store, clock=FakeClock(START))
    push_bodies(lambda: ingester, bodies(statements, invalid, dice))
    for user in USERS:
        assert matches_truth(known_in(store, user), statements, user)


@settings(deadline=None)
@given(st.lists(STATEMENTS, max_size=8), st.randoms(use_true_random=False), MOMENTS)
def test_with_updates__fetched_record__later_updates_applied(
    statements: list[Statement], dice: random.Random, fetched: int
) -> None:
    store = new_store()
    ingester = UpdateIngester(store, clock=FakeClock(START))
    push_bodies(lambda: ingester, bodies(statements, [], dice))
    fetched_parts = {
        COHORTS: CachedPart(b'["c1","far"]', float(fetched)),
        PROPERTIES: CachedPart(encoding.write({"gp:plan": 5}), float(fetched)),
    }
    for user in USERS:
        shown = store.with_updates(
            Identity(user, "device"), Record(fetched_parts), ProfileQuery(("cohorts", "properties"))
        )
        cohorts, values, whole_at = truth([statement for statement in statements if statement.at > fetched], user)
        expected = {"c1", "far"} - {c for c, is_in in cohorts.items() if not is_in} | {
            c for c, is_in in cohorts.items() if is_in
        }
        assert set(encoding.read(shown.parts[COHORTS].value)) == expected
        result = encoding.read(shown.parts[PROPERTIES].value)
        result = {name.removeprefix("gp:"): value for name, value in result.items()}
        if whole_at is not None:
            assert result == values
        elif not any(statement.removed for statement in statements):
            assert result == {"plan": 5} | values


def new_batch(
    *users: str, message: str | None = None, at: float = START - 10, is_in: bool = True, now: float = START
) -> Batch:
    body: dict[str, Any] = {"cohort_id": "c1", "in_cohort": is_in, "computed_time": at, "message_id": message}
    return read_cohorts(json.dumps(body | {"users": [{"user_id": user} for user in users]}).encode(), now, no_pause)


def test_push__repeated_message__ignored_for_a_day() -> None:
    clock = FakeClock(START)
    ingester = UpdateIngester(new_store(), clock=clock)
    assert ingester.push(new_batch("u", message="m"), 0)
    assert not ingester.push(new_batch("u", message="m"), 0)
    assert ingester.push(new_batch("u", message="other"), 0)
    assert ingester.push(new_batch("u"), 0)
    assert ingester.push(new_batch("u"), 0)
    clock.advance(86_401)
    assert ingester.push(new_batch("u", message="m"), 0)


@pytest.mark.contract("3 webhook order")
def test_push__message_failed_halfway__applied_when_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = new_store()
    ingester = UpdateIngester(store, clock=FakeClock(START))
    push = store.push

    def push_half(updates: Any, generation: int, **options: Any) -> None:
        push(updates[: len(updates) // 2], generation, **options)
        raise MemoryError

    monkeypatch.setattr(store, "push", push_half)
    with pytest.raises(MemoryError):
        ingester.push(new_batch("u", "v", message="m"), 0)
    monkeypatch.setattr(store, "push", push)
    assert ingester.push(new_batch("u", "v", message="m"), 0)
    assert known_in(store, "u").cohorts == known_in(store, "v").cohorts == {"c1": (START - 10, True)}


def test_push__no_redis__warns_once(caplog: pytest.LogCaptureFixture) -> None:
    ingester = UpdateIngester(new_store(), clock=FakeClock(START))
    with caplog.at_level(logging.WARNING, "proxy"):
        ingester.push(new_batch("u"), 0)
        ingester.push(new_batch("v"), 0)
    assert [line.getMessage() for line in caplog.records] == ["webhooks_without_redis"]


@pytest.mark.contract("3 webhook forget")
def test_forget__user_with_updates__removes_them_and_ignores_older_pushes() -> None:
    store = new_store()
    ingester = UpdateIngester(store, clock=FakeClock(START))
    ingester.push(new_batch("u", "v"), ingester.generation)
    before = ingester.generation
    assert len(store.forget(UNKEYED.ids(Identity("u", None)))) == 1
    assert store.with_updates(Identity("u", "d"), EMPTY, ProfileQuery(("cohorts",), cohort_ids=("c1",))) == EMPTY
    ingester.push(new_batch("u"), before)
    assert not known_in(store, "u").cohorts
    assert known_in(store, "v").cohorts
    new = new_batch("u", at=START + 1, now=START + 2)
    for _ in range(2):
        again = new_batch("u", message="old")
        assert ingester.push(again, ingester.generation), "a message about a forgotten user is not remembered"
    assert (again.applied, again.skipped) == (0, {"forgotten": 1})
    assert not known_in(store, "u").cohorts, "Amplitude retries for four hours"
    ingester.push(new, ingester.generation)
    assert known_in(store, "u").cohorts == {"c1": (START + 1, True)}, "newer statements are stored"
    assert new.applied == 1


@pytest.mark.contract("3 webhook limits")
def test_push__too_old_or_too_many_updates__skipped_and_counted() -> None:
    store = new_store()
    ingester = UpdateIngester(store, clock=FakeClock(START))
    old = new_batch("u", "v", at=START - 90_000)
    ingester.push(old, 0)
    assert (old.applied, old.skipped, store.records) == (0, {"too_old": 2}, 0)
    for number in range(40):
        values = {f"name {number} {index}": index for index in range(100)}
        body = {"user_id": "u", "event_time": START - 40 + number, "user_properties": values}
        batch = read_users(json.dumps(body).encode(), START, no_pause)
        ingester.push(batch, 0)
        assert batch.skipped == ({"too_large": 1} if number >= 10 else {})
    assert len(known_in(store, "u").properties) == 1000


def test_catch_up__more_users_than_one_run_allows__all_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store()
    for number in range(1000):
        store.merge(Identity(f"user-{number}", None), Record({COHORTS: CachedPart(b"[]", START)}))
    announced = frozenset(checksum(f"user-{number}") for number in range(1000))
    looked_up: list[str] = []

    def read(users: list[str]) -> list[Any]:
        looked_up.extend(users)
        return [{} for _ in users]

    shared: Any = SimpleNamespace(
        announced=lambda _: (announced, 1.0), keeps_announcements_for=lambda _: True, read=read
    )
    monkeypatch.setattr("proxy.webhooks.ingest.CATCH_UP_USERS", 250)
    ingester = UpdateIngester(store, shared, clock=FakeClock(START))
    for _ in range(4):
        ingester.catch_up()
    assert len(set(looked_up)) == 1000


def test_forget__device__keeps_the_updates_of_its_user() -> None:
    store = new_store()
    user = Identity("u", None)
    store.merge(user, Record({COHORTS: CachedPart(b"[]", START - 20)}, None, "u", "phone"))
    store.push(new_batch("u").updates, store.generation)
    store.forget(UNKEYED.ids(Identity(None, "phone")))
    assert store.read(user) == EMPTY
    assert known_in(store, "u").cohorts


@pytest.mark.contract("3 webhook processes")
def test_ready_body__user_has_a_later_push__no_longer_served() -> None:
    store = new_store()
    query = ProfileQuery(("cohorts",))

    def ready(identity: Identity) -> bytes | None:
        hit = [store.fresh(identity, query) for _ in range(2)][-1]
        return hit.ready.body if hit and hit.ready else None

    for identity in (Identity("u", None), Identity("u", "d")):
        store.merge(identity, Record({COHORTS: CachedPart(b"[]", START - 20)}))
        store.keep_ready(identity, query, store.read(identity), b"{}", "etag")
        assert ready(identity) == b"{}"
    store.push(new_batch("u").updates, store.generation)
    for identity in (Identity("u", None), Identity("u", "d")):
        assert ready(identity) is None
        old = store.read(identity)
        store.keep_ready(identity, query, old, b"old", "etag")  # by a request that read the record before the push
        assert ready(identity) is None
        shown = store.fresh(identity, query)
        assert shown is not None
        assert shown.record == store.with_updates(identity, old, query)
        store.keep_ready(identity, query, shown.record, b"new", "etag")
        assert ready(identity) == b"new"
    store.push(new_batch("u").updates, store.generation)
    assert ready(Identity("u", "d")), "a repetition changes nothing"
    store.push(new_batch("u", at=START - 30, is_in=False).updates, store.generation)
    assert ready(Identity("u", "d")), "an older update changes nothing"


def test_memory_store__many_pushed_users__stays_within_its_limit_by_eviction() -> None:
    store = new_store(max_bytes=100_000)
    for number in range(500):
        store.push(new_batch(f"user-{number}").updates, store.generation)
        assert store.size <= 100_000
    assert known_in(store, "user-499").cohorts
    assert not known_in(store, "user-0").cohorts
    assert store.evicted > 0


def test_memory_store__pushed_users__size_matches_the_memory_used() -> None:
    import tracemalloc

    store = new_store(max_bytes=1 << 30)

    def fill(prefix: str) -> None:
        for number in range(4000):
            body = {"user_id": f"{prefix}-{number:06}", "user_properties": {"name": f"value {number:06}" * 10}}
            store.push(read_users(json.dumps(body).encode(), START, no_pause).updates, store.generation)

    fill("warm")
    tracemalloc.start()
    before = store.size
    fill("user")
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.85 < (store.size - before) / taken < 1.2


def test_push__ten_thousand_users__pauses_every_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[float] = []
    looks = itertools.count()
    # Each look at the clock advances it by a tenth of a millisecond.
    watch = SimpleNamespace(perf_counter=lambda: next(looks) / 10_000, sleep=turns.append)
    monkeypatch.setattr("proxy.storage.checkpoint.time", watch)
    store = new_store(max_bytes=100_000_000)
    ingester = UpdateIngester(store, clock=FakeClock(START))
    assert ingester.push(new_batch(*[f"user-{number}" for number in range(10_000)]), 0)
    assert store.records == 10_000
    assert len(turns) > 10_000 / 12
    assert all(seconds > 0 for seconds in turns), "gevent checks the sockets only in a sleep that is longer than 0"
