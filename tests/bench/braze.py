"""Simulates Braze: messages with several parts, Braze's cache, time limit and retries, and the unhealthy-host rule.

Source: Braze's documentation of Connected Content. The documentation does not give two numbers. The first is the share
of repeated calls that Braze's cache answers; the simulation uses 80 %. The second is the first wait and the jitter of
the backoff; the simulation uses an option and 20 %.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.sandbox.people import Person, find
from tests.bench.load import TIMEOUT_SECONDS, Connections, paced

TRIES = 6
"""The first try, and up to five tries of `:retry`."""
PARTS = 3
"""Braze renders HTML, plain text and AMP separately."""
REC_ID = "homepage"
COHORT_ID = "c7"
ALL = ("recommendations", "properties", "cohorts")
"""One tag for each section."""
PUSHABLE = ("properties", "membership")
"""Tags for data that Amplitude's webhooks push: all properties, and membership in one cohort."""
_CACHED_SHARE = 0.8
_FAILURES = {408, 429, 502, 503, 504, 529}
_WINDOW_SECONDS = 60.0
_HALT_SECONDS = 60.0
_SERVICE = {
    "recommendations": f"recommendations?rec_id={REC_ID}&",
    "properties": "properties?",
    "cohorts": "cohorts?",
    "membership": f"cohorts?cohort_id={COHORT_ID}&",
}
_AMPLITUDE = {
    "recommendations": f"get_recs=true&rec_id={REC_ID}",
    "properties": "get_amp_props=true",
    "cohorts": "get_cohort_ids=true",
}
_find = functools.cache(find)

TagCaller = Callable[[str, str], Awaitable[int]]
"""Calls the host for a user and a tag. Returns the status of the answer."""


def service_caller(connections: Connections, *, exported: bool) -> TagCaller:
    """Return a function that calls the service as a template with `:retry`. Wrong data raises AssertionError.

    exported: the service has a download with the properties of all users, also of those unknown to the Profile API.
    """

    async def call(user: str, tag: str) -> int:
        answer = await connections.get(f"/v1/{_SERVICE[tag]}user_id={user}&on_error=retry")
        if answer.status == 200:
            body = json.loads(answer.body)
            if body["ok"] is not True or not _is_correct(user, tag, body, exported=exported):
                raise AssertionError(f"the answer for {tag} of {user} differs from Amplitude's data: {body}")
        return answer.status

    return call


def amplitude_caller(connections: Connections, *, cached: bool) -> TagCaller:
    """Return a function that calls Amplitude directly.

    cached: use a plain cache by URL.
    """
    cache: set[tuple[str, str]] = set()

    async def call(user: str, tag: str) -> int:
        if cached and (user, tag) in cache:
            return 200
        answer = await connections.get(f"/v1/userprofile?user_id={user}&{_AMPLITUDE[tag]}")
        status = 200 if answer.status == 400 else answer.status  # "not seen before" counts as an answer
        if status == 200:
            cache.add((user, tag))
        return status

    return call


def _is_correct(user: str, tag: str, body: dict[str, Any], *, exported: bool) -> bool:
    known = _find(user, None)
    # The service knows a listed user, and that the user has no properties.
    if body["found"] is not (known is not None or exported):
        return False
    person = known or Person(user, None, "is unknown")
    match tag:
        case "properties":
            # Pushed properties have no prefix.
            properties = {name.removeprefix("gp:"): value for name, value in body["properties_by_name"].items()}
            return properties == {name.removeprefix("gp:"): value for name, value in person.properties.items()}
        case "cohorts":
            return set(body["cohort_ids"]) == set(person.cohort_ids)
        case "membership":
            return body["is_member"] is (COHORT_ID in person.cohort_ids)
    recommended = (person.recommendations or {}).get(REC_ID)
    items: list[str] = recommended["items"] if recommended and not recommended["is_control"] else []
    return bool(items == body["items"])


@dataclass(frozen=True)
class Recipient:
    """The time of a user's message, and Braze's waits between its tries. Every policy has the same recipients."""

    user: str
    at: float
    """Seconds after the start of the send."""
    waits: tuple[float, ...]
    seed: str

    @property
    def last_try(self) -> float:
        """Return the start of the last try if all earlier tries fail at once, in seconds after the send starts."""
        return self.at + sum(self.waits)


def recipients(count: int, seconds: float, backoff: float, seed: int) -> list[Recipient]:
    """Return the recipients, at an even rate over `seconds`.

    backoff: seconds until the first retry, on average.
    """
    result = []
    for number in range(count):
        own_seed = f"{seed} {number}"
        dice = random.Random(own_seed)  # noqa: S311  # not a secret
        waits = tuple(backoff * 2**retry * dice.uniform(0.8, 1.2) for retry in range(TRIES - 1))
        result.append(Recipient(f"user-{number + 1}", seconds * number / count, waits, own_seed))
    return result


class HostHealth:
    """Braze's unhealthy-host detection.

    If more than 3,000 calls and more than 90 % of the calls in a minute fail, Braze halts all calls for a minute.
    A call fails by a status in Braze's list, or without an answer in time.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._halted_until = 0.0
        self.halts = 0

    @property
    def halted(self) -> bool:
        """Return whether Braze currently halts calls."""
        return time.monotonic() < self._halted_until

    def count(self, status: int) -> None:
        """Count a call by its status. Status 0 means no answer."""
        now = time.monotonic()
        failed = status == 0 or status in _FAILURES
        self._calls.append((now, failed))
        self._failures += failed
        while self._calls[0][0] <= now - _WINDOW_SECONDS:
            self._failures -= self._calls.popleft()[1]
        if self._failures > 3000 and self._failures > 0.9 * len(self._calls) and not self.halted:
            self.halts += 1
            self._halted_until = now + _HALT_SECONDS
            self._calls.clear()
            self._failures = 0


@dataclass
class Tally:
    """The outcome of a send."""

    first_try: list[str] = field(default_factory=list)
    """Users whose message was personalised at the first try: all calls were answered, some by "unknown user"."""
    retry: list[str] = field(default_factory=list)
    not_personalised: list[str] = field(default_factory=list)
    requested: set[str] = field(default_factory=set)
    """Users whose template requested recommendations."""
    times: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


class Sender:
    """Sends a message with `tags` in each part to each recipient."""

    def __init__(self, caller: TagCaller, tags: Sequence[str]) -> None:
        self._caller = caller
        self._tags = tags
        self._cache: set[tuple[str, str]] = set()
        self.health = HostHealth()
        self.tally = Tally()

    async def send(self, audience: list[Recipient], seconds: float) -> None:
        """Send the messages. Return after the last try of the last message."""
        async with asyncio.TaskGroup() as messages:
            async for number, _ in paced(len(audience), seconds):
                messages.create_task(self._message(audience[number]))

    async def _message(self, recipient: Recipient) -> None:
        dice = random.Random(recipient.seed)  # noqa: S311  # not a secret
        for number, wait in enumerate((0.0, *recipient.waits)):
            await asyncio.sleep(wait)
            if await self._render(recipient.user, dice):
                (self.tally.retry if number else self.tally.first_try).append(recipient.user)
                return
        self.tally.not_personalised.append(recipient.user)

    async def _render(self, user: str, dice: random.Random) -> bool:
        """Render the parts of a message, one call after another. Return whether all calls were answered in time."""
        for _ in range(PARTS):
            for tag in self._tags:
                # Braze's cache does not guarantee a hit.
                if (user, tag) in self._cache and dice.random() < _CACHED_SHARE:
                    continue
                if await self._call(user, tag) != 200:
                    return False
                self._cache.add((user, tag))
        return True

    async def _call(self, user: str, tag: str) -> int:
        if self.health.halted:
            self.tally.statuses["halted"] += 1
            return 0
        if tag == "recommendations":
            self.tally.requested.add(user)
        status, error_name = 0, ""
        began = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status = await self._caller(user, tag)
        except OSError as error:  # includes TimeoutError
            error_name = type(error).__name__
        self.tally.times.append(time.monotonic() - began)
        self.tally.statuses[error_name or str(status)] += 1
        self.health.count(status)
        return status
