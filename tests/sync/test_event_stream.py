"""Forwarding of an event stream to the emulated Braze over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.track import TrackClient
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.sandbox.braze_api import BrazeApi
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from proxy.sync.delivered_events import DeliveredEvents
from proxy.sync.event_stream import EventStream, ForwardResult
from proxy.sync.recent_values import RecentValues
from proxy.sync.stream_objects import Selection, StreamObject

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
    clock: Clock = SYSTEM_CLOCK,
) -> EventStream:
    client = TrackClient(braze.url, key or braze.braze.key, create_users=True, timeout=timeout)
    return EventStream(
        Selection(frozenset("*"), frozenset("*")),
        client,
        RateLimiter(per_minute, clock=clock),
        DeliveredEvents(clock=clock),
        RecentValues(),
        batch_objects=batch_objects,
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


def test_forward__nothing_to_send__done(stream: EventStream) -> None:
    assert stream.forward([], WAIT_SECONDS, Counter(from_braze=2)) == ForwardResult({"from_braze": 2}, None)


def test_forward__messages_at_once__travel_in_few_requests(braze: Sandbox, stream: EventStream) -> None:
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


def test_forward__same_event_in_two_messages_at_once__sent_once(braze: Sandbox, stream: EventStream) -> None:
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


def test_forward__values_of_a_user_at_once__last_wins(braze: Sandbox, stream: EventStream) -> None:
    result = forward(stream, *(attributes(NOW + n, points=n) for n in range(5)))
    assert result.outcomes == {"accepted": 5}
    assert braze.braze.attributes("u1") == {"points": 4}
    assert braze.braze.report()["overlapping_users"] == 0


@pytest.mark.parametrize(
    ("fault", "word", "at_least"),
    [
        (Fault("status", status=500), "uncertain", 1),
        (Fault("maintenance"), "uncertain", 1),
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
def test_forward__braze_does_not_accept__to_send_again(
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


def test_forward__one_object_rejected__the_others_accepted_and_the_message_done(
    braze: Sandbox, stream: EventStream
) -> None:
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


def test_forward__rate_is_used_up__to_send_again(braze: Sandbox) -> None:
    stream = new_stream(braze, per_minute=1)
    assert forward(stream, event(1)).retry_after is None
    second = forward(stream, event(2), wait_seconds=0.3)
    assert set(second.outcomes) <= {"rate_limited", "late"}
    assert second.retry_after is not None
    assert braze.braze.report()["requests"] == 1
