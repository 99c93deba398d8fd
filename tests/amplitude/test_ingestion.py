"""The client of the Batch API, over real HTTP with every documented answer and faults of the network."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from proxy.amplitude.ingestion import (
    Accepted,
    BatchAnswer,
    BatchClient,
    DailyQuotaExceeded,
    InvalidEvents,
    Unprocessable,
)
from proxy.profile.errors import (
    QuotaExhausted,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from tests.support.batch_upstream import API_KEY, BatchUpstream, Reply

EVENTS = [{"user_id": f"secret-user-{number}", "insert_id": str(number)} for number in range(4)]


def send(upstream: BatchUpstream, timeout: float = 5) -> BatchAnswer:
    return BatchClient(upstream.url, API_KEY).send(EVENTS, timeout)


def test_send__events__one_request_with_key_events_and_minimum_length() -> None:
    with BatchUpstream() as upstream:
        assert send(upstream) == Accepted()
    assert upstream.requests == [{"api_key": API_KEY, "events": EVENTS, "options": {"min_id_length": 1}}]


ANSWERS: dict[str, tuple[Reply, BatchAnswer]] = {
    "invalid": (
        Reply(
            400, {"code": 400, "events_with_invalid_fields": {"time": [3]}, "events_with_missing_fields": {"x": [0]}}
        ),
        InvalidEvents(frozenset({0, 3})),
    ),
    "short ids": (
        Reply(400, {"code": 400, "events_with_invalid_id_lengths": {"user_id": [1]}}),
        InvalidEvents(frozenset({1})),
    ),
    "silenced": (Reply(400, {"code": 400, "silenced_events": [2]}), InvalidEvents(frozenset({2}))),
    "wrong indexes": (Reply(400, {"events_with_invalid_fields": {"time": [4, -1, "1", True]}}), Unprocessable()),
    "no indexes": (Reply(400, {"code": 400, "error": "Request missing required field"}), Unprocessable()),
    "not json": (Reply(400, b"<html>"), Unprocessable()),
    "too large": (Reply(413, {"code": 413, "error": "Payload too large"}), Unprocessable()),
    "daily quota": (
        Reply(429, {"exceeded_daily_quota_users": {"u": 500_200}, "exceeded_daily_quota_devices": {"d": 600_200}}),
        DailyQuotaExceeded(frozenset("u"), frozenset("d")),
    ),
}


@pytest.mark.contract("8 answers")
@pytest.mark.parametrize(("reply", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_send__amplitude_refuses_events__answer_as_a_value(reply: Reply, answer: BatchAnswer) -> None:
    with BatchUpstream(lambda _: reply) as upstream:
        assert send(upstream) == answer


ERRORS: dict[str, tuple[Reply, type[UpstreamError]]] = {
    "429": (Reply(429, {"code": 429, "throttled_users": {"secret-user-1": 11}}), QuotaExhausted),
    "500": (Reply(500, {}), UpstreamUnavailable),
    "503": (Reply(503, b"down"), UpstreamUnavailable),
    "reset": (Reply(resets=True), UpstreamUnavailable),
    "wrong key": (Reply(400, {"error": f"Invalid API key: {API_KEY}"}), UpstreamRejected),
    "redirect": (Reply(302, b"", {"Location": "http://127.0.0.1:1/"}), UpstreamInvalid),
    "not found": (Reply(404, b""), UpstreamInvalid),
    "200 without json": (Reply(200, b"welcome to the hotel"), UpstreamInvalid),
    "200 with another code": (Reply(200, {"code": 400}), UpstreamInvalid),
    "huge answer": (Reply(200, b" " * 3_000_000 + b'{"code": 200}'), UpstreamInvalid),
}


@pytest.mark.contract("8 answers")
@pytest.mark.parametrize(("reply", "kind"), ERRORS.values(), ids=ERRORS)
def test_send__amplitude_fails__error_without_key_and_ids(
    reply: Reply, kind: type[UpstreamError], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with BatchUpstream(lambda _: reply) as upstream, pytest.raises(UpstreamError) as raised:
        send(upstream)
    assert type(raised.value) is kind
    for text in (str(raised.value), caplog.text, repr(raised.value.__dict__)):
        assert API_KEY not in text
        assert "secret-user" not in text


def test_send__429_with_retry_after__seconds_in_the_error() -> None:
    with (
        BatchUpstream(lambda _: Reply(429, {}, {"Retry-After": "7"})) as upstream,
        pytest.raises(QuotaExhausted) as raised,
    ):
        send(upstream)
    assert raised.value.retry_after == 7


@pytest.mark.contract("8 answers")
def test_send__no_answer__timeout() -> None:
    with BatchUpstream(lambda _: Reply(hangs=True)) as upstream, pytest.raises(UpstreamTimeout):
        send(upstream, timeout=0.1)


@pytest.mark.contract("8 answers")
def test_send__no_server__unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/batch"
    with pytest.raises(UpstreamUnavailable):
        BatchClient(url, API_KEY).send(EVENTS, 5)


def test_send__values_beyond_64_bits_and_lone_surrogates__sent_as_valid_json() -> None:
    events: list[dict[str, Any]] = [{"insert_id": "1", "event_properties": {"big": 2**70, "half": "\ud800", "é": 1e-7}}]
    with BatchUpstream() as upstream:
        assert BatchClient(upstream.url, API_KEY).send(events, 5) == Accepted()
    assert upstream.requests[0]["events"][0]["event_properties"] == {"big": 2**70, "half": "?", "é": 1e-7}
