"""Finds variables and keys that do not exist, and suggests names from the answers to the tags."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from proxy.liquid.braze_objects import BRAZE_OBJECTS, USER_IDS
from proxy.liquid.lint.attributes import NAMES
from proxy.liquid.lint.ids import is_returned
from proxy.liquid.lint.paths import Path, write_path
from proxy.liquid.lint.place import finding
from proxy.liquid.lint.scope import Read, Scope, Setter, reads, setters
from proxy.liquid.lint.suggestions import OPEN, Keys, corrected_path, first_missing, suggestions
from proxy.liquid.lint.usage import empty_output, find_pointless_comparison, prints_nothing, whole
from proxy.liquid.lint.values import Values, follow, keys, list_names, same_name, similar
from proxy.liquid.scanner import Markup
from proxy.liquid.tag_syntax import UNSAVED
from proxy.liquid.types import Finding

_USER_OBJECTS = frozenset({"user", "customer", "recipient", "contact", "subscriber", "profile"})
_PARAMETERS = {
    **dict.fromkeys(("properties", "properties_by_name"), "keys"), "member": "cohort_id",
    "recommendations_by_id": "rec_id", "propensities_by_id": "prediction_id",
}  # fmt: skip
"""The parameter that decides which keys an object has."""
_COMPARED = re.compile(r"(?:[=!]=|<>|contains)\s*\Z")


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
    `known`: further variables that exist. `broken`: the start of each piece with a syntax error, whose words are not
    names.
    """
    all_setters = list(setters(pieces))
    loops = list(_loops(pieces))
    reported: set[int] = set()
    for read in reads(pieces, tags):
        if read.path.root in known or read.path.root in BRAZE_OBJECTS or read.markup.start in broken:
            continue
        problem = (
            _undefined(source, read, all_setters, loops)
            or _missing(source, read)
            or find_pointless_comparison(source, read)
            or whole(source, read)
        )
        if problem:
            reported.add(read.markup.start)
            yield problem
        elif read.markup.start not in reported and prints_nothing(read, empty):
            reported.add(read.markup.start)
            yield empty_output(source, read)


def ids_read(pieces: Sequence[Markup]) -> list[str]:
    """Return the ids that a message reads from recommendations_by_id and propensities_by_id."""
    return [
        key
        for read in reads(pieces, ())
        for before, key in pairwise(read.path.keys)
        if before in ("recommendations_by_id", "propensities_by_id") and isinstance(key, str)
    ]


def _undefined(
    source: str, read: Read, all_setters: Sequence[Setter], loops: Sequence[tuple[int, int]]
) -> Finding | None:
    root, scope, path = read.path.root, read.scope, read.path
    if root in scope.values:
        return None
    span = path.start, path.end
    setter = next((entry for entry in all_setters if entry.name == root), None)
    if setter and _in_one_loop(read.markup, setter.markup, loops):
        return None
    if setter and setter.markup.name in ("for", "tablerow"):
        return finding(
            source, span, "out-of-loop",
            f"{root} exists only inside the loop on line {setter.markup.line}, so it is empty here",
            f"move {path} between {{% for %}} and {{% endfor %}}",
        )  # fmt: skip
    if setter:
        fix = f"move the tag on line {setter.markup.line} above line {read.markup.line}"
        if setter.markup.line == read.markup.line:
            fix = f"move the tag before {path}"
        if setter.markup.start == read.markup.start:
            fix = f"remove {path} from the tag that sets {root}"
        return finding(
            source, span, "used-before-set",
            f"{root} is used before the tag on line {setter.markup.line} sets it, so it is empty here", fix,
        )  # fmt: skip
    if attribute := _attribute(path):
        return finding(
            source, span, "unknown-name",
            f"{path} is not a Braze variable, so it is empty",
            f"write {attribute}", replacement=attribute,
        )  # fmt: skip
    if (
        not path.keys
        and _COMPARED.search(source[max(0, path.start - 20) : path.start])
        and not similar(root, scope.values)
    ):
        return finding(
            source, span, "unknown-name", f"{root} is not in quotes, so Liquid reads it as a variable, which is empty",
            f"write '{root}'", replacement=f"'{root}'",
        )  # fmt: skip
    suggestion = _suggest_root(path, scope, all_setters)
    if any(entry.name == UNSAVED for entry in all_setters) and not suggestion:
        return None  # the finding about the missing :save covers this
    if suggestion is None:
        names = list(dict.fromkeys([*scope.values, *(entry.name for entry in all_setters)]))
        fix = f"use one of {list_names(names)}, or set {root} with assign" if names else f"set {root} with assign first"
        if same := same_name(root, NAMES):
            fix = f"write ${{{same}}}"
        return finding(
            source, span, "unknown-name", f"no tag sets {root}, so it is empty", fix,
            replacement=f"${{{same}}}" if same and not path.keys else None,
        )  # fmt: skip
    corrected = write_path(*corrected_path(*suggestion, scope))
    return finding(
        source, span, "unknown-name", f"no tag sets {root}, so {path} is empty",
        f"write {corrected}", replacement=corrected,
    )  # fmt: skip


def _loops(pieces: Sequence[Markup]) -> Iterator[tuple[int, int]]:
    opened: list[int] = []
    for markup in pieces:
        if markup.name in ("for", "tablerow"):
            opened.append(markup.start)
        elif markup.name in ("endfor", "endtablerow") and opened:
            yield opened.pop(), markup.start


def _in_one_loop(read: Markup, setter: Markup, loops: Sequence[tuple[int, int]]) -> bool:
    """Return whether a loop contains both tags, so that a round reads the value set in the round before."""
    return any(start < read.start < end and start < setter.start < end for start, end in loops)


def _attribute(path: Path) -> str | None:
    """Return the attribute of Braze that was probably meant by `user.external_id`, `user_id` and the like."""
    plain = [re.sub(r"[\W_]", "", str(part)).lower() for part in (path.root, *path.keys)]
    if (len(plain) == 1 and plain[0] in USER_IDS) or (
        len(plain) == 2 and plain[0] in _USER_OBJECTS and plain[1] in USER_IDS | {"id"}
    ):
        return "${user_id}"
    if plain == ["deviceid"]:
        return "most_recently_used_device.${id}"
    if len(plain) == 2 and plain[0] in _USER_OBJECTS and (same := same_name(str(path.keys[0]), NAMES)):
        return f"${{{same}}}"
    return None


def _suggest_root(path: Path, scope: Scope, all_setters: Sequence[Setter]) -> tuple[str, Keys] | None:
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
    if (place := first_missing(path.root, path.keys, scope)) is None:
        return None
    index, values = place
    span, parent = (path.start, path.end), path.keys[index - 1] if index else None
    suggestion = next(suggestions(path.root, path.keys, index, scope), None)
    if suggestion and parent == "recommendations_by_id" and not _is_returned(values, suggestion[1][index : index + 1]):
        return None  # the finding about the id in the tag covers this
    problem = _problem(write_path(path.root, path.keys[:index]), scope.key(path.keys[index]), values)
    note = ""
    if (
        suggestion is None
        and parent in ("properties", "properties_by_name")
        and _dot_in_name(path.keys[index + 1 :], values)
    ):
        suggestion = path.root, (*path.keys[:index], "_".join(map(str, path.keys[index:])))
        note = ", because properties has _ instead of each dot in a name"
    if suggestion:
        corrected = write_path(*corrected_path(*suggestion, scope))
        return finding(
            source, span, "unknown-key", f"{problem}, so {path} is empty", f"write {corrected}{note}",
            replacement=corrected,
        )  # fmt: skip
    key, listing = scope.key(path.keys[index]), list_names(keys(values))
    parameter = _PARAMETERS.get(str(parent))
    if parameter and parameter in scope.requested.get(path.root, ()):
        fix = f"add {key} to {parameter} in the tag that saves {path.root}, or use one of {listing}"
        return finding(source, span, "unknown-key", problem, fix)
    if parent == "member" and listing:
        problem, fix = (
            f"this user is not in the cohort {key}",
            f"check the id; {write_path(path.root, path.keys[:index])} has {listing}",
        )
        return finding(source, span, "unknown-id", problem, fix, level="note")
    if parent in OPEN:
        return None
    fix = f"use one of {listing}" if listing else f"write {write_path(path.root, path.keys[:index])} without .{key}"
    return finding(source, span, "unknown-key", problem, fix)


def _problem(container: str, key: object, values: Values) -> str:
    match values[0] if values else None:
        case list():
            return f"{container} is a list and has no {key}"
        case str():
            return f"{container} is text and has no {key}"
        case dict():
            return f"{container} has no {key}"
    return f"{container} is a single value and has no {key}"


def _dot_in_name(further: Keys, values: Values) -> bool:
    """Return whether a missing property with `further` keys is a name with dots: the values have no keys."""
    return bool(further) and further[0] not in ("size", "first", "last") and bool(keys(values))


def _is_returned(values: Values, key: Keys) -> bool:
    entry = values[0].get(key[0]) if key and values and isinstance(values[0], dict) else None
    return not isinstance(entry, dict) or is_returned(entry)
