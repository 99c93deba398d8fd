"""When the garbage collector looks at what: seldom at what is kept, since nobody is answered meanwhile.

A full look takes up to 0.6 us an object, and cached users and open connections are a million of them. Hardly anything
of that ever is garbage that only a look can find. So what a full look has left alive is set aside, and looked through
again, in a quiet moment, when as much has been set aside since.
"""

from __future__ import annotations

import gc

YOUNG, MIDDLE, OLD = 7_000, 0, 0
"""How many new objects, then how many looks at the younger ones beyond the first, make the next look due.

What the requests take that wait at once for Redis, some hundred, comes and goes between two looks: with Python's own
700 a worker that answers from there over 1,000 connections has an eighth less done. A full look comes after 21,000
that stay, and takes 10 to 20 ms.
"""

_OVERDUE = 8
"""So many times as much may be set aside in a time that is never quiet."""


class GcTuner:
    """Sets aside what each full look leaves alive. For the whole of a process that serves callers."""

    def __init__(self) -> None:
        self._aside = 0
        self._since = 0
        self._busy = False

    def begin(self) -> None:
        """Look through everything that is loaded by now, which stays, and begin."""
        gc.set_threshold(YOUNG, MIDDLE, OLD)
        gc.callbacks.append(self._looked)
        self._look_through_all()

    def end(self) -> None:
        """Leave the collector to itself."""
        gc.callbacks.remove(self._looked)
        gc.unfreeze()

    def tick(self, *, quiet: bool) -> None:
        """Look through everything if that is due. To be called now and then; `quiet`: few would wait meanwhile."""
        if self._since > self._aside * (1 if quiet else _OVERDUE):
            self._look_through_all()

    def _look_through_all(self) -> None:
        self._busy = True
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        gc.collect()  # of nothing: CPython waits with the next full look for a quarter of what the last one left
        self._aside, self._since, self._busy = gc.get_freeze_count(), 0, False

    def _looked(self, phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2 and not self._busy:
            self._since += len(gc.get_objects(2))
            gc.freeze()
