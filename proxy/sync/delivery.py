"""Delivers changes of attributes to Braze: in batches, within the rate limit, with retries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.track import TrackClient
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock


@dataclass(frozen=True, slots=True)
class Change:
    """The changed attributes of one user; None removes an attribute. `at`: the time of the values (Unix seconds)."""

    user_id: str
    attributes: Mapping[str, Any]
    at: float


class DeliveryStopped(Exception):
    """The delivery ended early. The text contains the reason and the fix."""


def deliver(
    changes: Iterable[Change],
    client: TrackClient,
    limiter: RateLimiter,
    *,
    batch_objects: int,
    on_accepted: Callable[[Sequence[Change]], None],
    on_failed: Callable[[Change, str], None],
    on_request: Callable[[], None] = lambda: None,
    stop: Event,
    threads: int = 16,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Send each change once, one object per user, and report its outcome. Raises DeliveryStopped.

    `on_accepted` is called with the accepted changes of a request before further requests use this thread, so that the
    state loses at most the requests in flight. `on_failed` gets a change that Braze never accepts, with the reason.
    `stop` ends the delivery after the requests in flight.
    """
    raise NotImplementedError
