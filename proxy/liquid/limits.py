"""Limits on the work and memory of a rendering. Real messages stay below them."""

from __future__ import annotations

import math
from typing import Any

from liquid.exceptions import ResourceLimitError

MAX_SOURCE = 256 * 1024
"""Characters. E-mails of 100 KB are common. python-liquid takes 2.5 s for this number of outputs."""
MAX_TAGS = 10
MAX_ITERATIONS = 10_000
MAX_OUTPUT = 1024 * 1024
MAX_VARIABLES = 8 * 1024 * 1024
MAX_FINDINGS = 200
_MAX_WEIGHT = 2_000_000
"""Limit on a value, in characters or entries: twice the largest answer that Braze accepts."""
_MAX_WORK = 20_000_000
"""Limit on one filter: the weight of its value times that of its heaviest argument."""


def require_little_work(value: Any, arguments: tuple[Any, ...]) -> None:
    """Raise ResourceLimitError if a filter could produce an enormous value."""
    heaviest = max(map(_weight, arguments), default=0)
    if _weight(value) * max(1, heaviest) > _MAX_WORK:
        raise ResourceLimitError("the input of a filter is too large; shorten the input", token=None)


def require_light(value: Any) -> None:
    """Raise ResourceLimitError if a filter has produced too large a value."""
    if _weight(value) > _MAX_WEIGHT:
        raise ResourceLimitError("a value is too large; shorten the value", token=None)


def _weight(value: Any) -> float:
    """Return the approximate size of a value: characters of text, entries of lists; infinite for a huge number."""
    match value:
        case int() if not isinstance(value, bool):
            # Multiplying a huge number, such as a number squared in a loop, takes longer than copying any text.
            return math.inf if value.bit_length() > 4096 else 1
        case range():
            return max(0, value.stop - value.start)
        case str() | dict():
            return len(value)
        case list() | tuple():
            return len(value) + sum(len(entry) for entry in value if isinstance(entry, str))
    return 1
