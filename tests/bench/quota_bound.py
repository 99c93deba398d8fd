"""How many messages a quota lets any policy personalise.

A message needs one call about its user. The call helps when it is sent after the user was first requested (the cache is
not warmed here) and early enough for Braze's last try. A try that fails is taken to fail at once.

Amplitude allows `per_minute` calls in any 60 seconds, so each call comes 60 seconds or more after the one that is
`per_minute` places before it. From the first request to the last useful moment there is room for `per_minute` such
chains, each one call longer than the whole minutes in that time. The bound grows in steps of a minute: a send that
lasts a little less than a whole number of minutes is the one to measure with.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WINDOW_SECONDS = 60.0


class Chance(NamedTuple):
    """When a call about one user helps: not before `first`, not after `last` (seconds)."""

    first: float
    last: float


def of_any_policy(chances: Sequence[Chance], per_minute: int) -> int:
    """Return how many users at most can be helped within the quota."""
    seconds = max(chance.last for chance in chances) - min(chance.first for chance in chances)
    return min(len(chances), per_minute * (int((seconds + 1e-6) // WINDOW_SECONDS) + 1))


def at_an_even_pace(chances: Iterable[Chance], per_minute: int, latency: float) -> int:
    """Return how many users a policy helps that paces calls as the service does, but knows every try in advance.

    A tenth of the quota may be sent at once in any minute, the rest evenly; each call takes up quota until 60 seconds
    after its answer. The user whose last chance is nearest comes first.
    """
    coming = deque(sorted(chances))
    waiting: list[float] = []  # last chances, the nearest first
    burst = max(per_minute // 10 - 1, 0)
    interval = WINDOW_SECONDS / (per_minute - burst)
    bursts: deque[float] = deque()
    sent: deque[float] = deque()
    next_even = now = float("-inf")
    while coming or waiting:
        if not waiting:
            now = max(now, coming[0].first)
        if len(sent) >= per_minute:
            now = max(now, sent[-per_minute] + latency + WINDOW_SECONDS)
        while bursts and bursts[0] <= now - WINDOW_SECONDS:
            bursts.popleft()
        if len(bursts) >= burst:
            now = max(now, next_even)
        while coming and coming[0].first <= now:
            heapq.heappush(waiting, coming.popleft().last)
        while waiting and waiting[0] < now:
            heapq.heappop(waiting)
        if not waiting:
            continue
        heapq.heappop(waiting)
        sent.append(now)
        if next_even <= now:
            next_even = now + interval
        else:
            bursts.append(now)
    return len(sent)
