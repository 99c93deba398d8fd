"""How Braze asks: messages of several parts, its own cache, its patience, its retries, and when it halts a host.

Written from the documentation of Connected Content. What that leaves open: how much of what may come from its own
cache does (four in five here), and the backoff's first wait and jitter (a parameter, and a fifth either way).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tests.bench.load import PATIENCE, evenly

TRIES = 6
"""The first, and `:retry` up to five times."""
PARTS = 3
"""HTML, plain text and AMP are rendered each by itself."""
_FROM_ITS_CACHE = 0.8
_COUNTED_AGAINST_A_HOST = {408, 429, 502, 503, 504, 529}
_WINDOW = 60.0
_HALTED_FOR = 60.0

Ask = Callable[[str, str], Awaitable[int]]
"""Asks for a user and a tag; returns the status of the answer."""


@dataclass(frozen=True)
class Recipient:
    """Who gets a message when, and how long Braze waits between its tries; the same whatever it asks."""

    user: str
    at: float
    """Seconds after the send's begin."""
    waits: tuple[float, ...]
    seed: str

    @property
    def last_try(self) -> float:
        """Return when the last try begins, in seconds after the send's begin, if each one before fails at once."""
        return self.at + sum(self.waits)


def recipients(count: int, seconds: float, backoff: float, seed: int) -> list[Recipient]:
    """Return who is sent to, at an even rate over `seconds`; the first retry comes after about `backoff`."""
    found = []
    for number in range(count):
        own = f"{seed} {number}"
        dice = random.Random(own)  # noqa: S311  # chance, not secrets
        waits = tuple(backoff * 2**retry * dice.uniform(0.8, 1.2) for retry in range(TRIES - 1))
        found.append(Recipient(f"user-{number + 1}", seconds * number / count, waits, own))
    return found


class Health:
    """Unhealthy-host detection: over 3,000 failures, and over 90 % of calls, within a minute halt all calls for one.

    Failures are the statuses that Braze lists, and calls that it gave up waiting for.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._halted_until = float("-inf")
        self.halts = 0

    @property
    def halted(self) -> bool:
        """Say whether no call is made just now."""
        return self._monotonic() < self._halted_until

    def note(self, status: int) -> None:
        """Count one call by its status; 0 for one without an answer."""
        now = self._monotonic()
        failed = status == 0 or status in _COUNTED_AGAINST_A_HOST
        self._calls.append((now, failed))
        self._failures += failed
        while self._calls[0][0] <= now - _WINDOW:
            self._failures -= self._calls.popleft()[1]
        if self._failures > 3000 and self._failures > 0.9 * len(self._calls) and not self.halted:
            self.halts += 1
            self._halted_until = now + _HALTED_FOR
            self._calls.clear()
            self._failures = 0


@dataclass
class Tally:
    """What a send came to."""

    first: list[str] = field(default_factory=list)
    """Users whose message was personalised at the first try: every call was answered, be it by "unknown"."""
    retried: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    """Users for whom a template asked for recommendations."""
    times: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


class Sender:
    """Sends one message, with these tags in each of its parts, to each of many recipients."""

    def __init__(self, ask: Ask, tags: Sequence[str]) -> None:
        self._ask = ask
        self._tags = tags
        self._kept: set[tuple[str, str]] = set()
        self.health = Health()
        self.tally = Tally()

    async def send(self, to: list[Recipient], seconds: float, progress: Callable[[int], None]) -> None:
        """Send; return once the last message is out or lost. `progress` hears of each that is begun."""
        messages = []
        async for number in evenly(len(to), seconds):
            messages.append(asyncio.create_task(self._message(to[number])))
            progress(number)
        await asyncio.gather(*messages)

    async def _message(self, recipient: Recipient) -> None:
        dice = random.Random(recipient.seed)  # noqa: S311  # chance, not secrets
        for wait in (*recipient.waits, None):
            if await self._rendered(recipient.user, dice):
                first = wait == recipient.waits[0]
                (self.tally.first if first else self.tally.retried).append(recipient.user)
                return
            if wait is not None:
                await asyncio.sleep(wait)
        self.tally.lost.append(recipient.user)

    async def _rendered(self, user: str, dice: random.Random) -> bool:
        """Render the parts of a message one call after the other; say whether each was answered in time."""
        for _ in range(PARTS):
            for tag in self._tags:
                # Not guaranteed, says Braze: some repeats reach the host all the same.
                if (user, tag) in self._kept and dice.random() < _FROM_ITS_CACHE:
                    continue
                if await self._call(user, tag) != 200:
                    return False
                self._kept.add((user, tag))
        return True

    async def _call(self, user: str, tag: str) -> int:
        if self.health.halted:
            self.tally.statuses["halted"] += 1
            return 0
        if tag == "recommendations":
            self.tally.asked.add(user)
        status, word = 0, ""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self._ask(user, tag)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            word = type(error).__name__
        self.tally.times.append(time.monotonic() - began)
        self.tally.statuses[word or str(status)] += 1
        self.health.note(status)
        return status
