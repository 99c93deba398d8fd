"""Backlog: requested parts that could not be fetched in time, so that a retry by Braze finds them cached.

Users without cached data come before refreshes, and the newest request comes first: the caller of an older one has
already retried or given up. Each user waits once, with all requested parts.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import NamedTuple

from proxy.monitoring.clock import Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.profile.parts import Identity, Part

_log = logging.getLogger(__name__)

_RECENT_SECONDS = 5.0
"""A recommendation is only refreshed this soon after a request for it: fetching it logs an exposure."""

_Queue = OrderedDict[Identity, dict[Part, float]]


class Wanted(NamedTuple):
    """The time of the last request for a part (monotonic seconds), and whether a cached copy only needs a refresh."""

    requested_at: float
    refresh: bool


class Backlog:
    """At most `max_users`, each for at most `max_age` seconds after the last request. Safe for threads."""

    def __init__(self, *, max_users: int, max_age: float, clock: Clock) -> None:
        self._max_users = max_users
        self._max_age = max_age
        self._clock = clock
        self._lock = Lock()
        self._missing: _Queue = OrderedDict()
        self._refreshes: _Queue = OrderedDict()
        self.dropped = 0
        """Users removed because the backlog was full or they had waited for too long."""
        self._dropped_log = OncePerMinute(_log, "the backlog dropped users", clock)
        self._dropped_logged = 0

    def __len__(self) -> int:
        return len(self._missing) + len(self._refreshes)

    def add(self, identity: Identity, parts: Mapping[Part, Wanted]) -> None:
        """Add parts of a user."""
        with self._lock:
            for queue, refresh in ((self._missing, False), (self._refreshes, True)):
                requested = {part: wanted.requested_at for part, wanted in parts.items() if wanted.refresh is refresh}
                if requested:
                    _insert(queue, identity, requested)
            self._drop_expired()
            while len(self) > self._max_users:
                (self._refreshes or self._missing).popitem(last=False)
                self.dropped += 1
            dropped = self.dropped - self._dropped_logged
            self._dropped_logged += dropped
        if dropped:
            self._dropped_log.note("backlog", times=dropped, in_all=self.dropped)

    def pop(self) -> tuple[Identity, dict[Part, Wanted]] | None:
        """Remove and return the next user and all parts wanted for it; None when the backlog is empty."""
        with self._lock:
            self._drop_expired()
            recent = self._clock.monotonic() - _RECENT_SECONDS
            while self:
                identity = next(reversed(self._missing or self._refreshes))
                missing, refreshes = self._missing.pop(identity, {}), self._refreshes.pop(identity, {})
                wanted = {
                    part: Wanted(at, True)
                    for part, at in refreshes.items()
                    if part.section != "recommendations" or at > recent
                }
                wanted |= {part: Wanted(at, False) for part, at in missing.items()}
                if wanted:
                    return identity, wanted
            return None

    def forget(self, matches: Callable[[Identity], bool]) -> int:
        """Remove every user that `matches`. Return how many there were."""
        with self._lock:
            removed = {identity for identity in (*self._missing, *self._refreshes) if matches(identity)}
            for identity in removed:
                self._missing.pop(identity, None)
                self._refreshes.pop(identity, None)
            return len(removed)

    def _drop_expired(self) -> None:
        oldest = self._clock.monotonic() - self._max_age
        for queue in (self._missing, self._refreshes):
            while queue and max(next(iter(queue.values())).values()) < oldest:
                queue.popitem(last=False)
                self.dropped += 1


def _insert(queue: _Queue, identity: Identity, requested: Mapping[Part, float]) -> None:
    newest = max(next(reversed(queue.values())).values()) if queue else float("-inf")
    known = queue.pop(identity, {})
    queue[identity] = known | {part: max(at, known.get(part, at)) for part, at in requested.items()}
    if max(requested.values()) < newest:
        # Returned after a failed attempt: it keeps its age, and newer requests stay ahead of it.
        queue.move_to_end(identity, last=False)
