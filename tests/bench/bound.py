"""How many messages a quota lets anybody personalise. Pure.

A message needs one call about its user, since one call can bring all of its tags. The call helps when it is sent
after the user was first asked for (who gets the message is not known before, nobody warms the cache here) and early
enough to be answered within Braze's patience with the last try. A try that fails is taken to fail at once.

Amplitude lets through `per_minute` calls in any 60 seconds. So of all calls put in order, each comes 60 seconds or
more after the one that is `per_minute` places before it; from the first ask to the last moment at which a call still
helps there is room for `per_minute` such chains of calls, each of them one call longer than the whole minutes in
that time. That is the bound: no policy can do better, whatever it knows and however it times its calls. It grows in
steps of a whole minute, so a send that lasts a little less than a whole number of minutes is the one to measure with:
there it is the quota that decides, and not what part of a last minute was used.
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
    chances = [chance for chance in chances if chance.last >= chance.first]
    if not chances:
        return 0
    lasts = max(chance.last for chance in chances) - min(chance.first for chance in chances)
    lasts += 1e-6  # against rounding
    return min(len(chances), per_minute * (int(lasts // WINDOW_SECONDS) + 1))


def at_an_even_pace(chances: Iterable[Chance], per_minute: int, latency: float) -> int:
    """Return how many are helped by one who paces calls as the service does, but knows every try to come.

    A tenth of the quota may go at once in any minute, the rest goes evenly, each call holds its place until 60
    seconds after its answer; whoever's last chance is nearest goes first.
    """
    coming = deque(sorted(chances))
    waiting: list[float] = []  # last chances, the nearest first
    burst = max(per_minute // 10 - 1, 0)
    interval = WINDOW_SECONDS / (per_minute - burst)
    bursts: deque[float] = deque()
    sent: deque[float] = deque()
    next_even = now = float("-inf")
    helped = 0
    while coming or waiting:
        if not waiting:
            now = max(now, coming[0].first)
        if len(sent) >= per_minute:
            now = max(now, sent[-per_minute] + latency + WINDOW_SECONDS)
        while bursts and bursts[0] <= now - WINDOW_SECONDS:
            bursts.popleft()
        even = next_even <= now
        if not even and len(bursts) >= burst:
            now = next_even
            even = True
        while coming and coming[0].first <= now:
            heapq.heappush(waiting, coming.popleft().last)
        while waiting and waiting[0] < now:
            heapq.heappop(waiting)
        if not waiting:
            continue
        heapq.heappop(waiting)
        helped += 1
        sent.append(now)
        if even:
            next_even = now + interval
        else:
            bursts.append(now)
    return helped
