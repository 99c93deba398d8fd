"""What a preview may cost: the time, the work and the memory of one rendering."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from liquid.exceptions import ResourceLimitError

from proxy.liquid.types import SECONDS

_MAX_WEIGHT = 2_000_000
"""Of a value: the letters of a text, the entries of a list; twice the largest answer that Braze takes."""
_MAX_WORK = 20_000_000
"""Of one filter: the weight of what goes in, times that of its heaviest argument."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that no message needs and no template passes."""

    source: int = 16 * 1024
    tags: int = 10
    iterations: int = 10_000
    output: int = 256 * 1024
    variables: int = 8 * 1024 * 1024
    seconds: float = SECONDS
    findings: int = 200


class Budget:
    """Ends a rendering that takes too long or grows too large, with a ResourceLimitError."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._until = monotonic() + limits.seconds

    def check(self) -> None:
        """Raise when the time is spent."""
        if self._monotonic() > self._until:
            raise ResourceLimitError(f"it takes longer than {self._limits.seconds:g} s", token=None)

    def before_filter(self, value: Any, arguments: tuple[Any, ...]) -> None:
        """Raise when a filter could make something enormous of what it is given."""
        self.check()
        heaviest = max((weight(one) for one in arguments), default=0)
        if weight(value) * max(1, heaviest) > _MAX_WORK:
            raise ResourceLimitError("a filter is given too much at once", token=None)

    def after_filter(self, value: Any) -> None:
        """Raise when a filter has made something too large to go on with."""
        if weight(value) > _MAX_WEIGHT:
            raise ResourceLimitError("a value grows too large", token=None)


def weight(value: Any) -> float:
    """Return about how large a value is: the letters of texts, the entries of lists, the digits of numbers."""
    match value:
        case str():
            return len(value)
        case bool() | None:
            return 1
        case int():
            # Squared in a loop, a number soon takes longer to multiply than any text to copy.
            return math.inf if value.bit_length() > 4096 else 1
        case range():
            return max(0, value.stop - value.start)
        case dict():
            return len(value)
        case list() | tuple():
            return len(value) + sum(len(one) for one in value if isinstance(one, str))
    return 1
