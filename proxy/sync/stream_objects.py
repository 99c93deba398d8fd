"""Converts an element of Amplitude's event stream to objects for Braze. Does no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Literal

from proxy.braze.limits import PROFILE_FIELDS, STEERING_NAMES, OmittedValue, fit_attribute, fit_event
from proxy.profile.json import read_json
from proxy.profile.updates import REMOVED, UNKNOWN, Updates, parse_updates

Kind = Literal["events", "attributes"]
ALL = "*"
OWN_EVENT_PREFIX = "[Braze] "
"""The prefix of events from Braze Currents, which must not be sent back to Braze."""
_EVENT_IDS = ("uuid", "insert_id", "$insert_id")


@dataclass(frozen=True, slots=True)
class Selection:
    """The event types and user properties to forward. `*` in a set means all."""

    events: frozenset[str]
    properties: frozenset[str]
    app_id: str | None = None

    def __bool__(self) -> bool:
        return bool(self.events or self.properties)


@dataclass(frozen=True, slots=True)
class StreamObject:
    """An event, or the attributes of a user, for Braze.

    `content`: the fields except `external_id`. `event_id`: a digest of the user and the id of the event; None for
    attributes, and for an event without an id. A repeated event without an id is not recognised.
    """

    user_id: str
    kind: Kind
    content: Mapping[str, Any]
    at: float
    event_id: int | None = None


def stream_objects(
    user_id: str,
    fields: Mapping[str, Any],
    at: float,
    event_at: float,
    updates: Updates,
    selection: Selection,
    skipped: Counter[str],
) -> Iterator[StreamObject]:
    """Yield the objects of an element of a push that `selection` forwards.

    `fields`: the decoded element. `at`, `event_at`: the times of its properties and of its event (Unix seconds).
    `updates`: its properties. `skipped`: counts objects and values that are skipped or cut, by reason.
    """
    event_type = fields.get("event_type")
    if isinstance(event_type, str) and (event_type in selection.events or ALL in selection.events):
        if event_type.startswith(OWN_EVENT_PREFIX):
            skipped["from_braze"] += 1
        else:
            properties = fields.get("event_properties")
            fitted = fit_event(event_type, properties if isinstance(properties, dict) else {})
            if isinstance(fitted, OmittedValue):
                skipped[fitted.reason] += 1
            else:
                skipped.update(fitted.reasons)
                content = {} if selection.app_id is None else {"app_id": selection.app_id}
                content |= {"name": event_type, "time": _iso(event_at)}
                if fitted.value:
                    content["properties"] = fitted.value
                yield StreamObject(user_id, "events", content, event_at, _event_id(user_id, fields))
    attributes = _attributes(updates, selection, skipped)
    if attributes:
        yield StreamObject(user_id, "attributes", attributes, at)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _attributes(updates: Updates, selection: Selection, skipped: Counter[str]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if not selection.properties:
        return attributes
    for name, (_, value) in parse_updates(updates).properties.items():
        if name not in selection.properties and ALL not in selection.properties:
            continue
        if name in STEERING_NAMES or name in PROFILE_FIELDS:
            skipped["reserved_name"] += 1
        elif value == UNKNOWN:
            skipped["unknown_value"] += 1
        else:
            fitted = fit_attribute(name, None if value == REMOVED else read_json(value))
            if isinstance(fitted, OmittedValue):
                skipped[fitted.reason] += 1
            else:
                skipped.update(fitted.reasons)
                attributes[name] = fitted.value
    return attributes


def _event_id(user_id: str, fields: Mapping[str, Any]) -> int | None:
    """Return a digest of the id of the event and the user id, because an `insert_id` is unique only for its user."""
    for name in _EVENT_IDS:
        value = fields.get(name)
        if isinstance(value, str) and value.strip():
            text = f"{name}\0{user_id}\0{value}".encode("utf-8", "surrogatepass")
            return int.from_bytes(blake2b(text, digest_size=8).digest())
    return None
