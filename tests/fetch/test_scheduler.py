"""The profile service, scheduler, rate limiter and store together, with a fake clock and a fake Amplitude."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar

import pytest

from proxy.amplitude.calls import Call, plan_calls
from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.client import Fetched
from proxy.amplitude.executor import CallExecutor
from proxy.amplitude.rate_limiter import RateLimiter, Reservation
from proxy.fetch.backlog import Backlog
from proxy.fetch.scheduler import FetchScheduler
from proxy.fetch.service import ProfileResult, ProfileService
from proxy.profile.errors import QuotaExhausted, UpstreamInvalid, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Part, computations, recommendation
from proxy.profile.record import CachedPart, Record
from proxy.storage.tiered import TieredStore
from tests.support.fakes import FakeClock, FakeSource

USER = Identity("u", None)
LIFETIMES = FreshnessPolicy(fresh=900, negative=60, stale_while_revalidate=100, stale_if_error=5000)


class World:
    """The services below the web, as in production except for the clock and the source."""

    created: ClassVar[list[World]] = []

    def __init__(
        self,
        clock: FakeClock,
        *,
        per_minute: int = 600,
        extra_parts: tuple[Part, ...] = (),
        max_waiting: int = 50,
        policy: FreshnessPolicy = LIFETIMES,
    ) -> None:
        self.clock = clock
        self.source = FakeSource(clock)
        self.rate_limiter = RateLimiter(per_minute, clock=clock)
        self.store = TieredStore(max_bytes=1_000_000, policy=policy, clock=clock)
        self.circuit_breaker = CircuitBreaker(clock)
        self.backlog = Backlog(max_users=100, max_age=600, clock=clock)
        self.executor = CallExecutor(self.source.fetch, self.rate_limiter, self.circuit_breaker, clock=clock)
        self.scheduler = FetchScheduler(
            self.executor,
            self.store,
            self.rate_limiter,
            self.circuit_breaker,
            self.backlog,
            policy,
            extra_parts=extra_parts,
            threads=20,
            clock=clock,
        )
        self.profiles = ProfileService(self.store, self.scheduler, policy, max_waiting=max_waiting, clock=clock)
        self.callers = ThreadPoolExecutor(50)
        self.created.append(self)

    def end(self) -> None:
        """End the threads of this test."""
        self.source.open.set()
        self.scheduler.drain(0)
        self.clock.advance(100)

    def get(self, *parts: Part, identity: Identity = USER, patience: float = 1.5, retry: bool = False) -> ProfileResult:
        return self.profiles.get(identity, parts, until=self.clock() + patience, wanted_later=retry)

    def ask(self, *parts: Part, identity: Identity = USER, patience: float = 1.5) -> Future[ProfileResult]:
        return self.callers.submit(self.get, *parts, identity=identity, patience=patience)

    def spend_the_burst(self) -> None:
        """Reserve every slot that is free now, so that the next call is queued."""
        while self.rate_limiter.reserve(self.clock()):
            pass

    def wait_until_waiting(self, part: Part, identity: Identity = USER) -> None:
        """Return when `part` is pending."""
        self.wait_until(lambda: part in self.scheduler.pending(identity))

    def wait_until_sent(self, part: Part, identity: Identity = USER) -> None:
        """Return when a call that fetches `part` is in flight."""
        self.wait_until(lambda: (pending := self.scheduler.pending(identity).get(part)) and pending.call is not None)

    def wait_until(self, holds: Callable[[], object]) -> None:
        """Return when `holds` does, by the work of other threads."""
        for _ in range(10_000):
            if holds():
                return
            threading.Event().wait(0.001)
        raise AssertionError("the condition never held")


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    while World.created:
        World.created.pop().end()


@pytest.fixture
def world(clock: FakeClock) -> World:
    return World(clock)


def test_a_miss_is_fetched_and_the_next_is_a_hit(world: World) -> None:
    first = world.get(COHORTS)
    assert (first.forwarded, first.opened, first.calls, first.error) == ("miss", True, 1, None)
    second = world.get(COHORTS)
    assert (second.forwarded, second.calls) == (None, 0)
    assert len(world.source.calls) == 1


def test_a_hundred_at_once_share_one_call(world: World) -> None:
    world.source.open.clear()
    start = threading.Barrier(50)

    def caller() -> ProfileResult:
        start.wait()
        return world.get(COHORTS)

    answers = [world.callers.submit(caller) for _ in range(50)]
    world.source.wait_for_call()
    world.source.open.set()
    assert all(answer.result(10).error is None for answer in answers)
    assert len(world.source.calls) == 1


def test_failure_is_shared_as_success_is(world: World) -> None:
    world.source.open.clear()
    world.source.fault = UpstreamUnavailable()
    answers = [world.ask(COHORTS) for _ in range(10)]
    world.source.wait_for_call()
    world.source.open.set()
    words = {answer.result(10).error.word for answer in answers}  # type: ignore[union-attr]
    assert words == {"upstream_unavailable"}
    assert len(world.source.calls) <= 2, "a caller that came after the failure may try again, the others may not"


def test_a_queued_flight_is_widened_so_two_questions_cost_one_call(clock: FakeClock) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    answers = [world.ask(COHORTS), world.ask(PROPERTIES), world.ask(recommendation("a"))]
    for part in (COHORTS, PROPERTIES, recommendation("a")):
        world.wait_until_waiting(part)
    assert not world.source.calls
    clock.advance(0.7)
    assert [answer.result(10).calls for answer in answers] == [1, 1, 1]
    ((_, call),) = world.source.calls
    assert call.parts == {COHORTS, PROPERTIES, recommendation("a")}


def test_what_is_asked_while_a_call_is_on_its_way_joins_or_goes_with_another(world: World) -> None:
    world.source.open.clear()
    first = world.ask(COHORTS)
    world.source.wait_for_call()
    joined, other = world.ask(COHORTS), world.ask(COHORTS, PROPERTIES)
    world.source.wait_for_call()
    world.source.open.set()
    assert [answer.result(10).calls for answer in (first, joined, other)] == [1, 1, 2]
    assert [call.parts for _, call in world.source.calls] == [{COHORTS}, {PROPERTIES}]
    assert not joined.result().opened


def test_what_rides_along_can_be_joined_and_is_kept(clock: FakeClock) -> None:
    world = World(clock, extra_parts=(PROPERTIES, COHORTS))
    world.source.open.clear()
    first = world.ask(recommendation("a"))
    world.source.wait_for_call()
    joined = world.ask(COHORTS)
    world.source.open.set()
    assert first.result(10).calls == joined.result(10).calls == 1
    assert world.get(PROPERTIES).forwarded is None
    assert len(world.source.calls) == 1


@pytest.mark.contract("1 recommendations")
def test_recommendations_of_two_types_are_two_calls_each_with_its_place_in_the_quota(world: World) -> None:
    answer = world.get(recommendation("a", "model"), recommendation("a", "random"))
    assert (answer.error, answer.calls) == (None, 2)
    assert len(world.source.calls) == 2


def test_nobody_waits_for_what_cannot_come_in_time(clock: FakeClock) -> None:
    world = World(clock, per_minute=1)
    assert world.get(COHORTS).error is None
    refused = world.get(COHORTS, identity=Identity("other", None))
    assert isinstance(refused.error, QuotaExhausted)
    assert refused.error.retry_after == 60
    assert refused.calls == 0
    assert len(world.source.calls) == 1


def test_the_parts_that_are_there_are_answered_when_the_others_cannot_be(clock: FakeClock) -> None:
    world = World(clock, per_minute=1)
    world.get(COHORTS)
    partial = world.get(PROPERTIES, COHORTS)
    assert isinstance(partial.error, QuotaExhausted)
    assert partial.forwarded == "partial"
    assert partial.record.parts.keys() == {COHORTS}


def test_a_late_answer_is_kept_and_its_caller_told_that_it_is_awaited(world: World) -> None:
    world.source.open.clear()
    assert world.get(COHORTS, patience=0.05).error.word == "upstream_timeout"  # type: ignore[union-attr]
    late_result = world.scheduler.pending(USER)[COHORTS].future
    world.source.open.set()
    late_result.result(10)
    assert world.get(COHORTS).forwarded is None


@pytest.mark.contract("1 unknown users")
def test_unknown_is_unknown_for_every_section_and_only_briefly(world: World) -> None:
    world.source.user_data = None
    world.get(COHORTS)
    second = world.get(PROPERTIES, recommendation("a"))
    assert (second.forwarded, second.record.unknown_at) == (None, world.clock())
    world.clock.advance(61)
    world.source.user_data = {"cohort_ids": ["c"]}
    assert world.get(COHORTS).record.unknown_at is None
    assert len(world.source.calls) == 2


def test_after_429_nobody_is_sent_until_the_stand_back_is_over(world: World) -> None:
    world.source.fault = QuotaExhausted(retry_after=60)
    assert world.get(COHORTS).error.word == "quota_exhausted"  # type: ignore[union-attr]
    world.source.fault = None
    refused = world.get(COHORTS)
    assert (refused.error.word, refused.calls) == ("quota_exhausted", 0)  # type: ignore[union-attr]
    world.clock.advance(61)
    assert world.get(COHORTS).error is None


def test_a_queued_flight_is_not_sent_into_a_stand_back(clock: FakeClock) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    answer = world.ask(COHORTS)
    world.wait_until_waiting(COHORTS)
    world.rate_limiter.pause(60)
    clock.advance(0.7)
    assert answer.result(10).error.word == "quota_exhausted"  # type: ignore[union-attr]
    assert not world.source.calls


@pytest.mark.contract("1 exposures")
@pytest.mark.parametrize(("retry", "calls"), [(False, 0), (True, 1)])
def test_a_recommendation_whose_message_has_gone_is_fetched_only_for_who_comes_back(
    clock: FakeClock, retry: bool, calls: int
) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    waiter = world.scheduler.join(USER, [recommendation("a"), COHORTS], until=clock() + 1.2, wanted_later=retry)
    clock.advance(5)  # the thread that flies was kept from running for longer than the caller stayed
    waiter.wait(10)
    assert isinstance(waiter.outcome(COHORTS), Record)
    fetched_parts = [part for _, call in world.source.calls for part in call.parts if part == recommendation("a")]
    assert len(fetched_parts) == calls


@pytest.mark.parametrize(("stays", "comes_back"), [(1.2, True), (9, False)])
def test_who_joins_and_comes_back_or_stays_longer_keeps_a_recommendation_whose_first_asker_has_gone(
    clock: FakeClock, stays: float, comes_back: bool
) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    part = recommendation("a")
    first = world.scheduler.join(USER, [part], until=clock() + 1.2, wanted_later=False)
    world.scheduler.join(USER, [part], until=clock() + stays, wanted_later=comes_back)
    clock.advance(5)
    first.wait(10)
    assert isinstance(first.outcome(part), Record)


def test_call__parts_were_cached_since_it_was_queued__nothing_is_sent_and_the_slot_is_given_back(
    clock: FakeClock,
) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    used = world.rate_limiter.used
    answer = world.ask(COHORTS)
    world.wait_until_waiting(COHORTS)
    world.store.memory.merge(USER, world.source.fetch(USER, _call(COHORTS)).record)
    world.source.calls.clear()
    clock.advance(0.7)
    assert answer.result(10).error is None
    assert not world.source.calls
    world.wait_until(lambda: not world.scheduler.stats().running)
    assert world.rate_limiter.used == used


def test_call__planning_fails_by_a_bug__caller_gets_an_error_and_the_slot_is_given_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.store, "lease", lambda *_: 1 / 0)
    assert isinstance(world.get(COHORTS).error, UpstreamInvalid)
    world.wait_until(lambda: not world.scheduler.stats().running)
    assert world.rate_limiter.used == 0


def test_a_fault_of_ours_leaves_nobody_waiting_and_spends_no_more_than_the_call(world: World) -> None:
    world.source.fault = ValueError("a bug")
    assert isinstance(world.get(COHORTS).error, UpstreamInvalid)
    world.source.fault = None
    assert world.get(COHORTS).error is None
    assert not world.scheduler.pending(USER)
    assert world.scheduler.stats().queued == 0


def test_when_every_place_to_wait_is_taken_the_next_caller_leaves_at_once_and_its_call_is_kept(
    clock: FakeClock,
) -> None:
    world = World(clock, max_waiting=1)
    world.source.open.clear()
    waiting = world.ask(COHORTS)
    world.source.wait_for_call()
    assert world.get(COHORTS).error.word == "upstream_timeout"  # type: ignore[union-attr]
    other = Identity("other", None)
    assert world.get(COHORTS, identity=other).error is not None
    world.source.wait_for_call()
    late_result = world.scheduler.pending(other)[COHORTS].future
    world.source.open.set()
    assert waiting.result(10).error is None
    late_result.result(10)
    assert world.get(COHORTS, identity=other).forwarded is None


def test_a_user_who_becomes_known_meanwhile_is_never_answered_with_a_hole(world: World) -> None:
    first, second = threading.Event(), threading.Event()

    def fetch(_: Identity, call: Call) -> Fetched:
        if call.parts == {COHORTS}:
            assert first.wait(10)
            return Fetched(Record(unknown_at=world.clock()), {})
        assert second.wait(10)
        world.clock.advance(1)
        return Fetched(Record({PROPERTIES: CachedPart(b"{}", world.clock())}), {})

    world.executor.fetch = fetch
    world.ask(COHORTS)
    world.wait_until_sent(COHORTS)
    both = world.ask(COHORTS, PROPERTIES, patience=10)
    world.wait_until_sent(PROPERTIES)
    first.set()
    world.wait_until(lambda: COHORTS not in world.scheduler.pending(USER))
    second.set()
    answer = both.result(10)
    assert not answer.record.has(COHORTS)
    assert isinstance(answer.error, UpstreamInvalid)


def test_a_part_that_came_by_another_call_is_there_for_who_waits_for_the_first(clock: FakeClock) -> None:
    world = World(clock, extra_parts=(COHORTS,))
    hanging, original_fetch = threading.Event(), world.source.fetch

    def fetch(identity: Identity, call: Call) -> Fetched:
        if call.parts == {COHORTS}:
            assert hanging.wait(10)
            raise UpstreamUnavailable
        return original_fetch(identity, call)

    world.executor.fetch = fetch
    waiting = world.ask(COHORTS, patience=10)
    world.wait_until_waiting(COHORTS)
    world.wait_until(lambda: not world.scheduler.stats().queued)
    assert world.get(PROPERTIES).error is None
    assert waiting.result(10).error is None
    hanging.set()


@pytest.mark.contract("1 recovery")
@pytest.mark.parametrize("seconds", [3, 30])
def test_after_slow_calls_the_next_may_still_go(world: World, seconds: int) -> None:
    def slow(identity: Identity, call: Call) -> Fetched:
        world.clock.advance(seconds)
        raise UpstreamTimeout

    original_fetch, world.executor.fetch = world.executor.fetch, slow
    for number in range(10):
        world.get(COHORTS, identity=Identity(str(number), None))
    world.executor.fetch = original_fetch
    world.clock.advance(1)  # until the outage ends
    assert world.get(COHORTS).error is None


@pytest.mark.contract("4 stale")
def test_a_stale_copy_is_served_at_once_and_refreshed_behind_by_one_call(world: World) -> None:
    world.get(COHORTS, recommendation("a"))
    world.source.wait_for_call()
    world.clock.advance(950)
    world.source.open.clear()
    stale = [world.get(COHORTS, recommendation("a")) for _ in range(3)]
    assert [(answer.forwarded, answer.calls, answer.stale) for answer in stale] == [(None, 0, True)] * 3
    world.source.wait_for_call()
    late_result = world.scheduler.pending(USER)[COHORTS].future
    world.source.open.set()
    late_result.result(10)
    assert not world.get(COHORTS).stale
    assert len(world.source.calls) == 2
    assert world.source.calls[1][1].parts == {COHORTS, recommendation("a")}, "only what was just asked for"


def test_a_copy_that_was_refreshed_meanwhile_is_not_refreshed_again(world: World) -> None:
    world.get(recommendation("a"))
    world.source.wait_for_call()
    world.clock.advance(950)
    world.get(recommendation("a"))
    world.source.wait_for_call()
    world.wait_until(lambda: not world.scheduler.pending(USER))
    world.scheduler.refresh(USER, [recommendation("a")])  # by who read the copy before it was refreshed
    world.wait_until(lambda: not world.scheduler.stats().queued and not world.scheduler.pending(USER))
    assert len(world.source.calls) == 2


def test_a_recommendation_does_not_board_a_flight_that_leaves_too_late_for_it(clock: FakeClock) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    waiting = world.ask(COHORTS, patience=3)
    world.wait_until_waiting(COHORTS)
    late = world.get(recommendation("a"), patience=0.6)
    assert isinstance(late.error, QuotaExhausted)
    assert world.get(PROPERTIES, patience=0).error is not None, "but properties do, for the next who asks"
    clock.advance(0.7)
    assert waiting.result(10).error is None
    ((_, call),) = world.source.calls
    assert call.parts == {COHORTS, PROPERTIES}


def test_what_landed_while_we_turned_from_store_to_flights_is_a_hit(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(clock, per_minute=1)
    world.get(COHORTS)
    read = world.store.memory.read
    looks = iter([Record()])
    monkeypatch.setattr(world.store.memory, "read", lambda identity: next(looks, None) or read(identity))
    answer = world.get(COHORTS)
    assert (answer.error, answer.calls, answer.forwarded) == (None, 0, None)


def test_a_refresh_takes_no_moment_that_somebody_waits_for(clock: FakeClock) -> None:
    world = World(clock, per_minute=100)
    world.get(COHORTS)
    clock.advance(950)
    while world.rate_limiter.reserve(clock(), burst=0.0):
        pass
    assert world.get(COHORTS).stale
    assert world.scheduler.stats().queued == 0
    assert world.rate_limiter.reserve(clock()) is not None, "the burst is left to those who wait"


@pytest.mark.contract("4 stale")
def test_a_spare_stands_in_only_when_amplitude_cannot_answer(world: World) -> None:
    world.get(COHORTS)
    world.clock.advance(1100)
    world.source.fault = UpstreamUnavailable()
    served = world.get(COHORTS)
    assert (served.error, served.forwarded, served.stale, served.calls) == (None, "stale", True, 1)
    assert served.fault is not None
    assert served.fault.word == "upstream_unavailable"
    world.source.fault = None
    fetched = world.get(COHORTS)
    assert (fetched.error, fetched.fault, fetched.forwarded, fetched.stale) == (None, None, "stale", False)


def test_a_spare_is_served_at_once_while_the_quota_is_spent(clock: FakeClock) -> None:
    world = World(clock, per_minute=1)
    world.get(COHORTS)
    clock.advance(1100)
    world.get(COHORTS, identity=Identity("other", None))
    served = world.get(COHORTS)
    assert (served.error, served.calls, served.stale) == (None, 0, True)
    assert served.fault is not None
    assert served.fault.word == "quota_exhausted"


@pytest.mark.contract("4 stale")
def test_a_copy_too_old_to_stand_in_is_gone(world: World) -> None:
    world.get(COHORTS)
    world.clock.advance(900 + 5000)
    world.source.fault = UpstreamUnavailable()
    assert world.get(COHORTS).error is not None


@pytest.mark.contract("1 request cache-control")
def test_a_caller_may_want_nothing_older(world: World) -> None:
    world.get(COHORTS)
    world.clock.advance(50)
    assert world.profiles.get(USER, [COHORTS], until=world.clock() + 1, max_age=50).forwarded is None
    fetched = world.profiles.get(USER, [COHORTS], until=world.clock() + 1, max_age=49)
    assert (fetched.forwarded, fetched.calls) == ("request", 1)
    world.clock.advance(1)
    world.source.fault = UpstreamUnavailable()
    older = world.profiles.get(USER, [COHORTS], until=world.clock() + 1, max_age=0)
    assert (older.error, older.stale, older.calls) == (None, False, 1)
    assert older.fault is not None


@pytest.mark.contract("1 request cache-control")
def test_who_wants_nothing_old_joins_a_call_in_flight(world: World) -> None:
    world.get(COHORTS)
    world.source.wait_for_call()
    world.clock.advance(950)
    world.source.open.clear()
    world.get(COHORTS)
    world.source.wait_for_call()
    answer = world.callers.submit(world.profiles.get, USER, [COHORTS], until=world.clock() + 1.5, max_age=0)
    world.source.open.set()
    assert answer.result(10).calls == 1
    assert len(world.source.calls) == 2


def test_properties_and_computations_are_two_calls_whose_answers_are_told_apart(clock: FakeClock) -> None:
    world = World(clock, extra_parts=(PROPERTIES, COHORTS))
    world.source.user_data = {"amp_props": {"x": "1"}, "cohort_ids": []}
    assert world.get(PROPERTIES, computations(["a"])).calls == 2
    assert world.get(COHORTS).forwarded is None
    assert world.get(computations(["a", "b"])).calls == 1
    assert world.get(computations()).calls == 1


def test_no_thread_runs_before_the_first_call(clock: FakeClock) -> None:
    before = threading.active_count()
    World(clock)
    assert threading.active_count() == before


def _call(*parts: Part) -> Call:
    return plan_calls(parts)[0]


def sent(world: World) -> list[tuple[str | None, frozenset[Part]]]:
    return [(identity.user_id, call.parts) for identity, call in world.source.calls]


@pytest.mark.contract("1 backlog")
def test_who_was_sent_away_is_fetched_at_moments_nobody_booked_the_newest_ask_first(clock: FakeClock) -> None:
    world = World(clock, per_minute=10)
    world.spend_the_burst()
    for name in ("a", "b", "c", "a"):
        assert isinstance(world.get(COHORTS, identity=Identity(name, None)).error, QuotaExhausted)
    assert not world.source.calls
    for name in ("a", "c", "b"):
        clock.advance(6)
        world.source.wait_for_call()
        world.wait_until(lambda: not world.scheduler.stats().running)
        assert world.get(COHORTS, identity=Identity(name, None)).forwarded is None
    assert [name for name, _ in sent(world)] == ["a", "c", "b"], "each once"


@pytest.mark.contract("1 backlog")
def test_the_backlog_never_takes_a_moment_that_somebody_waits_for(clock: FakeClock) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    for number in range(3):
        world.get(COHORTS, identity=Identity(f"late{number}", None), patience=0)
    live = []
    for number in range(4):
        identity = Identity(f"live{number}", None)
        live.append(world.ask(COHORTS, identity=identity, patience=9))
        world.wait_until(lambda: world.scheduler.stats().reserved == len(live))
    for answer in live:
        clock.advance(0.66)
        world.source.wait_for_call()
        assert answer.result(10).error is None
    assert [name for name, _ in sent(world)] == ["live0", "live1", "live2", "live3"]


@pytest.mark.contract("1 backlog")
@pytest.mark.parametrize(("retry", "parts"), [(False, {COHORTS}), (True, {COHORTS, recommendation("a")})])
def test_a_recommendation_waits_on_only_for_who_comes_back(clock: FakeClock, retry: bool, parts: set[Part]) -> None:
    world = World(clock, per_minute=10)
    world.spend_the_burst()
    world.get(COHORTS, recommendation("a"), retry=retry)
    clock.advance(6)
    world.source.wait_for_call()
    assert sent(world) == [("u", frozenset(parts))]


@pytest.mark.contract("1 backlog")
def test_users_of_whom_there_is_nothing_are_fetched_before_copies_are_refreshed(clock: FakeClock) -> None:
    world = World(clock, per_minute=10)
    old = Identity("old", None)
    world.get(COHORTS, identity=old)
    world.source.wait_for_call()
    clock.advance(1100)  # too old to be served but as a spare
    world.spend_the_burst()
    world.get(COHORTS)
    served = world.get(COHORTS, identity=old)
    assert (served.error, served.stale, served.calls) == (None, True, 0)
    for _ in range(2):
        clock.advance(6)
        world.source.wait_for_call()
    assert [name for name, _ in sent(world)] == ["old", "u", "old"]


def test_a_call_that_met_a_429_is_made_again_after_the_stand_back(world: World) -> None:
    world.source.fault = QuotaExhausted(retry_after=60)
    world.get(COHORTS)
    world.source.wait_for_call()
    world.source.fault = None
    world.clock.advance(59)
    assert len(world.source.calls) == 1
    world.clock.advance(1.1)
    world.source.wait_for_call()
    world.wait_until(lambda: not world.scheduler.stats().running)
    assert world.get(COHORTS).forwarded is None


@pytest.mark.contract("1 outages")
def test_in_an_outage_callers_are_told_at_once_and_one_probe_at_a_time_is_sent(world: World) -> None:
    world.source.fault = UpstreamUnavailable()
    for number in range(20):
        answer = world.get(COHORTS, identity=Identity(f"u{number}", None))
        assert answer.error is not None
        assert answer.error.word == "upstream_unavailable"
    assert len(world.source.calls) == 5
    for calls in (6, 7, 8):
        world.clock.advance(4)
        world.wait_until(lambda: len(world.source.calls) == calls and not world.scheduler.stats().running)  # noqa: B023
    world.source.fault = None
    world.clock.advance(4)
    world.wait_until(lambda: world.circuit_breaker.open_fault() is None)
    assert world.get(COHORTS, identity=Identity("new", None)).error is None


@pytest.mark.contract("1 outages")
def test_wrong_credentials_are_tried_by_a_probe_and_told_once_a_minute(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.source.fault = UpstreamRejected()
    for _ in range(30):
        assert world.get(COHORTS).error.word == "upstream_rejected"  # type: ignore[union-attr]
        world.clock.advance(0.9)
    assert len(world.source.calls) < 15
    assert len([line for line in caplog.records if line.levelname == "ERROR"]) == 1


def test_draining_waits_for_what_callers_wait_for_and_leaves_the_backlog(clock: FakeClock) -> None:
    world = World(clock, per_minute=10)
    world.source.open.clear()
    waiting = world.ask(COHORTS)
    world.source.wait_for_call()
    world.spend_the_burst()
    world.get(COHORTS, identity=Identity("late", None))
    world.scheduler.drain(0)
    assert not waiting.done()
    drained = world.callers.submit(world.scheduler.drain, 10)
    world.source.open.set()
    drained.result(10)
    assert world.store.memory.read(USER).has(COHORTS)
    clock.advance(60)
    assert len(world.source.calls) == 1


def test_a_refresh_that_met_a_429_stays_a_refresh_and_a_recommendation_of_it_is_asked_no_more(world: World) -> None:
    world.get(recommendation("a"))
    world.source.wait_for_call()
    world.clock.advance(950)
    world.source.fault = QuotaExhausted(retry_after=60)
    assert world.get(recommendation("a")).stale
    world.source.wait_for_call()
    world.wait_until(lambda: not world.scheduler.stats().running)
    world.source.fault = None
    world.clock.advance(61)
    world.wait_until(lambda: not len(world.backlog))
    assert len(world.source.calls) == 2


def test_what_fails_again_and_again_waits_no_longer_than_it_may(clock: FakeClock) -> None:
    world = World(clock)
    world.source.fault = QuotaExhausted(retry_after=60)
    world.get(recommendation("a"), retry=True)
    for _ in range(20):
        clock.advance(61)
        world.wait_until(lambda: not world.scheduler.stats().running)
    assert len(world.source.calls) <= 11
    world.wait_until(lambda: not len(world.backlog))


def test_who_is_answered_already_costs_the_backlog_no_moment(clock: FakeClock) -> None:
    world = World(clock, per_minute=10)
    world.spend_the_burst()
    for number in range(5):
        identity = Identity(f"u{number}", None)
        world.get(COHORTS, identity=identity)
        if number:
            world.store.memory.merge(identity, Record({COHORTS: CachedPart(b"[]", clock())}))
    clock.advance(6)
    world.source.wait_for_call()
    assert [name for name, _ in sent(world)] == ["u0"]


def test_reserve__fails_by_a_bug__caller_gets_an_error_and_the_next_call_succeeds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def reserve(latest: float, *, burst: float = 1.0) -> None:
        attempts.append(burst)
        raise ValueError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(world.rate_limiter, "reserve", reserve)
        assert isinstance(world.get(COHORTS).error, UpstreamInvalid)
        world.wait_until(lambda: attempts == [1.0, 0.0] and len(world.backlog) and not world.scheduler.stats().queued)
    assert world.get(COHORTS).error is None


def test_who_has_no_copy_is_not_refused_with_a_refresh_that_was_being_booked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = world.rate_limiter.reserve
    widened: list[Future[ProfileResult]] = []

    def slow(latest: float, *, burst: float = 1.0) -> Reservation | None:
        if not widened:
            widened.append(world.ask(PROPERTIES))
            world.wait_until_waiting(PROPERTIES)
            return None
        return book(latest, burst=burst)

    monkeypatch.setattr(world.rate_limiter, "reserve", slow)
    world.scheduler.refresh(USER, [COHORTS])
    assert widened[0].result(10).error is None


def test_call__no_thread_can_be_started__refused_and_never_sent_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", _cannot_start)
        refused = world.get(COHORTS)
    assert isinstance(refused.error, QuotaExhausted)
    assert world.rate_limiter.used == 0
    assert world.get(COHORTS, identity=Identity("other", None)).error is None
    world.wait_until(lambda: not world.scheduler.stats().running)
    assert sent(world)[0] == ("other", frozenset({COHORTS}))


def _cannot_start(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
