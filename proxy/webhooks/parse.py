"""Parses the body of a webhook into the updates of each user and the number of skipped users by reason.

Invalid users are skipped and counted, because rejecting the batch would make Amplitude resend it up to ten times. A
body that is invalid as a whole is rejected with an explanation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

from proxy.api.errors import BadRequest
from proxy.api.parameters import readable_id
from proxy.profile.updates import Updates, membership, too_large
from proxy.webhooks import envelope
from proxy.webhooks.envelope import SkippedValue, TooMany
from proxy.webhooks.property_updates import read_properties
from proxy.webhooks.skipped_user import SkippedUser
from proxy.webhooks.times import AHEAD_SECONDS, TIMES, parse_time, read_time

_MESSAGE_IDS = ("message_id", "uuid", "$insert_id", "insert_id")
_DEFAULT_PAYLOAD = '{"cohort_id": "c31", "in_cohort": true, "computed_time": "1692206763", "users": [{"user_id": "u"}]}'
_BYTES_AT_ONCE = 256 * 1024
"""Bytes that are hashed between two checkpoints, in a quarter of a millisecond."""
_NO_PROPERTIES: AbstractSet[str] = frozenset()


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


def read_cohorts(
    body: bytes | bytearray,
    now: float,
    checkpoint: Callable[[], object],
    text_properties: AbstractSet[str] = _NO_PROPERTIES,
) -> Batch:
    """Parse the body of a cohort webhook. Raises BadRequest and TooLarge.

    `text_properties`: the properties whose text keeps its type (see `convert_text`).
    """
    payload = _document(body, checkpoint)
    if not isinstance(payload, dict):
        raise BadRequest(
            f"the body is not a JSON object; send Amplitude's default payload, for example {_DEFAULT_PAYLOAD}",
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
    at = parse_time(payload.get("computed_time"))
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
        if at > now + AHEAD_SECONDS:
            raise SkippedUser("time_ahead")
        values = user.get("user_properties")
        if values is None:
            return member
        updates, unapplied = read_properties(values, at, now, text_properties)
        batch.unapplied += unapplied
        return {**member, **updates}

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
    of properties. `text_properties`: the properties whose text keeps its type (see `convert_text`). `keep_elements`:
    keep the decoded elements, which are forwarded; an event without properties is then not skipped.
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
            raise SkippedUser("no_properties")
        whole = user.get("whole") in (True, "true")
        at = read_time(user, now)
        updates: Updates = {}
        if values is not None:
            updates, unapplied = read_properties(values, at, now, text_properties, whole=whole)
            batch.unapplied += unapplied
        if not updates and not is_event:
            raise SkippedUser("nothing_to_apply")
        if keep_elements:
            event_at = at if any(user.get(name) not in (None, "") for name in TIMES) else now
            batch.elements.append(Element(user_id, user, at, event_at, updates))
        return updates

    _parse_users(users, batch, updates_of, checkpoint)
    return batch


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
                raise SkippedUser(user.reason)
            if not isinstance(user, dict):
                raise SkippedUser("not_an_object")
            user_id = readable_id(user.get("user_id"))
            if user_id is None:
                # Events of users who are not logged in have no user_id.
                raise SkippedUser("no_user_id" if user.get("user_id") in (None, "") else "unreadable_user_id")
            updates = updates_of(user_id, user)
            if too_large(updates):
                raise SkippedUser("too_large")
            if updates:
                batch.updates.append((user_id, updates))
        except SkippedUser as skipped:
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
