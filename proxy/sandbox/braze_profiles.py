"""The users of the emulated Braze: attributes, events, purchases and data points.

Follows braze.com/docs: "Data types" and "Managing custom data" (the first value decides the type of an attribute;
a later value of another type is converted, or silently ignored), "Data points", and "Track users".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from proxy.sandbox.braze_objects import CONTROL_FIELDS, is_operation, parse_time, user_key
from proxy.sandbox.people import has_user

KnownUsers = Literal["sandbox", "all", "none"]
"""The users that exist from the start: the users of the emulated Amplitude, every external id, or none."""


class BrazeProfiles:
    """Stores valid objects. The caller holds a lock."""

    def __init__(self, known_users: KnownUsers) -> None:
        self._known_users = known_users
        self.attributes: dict[str, dict[str, Any]] = {}
        """By user: external id, or identifier with a prefix, such as `braze_id:…`."""
        self.attribute_types: dict[str, str] = {}
        """By name of a custom attribute: boolean, number, string, time, array or object."""
        self.events: list[dict[str, Any]] = []
        """In the order of arrival. Never deduplicated."""
        self.purchases: list[dict[str, Any]] = []
        self.data_points: Counter[str] = Counter()
        """By name of an attribute. Each value that is sent counts, even if it is unchanged or null."""
        self.counts: Counter[str] = Counter()
        """`unchanged_values`, `ignored_values`, `ignored_objects` and `order_violations`."""
        self._newest_event: dict[str, float] = {}

    def create(self, users: Iterable[str]) -> None:
        """Create users without attributes."""
        for user in users:
            self.attributes.setdefault(user, {})

    def report(self) -> dict[str, Any]:
        """Return counts of everything stored."""
        return {
            "users": len(self.attributes),
            "attributes": sum(map(len, self.attributes.values())),
            "events": len(self.events),
            "purchases": len(self.purchases),
            "data_points": sum(self.data_points.values()),
            "data_points_by_attribute": dict(self.data_points),
            "duplicate_events": self.duplicate_events(),
            **{
                name: self.counts[name]
                for name in ("unchanged_values", "ignored_values", "ignored_objects", "order_violations")
            },
        }

    def duplicate_events(self) -> int:
        """Return the number of events that equal an earlier event in user, name, time and properties."""
        return len(self.events) - len({json.dumps(event, sort_keys=True) for event in self.events})

    def apply(self, array: str, item: Mapping[str, Any]) -> None:
        """Apply a valid object of `attributes`, `events` or `purchases`."""
        user = user_key(item)
        # With a user_alias, "update only" is the default.
        update_only = item.get("_update_existing_only", "user_alias" in item)
        if update_only and not self._exists(user, item):
            self.counts["ignored_objects"] += 1
            return
        profile = self.attributes.setdefault(user, {})
        if array == "attributes":
            self._update(profile, item)
        elif array == "events":
            moment = parse_time(item["time"]) or 0.0
            if moment < self._newest_event.get(user, moment):
                self.counts["order_violations"] += 1
            self._newest_event[user] = max(moment, self._newest_event.get(user, moment))
            self.events.append(dict(item))
        else:
            self.purchases.append(dict(item))

    def _exists(self, user: str, item: Mapping[str, Any]) -> bool:
        if user in self.attributes or self._known_users == "all":
            return True
        return self._known_users == "sandbox" and "external_id" in item and has_user(user)

    def _update(self, profile: dict[str, Any], item: Mapping[str, Any]) -> None:
        for name, value in item.items():
            if name in CONTROL_FIELDS:
                continue
            self.data_points[name] += 1
            if value is None:
                if profile.pop(name, None) is None:
                    self.counts["unchanged_values"] += 1
                continue
            kind = _kind(value)
            type_name = self.attribute_types.setdefault(name, kind)
            converted = value if kind == type_name else _convert(value, type_name)
            if converted is None or _has_null(converted):
                self.counts["ignored_values"] += 1
                continue
            if isinstance(converted, dict) and is_operation(converted):
                converted = _operate(profile.get(name), converted)
            if profile.get(name) == converted and type(profile[name]) is type(converted):
                self.counts["unchanged_values"] += 1
            profile[name] = converted


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string" if parse_time(value) is None else "time"
        case dict() if is_operation(value):
            return "number" if "inc" in value else "array"
        case dict():
            return "object"
        case _:
            return "array"


def _convert(value: Any, type_name: str) -> Any:
    """Return a value as the type of its attribute; None if it cannot be converted."""
    match type_name, value:
        case "string", str():
            return value
        case "string", bool() | int() | float():
            return json.dumps(value)
        case "boolean", "true" | "false":
            return value == "true"
        case "number", str():
            try:
                return float(value) if "." in value else int(value)
            except ValueError:
                return None
        case _:
            return None


def _has_null(value: Any) -> bool:
    """Return whether a nested value is null. Braze ignores such an attribute."""
    match value:
        case dict():
            return any(member is None or _has_null(member) for member in value.values())
        case list():
            return any(member is None or _has_null(member) for member in value)
        case _:
            return False


def _operate(current: Any, operation: Mapping[str, Any]) -> Any:
    """Return the value after `inc`, `add` or `remove`."""
    if "inc" in operation:
        return (current or 0) + operation["inc"]
    added, removed = operation.get("add", []), operation.get("remove", [])
    return [member for member in current or [] if member not in removed and member not in added] + [*added]
