"""Limits on the time, the work and the memory of a rendering."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from liquid.exceptions import ResourceLimitError

from proxy.liquid.types import SECONDS

_MAX_WEIGHT = 2_000_000
"""Limit on a value, in characters or entries: twice the largest answer that Braze accepts."""
_MAX_WORK = 20_000_000
"""Limit on one filter: the weight of its value times that of its heaviest argument."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that no real message reaches."""

    source: int = 16 * 1024
    tags: int = 10
    iterations: int = 10_000
    output: int = 256 * 1024
    variables: int = 8 * 1024 * 1024
    seconds: float = SECONDS
    findings: int = 200


class Budget:
    """Raises ResourceLimitError when a rendering takes too long or grows too large."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._until = monotonic() + limits.seconds

    def check(self) -> None:
        """Raise when the time is over."""
        if self._monotonic() > self._until:
            raise ResourceLimitError(f"it takes longer than {self._limits.seconds:g} s", token=None)

    def before_filter(self, value: Any, arguments: tuple[Any, ...]) -> None:
        """Raise when a filter could produce an enormous value."""
        self.check()
        heaviest = max((weight(argument) for argument in arguments), default=0)
        if weight(value) * max(1, heaviest) > _MAX_WORK:
            raise ResourceLimitError("a filter is given too much at once", token=None)

    def after_filter(self, value: Any) -> None:
        """Raise when a filter has produced too large a value."""
        if weight(value) > _MAX_WEIGHT:
            raise ResourceLimitError("a value grows too large", token=None)


def weight(value: Any) -> float:
    """Return the approximate size of a value: characters of text, entries of lists; infinite for a huge number."""
    match value:
        case str():
            return len(value)
        case bool() | None:
            return 1
        case int():
            # A number squared in a loop soon takes longer to multiply than any text to copy.
            return math.inf if value.bit_length() > 4096 else 1
        case range():
            return max(0, value.stop - value.start)
        case dict():
            return len(value)
        case list() | tuple():
            return len(value) + sum(len(entry) for entry in value if isinstance(entry, str))
    return 1
