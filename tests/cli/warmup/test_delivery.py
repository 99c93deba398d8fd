"""Batches of properties, and their delivery to a service that is busy, restarting or refuses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from threading import Event

import pytest

from proxy.cli.client import ServiceRefused, ServiceUnavailable
from proxy.cli.warmup.audience import Values
from proxy.cli.warmup.delivery import Stopped, batches, deliver
from proxy.liquid.types import Answer
from proxy.profile.updates import parse_updates
from proxy.webhooks.parse import read_users


class Pauses(Event):
    """An event whose `wait` returns at once. Records the pauses; the event is set during the last of `stop_after`."""

    def __init__(self, stop_after: int = 100) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._stop_after = stop_after

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return len(self.seconds) >= self._stop_after


def answers(*statuses: int, **headers: str) -> Iterator[Answer]:
    for status in statuses:
        yield Answer(status, headers, '{"detail": "the reason; the fix"}', 1.0)


def send_all(found: Iterator[Answer], stop: Event) -> Answer:
    return deliver(lambda: next(found), stop)


def test_deliver__errors_that_end__retried_after_the_time_of_the_answer() -> None:
    pauses = Pauses()
    assert send_all(answers(500, 502, 429, 200, **{"retry-after": "3"}), pauses).status == 200
    assert pauses.seconds == [3.0, 3.0, 3.0]


def test_deliver__no_connection__pauses_grow_and_the_last_error_is_raised() -> None:
    def send() -> Answer:
        raise ServiceUnavailable("the service does not answer")

    pauses = Pauses()
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        deliver(send, pauses)
    assert pauses.seconds == [1, 2, 4, 8, 15, 15, 15, 15, 15]


def test_deliver__lasting_500__error_has_the_detail() -> None:
    with pytest.raises(ServiceUnavailable, match="the service answered 500: the reason; the fix"):
        send_all(answers(*[500] * 10), Pauses())


@pytest.mark.parametrize("status", [400, 401, 403, 413])
def test_deliver__refused__no_retry(status: int) -> None:
    pauses = Pauses()
    with pytest.raises(ServiceRefused, match=f"the service answered {status}: the reason; the fix"):
        send_all(answers(status), pauses)
    assert pauses.seconds == []


@pytest.mark.parametrize("status", [400, 500])
def test_deliver__error_with_control_characters__escaped_for_the_terminal(status: int) -> None:
    answer = Answer(status, {}, json.dumps({"detail": "wait\x1b[2J"}), 1.0)
    with pytest.raises(ServiceUnavailable) as refused:
        deliver(lambda: answer, Pauses())
    assert str(refused.value) == f"the service answered {status}: 'wait\\x1b[2J'"


def test_deliver__newer_snapshot__is_an_answer() -> None:
    assert send_all(answers(409), Pauses()).status == 409


def test_deliver__stopped_during_a_pause__raises() -> None:
    with pytest.raises(Stopped):
        send_all(answers(500, 500, 200), Pauses(stop_after=2))


def many(count: int, values: Values) -> Iterator[tuple[str, Values]]:
    return ((f"user-{number}", values) for number in range(count))


def test_batches__members__at_most_a_thousand_users_or_a_mebibyte() -> None:
    assert [users for users, _ in batches(many(2500, ["gold"]), ["plan"], 1.0, whole=False)] == [1000, 1000, 500]
    large = list(batches(many(40, ["x" * 65536]), ["plan"], 1.0, whole=False))
    assert [users for users, _ in large] == [16, 16, 8]
    assert max(len(body) for _, body in large) < 1.2 * 2**20
    names = [f"property {number}" for number in range(1000)]
    assert next(users for users, _ in batches(many(600, ["1"] * 1000), names, 1.0, whole=True)) <= 500


def test_batches__empty_cells__null_for_requested_properties_and_left_out_of_a_whole_set() -> None:
    member: list[tuple[str, Values]] = [("ava", ["gold", None])]
    (_, body), (_, whole) = [
        next(batches(member, ["plan", "zip"], 1234.5, whole=is_whole)) for is_whole in (False, True)
    ]
    assert json.loads(body) == [
        {"user_id": "ava", "event_time": 1234.5, "user_properties": {"plan": "gold", "zip": None}}
    ]
    assert json.loads(whole) == [
        {"user_id": "ava", "event_time": 1234.5, "user_properties": {"plan": "gold"}, "whole": True}
    ]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", ["$set", "$unset", "$clearAll", "$add", "$setOnce"])
def test_batches__property_has_the_name_of_an_operator__left_out_and_not_applied(name: str, whole: bool) -> None:
    members: list[tuple[str, Values]] = [("ava", ["gold", "plan"]), ("ben", ["gold", None])]
    ((_, body),) = batches(members, ["plan", name], 1e9, whole=whole)
    batch = read_users(body.encode(), 1e9, lambda: None)
    for _, updates in batch.updates:
        parsed = parse_updates(updates)
        assert parsed.properties == {"plan": (1e9, b'"gold"')}
        assert (parsed.whole_at, parsed.cleared_at) == (1e9 if whole else None, None)
    assert (len(batch.updates), batch.unapplied) == (2, 0)
