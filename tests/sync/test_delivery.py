"""The delivery of changes to Braze, over real HTTP."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import pytest

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.track import TrackClient
from proxy.monitoring.clock import Clock
from proxy.sync.delivery import Change, DeliveryStopped, deliver
from tests.support.delivery import Outcomes, SteppingClock, changes
from tests.support.scripted import Answer, Request, ScriptedServer


def run(
    to_send: Iterable[Change],
    answer: Callable[[Request], Answer],
    *,
    batch_objects: int = 75,
    threads: int = 1,
    per_minute: int = 1_000_000,
    timeout: float = 5.0,
    clock: Clock | None = None,
    stop: threading.Event | None = None,
    outcomes: Outcomes | None = None,
) -> tuple[Outcomes, list[Request]]:
    clock = clock or SteppingClock()
    outcomes = outcomes or Outcomes()
    with ScriptedServer(answer) as server:
        deliver(
            to_send,
            TrackClient(server.url, "key", create_users=False, timeout=timeout, clock=clock),
            RateLimiter(per_minute, clock=clock),
            batch_objects=batch_objects,
            on_accepted=outcomes.accepted.extend,
            on_failed=outcomes.on_failed,
            on_request=outcomes.on_request,
            on_uncertain=outcomes.on_uncertain,
            stop=stop or threading.Event(),
            threads=threads,
            clock=clock,
        )
    assert outcomes.requests == len(server.requests)
    return outcomes, server.requests


def users(request: Request) -> list[str]:
    return [entry["external_id"] for entry in request.body["attributes"]]


def accept(_: Request) -> Answer:
    return Answer()


def test_deliver__more_changes_than_a_batch__all_accepted_once() -> None:
    outcomes, requests = run(changes(160), accept)
    assert [len(users(request)) for request in requests] == [75, 75, 10]
    assert outcomes.accepted == changes(160)
    assert outcomes.failed == {}


def test_deliver__nothing__no_request() -> None:
    assert run([], accept)[1] == []


def test_deliver__attribute_named_external_id__never_replaces_the_user() -> None:
    _, requests = run(
        [Change("ava", {"external_id": "ben", "_update_existing_only": False, "plan": None}, 0.0)], accept
    )
    assert requests[0].body["attributes"] == [{"external_id": "ava", "_update_existing_only": True, "plan": None}]


def test_deliver__large_objects__requests_below_four_megabytes() -> None:
    _, requests = run(changes(75, text="x" * 100_000), accept)
    assert [len(users(request)) for request in requests] == [34, 34, 7]
    assert all(int(request.headers["Content-Length"]) < 4_000_000 for request in requests)


def test_deliver__same_user_several_times__in_order_and_never_in_two_requests() -> None:
    lock = threading.Lock()
    in_flight: Counter[str] = Counter()
    most = 0

    def answer(request: Request) -> Answer:
        nonlocal most
        with lock:
            in_flight.update(users(request))
            most = max(most, *in_flight.values())
        time.sleep(0.01)
        with lock:
            in_flight.subtract(users(request))
        return Answer()

    to_send = [Change(f"user-{number % 3}", {"number": number}, 0.0) for number in range(30)]
    outcomes, requests = run(to_send, answer, batch_objects=2, threads=4)
    assert most == 1
    for user in ("user-0", "user-1", "user-2"):
        sent = [entry["number"] for r in requests for entry in r.body["attributes"] if entry["external_id"] == user]
        assert sent == sorted(sent)
        assert len(sent) == 10
    assert len(outcomes.accepted) == 30


def test_deliver__several_threads__requests_overlap() -> None:
    together = threading.Barrier(4)

    def answer(_: Request) -> Answer:
        together.wait(10)
        return Answer()

    outcomes, _ = run(changes(8), answer, batch_objects=1, threads=4)
    assert len(outcomes.accepted) == 8


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"X-Ratelimit-Retry-After": "20"}, 20), ({"X-RateLimit-Reset": "30"}, 30), ({"Retry-After": "40"}, 40), ({}, 60)],
    ids=["retry-after", "reset", "standard", "none"],
)
def test_deliver__429__waits_and_sends_again(headers: dict[str, str], seconds: float) -> None:
    clock = SteppingClock()
    arrivals: list[float] = []

    def answer(request: Request) -> Answer:
        arrivals.append(clock())
        return Answer(429, headers=headers) if request.number == 0 else Answer()

    outcomes, requests = run(changes(3), answer, clock=clock)
    assert len(requests) == 2
    assert arrivals[1] - arrivals[0] == pytest.approx(seconds, abs=0.5)
    assert len(outcomes.accepted) == 3
    assert outcomes.uncertain == 0


def test_deliver__429_with_unix_time__waits_until_then() -> None:
    clock = SteppingClock()
    answers = [Answer(429, headers={"X-RateLimit-Reset": str(int(clock()) + 100)}), Answer()]
    run(changes(1), lambda request: answers[request.number], clock=clock)
    assert clock.slept == pytest.approx(100, abs=0.5)


def test_deliver__429__stops_all_threads() -> None:
    clock = SteppingClock()
    arrivals: list[float] = []

    def answer(request: Request) -> Answer:
        arrivals.append(clock())
        return Answer(429, headers={"X-Ratelimit-Retry-After": "20"}) if request.number == 4 else Answer()

    outcomes, _ = run(changes(40), answer, batch_objects=1, threads=4, per_minute=600, clock=clock)
    assert len(outcomes.accepted) == 40
    # Requests that were in flight at the time of the 429 may arrive during the pause.
    assert sum(arrivals[4] < arrival < arrivals[4] + 19.5 for arrival in arrivals) <= 3


def test_deliver__429_of_more_than_ten_minutes__stops_and_names_the_time() -> None:
    clock = SteppingClock(1_764_000_000)  # 2025-11-24 16:00:00 UTC
    outcomes = Outcomes()
    with pytest.raises(DeliveryStopped, match="before 2025-11-24 16:10:01 UTC"):
        run(
            changes(1),
            lambda _: Answer(429, headers={"X-Ratelimit-Retry-After": "601"}),
            clock=clock,
            outcomes=outcomes,
        )
    assert outcomes.failed == {}
    assert clock.slept == 0


@pytest.mark.parametrize(
    ("fault", "uncertain"),
    [(Answer(503), 0), (Answer(500), 0), (Answer(ends="reset"), 15), (Answer(ends="truncate"), 15)],
    ids=["503", "500", "reset", "truncate"],
)
def test_deliver__five_failures__then_accepted(fault: Answer, uncertain: int) -> None:
    clock = SteppingClock()
    outcomes, requests = run(changes(3), lambda request: fault if request.number < 5 else Answer(), clock=clock)
    assert len(requests) == 6
    assert len(outcomes.accepted) == 3
    assert outcomes.failed == {}
    assert outcomes.uncertain == uncertain
    assert 15 <= clock.slept <= 32  # 1 + 2 + 4 + 8 + 16 seconds, with jitter


def test_deliver__hang__sent_again() -> None:
    released = threading.Event()

    def answer(request: Request) -> Answer:
        if request.number == 0:
            released.wait(5)
        return Answer()

    outcomes, requests = run(changes(2), answer, timeout=0.2)
    released.set()
    assert len(requests) == 2
    assert (len(outcomes.accepted), outcomes.uncertain) == (2, 2)


def test_deliver__batch_fails_six_times__its_changes_fail_and_others_continue() -> None:
    def answer(request: Request) -> Answer:
        return Answer(503) if "user-001" in users(request) else Answer()

    outcomes, requests = run(changes(6), answer, batch_objects=2)
    assert outcomes.failed == dict.fromkeys(["user-000", "user-001"], "Braze returned status 503")
    assert outcomes.accepted_users == ["user-002", "user-003", "user-004", "user-005"]
    assert len(requests) == 6 + 2


def test_deliver__three_failed_batches_in_a_row__stops() -> None:
    outcomes = Outcomes()
    with pytest.raises(DeliveryStopped, match=r"none of 3 batches in a row \(Braze returned status 503\); check"):
        run(changes(10), lambda _: Answer(503), batch_objects=2, outcomes=outcomes)
    assert outcomes.requests == 3 * 6
    assert len(outcomes.failed) == 6


def test_deliver__failed_batches_not_in_a_row__continues() -> None:
    def answer(request: Request) -> Answer:
        return Answer(503) if int(users(request)[0].removeprefix("user-")) % 3 else Answer()

    outcomes, _ = run(changes(12), answer, batch_objects=1)
    assert (len(outcomes.accepted), len(outcomes.failed)) == (4, 8)


@pytest.mark.parametrize(
    "rejection",
    [Answer(413), Answer(400, {"message": "Max Input Length Exceeded"}), Answer(400, {"message": "bad"})],
    ids=["413", "max length", "other"],
)
def test_deliver__object_that_braze_rejects__fails_alone(rejection: Answer) -> None:
    outcomes, requests = run(
        changes(20), lambda request: rejection if "user-013" in users(request) else Answer(), batch_objects=10
    )
    assert list(outcomes.failed) == ["user-013"]
    assert len(outcomes.accepted) == 19
    assert len(requests) < 12


def test_deliver__three_single_objects_rejected_in_a_row__continues() -> None:
    outcomes, _ = run(changes(4), lambda _: Answer(400, {"message": "bad"}), batch_objects=1)
    assert outcomes.failed == dict.fromkeys([f"user-00{n}" for n in range(4)], "Braze returned status 400: bad")


def test_deliver__every_batch_rejected__stops() -> None:
    outcomes = Outcomes()
    with pytest.raises(DeliveryStopped, match="Braze returned status 400: bad"):
        run(changes(100), lambda _: Answer(400, {"message": "bad"}), batch_objects=4, outcomes=outcomes)
    assert len(outcomes.failed) == 12


def test_deliver__errors_of_objects__only_these_objects_fail() -> None:
    errors = [{"type": "bad plan", "input_array": "attributes", "index": index} for index in (0, 2)]
    outcomes, requests = run(changes(4), lambda _: Answer(201, {"message": "success", "errors": errors}))
    assert outcomes.failed == {"user-000": "bad plan", "user-002": "bad plan"}
    assert outcomes.accepted_users == ["user-001", "user-003"]
    assert len(requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_deliver__wrong_key_or_instance__stops_at_once(status: int) -> None:
    outcomes = Outcomes()
    with pytest.raises(DeliveryStopped, match="BRAZE_API_KEY"):
        run(changes(400), lambda _: Answer(status, {"message": "no"}), outcomes=outcomes)
    assert outcomes.requests == 1
    assert (outcomes.accepted, outcomes.failed) == ([], {})


def test_deliver__stop_during_a_request__request_is_recorded() -> None:
    stop = threading.Event()

    def answer(_: Request) -> Answer:
        stop.set()
        return Answer()

    outcomes, requests = run(changes(30), answer, batch_objects=10, stop=stop)
    assert len(requests) == 1
    assert len(outcomes.accepted) == 10


@pytest.mark.parametrize(
    "answer", [Answer(503), Answer(429, headers={"X-Ratelimit-Retry-After": "500"})], ids=["backoff", "pause"]
)
def test_deliver__stop_during_a_wait__ends(answer: Answer) -> None:
    stop = threading.Event()

    class StoppingClock(SteppingClock):
        def advance(self, seconds: float) -> None:
            super().advance(seconds)
            stop.set()

    clock = StoppingClock()
    outcomes, requests = run(changes(200), lambda _: answer, stop=stop, clock=clock)
    assert len(requests) == 1
    assert clock.slept < 1
    assert (outcomes.accepted, outcomes.failed) == ([], {})


def test_deliver__stopped_before_the_start__no_request() -> None:
    stop = threading.Event()
    stop.set()
    assert run(changes(3), accept, stop=stop)[1] == []


def test_deliver__error_in_a_callback__is_raised() -> None:
    class Broken(Outcomes):
        def on_failed(self, change: Change, reason: str) -> None:
            raise RuntimeError("disk full")

    error = {"type": "bad", "input_array": "attributes", "index": 0}
    with pytest.raises(RuntimeError, match="disk full"):
        run(
            changes(500), lambda _: Answer(201, {"message": "success", "errors": [error]}), outcomes=Broken(), threads=4
        )


def test_deliver__error_in_the_changes__is_raised_after_the_requests_in_flight() -> None:
    def broken() -> Iterator[Change]:
        yield from changes(10)
        raise RuntimeError("no file")

    outcomes = Outcomes()
    with pytest.raises(RuntimeError, match="no file"):
        run(broken(), accept, batch_objects=5, outcomes=outcomes)
    assert len(outcomes.accepted) in (0, 5)
