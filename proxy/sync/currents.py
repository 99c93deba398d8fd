"""Converts an event of Braze Currents into an event for Amplitude.

Sources: braze.com/docs/user_guide/data/distribution/braze_currents (the custom HTTP connector and the event glossary),
and the folder `sample-data/Custom HTTP` of github.com/Appboy/currents-examples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, ValidationError, convert

SkipReason = Literal["unreadable", "no_id"]

PREFIX = "[Braze] "
"""The first characters of the name of each event in Amplitude."""

COMPOUNDS: Mapping[str, str] = {
    "agentconsole": "Agent Console",
    "canvasstep": "Canvas Step",
    "contentcard": "Content Card",
    "contentoptimizer": "Content Optimizer",
    "costep": "Content Optimizer Step",
    "experimentstep": "Experiment Step",
    "featureflag": "Feature Flag",
    "inappmessage": "In-App Message",
    "landingpage": "Landing Page",
    "line": "LINE",
    "liveactivity": "Live Activity",
    "newsfeedcard": "News Feed Card",
    "pushnotification": "Push Notification",
    "rcs": "RCS",
    "sendtodestination": "Send To Destination",
    "sms": "SMS",
    "subscriptiongroup": "Subscription Group",
    "whatsapp": "WhatsApp",
    "IosForeground": "iOS Foreground",
}
"""Names for the parts of Braze's event types that cannot be split into words at capital letters."""

_CUSTOM_EVENT = "users.behaviors.CustomEvent"
_PURCHASE = "users.behaviors.Purchase"
_NEW_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class _User(Struct):
    external_user_id: str | None = None
    device_id: str | None = None


class _Event(Struct):
    event_type: Annotated[str, Meta(pattern="[A-Za-z0-9]")]
    id: Annotated[str, Meta(min_length=1)]
    time: Annotated[float, Meta(gt=0, lt=1e11)]
    user: _User | None = None
    properties: dict[str, Any] | None = None


def to_amplitude(event: Any) -> dict[str, Any] | SkipReason:
    """Return the event for Amplitude's Batch API, or the reason why the event cannot be sent.

    The `id` becomes the `insert_id`, by which Amplitude recognises a repeated event.
    """
    try:
        braze = convert(event, _Event)
    except ValidationError:
        return "unreadable"
    user = braze.user or _User()
    all_ids = {"user_id": user.external_user_id, "device_id": user.device_id}
    ids = {name: id for name, id in all_ids.items() if id and not id.isspace()}
    if not ids:
        return "no_id"
    try:
        "".join((braze.id, *ids.values())).encode()
    except UnicodeEncodeError:  # half of a surrogate pair would become "?", the id of another user or event
        return "unreadable"
    properties = braze.properties or {}
    name = event_name(braze.event_type)
    if braze.event_type == _CUSTOM_EVENT:
        custom_name = properties.get("name")
        if not isinstance(custom_name, str):
            return "unreadable"
        name = f"Custom Event: {custom_name}"
        properties = _without(properties, "name", "custom_properties") | _object(properties, "custom_properties")
    elif braze.event_type == _PURCHASE:
        # A custom property must not replace the price of the purchase.
        properties = _object(properties, "purchase_properties") | _without(properties, "purchase_properties")
        name = "Purchase"
    return {
        **ids,
        "event_type": PREFIX + name,
        "time": round(braze.time * 1000),
        "insert_id": braze.id,
        "event_properties": properties,
        "user_properties": {},
    }


def event_name(event_type: str) -> str:
    """Return the words of the last two parts of Braze's `event_type`: `Email Open` for `users.messages.email.Open`."""
    return " ".join(_words(part) for part in event_type.split(".")[-2:] if part)


def _words(part: str) -> str:
    return COMPOUNDS.get(part) or part[0].upper() + _NEW_WORD.sub(" ", part[1:])


def _object(properties: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = properties.get(name)
    return value if isinstance(value, dict) else {}


def _without(properties: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if name not in names}
