"""The time as a value. Components take a `Clock` as an argument, so that a test can control the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Clock:
    """Time functions: `now` returns Unix seconds, `monotonic` returns seconds that never decrease, `sleep` waits."""

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = Clock()
