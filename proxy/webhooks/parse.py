"""Amplitude's webhooks, read: the body of a call -> what was said of whom, and what of it could not be taken. Pure.

One user that cannot be read is counted and passed over: to refuse the batch would bring it back, ten times. Only what
is wrong with all of it is refused, in words that name the mend.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import orjson

from proxy.api.errors import BadRequest
from proxy.api.parameters import readable_id
from proxy.profile.json import write_json
from proxy.profile.liquid_names import USER_PROPERTY
from proxy.profile.updates import (
    MAX_FIELDS,
    REMOVED,
    UNKNOWN,
    Updates,
    cleared,
    membership,
    merged,
    properties,
    too_large,
)
from proxy.webhooks import document
from proxy.webhooks.document import TooMany, Unread

_AHEAD_SECONDS = 600.0
"""For so much a clock of Amplitude's may be ahead of ours. What is later still would win against every later word."""
RETRIED_SECONDS = 4 * 3600.0
"""For so long Amplitude tries again. What names no time may be so old, and is never to win over what was said since."""
_MILLISECONDS, _MICROSECONDS = 1e11, 1e14  # a number of seconds stays below the first until the year 5138
_TIMES = ("event_time", "server_received_time", "server_upload_time", "time", "client_event_time")
"""Amplitude's own first: `time` and what follows is what the clock of somebody's phone says."""
_HEARD = ("server_received_time", "server_upload_time")
"""When Amplitude had it: nothing was so later than that, whatever the phone's clock says."""
_MESSAGE_IDS = ("message_id", "uuid", "$insert_id", "insert_id")
_UNKNOWABLE = ("$add", "$append", "$prepend", "$preInsert", "$postInsert", "$remove")
"""What changes a value to one that depends on what it was: only Amplitude knows it."""
_AT_ONCE = 256 * 1024
"""Bytes whose digest is made, in a quarter of a millisecond, before others may have their turn."""
_OPERATORS = frozenset({*_UNKNOWABLE, "$set", "$setOnce", "$unset", "$clearAll"})


@dataclass(slots=True)
class Batch:
    """What a body says: news by user, and what was passed over, counted by reason."""

    message: str | None = None
    """Amplitude's id of the message, where it has one: the same again is the same message."""
    news: list[tuple[str, Updates]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """Users of whom nothing could be taken."""
    unapplied: int = 0
    """Properties of users otherwise taken that could not be: malformed, or changed in a way only Amplitude can know."""
    refused: int = 0
    """Users of `news` of whom nothing could be kept; they are among those skipped too."""

    def refuse(self, why: str, users: int = 1) -> None:
        """Note that nothing could be kept of so many users of the news."""
        if users:
            self.skipped[why] += users
            self.refused += users

    @property
    def applied(self) -> int:
        """Return of how many users something was taken."""
        return len(self.news) - self.refused


class TooLarge(Exception):
    """A body of more users, or properties, than are read at once."""


class _Skipped(Exception):
    """Of one user nothing can be taken."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def read_cohorts(body: bytes | bytearray, now: float, checkpoint: Callable[[], object]) -> Batch:
    """Return what the body of a cohort webhook says: Amplitude's default payload. Raises BadRequest."""
    said = _document(body, checkpoint)
    if not isinstance(said, dict):
        raise BadRequest(f"the body is not a JSON object: send Amplitude's default payload, e.g. {_DEFAULT}")
    cohort_id = readable_id(said.get("cohort_id"))
    if cohort_id is None:
        raise BadRequest('cohort_id is missing or no text: the template needs "cohort_id": "${input.cohort_id}"')
    is_in = {"true": True, "false": False}.get(str(said.get("in_cohort")).lower())
    if is_in is None:
        raise BadRequest('in_cohort is not true or false: the template needs "in_cohort": ${input.in_cohort?c}')
    at = _moment(said.get("computed_time"))
    if at is None:
        raise BadRequest(
            'computed_time is missing or no time: the template needs "computed_time": "${input.computed_time}"'
        )
    users = said.get("users")
    if not isinstance(users, Iterator):
        raise BadRequest('users is not an array: the template needs "users": [...], as Amplitude\'s default payload')
    batch = Batch()
    batch.message = _message(said, ("message_id",), body, checkpoint)
    member = membership(cohort_id, is_in, at, now)

    def news_of(user: dict[str, Any]) -> Updates:
        if at > now + _AHEAD_SECONDS:
            raise _Skipped("time_ahead")
        given = user.get("user_properties")
        return member if given is None else merged(member, _properties(given, at, now, batch))

    _each(users, batch, news_of, checkpoint)
    return batch


def read_users(body: bytes | bytearray, now: float, checkpoint: Callable[[], object]) -> Batch:
    """Return what the body of a streaming webhook says: one event or user, or an array of them. Raises BadRequest.

    Events are as Amplitude exports them, users as they are identified. `whole`: there are no other properties.
    """
    said = _document(body, checkpoint)
    batch = Batch()
    if isinstance(said, dict):
        name = next((name for name in ("users", "events", "identification") if name in said), None)
        batch.message = _message(said, _MESSAGE_IDS if name is None else ("message_id",), body, checkpoint)
        several = said if name is None else said[name]
        said = iter([several]) if isinstance(several, dict) else several
    if not isinstance(said, Iterator):
        raise BadRequest("the body is not a JSON object or an array of them: send Amplitude's default payload")

    def news_of(user: dict[str, Any]) -> Updates:
        given = user.get("user_properties")
        if given is None:
            raise _Skipped("no_properties")
        news = _properties(given, _time(user, now), now, batch, whole=user.get("whole") in (True, "true"))
        if not news:
            raise _Skipped("nothing_to_apply")
        return news

    _each(said, batch, news_of, checkpoint)
    return batch


_DEFAULT = '{"cohort_id": "c31", "in_cohort": true, "computed_time": "1692206763", "users": [{"user_id": "u"}]}'


def _document(body: bytes | bytearray, checkpoint: Callable[[], object]) -> Any:
    try:
        return document.read(body, checkpoint)
    except TooMany:
        raise TooLarge from None
    except ValueError:
        raise BadRequest(
            "the body is not JSON: does the template put text in quotes, and escape it with ?json_string?"
        ) from None


def _each(
    users: Iterable[Any], batch: Batch, news_of: Callable[[dict[str, Any]], Updates], checkpoint: Callable[[], object]
) -> None:
    for user in users:
        checkpoint()
        try:
            if isinstance(user, Unread):
                raise _Skipped(user.reason)
            if not isinstance(user, dict):
                raise _Skipped("not_an_object")
            user_id = readable_id(user.get("user_id"))
            if user_id is None:
                # An event of somebody who is not logged in has none, and that is nobody's mistake.
                raise _Skipped("no_user_id" if user.get("user_id") in (None, "") else "unreadable_user_id")
            news = news_of(user)
            if too_large(news):
                raise _Skipped("too_large")
            batch.news.append((user_id, news))
        except _Skipped as skipped:
            batch.skipped[skipped.why] += 1


def _message(
    said: Mapping[str, Any], names: Iterable[str], body: bytes | bytearray, checkpoint: Callable[[], object]
) -> str | None:
    """Return what the message is known by again: Amplitude's id, if it has one, and all that it says.

    An `insert_id` is one user's alone, and the template of somebody's own may repeat any.
    """
    if not any(isinstance(one, str) and one.strip() for one in map(said.get, names)):
        return None
    digest = blake2b(digest_size=16)
    for at in range(0, len(body), _AT_ONCE):
        digest.update(body[at : at + _AT_ONCE])
        checkpoint()
    return digest.hexdigest()


def _properties(given: Any, at: float, now: float, batch: Batch, *, whole: bool = False) -> Updates:
    """Return what is said of properties: names and values, or Amplitude's operators on them."""
    if isinstance(given, Unread):
        raise _Skipped(given.reason)
    if not isinstance(given, dict):
        batch.unapplied += 1
        return {}
    changes = [given[name] for name in _OPERATORS & given.keys()]
    if len(given) + sum(len(some) for some in changes if isinstance(some, dict | list)) > MAX_FIELDS:
        raise _Skipped("too_large")  # before others have to wait until it is written
    if not changes:
        return properties(_encoded(given), at, now, whole=whole)
    news: Updates = {}
    values: dict[str, bytes] = {}
    for name, value in given.items():
        if name not in _OPERATORS:
            values |= _encoded({name: value})
        elif name == "$clearAll":
            news = cleared(at, now)
            batch.unapplied += 1
        elif name == "$unset" and isinstance(value, list):
            values |= {_plain(one): REMOVED for one in value if isinstance(one, str)}
        elif not isinstance(value, dict):
            batch.unapplied += 1
        elif name == "$set":
            values |= _encoded(value)
        elif name == "$unset":
            values |= dict.fromkeys(map(_plain, value), REMOVED)
        else:
            batch.unapplied += len(value)
            if name in _UNKNOWABLE:
                values |= dict.fromkeys(map(_plain, value), UNKNOWN)
    return merged(news, properties(values, at, now))


def _plain(name: str) -> str:
    return name.removeprefix(USER_PROPERTY)


def _encoded(values: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the JSON of each value by the plain name of its property.

    A batch holds hundreds of thousands of values. orjson writes a text as `write_json` does, in a fifth of the time.
    """
    try:
        return {
            name.removeprefix(USER_PROPERTY): orjson.dumps(value) if type(value) is str else _json(value)
            for name, value in values.items()
        }
    except orjson.JSONEncodeError:  # half of a surrogate pair
        return {_plain(name): write_json(value) for name, value in values.items()}


def _json(value: Any) -> bytes:
    return repr(value).encode() if type(value) is int or type(value) is float else write_json(value)


def _time(user: Mapping[str, Any], now: float) -> float:
    """Return when that was said of the user; where it does not say, the first moment at which it may have been."""
    given = next((user[name] for name in _TIMES if user.get(name) not in (None, "")), None)
    if given is None:
        return now - RETRIED_SECONDS
    at = _moment(given)
    if at is None:
        raise _Skipped("unreadable_time")
    at = min([at, *(heard for name in _HEARD if (heard := _moment(user.get(name))) is not None)])
    if at > now + _AHEAD_SECONDS:
        raise _Skipped("time_ahead")
    return at


_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?\Z")


def _moment(value: Any) -> float | None:
    """Return Unix seconds: of a number of seconds, milli- or microseconds, of its text, or of an ISO 8601 time."""
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
