"""Standing back after failures, and coming back."""

import pytest

from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.profile.errors import (
    AnotherUser,
    QuotaExhausted,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from tests.support.fakes import FakeClock


def failed(outage: CircuitBreaker, times: int = 1, fault: UpstreamError | None = None) -> None:
    for _ in range(times):
        outage.ended(fault or UpstreamUnavailable(), probe=outage.begin())


@pytest.mark.parametrize("fault", [UpstreamUnavailable(), UpstreamTimeout(), UpstreamInvalid()])
def test_five_failures_in_a_row_stop_the_calls_and_callers_hear_the_last_word(
    clock: FakeClock, fault: UpstreamError
) -> None:
    outage = CircuitBreaker(clock)
    failed(outage, 4, fault)
    assert outage.lasting() is None
    failed(outage, 1, fault)
    assert outage.lasting() is fault
    with pytest.raises(type(fault)):
        outage.begin()


def test_an_answer_in_between_begins_the_count_anew_and_a_429_is_an_answer(clock: FakeClock) -> None:
    outage = CircuitBreaker(clock)
    for answer in (None, QuotaExhausted()):
        failed(outage, 4)
        outage.ended(answer, probe=outage.begin())
    failed(outage, 4)
    assert outage.lasting() is None


def test_answers_about_another_user__many_in_a_row__calls_go_on(clock: FakeClock) -> None:
    outage = CircuitBreaker(clock)
    failed(outage, 4)
    failed(outage, 20, AnotherUser())
    failed(outage, 4)
    assert outage.lasting() is None


def test_one_probe_at_a_time_and_its_success_ends_the_outage(clock: FakeClock) -> None:
    outage = CircuitBreaker(clock)
    failed(outage, 5)
    assert 0 < outage.wait() <= 1
    clock.advance(outage.wait())
    probe = outage.begin()
    assert probe
    assert outage.lasting() is not None, "the others wait for the probe"
    assert outage.wait() > 0
    outage.ended(None, probe=probe)
    assert outage.lasting() is None
    assert not outage.begin()


@pytest.mark.contract("1 outages")
def test_pauses_grow_to_four_seconds_counted_from_the_probe_s_start(clock: FakeClock) -> None:
    outage = CircuitBreaker(clock)
    failed(outage, 5)
    pauses = []
    for _ in range(6):
        pauses.append(outage.wait())
        clock.advance(outage.wait())
        failed(outage)
    assert pauses == pytest.approx([0.5, 0.5, 1, 2, 4, 4])
    clock.advance(outage.wait())
    probe = outage.begin()
    clock.advance(5)
    outage.ended(UpstreamTimeout(), probe=probe)
    assert outage.wait() == 0, "a probe that hung has waited long enough"


def test_what_was_on_the_way_when_it_began_lengthens_nothing_and_an_answer_among_it_ends_it(clock: FakeClock) -> None:
    outage = CircuitBreaker(clock)
    on_the_way = [outage.begin() for _ in range(20)]
    for probe in on_the_way[:19]:
        outage.ended(UpstreamUnavailable(), probe=probe)
    assert outage.wait() == pytest.approx(0.5)
    outage.ended(None, probe=on_the_way[19])
    assert outage.lasting() is None


def test_wrong_credentials_stop_the_calls_at_once(clock: FakeClock) -> None:
    outage = CircuitBreaker(clock)
    failed(outage, 1, UpstreamRejected())
    assert isinstance(outage.lasting(), UpstreamRejected)
