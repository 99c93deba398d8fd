"""The time, as a value: components take a `Clock` as an argument, so that a test can pass one that it moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Clock:
    """`now` returns Unix seconds, `monotonic` seconds that never go back, and `sleep` waits for a number of seconds."""

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = Clock()
