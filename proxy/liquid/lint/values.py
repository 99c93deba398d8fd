"""Looks up the keys of a variable in the answers to the tags, and finds similar keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import islice
from typing import Any

Values = tuple[Any, ...] | None
"""The values that a variable can have where it is read; None if only Braze knows them."""

_MAX_VALUES = 50
_LISTED = 8
_MAX_KEYS = 200
"""Number of keys that are compared with a name, because an answer can have thousands."""
_MIN_SIMILARITY = 0.8
"""By difflib: `homepge` is similar to `homepage`; `last_name` is not similar to `first_name` (0.74)."""


class Missing(Exception):
    """Raised if no value has the key."""


def follow(values: Values, key: str | int) -> Values:
    """Return the values under a key. Raises Missing if the values are known and none has the key."""
    if values is None:
        return None
    entries: list[Any] = []
    missing = False
    for value in values:
        match value:
            case None:
                entries.append(None)
            case dict() if str(key) in value:
                entries.append(value[str(key)])
            case list() if isinstance(key, int):
                entries.append(value[key] if -len(value) <= key < len(value) else None)
            case list() if key in ("first", "last"):
                entries.append(value[0 if key == "first" else -1] if value else None)
            case dict() if key == "first":
                return None
            case list() | dict() | str() if key == "size":
                entries.append(len(value))
            case _:
                missing = True
    if missing and not entries:
        raise Missing
    return tuple(entries[:_MAX_VALUES])


def entries(values: Values) -> Values:
    """Return the values of the variable of a loop over `values`, or None if there is no entry."""
    elements: list[Any] = []
    for value in values or ():
        if isinstance(value, list):
            elements += value
        elif isinstance(value, dict):
            elements += [[key, entry] for key, entry in value.items()]
        elif isinstance(value, str) and value:
            elements.append(value)
    return tuple(elements[:_MAX_VALUES]) or None


def keys(values: Values) -> list[str]:
    """Return the keys of all objects among `values`."""
    names = (key for value in values or () if isinstance(value, dict) for key in value)
    return list(dict.fromkeys(islice(names, _MAX_KEYS)))


def same_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that differs from `name` only by case, blanks and signs."""
    plain = _plain(name)
    return next((entry for entry in known if plain and _plain(entry) == plain), None)


def similar(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was probably meant to be, or None."""
    known = list(islice(known, _MAX_KEYS))
    if same := same_name(name, known):
        return same
    wanted = name.lower()
    best, best_ratio = None, _MIN_SIMILARITY
    matcher = SequenceMatcher(b=wanted)
    for entry in known:
        candidate = entry.lower()
        matcher.set_seq1(candidate)
        if matcher.real_quick_ratio() < best_ratio or matcher.quick_ratio() < best_ratio:
            continue
        if re.sub(r"\d", "", candidate) == re.sub(r"\d", "", wanted):
            continue  # plan_1 is not a misspelt plan_2
        if len(candidate) > 2 and sorted(candidate) == sorted(wanted):
            return entry  # two letters are exchanged
        if (ratio := matcher.ratio()) >= best_ratio:
            best, best_ratio = entry, ratio
    return best


def list_names(names: Sequence[str]) -> str:
    """Return the first names as text, without names that Braze adds."""
    names = [name for name in names if not name.startswith("__")]
    shown = ", ".join(name[:80] for name in names[:_LISTED])
    return f"{shown} …" if len(names) > _LISTED else shown


@lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
