"""Estimates how long warming the cache takes, and how fast a send may be without it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls of a send within the quota. `share` is the part of `per_minute` to spend, from 0 to 1."""

    recipients: int
    calls_a_user: int
    per_minute: int
    share: float

    @property
    def calls(self) -> int:
        """Return the number of calls for all recipients."""
        return self.recipients * self.calls_a_user

    @property
    def calls_a_minute(self) -> int:
        """Return the number of calls that may be sent in a minute, at least one."""
        return max(1, math.floor(self.per_minute * self.share + 1e-9))

    @property
    def minutes(self) -> int:
        """Return the minutes that all calls take."""
        return math.ceil(self.calls / self.calls_a_minute)

    @property
    def messages_a_minute(self) -> int:
        """Return the fastest send in which every user's calls can be made with a cold cache.

        0 where a minute's quota is less than the calls of one user.
        """
        return self.calls_a_minute // self.calls_a_user
