"""Ask + Record -> the contract's flat JSON. Pure, and total: whatever Amplitude said, every key is there.

Values are read defensively here and kept as Amplitude sent them, so that a change of shape needs no new call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from proxy import columns, strictjson
from proxy.names import USER_PROPERTY, safe_names
from proxy.parts import COHORTS, PROPERTIES, Kept, Part, Record
from proxy.query import Ask, Wish


def shape(ask: Ask, record: Record, *, error: str | None = None, stale: bool = False) -> bytes:
    """Return the body for `ask` from what `record` holds; parts that it does not hold get their empty value.

    `error`: the word for the first missing part, None when every part is there.
    """
    wish = ask.wish
    there = [part for part in wish.parts if record.has(part)]
    members = [
        _members(
            {
                "ok": error is None,
                "found": bool(record.parts),
                "error": error,
                "stale": stale,
                "as_of": int(min(record.said_at(part) for part in there)) if there else None,
                "user_id": record.user_id if record.user_id is not None else ask.identity.user_id,
                "device_id": record.device_id if record.device_id is not None else ask.identity.device_id,
            }
        )
    ]
    for section in wish.sections:
        match section:
            case "recommendations":
                members.append(_members(_recommendations(wish, record)))
            case "properties" if wish.keys:
                members.append(_members(_some_properties(wish.keys, _object(_value(record, PROPERTIES)))))
            case "properties":
                members.append(_all_properties(record.parts.get(PROPERTIES)))
            case "cohorts":
                members.append(_members(_cohorts(wish, _texts(_value(record, COHORTS)))))
            case "computations":
                members.append(_members(_computations(wish, _object(_value(record, wish.computations)))))
            case "propensities":
                members.append(_members(_propensities(wish, record)))
    return b"{%b}" % b",".join(members)


def drop_in(ask: Ask, record: Record) -> dict[str, Any]:
    """Return `{"userData": …}` as Amplitude would, with its own values; parts not asked for are null."""
    data: dict[str, Any] = dict.fromkeys(("recommendations", "user_id", "device_id", "amp_props", "cohort_ids"))
    data["user_id"] = record.user_id if record.user_id is not None else ask.identity.user_id
    data["device_id"] = record.device_id if record.device_id is not None else ask.identity.device_id
    for section in ask.wish.sections:
        match section:
            case "recommendations":
                entries = [_value(record, part) for part in ask.wish.parts if part.section == section]
                data["recommendations"] = [entry for entry in entries if entry is not None] or None
            case "properties":
                data["amp_props"] = _object(_value(record, PROPERTIES))
            case "cohorts":
                data["cohort_ids"] = _value(record, COHORTS)
            case "computations":
                computed = _object(_value(record, ask.wish.computations))
                data["amp_props"] = (data["amp_props"] or {}) | computed
            case "propensities":
                found = {one: _value(record, ask.wish.prediction(one)) for one in ask.wish.prediction_ids}
                data["propensity"] = found[ask.wish.prediction_ids[0]]
                data["propensities"] = [
                    {"prop": value, "pred_id": one, "prop_type": ask.wish.propensity_type}
                    for one, value in found.items()
                    if value is not None
                ]
    return {"userData": data}


def _value(record: Record, part: Part) -> Any:
    kept = record.parts.get(part)
    return columns.read(kept.value) if kept else None


def _members(object: dict[str, Any]) -> bytes:
    return strictjson.write(object)[1:-1]


def _recommendations(wish: Wish, record: Record) -> dict[str, Any]:
    entries = [_entry(rec_id, _object(_value(record, wish.recommendation(rec_id)))) for rec_id in wish.rec_ids]
    first = {key: value for key, value in entries[0].items() if key != "child_rec_id"}
    return {
        **first,
        "recommendations": entries,
        "recommendations_by_id": {entry["rec_id"]: entry for entry in entries},
    }


def _entry(rec_id: str, said: dict[str, Any]) -> dict[str, Any]:
    items = _texts(said.get("items"))
    # For the control group Amplitude sends random items: shown, they would spoil its measurement.
    is_control = said.get("is_control") in (True, "true")
    shown = [] if is_control else items
    return {
        "items": shown,
        "personalized": bool(shown),
        "is_control": is_control,
        "control_items": items if is_control else [],
        "rec_id": rec_id,
        "child_rec_id": text(said.get("child_rec_id")),
        "source": text(said.get("recommendation_source")),
        "last_updated": _whole(said.get("last_updated")),
    }


def _all_properties(kept: Kept | None) -> bytes:
    names, values = columns.split(kept.value if kept else b"")
    frame = (_frame if len(names) <= _MAX_NAMES else _frame.__wrapped__)(names)
    filled = [b""] * (2 * len(frame) - 1)
    filled[::2] = frame
    filled[1::2] = values + values
    return b"".join(filled)


_MAX_NAMES = 4_096
"""Bytes of names that are remembered: what many users have in common, and all of them together no burden."""


@lru_cache(256)
def _frame(names: bytes) -> tuple[bytes, ...]:
    """Return what stands before, between and after the values of the properties of these names, all of them twice.

    Cached, because thousands of users have the same ones, and to settle the safe names costs as much as the rest of
    an answer.
    """
    exact = json.loads(names)
    safe = safe_names(exact)
    slot = "\n"  # which no JSON holds
    shown = ",".join(f"{_quoted(safe[name])}:{slot}" for name in exact)
    by_name = ",".join(f"{_quoted(name)}:{slot}" for name in exact)
    whole = f'"properties":{{{shown}}},"properties_by_name":{{{by_name}}}'
    return tuple(whole.encode().split(slot.encode()))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _some_properties(keys: tuple[str, ...], said: dict[str, Any]) -> dict[str, Any]:
    # A property is called the same with `keys` as without, so names are settled among all of them.
    found = {key: key if key in said else USER_PROPERTY + key for key in keys}
    found = {key: exact for key, exact in found.items() if exact in said}
    names = safe_names(said, missing=[key for key in keys if key not in found])
    return {
        "properties": {names[found.get(key, key)]: said.get(found.get(key, key)) for key in keys},
        "properties_by_name": {key: said.get(found.get(key, key)) for key in keys},
    }


def _cohorts(wish: Wish, said: list[str]) -> dict[str, Any]:
    users, aliases = set(said), wish.aliases
    if wish.cohort_ids:
        member = {cohort: aliases.id_of("cohorts", cohort) in users for cohort in wish.cohort_ids}
        return {
            "cohort_ids": [cohort for cohort, is_in in member.items() if is_in],
            "member": member,
            "is_member": all(member.values()),
        }
    all_of_the_users = dict.fromkeys(said, True)
    # Every name is a key, so that a template which asks for `member.vip` need not name it in the call as well.
    named = {name: aliases.id_of("cohorts", name) in users for name in aliases.known("cohorts")}
    return {"cohort_ids": list(all_of_the_users), "member": all_of_the_users | named, "is_member": False}


def _computations(wish: Wish, said: dict[str, Any]) -> dict[str, Any]:
    values = {name: number(value) for name, value in said.items()}
    known = [name for name in wish.aliases.known("computations") if not wish.comp_ids or name in wish.comp_ids]
    if known and len(wish.comp_ids) == len(values) == 1:
        # Amplitude says it under a name of its own, but which one was asked is beyond doubt.
        values = dict(zip(known, values.values(), strict=True))
    missing = [name for name in known if name not in values and USER_PROPERTY + name not in values]
    names = safe_names(values, missing)
    values |= dict.fromkeys(missing)
    return {
        "computations": {names[name]: value for name, value in values.items()},
        "computations_by_name": values,
    }


def _propensities(wish: Wish, record: Record) -> dict[str, Any]:
    entries = []
    for one in wish.prediction_ids:
        value = number(_value(record, wish.prediction(one)))
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Amplitude's own label of the type is not reliable: it is called what was asked.
        entries.append({"prediction_id": one, "value": value if is_number else None, "type": wish.propensity_type})
    return {
        "propensity": entries[0]["value"],
        "propensities": entries,
        "propensities_by_id": {entry["prediction_id"]: entry for entry in entries},
    }


_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?\Z")
_MAX_DIGITS = 15  # what a double holds exactly, so that no digit is made up or lost


def number(value: Any) -> Any:
    """Return a canonical decimal as a number, so that Liquid can compare it; anything else as it is.

    Amplitude sends computed values as text. "3" becomes 3 and "1.10" 1.1; "02134", "+1", "-0", "1e5" and
    what has more than 15 digits, or what Python would write with an exponent, stay text.
    """
    if not isinstance(value, str) or not _DECIMAL.match(value) or sum(map(str.isdigit, value)) > _MAX_DIGITS:
        return value
    found = float(value) if "." in value else int(value)
    if "e" in repr(found) or (found == 0 and value.startswith("-")):
        return value
    return found


def text(value: Any) -> str | None:
    """Return a JSON string as it is and a number as written; None for anything else, booleans too."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    return None


def _texts(value: Any) -> list[str]:
    entries: Iterable[Any] = value if isinstance(value, list) else ()
    return [entry for entry in map(text, entries) if entry is not None]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
