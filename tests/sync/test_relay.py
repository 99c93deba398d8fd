"""The relay over real HTTP: repeated requests to Amplitude, skipped events, and events that Braze must send again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace

import pytest

from proxy.amplitude.ingestion import MAX_EVENTS, BatchClient
from proxy.sync.relay import MAX_SECONDS, CurrentsRelay, RelayResult
from tests.support.batch_upstream import API_KEY, BatchUpstream, Events, Reply, braze_event
from tests.support.fakes import FakeClock

TOO_MANY = Reply(429, {"code": 429, "throttled_users": {"someone": 11}}, {"Retry-After": "7"})


def relay_for(upstream: BatchUpstream, clock: FakeClock) -> CurrentsRelay:
    return CurrentsRelay(BatchClient(upstream.url, API_KEY, clock=clock), timeout=5, clock=clock)


def relay(upstream: BatchUpstream, clock: FakeClock, number: int = 10) -> RelayResult:
    return relay_for(upstream, clock).relay([braze_event(str(id)) for id in range(number)])


def ids(events: Events) -> list[str]:
    return [event["insert_id"] for event in events]


def refuses(invalid: Collection[str], reply: Callable[[list[int]], Reply]) -> Callable[[Events], Reply]:
    """Return the answers of an Amplitude that refuses a request with an event in `invalid`."""

    def answer(events: Events) -> Reply:
        indexes = [index for index, id in enumerate(ids(events)) if id in invalid]
        return reply(indexes) if indexes else Reply()

    return answer


@pytest.mark.contract("8 answers")
def test_relay__accepted__one_request(clock: FakeClock) -> None:
    with BatchUpstream() as upstream:
        result = relay(upstream, clock)
    assert (result.events, result.error, result.at) == ({"accepted": 10}, None, clock.now())
    assert upstream.sent == [[str(id) for id in range(10)]]


@pytest.mark.contract("8 answers")
def test_relay__400_with_indexes__others_are_sent_again(clock: FakeClock) -> None:
    reply = refuses({"2", "7"}, lambda indexes: Reply(400, {"events_with_invalid_fields": {"time": indexes}}))
    with BatchUpstream(reply) as upstream:
        assert relay(upstream, clock).events == {"invalid": 2, "accepted": 8}
        assert len(upstream.requests) == 2
        assert relay(upstream, clock, 0).events == {}


@pytest.mark.contract("8 answers")
def test_relay__all_events_invalid__no_further_request(clock: FakeClock) -> None:
    reply = Reply(400, {"events_with_missing_fields": {"user_id": list(range(10))}})
    with BatchUpstream(lambda _: reply) as upstream:
        result = relay(upstream, clock)
    assert (result.events, result.error, len(upstream.requests)) == ({"invalid": 10}, None, 1)


@pytest.mark.contract("8 answers")
@pytest.mark.parametrize("refusal", [Reply(400, {"error": "Invalid JSON"}), Reply(413, {"code": 413}), Reply(400, b"")])
def test_relay__refused_without_indexes__halved_until_one_event_is_skipped(clock: FakeClock, refusal: Reply) -> None:
    with BatchUpstream(refuses({"42"}, lambda _: refusal)) as upstream:
        result = relay(upstream, clock, 100)
    assert (result.events, result.error) == ({"unprocessable": 1, "accepted": 99}, None)
    assert sorted(upstream.accepted, key=int) == [str(id) for id in range(100) if id != 42]
    assert len(upstream.requests) <= 15


@pytest.mark.contract("8 answers")
def test_relay__daily_quota_of_a_user_and_a_device__their_events_are_skipped(clock: FakeClock) -> None:
    exceeded = {
        "exceeded_daily_quota_users": {"user-of-3": 500_001},
        "exceeded_daily_quota_devices": {"device-of-5": 500_001},
    }
    with BatchUpstream(refuses({"3", "5"}, lambda _: Reply(429, exceeded))) as upstream:
        result = relay(upstream, clock)
    assert (result.events, result.error) == ({"over_quota": 2, "accepted": 8}, None)


def test_relay__daily_quota_of_other_users__not_delivered(clock: FakeClock) -> None:
    with BatchUpstream(lambda _: Reply(429, {"exceeded_daily_quota_users": {"stranger": 1}})) as upstream:
        result = relay(upstream, clock)
    assert result.error is not None
    assert (result.events, result.error.word, len(upstream.requests)) == ({"not_delivered": 10}, "quota_exhausted", 1)


@pytest.mark.contract("8 answers")
@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (TOO_MANY, "quota_exhausted"),
        (Reply(503, {}), "upstream_unavailable"),
        (Reply(resets=True), "upstream_unavailable"),
        (Reply(400, {"error": f"Invalid API key: {API_KEY}"}), "upstream_rejected"),
    ],
)
def test_relay__amplitude_fails__one_request_and_not_delivered(clock: FakeClock, reply: Reply, word: str) -> None:
    with BatchUpstream(lambda _: reply) as upstream:
        currents = relay_for(upstream, clock)
        result = currents.relay([braze_event("1"), "unreadable"])
        assert result.error is not None
        assert (result.events, result.error.word, len(upstream.requests)) == ({"not_delivered": 1}, word, 1)
        stats = currents.stats()
        assert (stats.accepted_at, stats.failed_at, stats.failure) == (None, result.at, str(result.error))
        assert stats.is_rejected is (word == "upstream_rejected")
        upstream.reply = lambda _: Reply()
        clock.advance(7)
        currents.relay([braze_event("1")])
        assert currents.stats() == replace(stats, accepted_at=result.at + 7, is_rejected=False)


@pytest.mark.contract("8 answers")
def test_relay__failure_after_a_part__second_attempt_sends_only_the_rest(clock: FakeClock) -> None:
    replies = [Reply(413, {}), Reply(), TOO_MANY, Reply()]
    with BatchUpstream(lambda _: replies.pop(0)) as upstream:
        currents = relay_for(upstream, clock)
        events = [braze_event(str(id)) for id in range(10)]
        first = currents.relay(events)
        second = currents.relay(events)
    assert first.error is not None
    assert (first.events, first.error.retry_after) == ({"accepted": 5, "not_delivered": 5}, 7)
    assert (second.events, second.error) == ({"repeated": 5, "accepted": 5}, None)
    assert sorted(upstream.accepted) == [str(id) for id in range(10)]


@pytest.mark.contract("8 answers")
def test_relay__slow_amplitude_refuses_every_event__each_attempt_makes_progress(clock: FakeClock) -> None:
    def reply(_: Events) -> Reply:
        clock.advance(4)
        return Reply(400, {"error": "Unknown"})

    results: list[RelayResult] = []
    with BatchUpstream(reply) as upstream:
        currents = relay_for(upstream, clock)
        while not results or results[-1].error:
            requests, started = len(upstream.requests), clock()
            results.append(currents.relay([braze_event(str(id)) for id in range(8)]))
            assert clock() - started <= MAX_SECONDS
            assert len(upstream.requests) > requests
            assert len(results) < 10
    assert all(result.error.word == "upstream_timeout" for result in results if result.error)
    assert sum(result.events.get("unprocessable", 0) for result in results) == 8


@pytest.mark.contract("8 events")
def test_relay__more_events_than_a_request_may_have__several_requests(clock: FakeClock) -> None:
    with BatchUpstream() as upstream:
        assert relay(upstream, clock, MAX_EVENTS + 1).events == {"accepted": MAX_EVENTS + 1}
    assert sorted(map(len, upstream.sent)) == [1, MAX_EVENTS]


def test_relay__skipped_and_failed_events__log_has_counts_without_ids(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    replies = [TOO_MANY, TOO_MANY, Reply()]
    with BatchUpstream(lambda _: replies.pop(0)) as upstream:
        currents = relay_for(upstream, clock)
        events = [braze_event("1"), 3, braze_event("2", user={"user_id": "of-braze"})]
        for _ in range(2):
            assert currents.relay(events).events == {"not_delivered": 1}
        assert currents.relay(events).events == {"accepted": 1, "unreadable": 1, "no_id": 1}
    lines = [record for record in caplog.records if record.name == "proxy.sync.relay"]
    assert [line.msg for line in lines] == ["currents_not_relayed", "currents_events_skipped"]
    assert lines[0].__dict__["error"] == "quota_exhausted"
    assert lines[1].__dict__["skipped"] == {"unreadable": 1, "no_id": 1}
    assert all("-of-" not in repr(line.__dict__) and API_KEY not in repr(line.__dict__) for line in lines)
