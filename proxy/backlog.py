"""What could not be sent in time, for moments nobody booked: so that Braze's next try finds it. Pure.

Users of whom something is missing come before copies that only want refreshing, and the newest ask comes first:
an older one has been tried again, or given up, already. A user waits once, with all that is wanted of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock

from proxy.parts import Identity, Part

_JUST_ASKED_SECONDS = 5.0
"""A recommendation's copy is refreshed only because somebody just asked for it: a refresh logs an exposure."""

_Waiting = OrderedDict[Identity, dict[Part, float]]


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

    def add(self, identity: Identity, parts: Iterable[Part], *, refresh: bool = False) -> None:
        """Put `parts` last asked now. `refresh`: copies of them are there, and nobody misses anything."""
        asked = dict.fromkeys(parts, self._monotonic())
        if not asked:
            return
        with self._lock:
            waiting = self._refreshes if refresh else self._missing
            waiting[identity] = waiting.pop(identity, {}) | asked
            self._drop_old()
            while len(self) > self._max_users:
                (self._refreshes or self._missing).popitem(last=False)
                self.dropped += 1

    def pop(self) -> tuple[Identity, list[Part]] | None:
        """Return the next user and all that is wanted of them; None when nobody waits."""
        with self._lock:
            self._drop_old()
            while self:
                identity, missing = self._missing.popitem() if self._missing else (None, {})
                if identity is None:
                    identity, refreshes = self._refreshes.popitem()
                else:
                    refreshes = self._refreshes.pop(identity, {})
                just = self._monotonic() - _JUST_ASKED_SECONDS
                parts = [
                    *missing,
                    *(one for one, at in refreshes.items() if one.section != "recommendations" or at > just),
                ]
                if parts:
                    return identity, list(dict.fromkeys(parts))
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
