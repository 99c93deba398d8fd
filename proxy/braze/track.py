"""Sends one request to Braze's /users/track, and translates the response.

Source: braze.com/docs/api/endpoints/user_data/post_user_track.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.monitoring.clock import SYSTEM_CLOCK, Clock

Object = Mapping[str, Any]
"""An element of `attributes` or `events`, without `_update_existing_only`, which the client adds."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Braze accepted the request, except the objects in `errors`: the reason by array name and index."""

    errors: Mapping[tuple[str, int], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The request has too many objects or bytes; a smaller request may be accepted."""


@dataclass(frozen=True, slots=True)
class RateLimited:
    """Braze returned 429. `seconds`: when to try again; None if the response has no time."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The request failed for the moment. `uncertain`: Braze may have accepted the request."""

    reason: str
    uncertain: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Braze will refuse every request. `reason` names the key, the instance or the permission, and the fix."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Braze will never accept this request."""

    reason: str


TrackResult = Accepted | TooLarge | RateLimited | Unavailable | Refused | Failed


class TrackClient:
    """Sends `POST /users/track`. Thread-safe. Never retries, because the caller decides whether a repeat is harmless.

    `timeout`: seconds for a whole request. `create_users`: let Braze create unknown users.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        *,
        create_users: bool,
        timeout: float,
        connections: int = 16,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        raise NotImplementedError

    def send(self, attributes: Sequence[Object], events: Sequence[Object] = ()) -> TrackResult:
        """Send one request with these objects, at most 75 in all. Returns a result for every failure."""
        raise NotImplementedError
