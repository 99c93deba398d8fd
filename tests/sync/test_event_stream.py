"""Forwarding of an event stream to the emulated Braze over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.track import TrackClient
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.sandbox.braze_api import BrazeApi
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.delivered_events import RedisDeliveredEvents
from proxy.storage.redis.user_locks import RedisUserLocks
from proxy.sync.delivered_events import DeliveredEvents
from proxy.sync.event_stream import EventStream, ForwardResult
from proxy.sync.recent_values import RecentValues
from proxy.sync.stream_objects import Selection, StreamObject
from tests.support.fakes import FakeClock
from tests.support.wait import until

WAIT_SECONDS = 5.0
NOW = 1_700_000_000.0


@pytest.fixture
def braze() -> Iterator[Sandbox]:
    with Sandbox(braze=BrazeApi(known_users="all")) as sandbox:
        yield sandbox


Forward = Callable[..., ForwardResult]


@pytest.fixture
def stream(braze: Sandbox) -> EventStream:
    return new_stream(braze)


def new_stream(
    braze: Sandbox,
    *,
    key: str | None = None,
    per_minute: int = 60_000,
    timeout: float = 1.0,
    batch_objects: int = 75,
    delivered: DeliveredEvents | None = None,
    locks: RedisUserLocks | None = None,
    on_outcome: Callable[[str, str, int], None] = lambda *_: None,
    clock: Clock = SYSTEM_CLOCK,
) -> EventStream:
    client = TrackClient(braze.url, key or braze.braze.key, create_users=True, timeout=timeout)
    return EventStream(
        Selection(frozenset("*"), frozenset("*")),
        client,
        RateLimiter(per_minute, clock=clock),
        DeliveredEvents(clock=clock) if delivered is None else delivered,
        RecentValues(),
        batch_objects=batch_objects,
        locks=locks,
        on_outcome=on_outcome,
        clock=clock,
    )


def event(number: int, user_id: str = "u1", at: float = NOW) -> StreamObject:
    content = {"name": f"Order {number}", "time": "2023-11-14T22:13:20+00:00"}
    return StreamObject(user_id, "events", content, at, event_id=number)


def attributes(at: float = NOW, user_id: str = "u1", **values: object) -> StreamObject:
    return StreamObject(user_id, "attributes", values, at)


def forward(stream: EventStream, *objects: StreamObject, wait_seconds: float = WAIT_SECONDS) -> ForwardResult:
    return stream.forward(objects, wait_seconds, Counter())


def received(braze: Sandbox) -> list[str]:
    return [item["name"] for item in braze.braze.details("events")]


def test_forward__events__accepted_in_order(braze: Sandbox, stream: EventStream) -> None:
    result = forward(stream, event(1), event(2), event(3))
    assert result == ForwardResult({"accepted": 3}, None)
    assert received(braze) == ["Order 1", "Order 2", "Order 3"]


def test_forward__no_objects__no_retry(stream: EventStream) -> None:
    assert stream.forward([], WAIT_SECONDS, Counter(from_braze=2)) == ForwardResult({"from_braze": 2}, None)


def test_forward__concurrent_messages__share_requests(braze: Sandbox, stream: EventStream) -> None:
    with ThreadPoolExecutor(40) as pool:
        results = list(pool.map(lambda n: forward(stream, event(n, f"u{n}")), range(1, 41)))
    assert all(result.retry_after is None for result in results)
    report = braze.braze.report()
    assert len(braze.braze.details("events")) == 40
    assert report["requests"] <= 10


def test_forward__more_objects_than_a_request_takes__several_requests_in_order(braze: Sandbox) -> None:
    stream = new_stream(braze, batch_objects=5)
    forward(stream, *(event(n) for n in range(1, 18)))
    assert received(braze) == [f"Order {n}" for n in range(1, 18)]
    assert braze.braze.report()["overlapping_users"] == 0


def test_forward__repeated_event__sent_once(braze: Sandbox, stream: EventStream) -> None:
    assert forward(stream, event(1)).duplicate is False
    again = forward(stream, event(1))
    assert (again.outcomes, again.duplicate) == ({"duplicate": 1}, True)
    assert received(braze) == ["Order 1"]


def test_forward__same_event_in_concurrent_messages__sent_once(braze: Sandbox, stream: EventStream) -> None:
    braze.braze.latency = 0.1
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: forward(stream, event(1)), range(8)))
    assert sum((Counter(result.outcomes) for result in results), Counter()) == {"accepted": 1, "duplicate": 7}
    assert received(braze) == ["Order 1"]


def test_forward__same_value__not_sent_again(braze: Sandbox, stream: EventStream) -> None:
    forward(stream, attributes(plan="gold", points=1))
    assert forward(stream, attributes(NOW + 1, plan="gold", points=1.0)).outcomes == {"unchanged": 1}
    assert forward(stream, attributes(NOW + 2, plan="gold", points=2)).outcomes == {"accepted": 1}
    first, second = braze.braze.details("requests")
    assert (first["objects"], second["objects"]) == (1, 1)
    assert braze.braze.attributes("u1") == {"plan": "gold", "points": 2}
    assert braze.braze.report()["data_points"] == 3


def test_forward__older_value__not_sent(braze: Sandbox, stream: EventStream) -> None:
    forward(stream, attributes(NOW, plan="gold"))
    assert forward(stream, attributes(NOW - 1, plan="silver")).outcomes == {"outdated": 1}
    # The repeated value is newer, so a value in between is outdated too.
    forward(stream, attributes(NOW + 2, plan="gold"))
    assert forward(stream, attributes(NOW + 1, plan="silver")).outcomes == {"outdated": 1}
    assert braze.braze.attributes("u1") == {"plan": "gold"}


def test_forward__concurrent_values_of_a_user__last_wins(braze: Sandbox, stream: EventStream) -> None:
    result = forward(stream, *(attributes(NOW + n, points=n) for n in range(5)))
    assert result.outcomes == {"accepted": 5}
    assert braze.braze.attributes("u1") == {"points": 4}
    assert braze.braze.report()["overlapping_users"] == 0


@pytest.mark.parametrize(
    ("fault", "word", "at_least"),
    [
        (Fault("status", status=500), "uncertain", 1),
        (Fault("maintenance"), "uncertain", 1),
        (Fault("message"), "unavailable", 1),
        (Fault("reset"), "uncertain", 1),
        (Fault("uncertain"), "uncertain", 1),
        (Fault("hang"), "uncertain", 1),
        (Fault("429-retry-after", seconds=30), "rate_limited", 29),
        (Fault("429-reset-epoch", seconds=30), "rate_limited", 28),
        (Fault("429-reset-remaining", seconds=30), "rate_limited", 29),
        (Fault("429-no-time"), "rate_limited", 59),
        (Fault("no-permission"), "refused", 5),
        (Fault("wrong-instance"), "refused", 5),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else str(value),
)
def test_forward__braze_fails__result_has_retry_after(
    braze: Sandbox, stream: EventStream, fault: Fault, word: str, at_least: float
) -> None:
    braze.braze.faults.set(fault)
    result = forward(stream, event(1), attributes(plan="gold"))
    assert result.outcomes in ({word: 2}, {"unavailable": 2})
    assert result.retry_after is not None
    assert at_least <= result.retry_after <= 60
    assert stream.stats().failure


@pytest.mark.parametrize("kind", ["status", "uncertain", "hang-accepted"])
def test_forward__sent_again_after_a_fault__accepted(braze: Sandbox, stream: EventStream, kind: str) -> None:
    braze.braze.faults.set(Fault(kind, times=1))  # type: ignore[arg-type]  # one of the kinds
    assert forward(stream, event(1)).retry_after is not None
    assert forward(stream, event(1)) == ForwardResult({"accepted": 1}, None)


def test_forward__braze_is_slower_than_the_wait__late_and_then_a_duplicate(braze: Sandbox, stream: EventStream) -> None:
    braze.braze.latency = 0.4
    late = forward(stream, event(1), wait_seconds=0.2)
    assert (late.outcomes, late.retry_after) == ({"late": 1}, 1.0)
    # The request was accepted after all, so the message that Amplitude sends again is done.
    assert forward(stream, event(1)).outcomes == {"duplicate": 1}
    assert received(braze) == ["Order 1"]


def test_forward__one_object_rejected__other_objects_accepted_and_no_retry(braze: Sandbox, stream: EventStream) -> None:
    braze.braze.faults.set(Fault("object-errors", user_id="bad"))
    result = forward(stream, event(1, "bad"), event(2, "good"), attributes(user_id="bad", plan="gold"))
    assert result == ForwardResult({"rejected": 2, "accepted": 1}, None)
    assert received(braze) == ["Order 2"]


def test_forward__request_too_large__halved(braze: Sandbox) -> None:
    braze.braze.max_objects = 2
    result = forward(new_stream(braze), *(event(n) for n in range(1, 8)))
    assert result.outcomes == {"accepted": 7}
    assert received(braze) == [f"Order {n}" for n in range(1, 8)]


def test_forward__wrong_key__refused_without_a_request_for_some_seconds(braze: Sandbox) -> None:
    stream = new_stream(braze, key="wrong")
    assert forward(stream, event(1)).outcomes == {"refused": 1}
    assert forward(stream, event(2)).outcomes == {"refused": 1}
    assert braze.braze.report()["requests"] == 1


def test_forward__braze_failed_twice_in_a_row__no_request_for_a_second(braze: Sandbox) -> None:
    clock = FakeClock()
    stream = new_stream(braze, batch_objects=1, clock=clock)  # a full request does not wait for others
    braze.braze.faults.set(Fault("status", status=503, times=2))
    for number in (1, 2):
        assert forward(stream, event(number)).retry_after == 1.0
    assert forward(stream, event(3)) == ForwardResult({"unavailable": 1}, 1.0)
    assert braze.braze.report()["requests"] == 2
    clock.advance(1.0)
    assert forward(stream, event(3)).outcomes == {"accepted": 1}


def test_forward__braze_failed_accepted_and_failed__next_message_is_sent(braze: Sandbox) -> None:
    stream = new_stream(braze, batch_objects=1, clock=FakeClock())
    for number in (1, 3, 5):
        braze.braze.faults.set(Fault("status", status=503, times=1))
        assert forward(stream, event(number)).retry_after == 1.0
        assert forward(stream, event(number + 1)).outcomes == {"accepted": 1}


def test_forward__user_has_a_request_in_progress__objects_of_other_users_do_not_wait(
    braze: Sandbox, stream: EventStream
) -> None:
    braze.braze.latency = 0.3
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(forward, stream, event(1, "u1"))
        until(lambda: braze.braze.report()["requests"] == 1)
        second = pool.submit(forward, stream, event(2, "u1"))
        other = pool.submit(forward, stream, event(3, "u2"))
    assert first.result().outcomes == second.result().outcomes == other.result().outcomes == {"accepted": 1}
    assert received(braze) == ["Order 1", "Order 3", "Order 2"]


def test_forward__rate_limit_is_used_up__result_has_retry_after(braze: Sandbox) -> None:
    stream = new_stream(braze, per_minute=1)
    assert forward(stream, event(1)).retry_after is None
    second = forward(stream, event(2), wait_seconds=0.3)
    assert set(second.outcomes) <= {"rate_limited", "late"}
    assert second.retry_after is not None
    assert braze.braze.report()["requests"] == 1


def test_forward__thread_cannot_start__next_message_is_sent(
    braze: Sandbox, stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", _no_thread)
        with pytest.raises(RuntimeError):
            forward(stream, event(1))
    assert forward(stream, event(1)).outcomes == {"accepted": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", _no_thread)
        assert forward(stream, event(2)) == ForwardResult({"failed": 1}, 1.0)
    assert forward(stream, event(2)).outcomes == {"accepted": 1}
    assert received(braze) == ["Order 1", "Order 2"]


def _no_thread(self: Thread) -> None:
    raise RuntimeError("can't start new thread")


class FailingDeliveredEvents(DeliveredEvents):
    """Fails once with an error of its own."""

    failures = 1

    def known(self, event_ids: Any) -> set[int]:
        if self.failures:
            self.failures -= 1
            raise LookupError
        return super().known(event_ids)


def test_forward__unexpected_error__result_has_retry_after_and_user_is_not_blocked(
    braze: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    stream = new_stream(braze, delivered=FailingDeliveredEvents())
    assert forward(stream, event(1)) == ForwardResult({"failed": 1}, 1.0)
    assert "forwarding_error" in caplog.messages
    assert forward(stream, event(1)).outcomes == {"accepted": 1}


class RedisThatFailsToWrite(RedisDeliveredEvents):
    def __init__(self) -> None:
        pass

    def known(self, event_ids: Sequence[int]) -> set[int]:
        return set()

    def add(self, event_ids: Sequence[int]) -> None:
        raise RedisUnavailable


def test_forward__redis_fails_after_braze_accepted__accepted_and_not_sent_again(braze: Sandbox) -> None:
    stream = new_stream(braze, delivered=DeliveredEvents(RedisThatFailsToWrite()))
    assert forward(stream, event(1), attributes(plan="gold")) == ForwardResult({"accepted": 2}, None)
    assert forward(stream, event(1), attributes(plan="gold")).outcomes == {"duplicate": 1, "unchanged": 1}
    assert braze.braze.report()["requests"] == 1


class LocksOfAnotherProcess(RedisUserLocks):
    """The user u1 is locked until `hold` has been called `attempts` times."""

    def __init__(self, attempts: float) -> None:
        self.attempts = attempts

    @contextmanager
    def hold(self, user_ids: Collection[str]) -> Iterator[set[str]]:
        self.attempts -= 1
        yield {id for id in user_ids if id != "u1" or self.attempts < 0}


def test_forward__user_in_a_request_of_another_process__sent_after_it_and_others_at_once(braze: Sandbox) -> None:
    stream = new_stream(braze, locks=LocksOfAnotherProcess(2))
    assert forward(stream, event(1, "u1"), event(2, "u2"), event(3, "u1")).outcomes == {"accepted": 3}
    assert received(braze) == ["Order 2", "Order 1", "Order 3"]


def test_forward__user_was_in_a_request_of_another_process__does_not_wait_for_other_users(braze: Sandbox) -> None:
    stream = new_stream(braze, locks=LocksOfAnotherProcess(1), timeout=5.0)
    braze.braze.latency = 1.5
    forward(stream, event(1, "u1"), event(2, "u2"), wait_seconds=1.0)
    assert braze.braze.report()["requests"] == 2
    stream.drain(WAIT_SECONDS)


def test_forward__user_stays_in_a_request_of_another_process__late(braze: Sandbox) -> None:
    outcomes: Counter[str] = Counter()
    stream = new_stream(
        braze,
        locks=LocksOfAnotherProcess(float("inf")),
        on_outcome=lambda _, outcome, number: outcomes.update({outcome: number}),
    )
    result = forward(stream, event(1, "u1"), wait_seconds=0.2)
    assert result == ForwardResult({"late": 1}, 1.0)
    until(lambda: outcomes == {"late": 1})
    assert braze.braze.report()["requests"] == 0


def test_forward__message_larger_than_the_queue__each_attempt_accepts_some_objects(
    braze: Sandbox, stream: EventStream
) -> None:
    result = forward(stream, *(event(number, f"u{number}") for number in range(20_001)), wait_seconds=0.3)
    assert result.retry_after == 1.0
    assert "busy" not in result.outcomes
    stream.drain(WAIT_SECONDS)
    assert received(braze)


def test_forward__many_objects__other_requests_get_their_turn(
    stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[None] = []
    monkeypatch.setattr("proxy.sync.event_stream.Checkpoint", lambda: lambda: turns.append(None))
    assert forward(stream, *(event(number) for number in range(300))).outcomes == {"accepted": 300}
    assert len(turns) >= 300 / 100, "objects were queued without a turn for others"


def test_drain__request_in_progress__its_outcome_is_recorded(braze: Sandbox, stream: EventStream) -> None:
    braze.braze.latency = 0.4
    assert forward(stream, event(1), wait_seconds=0.2).outcomes == {"late": 1}
    stream.drain(WAIT_SECONDS)
    assert stream.stats().accepted_at is not None
    assert stream.stats().waiting == 0
    braze.braze.latency = 0.0
    stream.drain(WAIT_SECONDS)  # returns at once
    assert forward(stream, event(1)).outcomes == {"duplicate": 1}


def test_stats__key_refused_and_then_accepted__refused_until_accepted(braze: Sandbox) -> None:
    clock = FakeClock()
    stream = new_stream(braze, batch_objects=1, clock=clock)  # a full request does not wait for others
    braze.braze.faults.set(Fault("no-permission", times=1))
    forward(stream, event(1))
    assert stream.stats().is_refused
    assert stream.stats().failure.startswith("Braze returned status 403")
    clock.advance(11)
    assert stream.stats().is_refused
    forward(stream, event(1))
    assert not stream.stats().is_refused


def test_forward__message_to_be_sent_again__its_skipped_objects_are_counted_once(braze: Sandbox) -> None:
    counted: Counter[str] = Counter()
    client = TrackClient(braze.url, braze.braze.key, create_users=True, timeout=1.0)
    stream = EventStream(
        Selection(frozenset("*"), frozenset("*")),
        client,
        RateLimiter(60_000, clock=SYSTEM_CLOCK),
        DeliveredEvents(),
        RecentValues(),
        batch_objects=75,
        on_outcome=lambda kind, outcome, number: counted.update({f"{kind} {outcome}": number}),
    )
    braze.braze.faults.set(Fault("status", status=500, times=1))
    for _ in range(2):
        stream.forward([event(1)], WAIT_SECONDS, Counter(text_cut=1))
    assert counted == {"events unavailable": 1, "events accepted": 1, "skipped text_cut": 1}
