"""How long warming the cache takes, how fast a send may go without it, and how people say so. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """What the quota allows. `share`: the part of `per_minute` that is spent on this, from 0 to 1."""

    recipients: int
    calls_a_user: int
    per_minute: int
    share: float

    @property
    def calls(self) -> int:
        """Return how many calls all recipients cost."""
        return self.recipients * self.calls_a_user

    @property
    def calls_a_minute(self) -> int:
        """Return how many calls may go in a minute, one at least."""
        return max(1, math.floor(self.per_minute * self.share + 1e-9))

    @property
    def minutes(self) -> int:
        """Return in how many minutes all calls have been made: to warm the cache, or for a send that is no faster."""
        return math.ceil(self.calls / self.calls_a_minute)

    @property
    def messages_a_minute(self) -> int:
        """Return the speed of a send that finds nothing in the cache and still waits for every user's calls.

        0 where the quota does not bring one user's calls in a minute.
        """
        return self.calls_a_minute // self.calls_a_user
