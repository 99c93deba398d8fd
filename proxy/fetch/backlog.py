"""What could not be sent in time, for moments nobody booked: so that Braze's next try finds it. Pure.

Users of whom something is missing come before copies that only want refreshing, and the newest ask comes first:
an older one has been tried again, or given up, already. A user waits once, with all that is wanted of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import NamedTuple

from proxy.profile.parts import Identity, Part

_JUST_ASKED_SECONDS = 5.0
"""A recommendation's copy is refreshed only because somebody just asked for it: a refresh logs an exposure."""

_Waiting = OrderedDict[Identity, dict[Part, float]]


class Wanted(NamedTuple):
    """When a part was last asked for (monotonic seconds), and whether there is a copy of it to be refreshed."""

    at: float
    refresh: bool


class Backlog:
    """At most `max_users`, none for longer than `max_age` seconds after its last ask. Safe for threads."""

    def __init__(self, *, max_users: int, max_age: float, monotonic: Callable[[], float]) -> None:
        self._max_users = max_users
        self._max_age = max_age
        self._monotonic = monotonic
        self._lock = Lock()
        self._missing: _Waiting = OrderedDict()
        self._refreshes: _Waiting = OrderedDict()
        self.dropped = 0
        """Users who had to leave for newer ones, or waited for too long."""

    def __len__(self) -> int:
        return len(self._missing) + len(self._refreshes)

    def add(self, identity: Identity, asked: Mapping[Part, float], *, refresh: bool = False) -> None:
        """Put parts, each with the moment when it was last asked for. `refresh`: copies of them are there."""
        if not asked:
            return
        with self._lock:
            waiting = self._refreshes if refresh else self._missing
            newest = max(next(reversed(waiting.values())).values()) if waiting else float("-inf")
            known = waiting.pop(identity, {})
            waiting[identity] = known | {part: max(at, known.get(part, at)) for part, at in asked.items()}
            if max(asked.values()) < newest:
                # It was here before, and failed: newer ones come first, and its age is what it was.
                waiting.move_to_end(identity, last=False)
            self._drop_old()
            while len(self) > self._max_users:
                (self._refreshes or self._missing).popitem(last=False)
                self.dropped += 1

    def pop(self) -> tuple[Identity, dict[Part, Wanted]] | None:
        """Return the next user and all that is wanted of them; None when nobody waits."""
        with self._lock:
            self._drop_old()
            just = self._monotonic() - _JUST_ASKED_SECONDS
            while self:
                identity = next(reversed(self._missing or self._refreshes))
                missing, refreshes = self._missing.pop(identity, {}), self._refreshes.pop(identity, {})
                wanted = {
                    part: Wanted(at, True)
                    for part, at in refreshes.items()
                    if part.section != "recommendations" or at > just
                }
                wanted |= {part: Wanted(at, False) for part, at in missing.items()}
                if wanted:
                    return identity, wanted
            return None

    def forget(self, meant: Callable[[Identity], bool]) -> int:
        """Let nobody wait of whom `meant` says so. Return how many did."""
        with self._lock:
            leaving = {identity for identity in (*self._missing, *self._refreshes) if meant(identity)}
            for identity in leaving:
                self._missing.pop(identity, None)
                self._refreshes.pop(identity, None)
            return len(leaving)

    def _drop_old(self) -> None:
        horizon = self._monotonic() - self._max_age
        for waiting in (self._missing, self._refreshes):
            while waiting and max(next(iter(waiting.values())).values()) < horizon:
                waiting.popitem(last=False)
                self.dropped += 1
