"""Queues users whose requested parts could not be fetched in time, so that a retry by Braze finds the parts cached.

Users without cached data come before refreshes. In each group, the newest request comes first, because the caller of
an older request has already retried or given up. Each user is queued once, with all requested parts.
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
"""A recommendation is refreshed only if its last request is at most this old, because each fetch logs an exposure."""

_Queue = OrderedDict[Identity, dict[Part, float]]


class PartRequest(NamedTuple):
    """A queued part: the time of its last request (monotonic seconds), and whether a cached copy exists."""

    requested_at: float
    refresh: bool


class Backlog:
    """Holds at most `max_users` users, each for at most `max_age` seconds after the last request. Thread-safe."""

    def __init__(self, *, max_users: int, max_age: float, clock: Clock) -> None:
        self._max_users = max_users
        self._max_age = max_age
        self._clock = clock
        self._lock = Lock()
        self._missing: _Queue = OrderedDict()
        self._refreshes: _Queue = OrderedDict()
        self.dropped = 0
        """The number of users removed because the backlog was full or the request was too old."""
        self._dropped_log = OncePerMinute(_log, "backlog_dropped", clock)
        self._dropped_logged = 0

    def __len__(self) -> int:
        return len(self._missing) + len(self._refreshes)

    def add(self, identity: Identity, parts: Mapping[Part, PartRequest]) -> None:
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

    def pop(self) -> tuple[Identity, dict[Part, PartRequest]] | None:
        """Remove and return the next user with all its queued parts. Return None if the backlog is empty."""
        with self._lock:
            self._drop_expired()
            recent = self._clock.monotonic() - _RECENT_SECONDS
            while self:
                identity = next(reversed(self._missing or self._refreshes))
                missing, refreshes = self._missing.pop(identity, {}), self._refreshes.pop(identity, {})
                wanted = {
                    part: PartRequest(at, True)
                    for part, at in refreshes.items()
                    if part.section != "recommendations" or at > recent
                }
                wanted |= {part: PartRequest(at, False) for part, at in missing.items()}
                if wanted:
                    return identity, wanted
            return None

    def forget(self, matches: Callable[[Identity], bool]) -> int:
        """Remove every user that `matches`. Return the number of removed users."""
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
    queued = queue.pop(identity, {})
    queue[identity] = queued | {part: max(at, queued.get(part, at)) for part, at in requested.items()}
    if max(requested.values()) < newest:
        # The user returns after a failed attempt and keeps its age, so that newer requests stay ahead.
        queue.move_to_end(identity, last=False)
