"""What is kept about a user as what was pushed has changed it, for one wish. Pure.

Nothing here asks what time it is: how old what was pushed may be is for lifetimes to say, as of anything kept.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from proxy import columns
from proxy.names import USER_PROPERTY, is_safe
from proxy.parts import COHORTS, PROPERTIES, Kept, Record
from proxy.pushed import GONE, UNSURE, Known
from proxy.query import Wish
from proxy.shaping import text

_SAID_NEVER = float("-inf")


def overlaid(record: Record, known: Known, wish: Wish) -> Record:
    """Return `record` with all that was pushed later than it was said.

    A list of cohorts, or a set of properties, that was changed is as old as it was: never newer than its oldest
    entry. Only where each cohort, or each key, that `wish` asks for was pushed, it is as old as the oldest of those.
    That a user is unknown does not hold against a later push.
    """
    if record.unknown_at is not None:
        if known.latest <= record.unknown_at:
            return record
        record = Record({}, None, record.user_id, record.device_id)
    changed = {
        COHORTS: _cohorts(record.parts.get(COHORTS), known, wish),
        PROPERTIES: _properties(record.parts.get(PROPERTIES), known, wish.keys),
    }
    parts = dict(record.parts) | {part: kept for part, kept in changed.items() if kept is not None}
    return Record(parts, None, record.user_id, record.device_id, record.unknown_status)


def _cohorts(kept: Kept | None, known: Known, wish: Wish) -> Kept | None:
    since = kept.at if kept else _SAID_NEVER
    later = {cohort: one for cohort, one in known.cohorts.items() if one[0] > since}
    if not later:
        return kept
    asked = {wish.aliases.id_of("cohorts", cohort) for cohort in wish.cohort_ids}
    narrow = bool(asked) and asked <= later.keys()
    if kept is None and not narrow:
        return None
    listed = columns.read(kept.value) if kept else []
    old = [one for one in listed if text(one) not in later] if isinstance(listed, list) else []
    there = {text(one) for one in old}
    new = [cohort for cohort, (_, is_in) in later.items() if is_in and cohort not in there]
    value = columns.write([*old, *new])
    warm = kept is not None and kept.warm
    if narrow:
        return Kept(value, min(later[cohort][0] for cohort in asked), warm, pushed=True)
    return Kept(value, since, warm)


def _properties(kept: Kept | None, known: Known, keys: tuple[str, ...]) -> Kept | None:
    since, warm, pushed = _SAID_NEVER, kept is not None and kept.warm, False
    fetched: dict[str, bytes] = {}
    if kept is not None:
        names, said = columns.split(kept.value)
        fetched = dict(zip(json.loads(names), said, strict=True))
    values: dict[str, bytes] | None = None
    if known.whole_at is not None and (kept is None or known.whole_at > kept.at):
        values, pushed = {}, not any(value == UNSURE for _, value in known.properties.values())
        later: Mapping[str, tuple[float, bytes]] = known.properties
        since = known.whole_at
    else:
        if kept is not None:
            values, since = fetched, kept.at
        later = {name: one for name, one in known.properties.items() if one[0] > since}
    if not later and known.whole_at != since:
        return kept
    asked = [later.get(key.removeprefix(USER_PROPERTY), (since, UNSURE)) for key in keys]
    narrow = bool(keys) and all(value != UNSURE for _, value in asked)
    if values is None:
        # What a property is called is settled among all of them, unless its name is one that nothing can take from it.
        if not narrow or not all(is_safe(key) for key in keys):
            return None
        values = {}
    value = columns.assemble(_changed(values, later, fetched, keys))
    if narrow:
        return Kept(value, min(at for at, _ in asked), warm, pushed=True)
    return Kept(value, since, warm, pushed)


def _changed(
    values: Mapping[str, bytes],
    later: Mapping[str, tuple[float, bytes]],
    fetched: Collection[str],
    keys: Collection[str],
) -> dict[str, bytes]:
    """Return `values` as changed by what was pushed, called as in what was fetched, or else as it is asked for.

    Amplitude pushes without the prefix with which it answers.
    """
    changed = dict(values)
    prefixed = any(name.startswith(USER_PROPERTY) for name in fetched)
    for name, (_, value) in later.items():
        full = USER_PROPERTY + name
        called = full if full in fetched or (name not in fetched and (prefixed or full in keys)) else name
        if value == GONE:
            changed.pop(called, None)
        elif value != UNSURE:
            changed[called] = value
    return changed
