"""The delivery of changes to the emulated Braze, with its rate limit and its faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.track import TrackClient
from proxy.sandbox.braze_api import BrazeApi
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from proxy.sync.delivery import Change, DeliveryStopped, deliver
from tests.support.delivery import Outcomes, SteppingClock, changes


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def emulated(clock: SteppingClock) -> Iterator[Sandbox]:
    with Sandbox(braze=BrazeApi(known_users="all", per_minute=120, clock=clock)) as sandbox:
        yield sandbox


def run(
    emulated: Sandbox, clock: SteppingClock, to_send: Sequence[Change], *, batch_objects: int = 10, key: str = ""
) -> Outcomes:
    outcomes = Outcomes()
    deliver(
        to_send,
        TrackClient(emulated.url, key or emulated.braze.key, create_users=False, timeout=0.5, clock=clock),
        RateLimiter(emulated.braze.per_minute, clock=clock),
        batch_objects=batch_objects,
        on_accepted=outcomes.accepted.extend,
        on_failed=outcomes.on_failed,
        on_request=outcomes.on_request,
        on_uncertain=outcomes.on_uncertain,
        stop=threading.Event(),
        threads=4,
        clock=clock,
    )
    return outcomes


@pytest.mark.contract("7 delivery")
def test_deliver__limit_of_braze__never_exceeded_by_its_own_count(emulated: Sandbox, clock: SteppingClock) -> None:
    outcomes = run(emulated, clock, changes(300), batch_objects=1)
    report = emulated.braze.report()
    assert len(outcomes.accepted) == 300
    assert report["statuses"] == {"201": 300}
    assert report["worst_minute"]["requests"] <= 120
    assert report["overlapping_users"] == 0
    assert clock.slept > 60


@pytest.mark.contract("7 delivery")
@pytest.mark.parametrize(
    ("fault", "uncertain"),
    [
        (Fault("hang", seconds=5, times=2), True),
        (Fault("hang-accepted", seconds=5, times=2), True),
        (Fault("reset", times=2), True),
        (Fault("uncertain", times=2), True),
        (Fault("broken-json", times=2), True),
        (Fault("status", status=500, times=4), False),
        (Fault("status-text", status=502, times=4), False),
        (Fault("maintenance", times=4), False),
        (Fault("429-retry-after", seconds=30, times=2), False),
        (Fault("429-reset-epoch", seconds=30, times=2), False),
        (Fault("429-reset-remaining", seconds=30, times=2), False),
        (Fault("429-no-time", times=2), False),
        (Fault("queued"), False),
        (Fault("message", times=3), False),
        (Fault("too-long", times=3), False),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_deliver__passing_fault__nothing_lost(
    emulated: Sandbox, clock: SteppingClock, fault: Fault, uncertain: bool
) -> None:
    emulated.braze.faults.set(fault)
    to_send = changes(45, plan="gold", points=7)
    outcomes = run(emulated, clock, to_send)
    assert sorted(change.user_id for change in outcomes.accepted) == [change.user_id for change in to_send]
    assert outcomes.failed == {}
    assert (outcomes.uncertain > 0) == uncertain
    assert all(emulated.braze.attributes(change.user_id) == change.attributes for change in to_send)
    assert emulated.braze.report()["overlapping_users"] == 0


def test_deliver__errors_of_two_users__only_these_fail(emulated: Sandbox, clock: SteppingClock) -> None:
    emulated.braze.faults.set(Fault("object-errors", user_id="user-003,user-017"))
    outcomes = run(emulated, clock, changes(45))
    assert sorted(outcomes.failed) == ["user-003", "user-017"]
    assert len(outcomes.accepted) == 43
    assert emulated.braze.report()["requests"] == 5


def test_deliver__errors_of_every_user__each_fails_with_its_reason(emulated: Sandbox, clock: SteppingClock) -> None:
    emulated.braze.faults.set(Fault("object-errors"))
    outcomes = run(emulated, clock, changes(45))
    assert len(outcomes.failed) == 45
    assert all("disallowed" in reason for reason in outcomes.failed.values())
    assert emulated.braze.report()["requests"] == 5


@pytest.mark.parametrize("kind", ["wrong-key", "wrong-instance", "no-permission"])
def test_deliver__key_refused__stops_with_the_names(emulated: Sandbox, clock: SteppingClock, kind: str) -> None:
    emulated.braze.faults.set(Fault(kind))  # type: ignore[arg-type]  # a parameter is a str
    with pytest.raises(DeliveryStopped, match=r"BRAZE_API_KEY.*BRAZE_REST_ENDPOINT"):
        run(emulated, clock, changes(400))
    assert emulated.braze.report()["requests"] <= 4


def test_deliver__another_key__stops_without_writing(emulated: Sandbox, clock: SteppingClock) -> None:
    with pytest.raises(DeliveryStopped, match="status 401") as raised:
        run(emulated, clock, changes(20), key="another-key")
    assert "another-key" not in str(raised.value)
    assert emulated.braze.report()["users"] == 0
