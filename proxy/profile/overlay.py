"""Applies pushed updates and snapshots of cohorts to a cached record, for one query.

The freshness policy decides later whether an update is too old, as for any cached part.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from proxy.profile import encoding
from proxy.profile.coerce import text, text_list
from proxy.profile.json import write_body
from proxy.profile.liquid_names import USER_PROPERTY, is_safe
from proxy.profile.parts import COHORTS, PROPERTIES
from proxy.profile.query import ProfileQuery
from proxy.profile.record import CachedPart, Record
from proxy.profile.snapshot import Membership
from proxy.profile.updates import NO_UPDATES, REMOVED, UNKNOWN, ParsedUpdates

_NEVER_FETCHED = float("-inf")
_NO_COHORTS = encoding.write([])
_NO_SNAPSHOTS: Mapping[str, Membership] = {}

Accepted = Literal["certain", "pushed", "partial"]
"""The pushed data that answers a query without a fetched part or a whole set of properties.

`certain`: all requested keys, if their Liquid-safe names do not depend on other properties.
`pushed`: all requested keys, regardless of their names. For a service without the User Profile API.
`partial`: the pushed properties and cohorts, even if requested keys or cohorts are missing.
"""


def apply_updates(
    record: Record,
    updates: ParsedUpdates,
    query: ProfileQuery,
    snapshots: Mapping[str, Membership] = _NO_SNAPSHOTS,
    accepted: Accepted = "certain",
) -> Record:
    """Return `record` with every update that is later than the fetch of the changed part.

    A changed list of cohorts or set of properties keeps the time of its fetch. If every cohort or key in `query` was
    pushed, the list or set gets the time of the oldest of these updates. A whole set does not count as whole if a
    property later got a value that only Amplitude knows. A set that was cleared after its fetch is removed. A later
    update overrides "unknown user".

    `snapshots`: the user's membership by cohort. Only a later update overrides a recent snapshot.
    """
    if record.unknown_at is not None:
        if updates.latest <= record.unknown_at:
            return _unknown_but_listed(record, record.unknown_at, updates, query, snapshots)
        record = Record({}, None, record.user_id, record.device_id)
    old_cohorts, old_properties = record.parts.get(COHORTS), record.parts.get(PROPERTIES)
    cohorts = _cohorts(old_cohorts, updates, query, snapshots, accepted)
    properties = old_properties
    if updates is not NO_UPDATES:
        properties = _properties(old_properties, updates, query.keys, accepted)
    if cohorts is old_cohorts and properties is old_properties:
        return record
    parts = dict(record.parts)
    if cohorts is not None:
        parts[COHORTS] = cohorts
    if properties is not None:
        parts[PROPERTIES] = properties
    elif old_properties is not None:  # the set was cleared
        del parts[PROPERTIES]
    return Record(parts, None, record.user_id, record.device_id, record.unknown_status)


def _unknown_but_listed(
    record: Record,
    unknown_at: float,
    updates: ParsedUpdates,
    query: ProfileQuery,
    snapshots: Mapping[str, Membership],
) -> Record:
    """Return the record of an unknown user with the snapshots applied. `unknown_at`: the `unknown_at` of `record`.

    If the snapshots answer all of `query`, the record no longer depends on `unknown_at`. Otherwise, the other cohorts
    and parts stay unknown.
    """
    usable = {cohort: listed for cohort, listed in snapshots.items() if listed.overrides or listed.as_of > unknown_at}
    if not usable:
        return record
    if query.parts == (COHORTS,) and (cohorts := _cohorts(None, updates, query, usable)):
        return Record({COHORTS: cohorts}, None, record.user_id, record.device_id)
    members = _cohorts(CachedPart(_NO_COHORTS, unknown_at), updates, query, usable)
    if members is None or members.value == _NO_COHORTS:
        return record
    return replace(record, parts={COHORTS: members})


def _cohorts(
    cached: CachedPart | None,
    updates: ParsedUpdates,
    query: ProfileQuery,
    snapshots: Mapping[str, Membership],
    accepted: Accepted = "certain",
) -> CachedPart | None:
    fetched_at = cached.fetched_at if cached else _NEVER_FETCHED
    pushed = updates.cohorts
    later = {cohort: update for cohort, update in pushed.items() if update[0] > fetched_at} if pushed else {}
    for cohort, (as_of, is_member, overrides) in snapshots.items():
        if overrides or as_of > fetched_at:
            later[cohort] = as_of, is_member
            if cohort in pushed and pushed[cohort][0] > as_of:
                later[cohort] = pushed[cohort]
    if not later:
        return cached
    requested = query.requested_cohorts
    if accepted == "partial" and cached is None:
        requested = requested & later.keys()
    warm = cached is not None and cached.warm
    if requested and requested <= later.keys():  # an answer about these cohorts needs no others
        # Two comprehensions instead of this loop take 0.8 microseconds more.
        members, oldest = [], math.inf
        for cohort in requested:
            at, is_member = later[cohort]
            oldest = at if at < oldest else oldest
            if is_member:
                members.append(cohort)
        unlisted = not members and cached is None and updates.latest == _NEVER_FETCHED
        return _requested_cohorts(tuple(members), oldest, warm, unlisted)
    if cached is None:
        return None
    value = encoding.read(cached.value)
    stored = value if isinstance(value, list) else []
    listed = set(text_list(stored))
    entered: list[str] = []
    left: list[str] = []
    for cohort, (_, is_in) in later.items():
        if is_in is not (cohort in listed):
            (entered if is_in else left).append(cohort)
    if not entered and not left:
        return cached
    if left:
        stored = [cohort for cohort in stored if text(cohort) not in left]
    return CachedPart(_write_cohorts([*stored, *entered]), fetched_at, warm)


@lru_cache(4096)
def _requested_cohorts(members: tuple[str, ...], as_of: float, warm: bool, unlisted: bool) -> CachedPart:
    """Return the part for a request of some cohorts. Cached, because many users have the same list and time."""
    return CachedPart(_write_cohorts(list(members)), as_of, warm, pushed=True, unlisted=unlisted)


def _write_cohorts(cohorts: list[Any]) -> bytes:
    """Return the stored form of a list of cohorts, a microsecond faster than `encoding.write`."""
    return encoding.compress(write_body(cohorts))


def _properties(
    cached: CachedPart | None, updates: ParsedUpdates, keys: tuple[str, ...], accepted: Accepted
) -> CachedPart | None:
    if not updates.properties and updates.whole_at is None and updates.cleared_at is None:
        return cached
    if cached is not None and updates.cleared_at is not None and updates.cleared_at > cached.fetched_at:
        cached = None  # cleared values must not be served, and only Amplitude knows the remaining values
    warm, fetched_at = cached is not None and cached.warm, cached.fetched_at if cached else _NEVER_FETCHED
    fetched: dict[str, bytes] = {}
    if cached is not None:
        fetched = encoding.members(cached.value)
    whole = updates.whole_at is not None and updates.whole_at > fetched_at
    later = {name: update for name, update in updates.properties.items() if whole or update[0] > fetched_at}
    if not later and not whole:
        return cached
    uncertain = {name for name, (_, value) in later.items() if value == UNKNOWN}
    # In a whole set, a missing property is a property that the user does not have.
    otherwise = (updates.whole_at, REMOVED) if whole and updates.whole_at is not None else (fetched_at, UNKNOWN)
    requested = [later.get(key.removeprefix(USER_PROPERTY), otherwise) for key in keys]
    narrow = bool(keys) and all(value != UNKNOWN for _, value in requested)
    # A Liquid-safe name depends on all properties, unless the exact name is already safe.
    certain = narrow and (accepted == "pushed" or all(is_safe(key) for key in keys))
    if cached is None and (not whole or uncertain) and not certain and accepted != "partial":
        return None
    values: Mapping[str, bytes] = fetched
    if whole:  # a whole set replaces all fetched values, except values that only Amplitude knows
        values = {name: value for name, value in fetched.items() if name.removeprefix(USER_PROPERTY) in uncertain}
    value = encoding.assemble(_apply_changes(values, later, fetched, keys))
    if narrow:
        return CachedPart(value, min(at for at, _ in requested), warm, pushed=True)
    if whole and updates.whole_at is not None and not uncertain:
        return CachedPart(value, updates.whole_at, warm, pushed=True)
    if cached is None:
        known = [at for at, value in (requested if keys else later.values()) if value != UNKNOWN]
        return CachedPart(value, min(known), pushed=True) if known else None
    return CachedPart(value, fetched_at, warm)


def _apply_changes(
    values: Mapping[str, bytes],
    later: Mapping[str, tuple[float, bytes]],
    fetched: Collection[str],
    keys: Collection[str],
) -> dict[str, bytes]:
    """Return `values` with the updates in `later`, named as the fetched properties or as `keys`.

    Amplitude's answers have names with a prefix, and its pushes have names without a prefix.
    """
    changed = dict(values)
    prefixed = any(name.startswith(USER_PROPERTY) for name in fetched)
    for name, (_, value) in later.items():
        full = USER_PROPERTY + name
        stored_name = full if full in fetched or (name not in fetched and (prefixed or full in keys)) else name
        if value == REMOVED:
            changed.pop(stored_name, None)
        elif value != UNKNOWN:
            changed[stored_name] = value
    return changed
