"""The circuit breaker opens after failures and closes after a trial."""

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


def failed(circuit_breaker: CircuitBreaker, times: int = 1, fault: UpstreamError | None = None) -> None:
    for _ in range(times):
        circuit_breaker.record(fault or UpstreamUnavailable(), trial=circuit_breaker.begin())


@pytest.mark.parametrize("fault", [UpstreamUnavailable(), UpstreamTimeout(), UpstreamInvalid()])
def test_five_failures_in_a_row_stop_the_calls_and_callers_hear_the_last_word(
    clock: FakeClock, fault: UpstreamError
) -> None:
    circuit_breaker = CircuitBreaker(clock)
    failed(circuit_breaker, 4, fault)
    assert circuit_breaker.open_fault() is None
    failed(circuit_breaker, 1, fault)
    assert circuit_breaker.open_fault() is fault
    with pytest.raises(type(fault)):
        circuit_breaker.begin()


def test_an_answer_in_between_begins_the_count_anew_and_a_429_is_an_answer(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    for answer in (None, QuotaExhausted()):
        failed(circuit_breaker, 4)
        circuit_breaker.record(answer, trial=circuit_breaker.begin())
    failed(circuit_breaker, 4)
    assert circuit_breaker.open_fault() is None


def test_answers_about_another_user__many_in_a_row__calls_go_on(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    failed(circuit_breaker, 4)
    failed(circuit_breaker, 20, AnotherUser())
    failed(circuit_breaker, 4)
    assert circuit_breaker.open_fault() is None


def test_one_probe_at_a_time_and_its_success_ends_the_outage(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    failed(circuit_breaker, 5)
    assert 0 < circuit_breaker.wait() <= 1
    clock.advance(circuit_breaker.wait())
    trial = circuit_breaker.begin()
    assert trial
    assert circuit_breaker.open_fault() is not None, "the others wait for the trial"
    assert circuit_breaker.wait() > 0
    circuit_breaker.record(None, trial=trial)
    assert circuit_breaker.open_fault() is None
    assert not circuit_breaker.begin()


@pytest.mark.contract("1 outages")
def test_pauses_grow_to_four_seconds_counted_from_the_probe_s_start(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    failed(circuit_breaker, 5)
    pauses = []
    for _ in range(6):
        pauses.append(circuit_breaker.wait())
        clock.advance(circuit_breaker.wait())
        failed(circuit_breaker)
    assert pauses == pytest.approx([0.5, 0.5, 1, 2, 4, 4])
    clock.advance(circuit_breaker.wait())
    trial = circuit_breaker.begin()
    clock.advance(5)
    circuit_breaker.record(UpstreamTimeout(), trial=trial)
    assert circuit_breaker.wait() == 0, "a trial that hung has waited long enough"


def test_what_was_on_the_way_when_it_began_lengthens_nothing_and_an_answer_among_it_ends_it(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    running = [circuit_breaker.begin() for _ in range(20)]
    for trial in running[:19]:
        circuit_breaker.record(UpstreamUnavailable(), trial=trial)
    assert circuit_breaker.wait() == pytest.approx(0.5)
    circuit_breaker.record(None, trial=running[19])
    assert circuit_breaker.open_fault() is None


def test_wrong_credentials_stop_the_calls_at_once(clock: FakeClock) -> None:
    circuit_breaker = CircuitBreaker(clock)
    failed(circuit_breaker, 1, UpstreamRejected())
    assert isinstance(circuit_breaker.open_fault(), UpstreamRejected)
