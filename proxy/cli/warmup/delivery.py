"""Sends the properties of members in batches, and retries while the service is restarting or busy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event
from typing import Any

import orjson

from proxy.cli.client import ServiceRefused, ServiceUnavailable, json_object, refusal
from proxy.cli.formats import printable
from proxy.cli.warmup.audience import Values
from proxy.liquid.types import Answer, Ask, Request
from proxy.webhooks.property_updates import OPERATORS

_BATCH_USERS = 1000
_BATCH_BYTES = 1024 * 1024
_BATCH_VALUES = 250_000
"""Half of the values that the service accepts in a batch."""
_TRIES = 10
_LONGEST_PAUSE_SECONDS = 15.0
"""Ten attempts take about a minute and a half, which is longer than a restart of the service."""
_NEWER_SNAPSHOT = 409
_TRANSIENT_STATUSES = (408, 429)


class Stopped(Exception):
    """The user stopped the command."""


def batches(
    members: Iterable[tuple[str, Values]], names: Sequence[str], at: float, *, whole: bool
) -> Iterator[tuple[int, str]]:
    """Yield the number of users and the body of each batch for the webhook of users.

    `at`: the time of the values (Unix seconds). `whole`: the members have no other properties, so properties without a
    value are left out. Otherwise they are null, so that the service knows that the user does not have them. The service
    would apply a property such as `$unset` as an operator, so these properties are always left out.
    """
    max_users = max(1, min(_BATCH_USERS, _BATCH_VALUES // max(1, len(names))))
    users: list[bytes] = []
    size = 0
    for user_id, values in members:
        pairs = zip(names, values, strict=True)
        properties: dict[str, Any] = {
            name: value for name, value in pairs if name not in OPERATORS and (value is not None or not whole)
        }
        user = {"user_id": user_id, "event_time": at, "user_properties": properties}
        users.append(orjson.dumps(user | {"whole": True} if whole else user))
        size += len(users[-1])
        if len(users) >= max_users or size >= _BATCH_BYTES:
            yield len(users), _array(users)
            users, size = [], 0
    if users:
        yield len(users), _array(users)


def _array(users: Iterable[bytes]) -> str:
    return (b"[" + b",".join(users) + b"]").decode()


def push(ask: Ask, body: str, stop: Event) -> dict[str, int]:
    """Send a batch, and return the number of skipped users by reason. Errors are those of `deliver`."""
    request = Request("POST", "/v1/webhooks/amplitude/users?forward=false", {}, body, "application/json")
    skipped = json_object(deliver(lambda: ask(request), stop)).get("skipped_by_reason", {})
    return {str(reason): int(count) for reason, count in skipped.items()}


def deliver(send: Callable[[], Answer], stop: Event) -> Answer:
    """Call `send` until it returns status 200, or 409 for a newer snapshot. Return this answer.

    Raises ServiceRefused if a retry would not help, ServiceUnavailable after all retries, and Stopped.
    """
    for attempt in range(1, _TRIES + 1):
        pause = min(2.0 ** (attempt - 1), _LONGEST_PAUSE_SECONDS)
        try:
            answer = send()
        except ServiceRefused:
            raise
        except ServiceUnavailable as error:
            problem = error
        else:
            if answer.status in (200, _NEWER_SNAPSHOT):
                return answer
            if answer.status < 500 and answer.status not in _TRANSIENT_STATUSES:
                raise refusal(answer)
            retry_after = answer.headers.get("retry-after", "")
            pause = min(float(retry_after), _LONGEST_PAUSE_SECONDS) if retry_after.isdigit() else pause
            detail = str(json_object(answer).get("detail", "check that the service is running"))
            problem = ServiceUnavailable(f"the service answered {answer.status}: {printable(detail)}")
        if attempt < _TRIES and stop.wait(pause):
            raise Stopped
    raise problem
