"""Forgetting a user in the memory store, in calls in flight and in the backlog."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fetch.backlog import PartRequest
from proxy.fetch.forget import ForgetResult, ForgetService
from proxy.profile.errors import QuotaExhausted
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity
from proxy.profile.record import EMPTY, CachedPart, Record
from proxy.storage.id_digests import UNKEYED
from proxy.storage.tiered import TieredStore
from tests.fetch.test_scheduler import USER, World
from tests.support.fakes import FakeClock

IDS = Identity("u", None)


@pytest.fixture
def world(clock: FakeClock) -> Iterator[World]:
    world = World(clock)
    yield world
    world.end()


def forget(world: World, ids: Identity = IDS) -> ForgetResult:
    return ForgetService(world.store, world.backlog).forget(ids)


def test_digests__known_ids__same_as_in_earlier_versions() -> None:
    # Processes of two versions share digests in Redis.
    assert UNKEYED.pair(Identity('ü"x\\', None)) == b"fc569fee2fb3f82324d42813352c61f0"
    assert UNKEYED.pair(Identity("a", "b\n")) == b"0211f139de5415d1f980005b596d3404"
    assert UNKEYED.ids(Identity("q", None)) == {UNKEYED.user_id("q")}
    assert UNKEYED.ids(Identity("q", "z")) == {
        b"be7247acc079a372fac9595f906e426e",
        b"a66f1835049bfe8a7a45c8f3835f68d5",
    }


def test_forget__several_pairs__only_pairs_with_the_id_are_removed(world: World) -> None:
    world.source.user_data = {"cohort_ids": []}
    pairs = [Identity("u", None), Identity("u", "d"), Identity("v", None), Identity(None, "u")]
    for pair in pairs:
        world.get(COHORTS, identity=pair)
    assert forget(world) == ForgetResult(records=2, waiting=0)
    assert [bool(world.store.memory.read(pair).parts) for pair in pairs] == [False, False, True, True]
    assert forget(world) == ForgetResult(records=0, waiting=0)


def test_forget__record_fetched_by_device__removed_by_its_returned_user_id(world: World) -> None:
    world.get(COHORTS, identity=Identity(None, "d"))
    assert forget(world).records == 1
    assert world.store.memory.read(Identity(None, "d")) == EMPTY


@pytest.mark.contract("3 forget")
def test_forget__call_in_flight__request_is_answered_but_not_cached(world: World) -> None:
    world.source.open.clear()
    request = world.ask(COHORTS)
    world.wait_until_sent(COHORTS)
    forget(world)
    world.source.open.set()
    assert request.result(10).record.has(COHORTS)
    assert world.store.memory.read(USER) == EMPTY
    assert world.get(COHORTS).forwarded == "miss", "a new request needs a new call"
    assert world.get(COHORTS).forwarded is None, "the new result is cached"


def test_forget__call_is_queued__request_is_answered_but_not_cached(world: World) -> None:
    world.spend_the_burst()
    request = world.ask(COHORTS)
    world.wait_until_waiting(COHORTS)
    forget(world)
    world.clock.advance(1)
    assert request.result(10).record.has(COHORTS)
    assert world.store.memory.read(USER) == EMPTY


def test_forget__user_in_backlog__removed_and_not_added_again_by_a_failed_call(world: World) -> None:
    requested_at = world.clock()
    world.backlog.add(USER, {PROPERTIES: PartRequest(requested_at, False), COHORTS: PartRequest(requested_at, True)})
    world.backlog.add(Identity("v", None), {COHORTS: PartRequest(requested_at, False)})
    assert forget(world) == ForgetResult(records=0, waiting=1)
    assert len(world.backlog) == 1
    world.source.open.clear()
    request = world.ask(COHORTS)
    world.wait_until_sent(COHORTS)
    forget(world)
    world.source.fault = QuotaExhausted(retry_after=60)
    world.source.open.set()
    assert request.result(10).error
    world.wait_until(lambda: not world.scheduler.stats().running)
    assert world.backlog.pop() == (Identity("v", None), {COHORTS: PartRequest(requested_at, refresh=False)})
    assert world.backlog.pop() is None


def test_forget__backlog_is_reserving_a_time_for_the_user__user_does_not_return(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve_was_called = threading.Event()

    def reserve(latest: float, *, burst: float = 1.0) -> None:
        if burst == 0:  # the backlog, which has removed the user
            forget(world)
            reserve_was_called.set()

    monkeypatch.setattr(world.rate_limiter, "reserve", reserve)
    world.get(COHORTS)
    assert reserve_was_called.wait(10)
    world.wait_until(lambda: not world.scheduler.pending(USER))
    assert not len(world.backlog)


@pytest.mark.contract("3 forget")
@given(st.lists(st.sampled_from(["request", "complete", "forget", "forget another"]), max_size=30))
def test_forget__any_order_of_requests_and_results__earlier_requests_are_not_cached(steps: list[str]) -> None:
    clock = FakeClock()
    store = TieredStore(max_bytes=100_000, policy=FreshnessPolicy(fresh=900, negative=60), clock=clock)
    running: list[tuple[int, bool]] = []  # the generation, and whether the user was forgotten since
    cached = False
    for step in steps:
        clock.advance(1)
        if step == "request":
            running.append((store.memory.generation, False))
        elif step == "complete" and running:
            generation, forgotten = running.pop(0)
            store.save(USER, Record({COHORTS: CachedPart(b"[]", clock())}), [COHORTS], generation=generation)
            cached = cached or not forgotten
        elif step == "forget":
            store.memory.forget(UNKEYED.ids(IDS))
            running = [(generation, True) for generation, _ in running]
            cached = False
        elif step == "forget another":
            store.memory.forget(UNKEYED.ids(Identity("v", "w")))
        assert bool(store.memory.read(USER).parts) is cached
