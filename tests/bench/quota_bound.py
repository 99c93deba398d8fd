"""Calculates how many messages a policy can personalise within a quota.

A message needs one call for its user. The call is useful if it is sent after the first request for the user, because
the cache is not warmed, and early enough for Braze's last try. The model assumes that a failed try fails at once.

Amplitude allows `per_minute` calls in any 60 seconds. So a call is at least 60 seconds later than the call `per_minute`
places before it. From the first request to the last useful time, there is room for `per_minute` such chains of calls.
The length of a chain is the number of whole minutes in that time, plus one. The bound grows in steps of a minute, so
measure with a send that takes slightly less than a whole number of minutes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WINDOW_SECONDS = 60.0


class UsefulTime(NamedTuple):
    """The time in which a call for a user is useful: from `first` to `last`, in seconds."""

    first: float
    last: float


def quota_bound(times: Sequence[UsefulTime], per_minute: int) -> int:
    """Return the maximum number of users with a useful call within the quota."""
    seconds = max(time.last for time in times) - min(time.first for time in times)
    return min(len(times), per_minute * (int((seconds + 1e-6) // WINDOW_SECONDS) + 1))


def paced_bound(times: Iterable[UsefulTime], per_minute: int, latency: float) -> int:
    """Return the number of users with a useful call, for a policy that knows every try in advance.

    The policy paces calls as the service does. In any minute, it sends a tenth of the quota at once, and the rest
    evenly. A call uses quota until 60 seconds after its answer. The user with the earliest `last` has priority.
    """
    future = deque(sorted(times))
    pending: list[float] = []  # `last` of each user, the earliest first
    burst = max(per_minute // 10 - 1, 0)
    interval = WINDOW_SECONDS / (per_minute - burst)
    bursts: deque[float] = deque()
    sent: deque[float] = deque()
    next_even = now = float("-inf")
    while future or pending:
        if not pending:
            now = max(now, future[0].first)
        if len(sent) >= per_minute:
            now = max(now, sent[-per_minute] + latency + WINDOW_SECONDS)
        while bursts and bursts[0] <= now - WINDOW_SECONDS:
            bursts.popleft()
        if len(bursts) >= burst:
            now = max(now, next_even)
        while future and future[0].first <= now:
            heapq.heappush(pending, future.popleft().last)
        while pending and pending[0] < now:
            heapq.heappop(pending)
        if not pending:
            continue
        heapq.heappop(pending)
        sent.append(now)
        if next_even <= now:
            next_even = now + interval
        else:
            bursts.append(now)
    return len(sent)
