"""The profile service, scheduler, rate limiter and store together, with a fake clock and a fake Amplitude."""

from __future__ import annotations

import _thread
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
    """All services below the web layer, as in production except for the clock and the source."""

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
        return self.profiles.get(identity, parts, until=lambda: self.clock() + patience, wanted_later=retry)

    def ask(self, *parts: Part, identity: Identity = USER, patience: float = 1.5) -> Future[ProfileResult]:
        return self.callers.submit(self.get, *parts, identity=identity, patience=patience)

    def spend_the_burst(self) -> None:
        """Reserve every slot that is free now, so that the next call must be queued."""
        while self.rate_limiter.reserve(self.clock()):
            pass

    def wait_until_waiting(self, part: Part, identity: Identity = USER) -> None:
        """Wait until `part` is pending."""
        self.wait_until(lambda: part in self.scheduler.pending(identity))

    def wait_until_sent(self, part: Part, identity: Identity = USER) -> None:
        """Wait until a call that fetches `part` is in flight."""
        self.wait_until(lambda: (pending := self.scheduler.pending(identity).get(part)) and pending.call is not None)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until other threads have made `condition` true."""
        for _ in range(10_000):
            if condition():
                return
            threading.Event().wait(0.001)
        raise AssertionError("the condition never became true")


@pytest.fixture(autouse=True)
def end_worlds() -> Iterator[None]:
    yield
    while World.created:
        World.created.pop().end()


@pytest.fixture
def world(clock: FakeClock) -> World:
    return World(clock)


def test_get__two_requests_in_a_row__miss_and_then_hit(world: World) -> None:
    first = world.get(COHORTS)
    assert (first.forwarded, first.started_fetch, first.calls, first.error) == ("miss", True, 1, None)
    second = world.get(COHORTS)
    assert (second.forwarded, second.calls) == (None, 0)
    assert len(world.source.calls) == 1


def test_get__fifty_requests_at_once__one_call(world: World) -> None:
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


def test_get__shared_call_fails__every_request_gets_the_error(world: World) -> None:
    world.source.open.clear()
    world.source.fault = UpstreamUnavailable()
    answers = [world.ask(COHORTS) for _ in range(10)]
    world.source.wait_for_call()
    world.source.open.set()
    words = {answer.result(10).error.word for answer in answers}  # type: ignore[union-attr]
    assert words == {"upstream_unavailable"}
    assert len(world.source.calls) <= 2, "only a request that came after the failure may cause a second call"


def test_batch__other_parts_requested_while_queued__one_call_for_all(clock: FakeClock) -> None:
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


def test_get__call_in_flight__its_parts_are_joined_and_other_parts_need_a_call(world: World) -> None:
    world.source.open.clear()
    first = world.ask(COHORTS)
    world.source.wait_for_call()
    joined, other = world.ask(COHORTS), world.ask(COHORTS, PROPERTIES)
    world.source.wait_for_call()
    world.source.open.set()
    assert [answer.result(10).calls for answer in (first, joined, other)] == [1, 1, 2]
    assert [call.parts for _, call in world.source.calls] == [{COHORTS}, {PROPERTIES}]
    assert not joined.result().started_fetch


def test_fetch_along__call_for_another_part__added_parts_are_joined_and_cached(clock: FakeClock) -> None:
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
def test_get__recommendations_of_two_types__two_calls(world: World) -> None:
    answer = world.get(recommendation("a", "model"), recommendation("a", "random"))
    assert (answer.error, answer.calls) == (None, 2)
    assert len(world.source.calls) == 2


def test_get__quota_used_up__refused_with_retry_after_and_without_a_call(clock: FakeClock) -> None:
    world = World(clock, per_minute=1)
    assert world.get(COHORTS).error is None
    refused = world.get(COHORTS, identity=Identity("other", None))
    assert isinstance(refused.error, QuotaExhausted)
    assert refused.error.retry_after == 60
    assert refused.calls == 0
    assert len(world.source.calls) == 1


def test_get__quota_used_up_and_one_part_cached__partial_answer(clock: FakeClock) -> None:
    world = World(clock, per_minute=1)
    world.get(COHORTS)
    partial = world.get(PROPERTIES, COHORTS)
    assert isinstance(partial.error, QuotaExhausted)
    assert partial.forwarded == "partial"
    assert partial.record.parts.keys() == {COHORTS}


def test_get__answer_after_the_deadline__times_out_and_the_answer_is_cached(world: World) -> None:
    world.source.open.clear()
    assert world.get(COHORTS, patience=0.05).error.word == "upstream_timeout"  # type: ignore[union-attr]
    late_result = world.scheduler.pending(USER)[COHORTS].future
    world.source.open.set()
    late_result.result(10)
    assert world.get(COHORTS).forwarded is None


@pytest.mark.contract("1 unknown users")
def test_get__unknown_user__unknown_for_every_section_for_60_seconds(world: World) -> None:
    world.source.user_data = None
    world.get(COHORTS)
    second = world.get(PROPERTIES, recommendation("a"))
    assert (second.forwarded, second.record.unknown_at) == (None, world.clock())
    world.clock.advance(61)
    world.source.user_data = {"cohort_ids": ["c"]}
    assert world.get(COHORTS).record.unknown_at is None
    assert len(world.source.calls) == 2


def test_get__after_429__no_call_until_retry_after_has_passed(world: World) -> None:
    world.source.fault = QuotaExhausted(retry_after=60)
    assert world.get(COHORTS).error.word == "quota_exhausted"  # type: ignore[union-attr]
    world.source.fault = None
    refused = world.get(COHORTS)
    assert (refused.error.word, refused.calls) == ("quota_exhausted", 0)  # type: ignore[union-attr]
    world.clock.advance(61)
    assert world.get(COHORTS).error is None


def test_batch__rate_limiter_pauses_while_queued__fails_without_a_call(clock: FakeClock) -> None:
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
def test_recommendation__deadline_passed_before_the_call__fetched_only_for_a_retry(
    clock: FakeClock, retry: bool, calls: int
) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    waiter = world.scheduler.join(USER, [recommendation("a"), COHORTS], until=clock() + 1.2, wanted_later=retry)
    clock.advance(5)  # the sending thread runs only after the caller's deadline
    waiter.wait(10)
    assert isinstance(waiter.outcome(COHORTS), Record)
    fetched_parts = [part for _, call in world.source.calls for part in call.parts if part == recommendation("a")]
    assert len(fetched_parts) == calls


@pytest.mark.parametrize(("patience", "retry"), [(1.2, True), (9, False)])
def test_recommendation__second_waiter_uses_retry_or_waits_longer__is_fetched(
    clock: FakeClock, patience: float, retry: bool
) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    part = recommendation("a")
    first = world.scheduler.join(USER, [part], until=clock() + 1.2, wanted_later=False)
    world.scheduler.join(USER, [part], until=clock() + patience, wanted_later=retry)
    clock.advance(5)
    first.wait(10)
    assert isinstance(first.outcome(part), Record)


def test_call__parts_were_cached_while_it_was_queued__not_sent_and_the_slot_is_free_again(
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


def test_call__bug_in_planning__caller_gets_an_error_and_the_slot_is_free_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.store, "lease", lambda *_: 1 / 0)
    assert isinstance(world.get(COHORTS).error, UpstreamInvalid)
    world.wait_until(lambda: not world.scheduler.stats().running)
    assert world.rate_limiter.used == 0


def test_call__bug_in_the_client__caller_gets_an_error_and_the_next_call_succeeds(world: World) -> None:
    world.source.fault = ValueError("a bug")
    assert isinstance(world.get(COHORTS).error, UpstreamInvalid)
    world.source.fault = None
    assert world.get(COHORTS).error is None
    assert not world.scheduler.pending(USER)
    assert world.scheduler.stats().queued == 0


def test_get__max_waiting_is_reached__fails_at_once_and_its_call_is_cached(
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


def test_get__user_becomes_known_between_two_calls__error_for_the_missing_part(world: World) -> None:
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


def test_get__another_call_brings_the_part__answered_before_its_own_call_ends(clock: FakeClock) -> None:
    world = World(clock, extra_parts=(COHORTS,))
    first_call_may_end, original_fetch = threading.Event(), world.source.fetch

    def fetch(identity: Identity, call: Call) -> Fetched:
        if call.parts == {COHORTS}:
            assert first_call_may_end.wait(10)
            raise UpstreamUnavailable
        return original_fetch(identity, call)

    world.executor.fetch = fetch
    waiting = world.ask(COHORTS, patience=10)
    world.wait_until_waiting(COHORTS)
    world.wait_until(lambda: not world.scheduler.stats().queued)
    assert world.get(PROPERTIES).error is None
    assert waiting.result(10).error is None
    first_call_may_end.set()


@pytest.mark.contract("1 recovery")
@pytest.mark.parametrize("seconds", [3, 30])
def test_get__ten_slow_calls_before__succeeds_one_second_later(world: World, seconds: int) -> None:
    def fetch(identity: Identity, call: Call) -> Fetched:
        world.clock.advance(seconds)
        raise UpstreamTimeout

    original_fetch, world.executor.fetch = world.executor.fetch, fetch
    for number in range(10):
        world.get(COHORTS, identity=Identity(str(number), None))
    world.executor.fetch = original_fetch
    world.clock.advance(1)  # until the outage ends
    assert world.get(COHORTS).error is None


@pytest.mark.contract("4 stale")
def test_get__stale_copy__served_at_once_and_refreshed_by_one_call(world: World) -> None:
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
    assert world.source.calls[1][1].parts == {COHORTS, recommendation("a")}, "only the requested parts"


def test_refresh__copy_was_refreshed_already__no_second_call(world: World) -> None:
    world.get(recommendation("a"))
    world.source.wait_for_call()
    world.clock.advance(950)
    world.get(recommendation("a"))
    world.source.wait_for_call()
    world.wait_until(lambda: not world.scheduler.pending(USER))
    world.scheduler.refresh(USER, [recommendation("a")])  # by a request that read the copy before the refresh
    world.wait_until(lambda: not world.scheduler.stats().queued and not world.scheduler.pending(USER))
    assert len(world.source.calls) == 2


def test_batch__sent_after_the_deadline__properties_join_but_recommendations_do_not(clock: FakeClock) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    waiting = world.ask(COHORTS, patience=3)
    world.wait_until_waiting(COHORTS)
    late = world.get(recommendation("a"), patience=0.6)
    assert isinstance(late.error, QuotaExhausted)
    assert world.get(PROPERTIES, patience=0).error is not None, "properties join, for later requests"
    clock.advance(0.7)
    assert waiting.result(10).error is None
    ((_, call),) = world.source.calls
    assert call.parts == {COHORTS, PROPERTIES}


def test_get__part_is_cached_between_cache_lookup_and_join__hit(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(clock, per_minute=1)
    world.get(COHORTS)
    read = world.store.memory.read
    reads = iter([Record()])
    monkeypatch.setattr(world.store.memory, "read", lambda identity: next(reads, None) or read(identity))
    answer = world.get(COHORTS)
    assert (answer.error, answer.calls, answer.forwarded) == (None, 0, None)


def test_refresh__only_the_burst_is_free__not_queued(clock: FakeClock) -> None:
    world = World(clock, per_minute=100)
    world.get(COHORTS)
    clock.advance(950)
    while world.rate_limiter.reserve(clock(), burst=0.0):
        pass
    assert world.get(COHORTS).stale
    assert world.scheduler.stats().queued == 0
    assert world.rate_limiter.reserve(clock()) is not None, "the burst is left to waiting requests"


@pytest.mark.contract("4 stale")
def test_get__old_copy__served_only_if_amplitude_fails(world: World) -> None:
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


def test_get__old_copy_and_quota_used_up__served_without_a_call(clock: FakeClock) -> None:
    world = World(clock, per_minute=1)
    world.get(COHORTS)
    clock.advance(1100)
    world.get(COHORTS, identity=Identity("other", None))
    served = world.get(COHORTS)
    assert (served.error, served.calls, served.stale) == (None, 0, True)
    assert served.fault is not None
    assert served.fault.word == "quota_exhausted"


@pytest.mark.contract("4 stale")
def test_get__copy_older_than_stale_if_error__not_served(world: World) -> None:
    world.get(COHORTS)
    world.clock.advance(900 + 5000)
    world.source.fault = UpstreamUnavailable()
    assert world.get(COHORTS).error is not None


@pytest.mark.contract("1 request cache-control")
def test_get__copy_older_than_max_age__served_only_if_the_call_fails(world: World) -> None:
    world.get(COHORTS)
    world.clock.advance(50)
    assert world.profiles.get(USER, [COHORTS], until=lambda: world.clock() + 1, max_age=50).forwarded is None
    fetched = world.profiles.get(USER, [COHORTS], until=lambda: world.clock() + 1, max_age=49)
    assert (fetched.forwarded, fetched.calls) == ("request", 1)
    world.clock.advance(1)
    world.source.fault = UpstreamUnavailable()
    older = world.profiles.get(USER, [COHORTS], until=lambda: world.clock() + 1, max_age=0)
    assert (older.error, older.stale, older.calls) == (None, False, 1)
    assert older.fault is not None


@pytest.mark.contract("1 request cache-control")
def test_get__max_age_0_and_a_call_in_flight__joins_the_call(world: World) -> None:
    world.get(COHORTS)
    world.source.wait_for_call()
    world.clock.advance(950)
    world.source.open.clear()
    world.get(COHORTS)
    world.source.wait_for_call()
    answer = world.callers.submit(world.profiles.get, USER, [COHORTS], until=lambda: world.clock() + 1.5, max_age=0)
    world.source.open.set()
    assert answer.result(10).calls == 1
    assert len(world.source.calls) == 2


def test_get__properties_and_computations__two_calls_that_are_cached_separately(clock: FakeClock) -> None:
    world = World(clock, extra_parts=(PROPERTIES, COHORTS))
    world.source.user_data = {"amp_props": {"x": "1"}, "cohort_ids": []}
    assert world.get(PROPERTIES, computations(["a"])).calls == 2
    assert world.get(COHORTS).forwarded is None
    assert world.get(computations(["a", "b"])).calls == 1
    assert world.get(computations()).calls == 1


def test_scheduler__before_the_first_call__no_thread_runs(clock: FakeClock) -> None:
    before = threading.active_count()
    World(clock)
    assert threading.active_count() == before


def _call(*parts: Part) -> Call:
    return plan_calls(parts)[0]


def sent_calls(world: World) -> list[tuple[str | None, frozenset[Part]]]:
    return [(identity.user_id, call.parts) for identity, call in world.source.calls]


@pytest.mark.contract("1 backlog")
def test_backlog__refused_users__fetched_with_unused_quota_newest_request_first(clock: FakeClock) -> None:
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
    assert [name for name, _ in sent_calls(world)] == ["a", "c", "b"], "each user is fetched once"


@pytest.mark.contract("1 backlog")
def test_backlog__requests_are_waiting__takes_none_of_their_slots(clock: FakeClock) -> None:
    world = World(clock, per_minute=100)
    world.spend_the_burst()
    for number in range(3):
        world.get(COHORTS, identity=Identity(f"late{number}", None), patience=0)
    requests = []
    for number in range(4):
        identity = Identity(f"live{number}", None)
        requests.append(world.ask(COHORTS, identity=identity, patience=9))
        world.wait_until(lambda: world.scheduler.stats().reserved == len(requests))
    for answer in requests:
        clock.advance(0.66)
        world.source.wait_for_call()
        assert answer.result(10).error is None
    assert [name for name, _ in sent_calls(world)] == ["live0", "live1", "live2", "live3"]


@pytest.mark.contract("1 backlog")
@pytest.mark.parametrize(("retry", "parts"), [(False, {COHORTS}), (True, {COHORTS, recommendation("a")})])
def test_backlog__recommendation_was_refused__kept_only_for_a_retry(
    clock: FakeClock, retry: bool, parts: set[Part]
) -> None:
    world = World(clock, per_minute=10)
    world.spend_the_burst()
    world.get(COHORTS, recommendation("a"), retry=retry)
    clock.advance(6)
    world.source.wait_for_call()
    assert sent_calls(world) == [("u", frozenset(parts))]


@pytest.mark.contract("1 backlog")
def test_backlog__user_without_data_and_old_copy__user_without_data_comes_first(clock: FakeClock) -> None:
    world = World(clock, per_minute=10)
    old = Identity("old", None)
    world.get(COHORTS, identity=old)
    world.source.wait_for_call()
    clock.advance(1100)  # old: served only if no call can be sent or the call fails
    world.spend_the_burst()
    world.get(COHORTS)
    served = world.get(COHORTS, identity=old)
    assert (served.error, served.stale, served.calls) == (None, True, 0)
    for _ in range(2):
        clock.advance(6)
        world.source.wait_for_call()
    assert [name for name, _ in sent_calls(world)] == ["old", "u", "old"]


def test_backlog__call_got_429__repeated_after_retry_after(world: World) -> None:
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
def test_outage__many_requests__fail_at_once_and_one_trial_call_at_a_time_is_sent(world: World) -> None:
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
def test_wrong_credentials__many_requests__few_trial_calls_and_one_error_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.source.fault = UpstreamRejected()
    for _ in range(30):
        assert world.get(COHORTS).error.word == "upstream_rejected"  # type: ignore[union-attr]
        world.clock.advance(0.9)
    assert len(world.source.calls) < 15
    assert len([line for line in caplog.records if line.levelname == "ERROR"]) == 1


def test_drain__call_in_flight_and_backlog__waits_for_the_call_and_stops_the_backlog(clock: FakeClock) -> None:
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


def test_backlog__refresh_of_a_recommendation_got_429__dropped_without_another_call(world: World) -> None:
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


def test_backlog__call_fails_repeatedly__user_is_dropped_after_max_age(clock: FakeClock) -> None:
    world = World(clock)
    world.source.fault = QuotaExhausted(retry_after=60)
    world.get(recommendation("a"), retry=True)
    for _ in range(20):
        clock.advance(61)
        world.wait_until(lambda: not world.scheduler.stats().running)
    assert len(world.source.calls) <= 11
    world.wait_until(lambda: not len(world.backlog))


def test_backlog__users_were_cached_since__no_slot_is_used_for_them(clock: FakeClock) -> None:
    world = World(clock, per_minute=10)
    world.spend_the_burst()
    for number in range(5):
        identity = Identity(f"u{number}", None)
        world.get(COHORTS, identity=identity)
        if number:
            world.store.memory.merge(identity, Record({COHORTS: CachedPart(b"[]", clock())}))
    clock.advance(6)
    world.source.wait_for_call()
    assert [name for name, _ in sent_calls(world)] == ["u0"]


def test_reserve__bug_in_the_rate_limiter__caller_gets_an_error_and_the_next_call_succeeds(
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


def test_get__joined_refresh_gets_no_reservation__not_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    original_reserve = world.rate_limiter.reserve
    requests: list[Future[ProfileResult]] = []

    def join_first(latest: float, *, burst: float = 1.0) -> Reservation | None:
        if not requests:
            requests.append(world.ask(PROPERTIES))
            world.wait_until_waiting(PROPERTIES)
            return None
        return original_reserve(latest, burst=burst)

    monkeypatch.setattr(world.rate_limiter, "reserve", join_first)
    world.scheduler.refresh(USER, [COHORTS])
    assert requests[0].result(10).error is None


def test_call__no_thread_can_be_started__refused_and_never_sent_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(_thread, "start_new_thread", _fail_to_start)
        refused = world.get(COHORTS)
    assert isinstance(refused.error, QuotaExhausted)
    assert world.rate_limiter.used == 0
    assert world.get(COHORTS, identity=Identity("other", None)).error is None
    world.wait_until(lambda: not world.scheduler.stats().running)
    assert sent_calls(world)[0] == ("other", frozenset({COHORTS}))


def _fail_to_start(*_: object) -> None:
    raise RuntimeError("can't start new thread")
