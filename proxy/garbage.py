"""When the garbage collector looks at what: seldom at what is kept, since nobody is answered meanwhile.

A full look takes 0.6 us an object, and cached users and open connections are a million of them. Hardly anything of
that ever is garbage that only a look can find. So what a full look has left alive is set aside, and looked through
again when as much has come since.
"""

from __future__ import annotations

import gc

YOUNG, MIDDLE, OLD = 700, 5, 5
"""How many objects, then how many looks at the younger ones, make the next look due: a full one at 17,500 new objects,
which takes 10 ms."""
_A_FULL_LOOK = YOUNG * MIDDLE * OLD


class Looks:
    """Sets aside what each full look leaves alive. For the whole of a process that serves callers."""

    def __init__(self) -> None:
        self._aside = 0
        self._since = 0
        self._all = True

    def begin(self) -> None:
        """Look through everything that is loaded by now, which stays, and begin."""
        gc.set_threshold(YOUNG, MIDDLE, OLD)
        gc.callbacks.append(self._looked)
        gc.collect()

    def end(self) -> None:
        """Leave the collector to itself."""
        gc.callbacks.remove(self._looked)
        gc.unfreeze()

    def _looked(self, phase: str, info: dict[str, int]) -> None:
        if phase != "stop" or info["generation"] != 2:
            return
        gc.freeze()
        if self._all:
            self._aside, self._since, self._all = gc.get_freeze_count(), 0, False
            return
        self._since += _A_FULL_LOOK
        if self._since > self._aside:
            gc.unfreeze()
            self._all = True
