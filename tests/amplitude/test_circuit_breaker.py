"""The circuit breaker opens after failures and closes after a successful trial call."""

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


def record_failures(circuit_breaker: CircuitBreaker, times: int = 1, fault: UpstreamError | None = None) -> None:
    for _ in range(times):
        circuit_breaker.record(fault or UpstreamUnavailable(), trial=circuit_breaker.begin())


@pytest.mark.parametrize("fault", [UpstreamUnavailable(), UpstreamTimeout(), UpstreamInvalid()])
def test_record__five_failures_in_a_row__opens_with_the_last_error(clock: FakeClock, fault: UpstreamError) -> None:
    circuit_breaker = CircuitBreaker(clock)
    record_failures(circuit_breaker, 4, fault)
    assert circuit_breaker.open_fault() is None
    record_failures(circuit_breaker, 1, fault)
    assert circuit_breaker.open_fault() is fault
    with pytest.raises(type(fault)):
        circuit_breaker.begin()


def test_record__success_or_429_between_failures__count_restarts(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    for answer in (None, QuotaExhausted()):
        record_failures(circuit_breaker, 4)
        circuit_breaker.record(answer, trial=circuit_breaker.begin())
    record_failures(circuit_breaker, 4)
    assert circuit_breaker.open_fault() is None


def test_answers_about_another_user__many_in_a_row__calls_go_on(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    record_failures(circuit_breaker, 4)
    record_failures(circuit_breaker, 20, AnotherUser())
    record_failures(circuit_breaker, 4)
    assert circuit_breaker.open_fault() is None


def test_begin__outage__one_trial_call_at_a_time_and_its_success_ends_the_outage(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    record_failures(circuit_breaker, 5)
    assert 0 < circuit_breaker.wait() <= 1
    clock.advance(circuit_breaker.wait())
    trial = circuit_breaker.begin()
    assert trial
    assert circuit_breaker.open_fault() is not None, "other calls wait for the trial call"
    assert circuit_breaker.wait() > 0
    circuit_breaker.record(None, trial=trial)
    assert circuit_breaker.open_fault() is None
    assert not circuit_breaker.begin()


@pytest.mark.contract("1 outages")
def test_wait__trial_calls_fail__pauses_grow_to_4_seconds_from_the_start_of_the_trial(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    record_failures(circuit_breaker, 5)
    pauses = []
    for _ in range(6):
        pauses.append(circuit_breaker.wait())
        clock.advance(circuit_breaker.wait())
        record_failures(circuit_breaker)
    assert pauses == pytest.approx([0.5, 0.5, 1, 2, 4, 4])
    clock.advance(circuit_breaker.wait())
    trial = circuit_breaker.begin()
    clock.advance(5)
    circuit_breaker.record(UpstreamTimeout(), trial=trial)
    assert circuit_breaker.wait() == 0, "the pause passed while the trial call hung"


def test_record__calls_begun_before_the_outage__failures_do_not_extend_it_and_success_ends_it(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    running = [circuit_breaker.begin() for _ in range(20)]
    for trial in running[:19]:
        circuit_breaker.record(UpstreamUnavailable(), trial=trial)
    assert circuit_breaker.wait() == pytest.approx(0.5)
    circuit_breaker.record(None, trial=running[19])
    assert circuit_breaker.open_fault() is None


def test_record__wrong_credentials__opens_at_once(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    record_failures(circuit_breaker, 1, UpstreamRejected())
    assert isinstance(circuit_breaker.open_fault(), UpstreamRejected)
