"""Liquid-safe names: names that a template can write after a dot.

`{{ p.gp:email }}`, `{{ p.my prop }}` and `{{ p.plan.type }}` are silently empty in Liquid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SAFE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_OTHERS = re.compile(r"[^A-Za-z0-9_-]+")
USER_PROPERTY = "gp:"
"""Amplitude's prefix for a user property; callers may leave it out."""


def is_safe(name: str) -> bool:
    """Tell whether a property has this name in Liquid too, without its `gp:`, whatever other properties there are."""
    return bool(_SAFE.match(name.removeprefix(USER_PROPERTY)))


def safe_names(exact: Iterable[str], missing: Iterable[str] = ()) -> dict[str, str]:
    """Map exact names to Liquid-safe ones, no two alike.

    The less was changed of a name, the better its claim: one that was safe keeps it, then one that is safe once
    its `gp:` is dropped, then one that had to be rewritten. Among equals the first in order wins; each of the
    others gets, in order, the first free of `_2`, `_3`, and so on. The names in `missing` are settled after all
    of `exact`.
    """
    settled: dict[str, str] = {}
    taken: dict[str, int] = {}  # a name, and the first number that may be free behind it
    for group in (list(exact), list(missing)):
        queries = {name: name.removeprefix(USER_PROPERTY) for name in group if name not in settled}
        for untouched in (True, False):
            for name, query in queries.items():
                if (query == name) is untouched and _SAFE.match(query) and query not in taken:
                    settled[name] = query
                    taken[query] = 2
        for name, query in queries.items():
            if name not in settled:
                settled[name] = _first_free(query if _SAFE.match(query) else _rewritten(query), taken)
    return settled


def _rewritten(name: str) -> str:
    name = _OTHERS.sub("_", name).strip("_-")
    if not name:
        return "_"
    return f"_{name}" if name[0].isdigit() else name


def _first_free(name: str, taken: dict[str, int]) -> str:
    free = name
    while free in taken:
        free = f"{name}_{taken[name]}"
        taken[name] += 1
    taken[free] = 2
    return free
