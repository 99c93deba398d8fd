"""Shortens the pauses of the garbage collector in a process with many cached users."""

from __future__ import annotations

import gc

_THRESHOLDS = 7_000, 2, 10
"""Collect the youngest generation after 7,000 new objects, and the middle generation at every third collection.

The oldest generation is collected at every 33rd collection at most. Python's default of 700 objects collects too often
while requests wait for Redis. A collection of the middle generation took 16 ms of processor time with Python's default
of 10, and takes at most 8 ms with 2.
"""


def tune() -> None:
    """Exclude all loaded objects from future collections, and collect less often. Call this function before serving."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
