"""Finds variables and keys that do not exist, and names the right ones from the values that the preview holds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from proxy.liquid.lint.attributes import NAMES, USER_IDS
from proxy.liquid.lint.ids import is_returned
from proxy.liquid.lint.paths import Path, written
from proxy.liquid.lint.place import finding
from proxy.liquid.lint.scope import Read, Scope, Setter, reads, setters
from proxy.liquid.lint.values import Missing, Values, follow, keys, same_name, similar
from proxy.liquid.scanner import Markup, rewritten
from proxy.liquid.tag_syntax import UNSAVED
from proxy.liquid.types import Finding

Keys = tuple[str | int | Path, ...]

BRAZE_OBJECTS = frozenset(
    {"event_properties", "canvas_entry_properties", "api_trigger_properties", "context", "content_blocks", "campaign"}
    | {
        "canvas",
        "canvas_step",
        "custom_attribute",
        "subscribed_state",
        "app",
        "card",
        "message",
        "language",
        "dispatch",
    }
    | {"most_recently_used_device", "targeted_device", "message_extras", "shopping_cart", "forloop", "tablerowloop"}
    | {"time_zone", "nested_custom_attribute", "promotion", "product_recommendation", "trigger_properties"}
)
"""Variables that Braze sets."""
_USER_OBJECTS = frozenset({"user", "customer", "recipient", "contact", "subscriber", "profile"})
_OPEN = frozenset({"properties", "properties_by_name", "member", "computations", "computations_by_name", "amp_props"})
"""Objects whose keys differ between users, so that a missing key may be right."""
_LISTED = 8
_CORRECTIONS = 4
_DEFAULT = re.compile(r"\|\s*default\b")


def name_findings(
    source: str,
    pieces: Sequence[Markup],
    tags: Iterable[Mapping[str, Any]],
    empty: Collection[tuple[int, str]],
    known: Collection[str],
    broken: Collection[int] = (),
) -> Iterator[Finding]:
    """Yield a finding for each variable or key that does not exist, and for each output that is empty for this user.

    `tags`: the reports of the rendered tags. `empty`: line and plain Liquid of each output that printed nothing.
    `known`: further variables that exist. `broken`: the start of each piece whose words are no names.
    """
    all_setters = list(setters(pieces))
    reported: set[int] = set()
    for read in reads(pieces, tags):
        if read.path.root in known or read.path.root in BRAZE_OBJECTS or read.markup.start in broken:
            continue
        problem = _undefined(source, read, all_setters) or _missing(source, read)
        if problem:
            reported.add(read.markup.start)
            yield problem
        elif read.markup.start not in reported and _prints_nothing(read, empty):
            reported.add(read.markup.start)
            yield _empty(source, read)


def ids_read(pieces: Sequence[Markup]) -> list[str]:
    """Return the ids that a message reads from recommendations_by_id and propensities_by_id."""
    return [
        key
        for read in reads(pieces, ())
        for before, key in pairwise(read.path.keys)
        if before in ("recommendations_by_id", "propensities_by_id") and isinstance(key, str)
    ]


def _undefined(source: str, read: Read, all_setters: Sequence[Setter]) -> Finding | None:
    root, scope, path = read.path.root, read.scope, read.path
    if root in scope.values:
        return None
    span = path.start, path.end
    setter = next((entry for entry in all_setters if entry.name == root), None)
    if setter and setter.markup.name in ("for", "tablerow"):
        return finding(
            source, span, "out-of-loop",
            f"{root} exists only inside the loop on line {setter.markup.line}, so it is empty here",
            f"move {path} between {{% for %}} and {{% endfor %}}",
        )  # fmt: skip
    if setter:
        fix = f"move the tag on line {setter.markup.line} above line {read.markup.line}"
        if setter.markup.start == read.markup.start:
            fix = f"remove {path} from the tag that sets {root}"
        return finding(
            source, span, "used-before-set",
            f"{root} is used before the tag on line {setter.markup.line} sets it, so it is empty here", fix,
        )  # fmt: skip
    if attribute := _attribute(path):
        return finding(
            source, span, "unknown-name",
            f"{path} is not a variable in Braze, so it is empty",
            f"write {attribute}", replacement=attribute,
        )  # fmt: skip
    meant = _meant_root(path, scope, all_setters)
    if any(entry.name == UNSAVED for entry in all_setters) and not meant:
        return None  # the finding about the missing :save says so
    if meant is None:
        names = list(dict.fromkeys([*scope.values, *(entry.name for entry in all_setters)]))
        fix = f"use one of {_listing(names)}, or set {root} with assign" if names else f"set {root} with assign first"
        if same := same_name(root, NAMES):
            fix = f"write ${{{same}}}"
        return finding(
            source, span, "unknown-name", f"nothing in the message sets {root}, so it is empty", fix,
            replacement=f"${{{same}}}" if same and not path.keys else None,
        )  # fmt: skip
    corrected = written(*_corrected(*meant, scope))
    return finding(
        source, span, "unknown-name", f"nothing in the message sets {root}, so {path} is empty",
        f"write {corrected}", replacement=corrected,
    )  # fmt: skip


def _attribute(path: Path) -> str | None:
    """Return the attribute of Braze that was probably meant by `user.external_id`, `user_id` and the like."""
    plain = [re.sub(r"[\W_]", "", str(part)).lower() for part in (path.root, *path.keys)]
    if (
        len(plain) == 1
        and plain[0] in USER_IDS
        or len(plain) == 2
        and plain[0] in _USER_OBJECTS
        and plain[1] in USER_IDS | {"id"}
    ):
        return "${user_id}"
    if plain == ["deviceid"]:
        return "most_recently_used_device.${id}"
    if len(plain) == 2 and plain[0] in _USER_OBJECTS and (same := same_name(str(path.keys[0]), NAMES)):
        return f"${{{same}}}"
    return None


def _meant_root(path: Path, scope: Scope, all_setters: Sequence[Setter]) -> tuple[str, Keys] | None:
    if name := similar(path.root, scope.values):
        return name, path.keys
    for name, values in scope.values.items():
        for key in keys(values):
            if same_name(path.root, [key]):
                return name, (key, *path.keys)
    for name, values in scope.values.items():
        for key in keys(values):
            if inner := same_name(path.root, keys(follow(values, key))):
                return name, (key, inner, *path.keys)
    if name := similar(path.root, (entry.name for entry in all_setters)):
        return name, path.keys
    return None


def _missing(source: str, read: Read) -> Finding | None:
    path, scope = read.path, read.scope
    if (place := _first_missing(path.root, path.keys, scope)) is None:
        return None
    index, values = place
    container = written(path.root, path.keys[:index])
    key = scope.key(path.keys[index])
    meant = next(_suggestions(path.root, path.keys, index, scope), None)
    rule, level = "unknown-key", "problem"
    match values[0] if values else None:
        case list():
            problem = f"{container} is a list and has no {key}"
        case dict():
            problem = f"{container} has no {key}"
        case str():
            problem = f"{container} is text and has no {key}"
        case _:
            problem = f"{container} is a single value and has no {key}"
    fix = f"use one of {_listing(keys(values))}"
    last = path.keys[index - 1] if index else None
    if meant:
        entry = values[0].get(meant[1][index]) if values and last == "recommendations_by_id" else None
        if isinstance(entry, dict) and not is_returned(entry):
            return None  # the finding about the id in the tag says so
        corrected = written(*_corrected(*meant, scope))
        if written(*meant) != str(path):
            return finding(
                source, (path.start, path.end), rule, f"{problem}, so {path} is empty", f"write {corrected}",
                replacement=corrected,
            )  # fmt: skip
    if last in ("properties", "properties_by_name") and "keys" in scope.requested.get(path.root, ()):
        fix = f"add {key} to keys in the tag that saves {path.root}"
    elif last == "member" and "cohort_id" in scope.requested.get(path.root, ()):
        fix = f"add {key} to cohort_id in the tag, or use one of {_listing(keys(values))}"
    elif last == "recommendations_by_id":
        fix = f"add {key} to rec_id in the tag, or use one of {_listing(keys(values))}"
    elif last in ("properties", "properties_by_name") and index + 1 < len(path.keys) and keys(values):
        # Values of properties have no keys, so the dot is part of the name.
        inner = "_".join(str(part) for part in path.keys[index:])
        corrected = written(path.root, (*path.keys[:index], inner))
        return finding(
            source, (path.start, path.end), rule, f"{problem}, so {path} is empty",
            f"write {corrected}, because properties has _ for each dot in a name", replacement=corrected,
        )  # fmt: skip
    elif last in _OPEN:
        if last != "member" or not keys(values):
            return None
        rule, level = "unknown-id", "note"
        problem = f"this user is not in the cohort {key}"
        fix = f"check the id; the cohorts of {container} are {_listing(keys(values))}"
    return finding(source, (path.start, path.end), rule, problem, fix, level="note" if level == "note" else "problem")


def _first_missing(root: str, path: Keys, scope: Scope) -> tuple[int, Values] | None:
    """Return the index of the first key that does not exist, and the values before that key."""
    values = scope.values.get(root)
    for index, part in enumerate(path):
        key = scope.key(part)
        if key is None:
            return None
        try:
            values, before = follow(values, key), values
        except Missing:
            return index, values
        del before
    return None


def _corrected(root: str, path: Keys, scope: Scope) -> tuple[str, Keys]:
    """Return a path with all corrections that the values suggest."""
    for _ in range(_CORRECTIONS):
        place = _first_missing(root, path, scope)
        meant = next(_suggestions(root, path, place[0], scope), None) if place else None
        if meant is None:
            break
        root, path = meant
    return root, path


def _suggestions(root: str, path: Keys, index: int, scope: Scope) -> Iterator[tuple[str, Keys]]:
    """Yield the paths that were probably meant by `path`, whose key `index` does not exist, the best first."""
    before, after = path[:index], path[index + 1 :]
    levels = [scope.values.get(root)]
    for part in before:
        levels.append(follow(levels[-1], scope.key(part) or 0))
    values, key = levels[-1], scope.key(path[index])
    if isinstance(values[0] if values else None, list):
        yield from _into_list(root, path, index, values, key)
    name, here = str(key), keys(values)
    for count in range(1, len(after) + 1):
        parts = [name, *map(str, after[:count])]
        if joined := same_name(".".join(parts), here):
            yield root, (*before, joined, *after[count:])
    if before and (joined := same_name(f"{before[-1]}.{name}", keys(levels[-2]))):
        yield root, (*before[:-1], joined, *after)
    if same := same_name(name, here):
        yield root, (*before, same, *after)
    for find in (same_name, similar):
        if find is similar and (near := similar(name, here)):
            yield root, (*before, near, *after)
        for child in here:
            if inner := find(name, keys(follow(values, child))):
                yield root, (*before, child, inner, *after)
    for level in range(index - 1, -1, -1):
        if same := same_name(name, keys(levels[level])):
            yield root, (*before[:level], same, *after)
    if values and all(isinstance(value, str | int | float) for value in values):
        yield root, before


def _into_list(root: str, path: Keys, index: int, values: Values, key: str | int | None) -> Iterator[tuple[str, Keys]]:
    before = path[:index]
    if isinstance(key, str) and re.fullmatch(r"-?\d+", key):
        yield root, (*before, int(key), *path[index + 1 :])
    elif key in ("count", "length"):
        yield root, (*before, "size")
    else:
        inner = follow(values, 0)
        if similar(str(key), keys(inner)):
            yield root, (*before, 0, *path[index:])
        elif inner and not keys(inner):
            yield root, (*before, 0)


def _prints_nothing(read: Read, empty: Collection[tuple[int, str]]) -> bool:
    markup = read.markup
    if markup.kind != "output" or _DEFAULT.search(markup.rest):
        return False
    plain = rewritten(markup.text, [Markup(markup.kind, markup.text, markup.name, markup.rest, 0, 1)])
    if (markup.line, plain) not in empty:
        return False
    try:
        values = read.scope.of(read.path)
    except Missing:
        index, _ = _first_missing(read.path.root, read.path.keys, read.scope) or (0, None)
        return index > 0 and read.path.keys[index - 1] in _OPEN
    return values is not None and all(value is None or value == "" or value == [] for value in values)


def _empty(source: str, read: Read) -> Finding:
    markup = read.markup
    place = _first_missing(read.path.root, read.path.keys, read.scope)
    why = ""
    if place and keys(place[1]):
        why = f"; {written(read.path.root, read.path.keys[: place[0]])} has {_listing(keys(place[1]))}"
    opening = "{{-" if markup.text.startswith("{{-") else "{{"
    closing = "-}}" if markup.text.endswith("-}}") else "}}"
    fixed = f"{opening} {markup.rest} | default: '…' {closing}"
    return finding(
        source, (markup.start, markup.start + len(markup.text)), "empty",
        f"{markup.rest} is empty for this user{why}", f"add a default: {fixed}", replacement=fixed,
    )  # fmt: skip


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:_LISTED])
    return f"{shown} …" if len(names) > _LISTED else shown
