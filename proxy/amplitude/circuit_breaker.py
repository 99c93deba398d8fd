"""Stops calls after repeated failures, and resumes with the first half-open trial that succeeds.

While the circuit breaker is open, callers receive the failure at once and Amplitude can recover.
"""

from __future__ import annotations

from threading import Lock

from proxy.monitoring.clock import Clock
from proxy.profile.errors import AnotherUser, QuotaExhausted, UpstreamError, UpstreamRejected

_FAILURES = 5
"""In a row. An invalid response about one user is no outage: among five calls, some other one succeeds."""
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 4.0
"""Answers must be complete within 10 s of the end of a fault, and a trial that hangs takes 5 s of them."""


class CircuitBreaker:
    """Opens and closes by the outcomes of calls. Safe for threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._failures = 0
        self._fault: UpstreamError | None = None
        self._pause = 0.0
        self._next_trial_at = 0.0
        self._trial_in_flight = False

    @property
    def fault(self) -> UpstreamError | None:
        """Return the failure that opened the circuit breaker, until a call succeeds."""
        return self._fault

    def open_fault(self) -> UpstreamError | None:
        """Return the failure for which no call may be sent now, None when a call may be sent."""
        return self._fault if self._trial_in_flight or self._clock.monotonic() < self._next_trial_at else None

    def begin(self) -> bool:
        """Return whether the call that is about to be sent is the half-open trial.

        Raises the failure for which no call may be sent now. Each call that begins must be recorded.
        """
        with self._lock:
            if fault := self.open_fault():
                raise fault.with_traceback(None)  # the same object is raised repeatedly, and would grow
            if self._fault is None:
                return False
            self._trial_in_flight = True
            # The pause counts from the start of the trial: a trial that hangs has waited long enough when it ends.
            self._next_trial_at = self._clock.monotonic() + self._pause
            return True

    def record(self, fault: UpstreamError | None, *, trial: bool) -> None:
        """Record the outcome of a call: None when Amplitude answered. `trial`: the result of `begin` for this call.

        A 429 counts as an answer. So does a response about another user: a project that merges users has many of
        them, and the calls for all other users must continue.
        """
        with self._lock:
            if trial:
                self._trial_in_flight = False
            if fault is None or isinstance(fault, QuotaExhausted | AnotherUser):
                self._failures, self._fault = 0, None
                return
            self._failures += 1
            if self._fault is not None:
                # Calls that were in flight when the circuit breaker opened show nothing new. The trial does.
                if trial:
                    self._fault, self._pause = fault, min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            elif self._failures >= _FAILURES or isinstance(fault, UpstreamRejected):
                self._fault, self._pause = fault, _FIRST_PAUSE_SECONDS
                self._next_trial_at = self._clock.monotonic() + self._pause

    def wait(self) -> float:
        """Return the seconds until a trial may be sent; 0 when any call may be sent."""
        with self._lock:
            if self._fault is None:
                return 0.0
            return max(self._next_trial_at - self._clock.monotonic(), 0.05 if self._trial_in_flight else 0.0)
