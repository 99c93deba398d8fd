"""Ask + Record -> the contract's flat JSON. Pure, and total: whatever Amplitude said, every key is there.

Values are read defensively here and kept as Amplitude sent them, so that a change of shape needs no new call.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from proxy.profile import encoding
from proxy.profile.coerce import number, text, text_list, whole_number
from proxy.profile.json import write_json, write_json_text
from proxy.profile.liquid_names import USER_PROPERTY, safe_names
from proxy.profile.parts import COHORTS, PROPERTIES, Part
from proxy.profile.query import ProfileQuery, ProfileRequest
from proxy.profile.record import CachedPart, Record


def shape(ask: ProfileRequest, record: Record, *, error: str | None = None, stale: bool = False) -> bytes:
    """Return the body for `ask` from what `record` holds; parts that it does not hold get their empty value.

    `error`: the word for the first missing part, None when every part is there.
    """
    query = ask.query
    members = [_envelope(ask, record, error, stale)]
    for section in query.sections:
        match section:
            case "recommendations":
                members.append(_recommendations(query, record))
            case "properties":
                members.append(_properties(query.keys, record.parts.get(PROPERTIES)))
            case "cohorts":
                members.append(_cohorts(query, record.parts.get(COHORTS)))
            case "computations":
                members.append(_members(_computations(query, _object(_value(record, query.computations)))))
            case "propensities":
                members.append(_members(_propensities(query, record)))
    return b"{%b}" % b",".join(members)


def _envelope(ask: ProfileRequest, record: Record, error: str | None, stale: bool) -> bytes:
    if record.unknown_at is not None:
        as_of: float | None = record.unknown_at
    else:
        there = [kept.fetched_at for kept in map(record.parts.get, ask.query.parts) if kept is not None]
        as_of = min(there) if there else None
    return b'"ok":%b,"found":%b,"error":%b,"stale":%b,"as_of":%b,"user_id":%b,"device_id":%b' % (
        _yes(error is None),
        _yes(bool(record.parts)),
        write_json_text(error),
        _yes(stale),
        b"%d" % as_of if as_of is not None else b"null",
        write_json_text(record.user_id if record.user_id is not None else ask.identity.user_id),
        write_json_text(record.device_id if record.device_id is not None else ask.identity.device_id),
    )


def _value(record: Record, part: Part) -> Any:
    kept = record.parts.get(part)
    return encoding.read(kept.value) if kept else None


def _members(object: dict[str, Any]) -> bytes:
    return write_json(object)[1:-1]


def _recommendations(query: ProfileQuery, record: Record) -> bytes:
    flat, whole, by_id = b"", [], []
    for rec_id, part in query.recommendations:
        id = write_json_text(rec_id)
        items, child, more = _entry(id, record.parts.get(part))
        flat = flat or b"%b,%b" % (items, more)
        whole.append(one := b'{%b,"child_rec_id":%b,%b}' % (items, child, more))
        by_id.append(b"%b:%b" % (id, one))
    return b'%b,"recommendations":[%b],"recommendations_by_id":{%b}' % (flat, b",".join(whole), b",".join(by_id))


def _entry(id: bytes, kept: CachedPart | None) -> tuple[bytes, bytes, bytes]:
    """Return an entry's members about its items, up to `id`; its child's id; its members that say where it is from."""
    names, values = encoding.split(kept.value if kept else b"")
    values.append(b"null")
    place = (_places if len(names) <= _MAX_NAMES else _places.__wrapped__)(names)
    items, control, child, source, updated = [values[at] for at in place]
    # For the control group Amplitude sends random items: shown, they would spoil its measurement.
    is_control = control in _TRUE
    items = items if _PLAIN_TEXTS.fullmatch(items) else write_json(text_list(json.loads(items)))
    shown, held_back = (b"[]", items) if is_control else (items, b"[]")
    return (
        b'"items":%b,"personalized":%b,"is_control":%b,"control_items":%b,"rec_id":%b'
        % (shown, _yes(shown != b"[]"), _yes(is_control), held_back, id),
        child if child.startswith(_TEXT_OR_NULL) else write_json_text(text(json.loads(child))),
        b'"source":%b,"last_updated":%b'
        % (
            source if source.startswith(_TEXT_OR_NULL) else write_json_text(text(json.loads(source))),
            updated if updated.isdigit() else write_json(whole_number(json.loads(updated))),
        ),
    )


_FIELDS = ("items", "is_control", "child_rec_id", "recommendation_source", "last_updated")
_TRUE = frozenset((b"true", b'"true"', b"1", b"1.0"))
_TEXT_OR_NULL = (b'"', b"null")
_PLAIN_TEXTS = re.compile(rb'\[(?:"[^"\\]*+"(?:,"[^"\\]*+")*+)?+\]')
_PLAIN_IDS = re.compile(rb'\["[^"\\,]*+"(?:,"[^"\\,]*+")*+\]')


@lru_cache(256)
def _places(names: bytes) -> tuple[int, ...]:
    """Return where the values of `_FIELDS` stand in an entry of these names; -1 for what is not there."""
    there = json.loads(names)
    return tuple(there.index(field) if field in there else -1 for field in _FIELDS)


def _properties(keys: tuple[str, ...], kept: CachedPart | None) -> bytes:
    names, values = encoding.split(kept.value if kept else b"")
    known = len(names) + sum(map(len, keys)) <= _MAX_NAMES
    frame, places = (_frame if known else _frame.__wrapped__)(names, keys)
    if keys:
        values.append(b"null")
        filling = [values[at] for at in places]
    else:
        filling = values + values
    filled = [*frame]
    filled[1::2] = filling
    return b"".join(filled)


_MAX_NAMES = 4_096
"""Bytes of names that are remembered: what many users have in common, and all of them together no burden."""


@lru_cache(256)
def _frame(names: bytes, keys: tuple[str, ...]) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
    """Return the properties of these names, of those in `keys` if there are some, and which value goes into each gap.

    The gaps are every second entry; -1 is a key that the user does not have. Cached, because thousands of users have
    the same names, and to settle the safe ones costs as much as the rest of an answer.
    """
    places = {name: at for at, name in enumerate(json.loads(names))}
    if keys:
        exact = {key: key if key in places else USER_PROPERTY + key for key in keys}
        by_name = {key: places.get(name, -1) for key, name in exact.items()}
        missing = [key for key in keys if by_name[key] == -1]
        # A property is called the same with `keys` as without, so names are settled among all of them.
        safe = safe_names(places, missing)
        shown = {safe[exact[key] if key not in missing else key]: at for key, at in by_name.items()}
    else:
        by_name, safe = places, safe_names(places)
        shown = {safe[name]: at for name, at in places.items()}
    gap = b"\n"  # which no JSON holds
    members = [b",".join([b"%b:%b" % (write_json_text(name), gap) for name in some]) for some in (shown, by_name)]
    pieces = (b'"properties":{%b},"properties_by_name":{%b}' % tuple(members)).split(gap)
    frame = [b""] * (2 * len(pieces) - 1)
    frame[::2] = pieces
    return tuple(frame), (*shown.values(), *by_name.values())


def _yes(it_is: bool) -> bytes:
    return b"true" if it_is else b"false"


def _cohorts(query: ProfileQuery, kept: CachedPart | None) -> bytes:
    users = dict.fromkeys(_listed(encoding.text(kept.value)) if kept else [])
    # Where none is asked, every name that stands for an id is a key all the same, so that a template which asks for
    # `member.vip` need not name it in the call as well.
    member = {name: id in users for name, id in query.cohorts}
    if query.cohort_ids:
        there = [name for name, is_in in member.items() if is_in]
    else:
        there = list(users)
        member = {**dict.fromkeys(users, True), **member}
    return b'"cohort_ids":[%b],"member":{%b},"is_member":%b' % (
        b",".join(there),
        b",".join([name + (b":true" if is_in else b":false") for name, is_in in member.items()]),
        _yes(bool(query.cohort_ids) and len(there) == len(member)),
    )


def _listed(said: bytes) -> list[bytes]:
    """Return the texts in a list, each as JSON; a comma parts them, unless one of them holds a comma itself."""
    if _PLAIN_IDS.fullmatch(said):
        return said[1:-1].split(b",")
    return list(map(write_json_text, text_list(encoding.read(said))))


def _computations(query: ProfileQuery, said: dict[str, Any]) -> dict[str, Any]:
    values = {name: number(value) for name, value in said.items()}
    known = [name for name in query.aliases.known("computations") if not query.comp_ids or name in query.comp_ids]
    if known and len(query.comp_ids) == len(values) == 1:
        # Amplitude says it under a name of its own, but which one was asked is beyond doubt.
        values = dict(zip(known, values.values(), strict=True))
    missing = [name for name in known if name not in values and USER_PROPERTY + name not in values]
    names = safe_names(values, missing)
    values |= dict.fromkeys(missing)
    return {
        "computations": {names[name]: value for name, value in values.items()},
        "computations_by_name": values,
    }


def _propensities(query: ProfileQuery, record: Record) -> dict[str, Any]:
    entries = []
    for one in query.prediction_ids:
        value = number(_value(record, query.prediction(one)))
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Amplitude's own label of the type is not reliable: it is called what was asked.
        entries.append({"prediction_id": one, "value": value if is_number else None, "type": query.propensity_type})
    return {
        "propensity": entries[0]["value"],
        "propensities": entries,
        "propensities_by_id": {entry["prediction_id"]: entry for entry in entries},
    }


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
