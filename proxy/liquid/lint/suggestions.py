"""Finds the path that was probably meant by a path with a key that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.liquid.lint.paths import Path
from proxy.liquid.lint.scope import Scope
from proxy.liquid.lint.values import Missing, Values, follow, keys, same_name, similar

Keys = tuple[str | int | Path, ...]
"""The keys of a path after its root."""

OPEN = frozenset({"properties", "properties_by_name", "member", "computations", "computations_by_name", "amp_props"})
"""Objects whose keys differ between users, so a key that this user lacks may be correct."""
_CHILDREN = 10
"""Maximum number of objects in an object that are searched."""
_LEVELS = 2
_CORRECTIONS = 3
"""Maximum number of wrong keys in a path that is corrected."""


def first_missing(root: str, path: Keys, scope: Scope) -> tuple[int, Values] | None:
    """Return the index of the first key that does not exist, and the values before that key."""
    values = scope.values.get(root)
    for index, part in enumerate(path):
        key = scope.key(part)
        if key is None:
            return None
        try:
            values = follow(values, key)
        except Missing:
            return index, values
    return None


def corrected_path(root: str, path: Keys, scope: Scope) -> tuple[str, Keys]:
    """Return a path with all corrections that the values suggest."""
    for _ in range(_CORRECTIONS):
        place = first_missing(root, path, scope)
        suggestion = next(suggestions(root, path, place[0], scope), None) if place else None
        if suggestion is None:
            break
        root, path = suggestion
    return root, path


def suggestions(root: str, path: Keys, index: int, scope: Scope) -> Iterator[tuple[str, Keys]]:
    """Yield the paths that were probably meant by `path`, whose key `index` does not exist, the best first."""
    before, after = path[:index], path[index + 1 :]
    levels = [scope.values.get(root)]
    for part in before:
        levels.append(follow(levels[-1], scope.key(part) or 0))
    values, key = levels[-1], scope.key(path[index])
    if isinstance(values[0] if values else None, list):
        yield from _into_list(root, path, index, values, key)
    name, known = str(key), keys(values)
    for count in range(1, min(len(after), _LEVELS) + 1):
        parts = [name, *map(str, after[:count])]
        if joined := same_name(".".join(parts), known):
            yield root, (*before, joined, *after[count:])
    if before and (joined := same_name(f"{before[-1]}.{name}", keys(levels[-2]))):
        yield root, (*before[:-1], joined, *after)
    if same := same_name(name, known):
        yield root, (*before, same, *after)
    for find in (same_name, similar):
        if find is similar and (near := similar(name, known)):
            yield root, (*before, near, *after)
        for child in known[:_CHILDREN]:
            if inner := find(name, keys(follow(values, child))):
                yield root, (*before, child, inner, *after)
    for further in _descendants(values, name, _LEVELS):
        yield root, (*before, *further, *after)
    for child in ("properties", "computations", "member"):
        if child in known and not keys(follow(values, child)):
            yield root, (*before, child, name, *after)  # the user is unknown, so no name is known
    for level in range(index - 1, -1, -1):
        if same := same_name(name, keys(levels[level])):
            yield root, (*before[:level], same, *after)
    if values and all(isinstance(value, str | int | float) for value in values):
        yield root, before


def _descendants(values: Values, name: str, levels: int) -> Iterator[Keys]:
    """Yield the keys that lead to a key like `name`, at most `levels` deep."""
    for key in keys(values)[:_CHILDREN]:
        if same_name(name, [key]):
            yield (key,)
        elif levels:
            inner = follow(values, key)
            if inner and isinstance(inner[0], list):
                yield from ((key, 0, *rest) for rest in _descendants(follow(inner, 0), name, levels - 1))
            else:
                yield from ((key, *rest) for rest in _descendants(inner, name, levels - 1))


def _into_list(root: str, path: Keys, index: int, values: Values, key: str | int | None) -> Iterator[tuple[str, Keys]]:
    before = path[:index]
    if isinstance(key, str) and re.fullmatch(r"-?\d{1,18}", key):
        yield root, (*before, int(key), *path[index + 1 :])
    elif suggestion := similar(str(key), ("first", "last", "size")):
        yield root, (*before, suggestion, *path[index + 1 :])
    elif key in ("count", "length"):
        yield root, (*before, "size")
    else:
        inner = follow(values, 0)
        if similar(str(key), keys(inner)):
            yield root, (*before, 0, *path[index:])
        elif inner and not keys(inner):
            yield root, (*before, 0)
