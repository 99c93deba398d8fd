"""What is kept about a user as what was pushed has changed it, for one wish. Pure.

Nothing here asks what time it is: how old what was pushed may be is for lifetimes to say, as of anything kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from proxy.profile import encoding
from proxy.profile.coerce import text
from proxy.profile.liquid_names import USER_PROPERTY, is_safe
from proxy.profile.parts import COHORTS, PROPERTIES
from proxy.profile.query import ProfileQuery
from proxy.profile.record import CachedPart, Record
from proxy.profile.updates import REMOVED, UNKNOWN, Known

_SAID_NEVER = float("-inf")


def apply_updates(record: Record, known: Known, query: ProfileQuery) -> Record:
    """Return `record` with all that was pushed later than it was said.

    A list of cohorts, or a set of properties, that was changed is as old as it was: never newer than its oldest
    entry. Only where each cohort, or each key, that `wish` asks for was pushed, it is as old as the oldest of those.
    A whole set of which a property was changed since to what only Amplitude knows is no set. A set that was cleared
    since is not there. That a user is unknown does not hold against a later push.
    """
    if record.unknown_at is not None:
        if known.latest <= record.unknown_at:
            return record
        record = Record({}, None, record.user_id, record.device_id)
    changed = {
        COHORTS: _cohorts(record.parts.get(COHORTS), known, query),
        PROPERTIES: _properties(record.parts.get(PROPERTIES), known, query.keys),
    }
    others = {part: kept for part, kept in record.parts.items() if part not in changed}
    parts = others | {part: kept for part, kept in changed.items() if kept is not None}
    return Record(parts, None, record.user_id, record.device_id, record.unknown_status)


def _cohorts(kept: CachedPart | None, known: Known, query: ProfileQuery) -> CachedPart | None:
    since = kept.fetched_at if kept else _SAID_NEVER
    later = {cohort: one for cohort, one in known.cohorts.items() if one[0] > since}
    if not later:
        return kept
    asked = {query.aliases.id_of("cohorts", cohort) for cohort in query.cohort_ids}
    narrow = bool(asked) and asked <= later.keys()
    if kept is None and not narrow:
        return None
    listed = encoding.read(kept.value) if kept else []
    old = [one for one in listed if text(one) not in later] if isinstance(listed, list) else []
    there = {text(one) for one in old}
    new = [cohort for cohort, (_, is_in) in later.items() if is_in and cohort not in there]
    value = encoding.write([*old, *new])
    warm = kept is not None and kept.warm
    if narrow:
        return CachedPart(value, min(later[cohort][0] for cohort in asked), warm, pushed=True)
    return CachedPart(value, since, warm)


def _properties(kept: CachedPart | None, known: Known, keys: tuple[str, ...]) -> CachedPart | None:
    if kept is not None and known.cleared_at is not None and known.cleared_at > kept.fetched_at:
        kept = None  # what was cleared must not be served, and what was not only Amplitude knows
    warm, since = kept is not None and kept.warm, kept.fetched_at if kept else _SAID_NEVER
    fetched: dict[str, bytes] = {}
    if kept is not None:
        fetched = encoding.members(kept.value)
    whole = known.whole_at is not None and known.whole_at > since
    later = {name: one for name, one in known.properties.items() if whole or one[0] > since}
    if not later and not whole:
        return kept
    unsure = {name for name, (_, value) in later.items() if value == UNKNOWN}
    # Of what the whole set does not have it is known that the user does not have it.
    unsaid = (known.whole_at, REMOVED) if whole and known.whole_at is not None else (since, UNKNOWN)
    asked = [later.get(key.removeprefix(USER_PROPERTY), unsaid) for key in keys]
    narrow = bool(keys) and all(value != UNKNOWN for _, value in asked)
    if kept is None and (not whole or unsure) and not (narrow and all(is_safe(key) for key in keys)):
        # What a property is called is settled among all of them, unless its name is one that nothing can take from it.
        return None
    values: Mapping[str, bytes] = fetched
    if whole:  # of all that was fetched it leaves only what was changed since to what only Amplitude knows
        values = {name: value for name, value in fetched.items() if name.removeprefix(USER_PROPERTY) in unsure}
    value = encoding.assemble(_changed(values, later, fetched, keys))
    if narrow:
        return CachedPart(value, min(at for at, _ in asked), warm, pushed=True)
    if whole and known.whole_at is not None and not unsure:
        return CachedPart(value, known.whole_at, warm, pushed=True)
    return CachedPart(value, since, warm)


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
        if value == REMOVED:
            changed.pop(called, None)
        elif value != UNKNOWN:
            changed[called] = value
    return changed
