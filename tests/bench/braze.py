"""Braze as a caller: messages of several parts, its cache, time limit, retries, and the unhealthy-host rule.

Written from the documentation of Connected Content, which leaves two points open: how often Braze's cache answers a
repeated call (four in five here), and the first wait and jitter of the backoff (an option, and a fifth either way).
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

from proxy.sandbox.people import find
from tests.bench.load import PATIENCE, Connections, paced

TRIES = 6
"""The first, and `:retry` up to five times."""
PARTS = 3
"""HTML, plain text and AMP are rendered separately."""
REC_ID = "homepage"
COHORT_ID = "c7"
ALL = ("recommendations", "properties", "cohorts")
"""One tag for each section."""
PUSHABLE = ("properties", "membership")
"""Tags that Amplitude's webhooks can answer: all properties, and membership of one cohort."""
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

Ask = Callable[[str, str], Awaitable[int]]
"""Renders a tag for a user; returns the status of the answer."""


def ask_service(connections: Connections) -> Ask:
    """Return how a template with `:retry` calls the service. A wrong answer is an AssertionError."""

    async def ask(user: str, tag: str) -> int:
        answer = await connections.get(f"/v1/{_SERVICE[tag]}user_id={user}&on_error=retry")
        if answer.status == 200:
            body = json.loads(answer.body)
            if body["ok"] is not True or not _is_true(user, tag, body):
                raise AssertionError(f"{tag} of {user} differ from Amplitude's: {body}")
        return answer.status

    return ask


def ask_amplitude(connections: Connections, *, cached: bool) -> Ask:
    """Return how a template calls Amplitude itself, with a plain cache by URL or without."""
    cache: set[tuple[str, str]] = set()

    async def ask(user: str, tag: str) -> int:
        if cached and (user, tag) in cache:
            return 200
        answer = await connections.get(f"/v1/userprofile?user_id={user}&{_AMPLITUDE[tag]}")
        status = 200 if answer.status == 400 else answer.status  # "not seen before" is an answer
        if status == 200:
            cache.add((user, tag))
        return status

    return ask


def _is_true(user: str, tag: str, body: dict[str, Any]) -> bool:
    person = _find(user, None)
    if person is None:
        return body["found"] is False
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
    """When a user gets a message, and how long Braze waits between its tries; the same for every policy."""

    user: str
    at: float
    """Seconds after the send's begin."""
    waits: tuple[float, ...]
    seed: str

    @property
    def last_try(self) -> float:
        """Return when the last try begins, in seconds after the send's begin, if each try before fails at once."""
        return self.at + sum(self.waits)


def recipients(count: int, seconds: float, backoff: float, seed: int) -> list[Recipient]:
    """Return the recipients, at an even rate over `seconds`; the first retry comes after about `backoff`."""
    drawn = []
    for number in range(count):
        own_seed = f"{seed} {number}"
        dice = random.Random(own_seed)  # noqa: S311  # chance, not secrets
        waits = tuple(backoff * 2**retry * dice.uniform(0.8, 1.2) for retry in range(TRIES - 1))
        drawn.append(Recipient(f"user-{number + 1}", seconds * number / count, waits, own_seed))
    return drawn


class HostHealth:
    """Unhealthy-host detection: over 3,000 failures and over 90 % of calls within a minute halt all calls for one.

    Failures are the statuses that Braze lists, and calls without an answer in time.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._halted_until = 0.0
        self.halts = 0

    @property
    def halted(self) -> bool:
        """Return whether calls are halted now."""
        return time.monotonic() < self._halted_until

    def note(self, status: int) -> None:
        """Count a call by its status; 0 for one without an answer."""
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

    first: list[str] = field(default_factory=list)
    """Users whose message was personalised at the first try: every call was answered, even by "unknown"."""
    retried: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    """Users for whom a template requested recommendations."""
    times: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


class Sender:
    """Sends one message, with these tags in each of its parts, to each recipient."""

    def __init__(self, ask: Ask, tags: Sequence[str]) -> None:
        self._ask = ask
        self._tags = tags
        self._cache: set[tuple[str, str]] = set()
        self.health = HostHealth()
        self.tally = Tally()

    async def send(self, to: list[Recipient], seconds: float) -> None:
        """Send; return once the last message is sent or lost."""
        async with asyncio.TaskGroup() as messages:
            async for number, _ in paced(len(to), seconds):
                messages.create_task(self._message(to[number]))

    async def _message(self, recipient: Recipient) -> None:
        dice = random.Random(recipient.seed)  # noqa: S311  # chance, not secrets
        for number, wait in enumerate((0.0, *recipient.waits)):
            await asyncio.sleep(wait)
            if await self._rendered(recipient.user, dice):
                (self.tally.retried if number else self.tally.first).append(recipient.user)
                return
        self.tally.lost.append(recipient.user)

    async def _rendered(self, user: str, dice: random.Random) -> bool:
        """Render the parts of a message one call after the other; return whether each was answered in time."""
        for _ in range(PARTS):
            for tag in self._tags:
                # Braze guarantees no cache hit.
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
            self.tally.asked.add(user)
        status, error_name = 0, ""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self._ask(user, tag)
        except OSError as error:  # TimeoutError is one
            error_name = type(error).__name__
        self.tally.times.append(time.monotonic() - began)
        self.tally.statuses[error_name or str(status)] += 1
        self.health.note(status)
        return status
