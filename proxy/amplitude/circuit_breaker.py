"""Stops calls after repeated failures, and resumes after the first successful trial call.

While the circuit breaker is open, callers get the error at once and Amplitude can recover.
"""

from __future__ import annotations

from threading import Lock

from proxy.monitoring.clock import Clock
from proxy.profile.errors import AnotherUser, QuotaExhausted, UpstreamError, UpstreamRejected

_FAILURES = 5
"""Consecutive failures that open the circuit breaker. Invalid answers about one user do not suffice, because calls for
other users succeed in between."""
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 4.0
"""Answers must be complete within 10 s after an outage ends, and a trial call may hang for 5 of these seconds."""


class CircuitBreaker:
    """Opens after consecutive failures, and closes after a success. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._failures = 0
        self._fault: UpstreamError | None = None
        self._pause = 0.0
        self._next_trial_at = 0.0
        self._trial_running = False

    @property
    def fault(self) -> UpstreamError | None:
        """Return the error that opened the circuit breaker; None after a call has succeeded."""
        return self._fault

    def open_fault(self) -> UpstreamError | None:
        """Return the error that prevents calls now; None if a call may be sent."""
        return self._fault if self._trial_running or self._clock.monotonic() < self._next_trial_at else None

    def begin(self) -> bool:
        """Return whether the next call is a trial call. Raises the error that prevents calls now.

        Pass the outcome of the call to `record`.
        """
        with self._lock:
            if fault := self.open_fault():
                raise fault.with_traceback(None)  # the same object is raised repeatedly, and its traceback would grow
            if self._fault is None:
                return False
            self._trial_running = True
            # The pause counts from the start of the trial call, because a hanging call is itself a pause.
            self._next_trial_at = self._clock.monotonic() + self._pause
            return True

    def record(self, fault: UpstreamError | None, *, trial: bool) -> None:
        """Record the outcome of a call. `fault`: None for success. `trial`: the result of `begin` for this call.

        A 429 counts as a success. A response about another user also counts as a success: a project that merges users
        has many such responses, and calls for all other users must continue.
        """
        with self._lock:
            if trial:
                self._trial_running = False
            if fault is None or isinstance(fault, QuotaExhausted | AnotherUser):
                self._failures, self._fault = 0, None
                return
            self._failures += 1
            if self._fault is not None:
                # Calls that began before the circuit breaker opened give no new information. Only the trial call does.
                if trial:
                    self._fault, self._pause = fault, min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            elif self._failures >= _FAILURES or isinstance(fault, UpstreamRejected):
                self._fault, self._pause = fault, _FIRST_PAUSE_SECONDS
                self._next_trial_at = self._clock.monotonic() + self._pause

    def wait(self) -> float:
        """Return the seconds until a trial call may be sent; 0 if any call may be sent."""
        with self._lock:
            if self._fault is None:
                return 0.0
            return max(self._next_trial_at - self._clock.monotonic(), 0.05 if self._trial_running else 0.0)
