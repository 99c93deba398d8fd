"""Sends one call, and tells quota, outage and log how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from proxy.amplitude.calls import Call
from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.client import Fetched
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.amplitude.sliding_window import Reservation
from proxy.monitoring.logs import OncePerMinute
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamRejected, UpstreamTimeout
from proxy.profile.parts import Identity

_log = logging.getLogger(__name__)

MAY_ARRIVE_SECONDS = 1.0
"""For so long a call that was given up may still reach Amplitude: it may be in some buffer on the way."""
_FIRST_GUESS_SECONDS = 0.5  # of a typical call, until calls were measured


@dataclass(frozen=True, slots=True)
class LastCall:
    """How the last call ended: None when well, else the error word; and when (monotonic seconds)."""

    error: str | None
    at: float


class CallExecutor:
    """`typical`: seconds that a call takes, of late. Safe for threads.

    `on_ended` is told of each call: `ok` or the error word, the seconds it took, the recommendations it asked for.
    """

    def __init__(
        self,
        fetch: Callable[[Identity, Call], Fetched],
        rate_limiter: RateLimiter,
        circuit_breaker: CircuitBreaker,
        *,
        monotonic: Callable[[], float],
        on_ended: Callable[[str, float, int], None] = lambda *_: None,
    ) -> None:
        self.fetch = fetch
        self._rate_limiter = rate_limiter
        self._circuit_breaker = circuit_breaker
        self._monotonic = monotonic
        self._on_ended = on_ended
        self._told = OncePerMinute(_log, "no answer from Amplitude", monotonic)
        self.typical = _FIRST_GUESS_SECONDS
        self.last_call: LastCall | None = None

    def execute(
        self, identity: Identity, call: Call, reservation: Reservation, *, probe: bool
    ) -> Fetched | UpstreamError:
        """Return what `call` brought, or why nothing. `probe`: what `Outage.begin` said of it."""
        started = self._monotonic()
        outcome: Fetched | UpstreamError | None = None
        try:
            outcome = self.fetch(identity, call)
        except UpstreamError as raised:
            outcome = raised
        finally:
            given_up = isinstance(outcome, UpstreamTimeout)
            self._rate_limiter.complete(reservation, may_arrive_for=MAY_ARRIVE_SECONDS if given_up else 0.0)
        ended = self._monotonic()
        if isinstance(outcome, UpstreamError):
            self._failed(outcome)
        else:
            # Failures tell nothing of how long an answer takes, and after an outage callers may hope again at once.
            self.typical += 0.2 * (ended - started - self.typical)
        fault = outcome if isinstance(outcome, UpstreamError) else None
        self._circuit_breaker.record(fault, probe=probe)
        exposures = sum(part.section == "recommendations" for part in call.parts)
        self._on_ended(fault.word if fault else "ok", ended - started, exposures)
        self.last_call = LastCall(fault.word if fault else None, ended)
        return outcome

    def _failed(self, fault: UpstreamError) -> None:
        if isinstance(fault, QuotaExhausted):
            self._rate_limiter.pause(fault.retry_after or 0.0)
        # Wrong credentials end by no retry: somebody must mend them.
        level = logging.ERROR if isinstance(fault, UpstreamRejected) else logging.WARNING
        # The kind is the key, so that no other invalid answer keeps an answer about another user out of the log.
        self._told.note(type(fault).__name__, level=level, error=fault.word, why=str(fault))
