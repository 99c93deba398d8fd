"""Maps property names to Liquid-safe names, which a template can write after a dot.

`{{ p.gp:email }}`, `{{ p.my prop }}` and `{{ p.plan.type }}` are silently empty in Liquid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SAFE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
USER_PROPERTY = "gp:"
"""Amplitude's prefix for a user property. Callers may omit it."""


def is_safe(name: str) -> bool:
    """Return whether Liquid can use this name (without `gp:`) unchanged, regardless of other properties."""
    return bool(_SAFE.match(name.removeprefix(USER_PROPERTY)))


def safe_names(exact: Iterable[str], missing: Iterable[str] = ()) -> dict[str, str]:
    """Map exact names to unique Liquid-safe names.

    If several names map to the same safe name, a name that is already safe has priority. Names that are safe without
    `gp:` come second, and rewritten names come last. Within a group, the first name wins. Each other name gets the
    first free suffix of `_2`, `_3` and so on. The names in `missing` come after all names in `exact`.
    """
    settled: dict[str, str] = {}
    next_suffix: dict[str, int] = {}  # by safe name: the lowest suffix that may be free
    for group in (list(exact), list(missing)):
        queries = {name: name.removeprefix(USER_PROPERTY) for name in group if name not in settled}
        for untouched in (True, False):
            for name, query in queries.items():
                if (query == name) is untouched and _SAFE.match(query) and query not in next_suffix:
                    settled[name] = query
                    next_suffix[query] = 2
        for name, query in queries.items():
            if name not in settled:
                settled[name] = _first_free(query if _SAFE.match(query) else _rewritten(query), next_suffix)
    return settled


def _rewritten(name: str) -> str:
    name = _UNSAFE.sub("_", name).strip("_-")
    if not name:
        return "_"
    return f"_{name}" if name[0].isdigit() else name


def _first_free(name: str, next_suffix: dict[str, int]) -> str:
    free = name
    while free in next_suffix:
        free = f"{name}_{next_suffix[name]}"
        next_suffix[name] += 1
    next_suffix[free] = 2
    return free
