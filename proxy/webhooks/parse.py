"""Parses the body of a webhook into the updates of each user and the number of skipped users by reason.

Invalid users are skipped and counted, because rejecting the batch would make Amplitude resend it up to ten times. A
body that is invalid as a whole is rejected with an explanation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from proxy.api.errors import BadRequest
from proxy.api.parameters import readable_id
from proxy.profile.json import write_json
from proxy.profile.liquid_names import USER_PROPERTY
from proxy.profile.text_values import typed
from proxy.profile.updates import (
    MAX_FIELDS,
    REMOVED,
    UNKNOWN,
    Updates,
    cleared,
    membership,
    merged,
    properties,
    property_lines,
    too_large,
)
from proxy.webhooks import envelope
from proxy.webhooks.envelope import SkippedValue, TooMany

_AHEAD_SECONDS = 600.0
"""Seconds by which Amplitude's clock may be ahead. A later time would override all later updates."""
RETRIED_SECONDS = 4 * 3600.0
"""Seconds for which Amplitude retries. An update without a time may be this old, and must not override newer
updates."""
_MILLISECONDS, _MICROSECONDS = 1e11, 1e14  # a number of seconds stays below the first until the year 5138
_TIMES = ("event_time", "server_received_time", "server_upload_time", "time", "client_event_time")
"""In order of preference: Amplitude's own times first, then the times of the user's device."""
_RECEIVED_TIMES = ("server_received_time", "server_upload_time")
"""The times at which Amplitude received an event. The event cannot be later, even if the clock of the device is
ahead."""
_MESSAGE_IDS = ("message_id", "uuid", "$insert_id", "insert_id")
_UNKNOWABLE = ("$add", "$append", "$prepend", "$preInsert", "$postInsert", "$remove")
"""Operators whose result depends on the previous value, which only Amplitude knows."""
_BYTES_AT_ONCE = 256 * 1024
"""Bytes that are hashed between two checkpoints, in a quarter of a millisecond."""
_NO_PROPERTIES: AbstractSet[str] = frozenset()
OPERATORS = frozenset({*_UNKNOWABLE, "$set", "$setOnce", "$unset", "$clearAll"})


class Element(NamedTuple):
    """A user of an event stream, as `fields`. Its properties have the time `at`, and its event has `event_at`."""

    user_id: str
    fields: Mapping[str, Any]
    at: float
    event_at: float
    updates: Updates


@dataclass(slots=True)
class Batch:
    """The content of a body: the updates of each user, and the numbers of skipped users."""

    message: str | None = None
    """The digest of a message that has an id from Amplitude. A repeated message has the same digest."""
    updates: list[tuple[str, Updates]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """The number of users without a stored update, by reason."""
    unapplied: int = 0
    """The number of properties of applied users that were not stored: malformed, or with a result that only Amplitude
    knows.
    """
    refused: int = 0
    """The number of users in `updates` whose updates were not stored. `skipped` counts them too."""
    elements: list[Element] = field(default_factory=list)
    """The users of an event stream, if they are forwarded."""

    def refuse(self, reason: str, users: int = 1) -> None:
        """Count users in `updates` whose updates were not stored."""
        if users:
            self.skipped[reason] += users
            self.refused += users

    @property
    def applied(self) -> int:
        """Return the number of users with a stored update."""
        return len(self.updates) - self.refused


class TooLarge(Exception):
    """The body has too many users or values."""


class _Skipped(Exception):
    """A user has no usable update."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_cohorts(
    body: bytes | bytearray,
    now: float,
    checkpoint: Callable[[], object],
    text_properties: AbstractSet[str] = _NO_PROPERTIES,
) -> Batch:
    """Parse the body of a cohort webhook. Raises BadRequest and TooLarge.

    `text_properties`: the properties whose text keeps its type (see `typed`).
    """
    payload = _document(body, checkpoint)
    if not isinstance(payload, dict):
        raise BadRequest(
            f"the body is not a JSON object; send Amplitude's default payload, for example {_DEFAULT}",
            code="invalid_body",
        )
    cohort_id = readable_id(payload.get("cohort_id"))
    if cohort_id is None:
        raise BadRequest(
            "cohort_id is missing, not text, or has white space at an end; "
            'add "cohort_id": "${input.cohort_id}" to the template',
            code="invalid_body",
            parameter="cohort_id",
        )
    is_in = {"true": True, "false": False}.get(str(payload.get("in_cohort")).lower())
    if is_in is None:
        raise BadRequest(
            'in_cohort is not true or false; add "in_cohort": ${input.in_cohort?c} to the template',
            code="invalid_body",
            parameter="in_cohort",
        )
    at = _moment(payload.get("computed_time"))
    if at is None:
        raise BadRequest(
            'computed_time is missing or not a time; add "computed_time": "${input.computed_time}" to the template',
            code="invalid_body",
            parameter="computed_time",
        )
    users = payload.get("users")
    if not isinstance(users, Iterator):
        raise BadRequest(
            'users is not an array; add "users": [...] to the template, as in the default payload',
            code="invalid_body",
            parameter="users",
        )
    batch = Batch()
    batch.message = _message(payload, ("message_id",), body, checkpoint)
    member = membership(cohort_id, is_in, at, now)

    def updates_of(_: str, user: dict[str, Any]) -> Updates:
        if at > now + _AHEAD_SECONDS:
            raise _Skipped("time_ahead")
        values = user.get("user_properties")
        return member if values is None else {**member, **_properties(values, at, now, batch, text_properties)}

    _parse_users(users, batch, updates_of, checkpoint)
    return batch


def read_users(
    body: bytes | bytearray,
    now: float,
    checkpoint: Callable[[], object],
    text_properties: AbstractSet[str] = _NO_PROPERTIES,
    *,
    keep_elements: bool = False,
) -> Batch:
    """Parse the body of a streaming webhook: an event, a user, or an array of both. Raises BadRequest and TooLarge.

    Events have the form of Amplitude's exports. Users have the form of its Identify API. `whole` marks a complete set
    of properties. `text_properties`: the properties whose text keeps its type (see `typed`). `keep_elements`: keep the
    decoded elements, which are forwarded; an event without properties is then not skipped.
    """
    payload = _document(body, checkpoint)
    batch = Batch()
    if isinstance(payload, dict):
        name = next((name for name in ("users", "events", "identification") if name in payload), None)
        batch.message = _message(payload, _MESSAGE_IDS if name is None else ("message_id",), body, checkpoint)
        users = payload if name is None else payload[name]
        users = iter([users]) if isinstance(users, dict) else users
    else:
        users = payload
    if not isinstance(users, Iterator):
        raise BadRequest(
            "the body is not a JSON object or an array of JSON objects; send Amplitude's default payload",
            code="invalid_body",
        )

    def updates_of(user_id: str, user: dict[str, Any]) -> Updates:
        values = user.get("user_properties")
        is_event = keep_elements and "event_type" in user
        if values is None and not is_event:
            raise _Skipped("no_properties")
        whole = user.get("whole") in (True, "true")
        at = _time(user, now)
        updates = {} if values is None else _properties(values, at, now, batch, text_properties, whole=whole)
        if not updates and not is_event:
            raise _Skipped("nothing_to_apply")
        if keep_elements:
            event_at = at if any(user.get(name) not in (None, "") for name in _TIMES) else now
            batch.elements.append(Element(user_id, user, at, event_at, updates))
        return updates

    _parse_users(users, batch, updates_of, checkpoint)
    return batch


_DEFAULT = '{"cohort_id": "c31", "in_cohort": true, "computed_time": "1692206763", "users": [{"user_id": "u"}]}'


def _document(body: bytes | bytearray, checkpoint: Callable[[], object]) -> Any:
    try:
        return envelope.read(body, checkpoint)
    except TooMany:
        raise TooLarge from None
    except ValueError:
        raise BadRequest(
            "the body is not JSON; in the template, put text in quotes and escape it with ?json_string",
            code="invalid_body",
        ) from None


def _parse_users(
    users: Iterable[Any],
    batch: Batch,
    updates_of: Callable[[str, dict[str, Any]], Updates],
    checkpoint: Callable[[], object],
) -> None:
    for user in users:
        checkpoint()
        try:
            if isinstance(user, SkippedValue):
                raise _Skipped(user.reason)
            if not isinstance(user, dict):
                raise _Skipped("not_an_object")
            user_id = readable_id(user.get("user_id"))
            if user_id is None:
                # Events of users who are not logged in have no user_id.
                raise _Skipped("no_user_id" if user.get("user_id") in (None, "") else "unreadable_user_id")
            updates = updates_of(user_id, user)
            if too_large(updates):
                raise _Skipped("too_large")
            if updates:
                batch.updates.append((user_id, updates))
        except _Skipped as skipped:
            batch.skipped[skipped.reason] += 1


def _message(
    payload: Mapping[str, Any], names: Iterable[str], body: bytes | bytearray, checkpoint: Callable[[], object]
) -> str | None:
    """Return a digest of the body if the message has an id from Amplitude, else None.

    The id alone does not identify a message. An `insert_id` is unique per user only, and a custom template may repeat
    any id.
    """
    if not any(isinstance(message_id, str) and message_id.strip() for message_id in map(payload.get, names)):
        return None
    digest = blake2b(digest_size=16)
    for at in range(0, len(body), _BYTES_AT_ONCE):
        digest.update(body[at : at + _BYTES_AT_ONCE])
        checkpoint()
    return digest.hexdigest()


def _properties(
    value: Any, at: float, now: float, batch: Batch, text_properties: AbstractSet[str], *, whole: bool = False
) -> Updates:
    """Return the updates in `user_properties`, which contains names and values, or Amplitude's operators."""
    if isinstance(value, SkippedValue):
        raise _Skipped(value.reason)
    if not isinstance(value, dict):
        batch.unapplied += 1
        return {}
    operands = [value[name] for name in OPERATORS & value.keys()]
    if len(value) + sum(len(operand) for operand in operands if isinstance(operand, dict | list)) > MAX_FIELDS:
        raise _Skipped("too_large")  # checked before the encoding, which would delay other requests
    if not operands:
        return _property_values(_typed(value, text_properties), at, now, whole=whole)
    updates: Updates = {}
    values: dict[str, bytes] = {}
    for name, operand in value.items():
        if name not in OPERATORS:
            values |= _encoded(_typed({name: operand}, text_properties))
        elif name == "$clearAll":
            updates = cleared(at, now)
            batch.unapplied += 1
        elif name == "$unset" and isinstance(operand, list):
            values |= {_plain(key): REMOVED for key in operand if isinstance(key, str)}
        elif not isinstance(operand, dict):
            batch.unapplied += 1
        elif name == "$set":
            values |= _encoded(_typed(operand, text_properties))
        elif name == "$unset":
            values |= dict.fromkeys(map(_plain, operand), REMOVED)
        else:
            batch.unapplied += len(operand)
            if name in _UNKNOWABLE:
                values |= dict.fromkeys(map(_plain, operand), UNKNOWN)
    return merged(updates, properties(values, at, now))


def _property_values(values: Mapping[str, Any], at: float, now: float, *, whole: bool) -> Updates:
    """Return the updates of properties that have these values.

    A batch has hundreds of thousands of values, and msgspec writes most types exactly as `write_json` does. msgspec
    writes all values of a user at once, in a twentieth of the time.
    """
    if _SAME_IN_MSGSPEC.issuperset(map(type, values.values())):
        with suppress(UnicodeEncodeError):  # half of a surrogate pair
            names = _LINES(list(values))
            if _PREFIXED not in names:
                return property_lines(names, _LINES(list(values.values())), at, now, whole=whole)
    return properties(_encoded(values), at, now, whole=whole)


_LINES = msgspec.json.Encoder().encode_lines
_SAME_IN_MSGSPEC = frozenset({str, int, bool, type(None)})
_PREFIXED = f'"{USER_PROPERTY}'.encode()


def _plain(name: str) -> str:
    return name.removeprefix(USER_PROPERTY)


def _typed(values: Mapping[str, Any], text_properties: AbstractSet[str]) -> dict[str, Any]:
    return {name: typed(_plain(name), value, text_properties) for name, value in values.items()}


def _encoded(values: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the JSON of each value by property name without prefix."""
    return {_plain(name): write_json(value) for name, value in values.items()}


def _time(user: Mapping[str, Any], now: float) -> float:
    """Return the time of the user's update. An update without a time gets the earliest time that a retry can have."""
    value = next((user[name] for name in _TIMES if user.get(name) not in (None, "")), None)
    if value is None:
        return now - RETRIED_SECONDS
    at = _moment(value)
    if at is None:
        raise _Skipped("unreadable_time")
    at = min([at, *(received for name in _RECEIVED_TIMES if (received := _moment(user.get(name))) is not None)])
    if at > now + _AHEAD_SECONDS:
        raise _Skipped("time_ahead")
    return at


_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?\Z")


def _moment(value: Any) -> float | None:
    """Return Unix seconds for a time in seconds, milliseconds, microseconds (as number or text) or ISO 8601."""
    if isinstance(value, str):
        value = value.strip()
        if not _NUMBER.match(value):
            try:
                moment = datetime.fromisoformat(value)
                at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError):
                return None
            return at if at > 0 else None
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e18:
        return None
    return value / (1e6 if value >= _MICROSECONDS else 1e3 if value >= _MILLISECONDS else 1.0)
