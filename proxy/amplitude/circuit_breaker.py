"""After repeated failures of Amplitude: stand back, send one probe at a time, resume with its success. Pure.

While it lasts, callers hear of the failure at once instead of waiting for it, and Amplitude is left to recover.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from proxy.profile.errors import AnotherUser, QuotaExhausted, UpstreamError, UpstreamRejected

_FAILURES = 5
"""In a row. One user's odd answer is no outage, and between five of them some other call succeeds."""
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 4.0
"""Answers must be whole again within 10 s of a fault's end, and a probe that hangs takes 5 of them."""


class CircuitBreaker:
    """Judges by how calls end. Safe for threads."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._failures = 0
        self._fault: UpstreamError | None = None
        self._pause = 0.0
        self._probe_at = 0.0
        self._probing = False

    @property
    def fault(self) -> UpstreamError | None:
        """Return what was wrong when Amplitude was last asked, until it answers again, be it that nobody asks."""
        return self._fault

    def open_fault(self) -> UpstreamError | None:
        """Return the fault because of which no call may go just now, None when one may."""
        with self._lock:
            return self._lasting()

    def begin(self) -> bool:
        """Take leave to send a call and return whether it is the probe, for `ended`. Raises the fault that lasts."""
        with self._lock:
            if fault := self._lasting():
                raise fault.with_traceback(None)  # it is raised again and again, and would grow
            if self._fault is None:
                return False
            self._probing = True
            # From the start of the probe: one that hangs has waited long enough when it ends.
            self._probe_at = self._monotonic() + self._pause
            return True

    def record(self, fault: UpstreamError | None, *, probe: bool) -> None:
        """Take note of how a call ended: None when Amplitude answered.

        A 429 is an answer too, and so is one about another user: a project that merges users has many of them, and
        everybody else's calls must go on.
        """
        with self._lock:
            if probe:
                self._probing = False
            if fault is None or isinstance(fault, QuotaExhausted | AnotherUser):
                self._failures, self._fault = 0, None
                return
            self._failures += 1
            if self._fault is not None:
                # Calls that were on the way when it began tell nothing new; the probe does.
                if probe:
                    self._fault, self._pause = fault, min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            elif self._failures >= _FAILURES or isinstance(fault, UpstreamRejected):
                self._fault, self._pause = fault, _FIRST_PAUSE_SECONDS
                self._probe_at = self._monotonic() + self._pause

    def wait(self) -> float:
        """Return the seconds until a probe may go; 0 when a call may."""
        with self._lock:
            if self._fault is None:
                return 0.0
            return max(self._probe_at - self._monotonic(), 0.05 if self._probing else 0.0)

    def _lasting(self) -> UpstreamError | None:
        return self._fault if self._probing or self._monotonic() < self._probe_at else None
