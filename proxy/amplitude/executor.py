"""Sends one call and records its outcome in the rate limiter, the circuit breaker and the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from proxy.amplitude.calls import Call
from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.client import Fetched
from proxy.amplitude.rate_limiter import RateLimiter, Reservation
from proxy.monitoring.clock import Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.profile.errors import ConnectionClosed, QuotaExhausted, UpstreamError, UpstreamRejected, UpstreamTimeout
from proxy.profile.parts import Identity

_log = logging.getLogger(__name__)

MAY_ARRIVE_SECONDS = 1.0
"""Seconds for which an abandoned call may still reach Amplitude, for example from a network buffer."""
_FIRST_GUESS_SECONDS = 0.5  # duration of a call, before any call was measured


@dataclass(frozen=True, slots=True)
class LastCall:
    """The last call: its error word, or None for success, and when it ended (monotonic seconds)."""

    error: str | None
    at: float


class CallExecutor:
    """Sends calls. Thread-safe. `typical`: the moving average of recent calls' seconds.

    `fetch`: as `AmplitudeClient.fetch`.
    `on_ended` is called after each request with `ok` or the error word, the seconds, and the number of recommendations.
    """

    def __init__(
        self,
        fetch: Callable[..., Fetched],
        rate_limiter: RateLimiter,
        circuit_breaker: CircuitBreaker,
        *,
        clock: Clock,
        on_ended: Callable[[str, float, int], None] = lambda *_: None,
    ) -> None:
        self.fetch = fetch
        self._rate_limiter = rate_limiter
        self._circuit_breaker = circuit_breaker
        self._clock = clock
        self._on_ended = on_ended
        self._failures = OncePerMinute(_log, "upstream_call_failed", clock)
        self._retries = OncePerMinute(_log, "upstream_call_retried", clock)
        self.typical = _FIRST_GUESS_SECONDS
        self.last_call: LastCall | None = None

    def execute(
        self, identity: Identity, call: Call, reservation: Reservation, *, trial: bool
    ) -> Fetched | UpstreamError:
        """Send `call` and return the result or the error. `trial`: the result of `CircuitBreaker.begin`.

        If a reused connection was closed before the answer, the call is sent once more on a new connection (RFC 9110,
        section 9.2.2). The retry has a reservation of its own, because Amplitude may have counted the first request.
        """
        outcome = self._send(identity, call, reservation)
        if isinstance(outcome, ConnectionClosed) and (retry := self._reserve_retry(outcome, trial=trial)):
            self._retries.note("", level=logging.INFO, why=str(outcome))
            with retry:
                outcome = self._send(identity, call, retry, retry_within=outcome.seconds_left)
        fault = outcome if isinstance(outcome, UpstreamError) else None
        if fault is not None:
            # Wrong credentials are an ERROR, because only an operator can fix them.
            level = logging.ERROR if isinstance(fault, UpstreamRejected) else logging.WARNING
            # The key is the type, so that responses about another user do not hide other invalid responses in the log.
            self._failures.note(type(fault).__name__, level=level, error=fault.word, why=str(fault))
        self._circuit_breaker.record(fault, trial=trial)
        return outcome

    def _reserve_retry(self, closed: ConnectionClosed, *, trial: bool) -> Reservation | None:
        """Return a reservation for a retry now; None if no retry may be sent now."""
        if closed.seconds_left <= 0:
            return None
        # The retry of a trial call belongs to the trial, during which the circuit breaker stops all other calls.
        if not trial and self._circuit_breaker.open_fault() is not None:
            return None
        return self._rate_limiter.reserve(self._clock.monotonic())

    def _send(
        self, identity: Identity, call: Call, reservation: Reservation, **retry: float
    ) -> Fetched | UpstreamError:
        """Send one request, and record its end. `retry`: `retry_within`, only for a retry."""
        started = self._clock.monotonic()
        outcome: Fetched | UpstreamError | None = None
        try:
            outcome = self.fetch(identity, call, **retry)
        except UpstreamError as error:
            outcome = error
        finally:
            abandoned = isinstance(outcome, UpstreamTimeout)
            reservation.complete(may_arrive_for=MAY_ARRIVE_SECONDS if abandoned else 0.0)
        ended = self._clock.monotonic()
        fault = outcome if isinstance(outcome, UpstreamError) else None
        if fault is None:
            # Failures are excluded, because they do not show how long an answer takes.
            self.typical += 0.2 * (ended - started - self.typical)
        elif isinstance(fault, QuotaExhausted):
            self._rate_limiter.pause(fault.retry_after or 0.0)
        word = fault.word if fault else None
        exposures = sum(part.section == "recommendations" for part in call.parts)
        self._on_ended(word or "ok", ended - started, exposures)
        self.last_call = LastCall(word, ended)
        return outcome
