"""A steady load of several kinds of callers, and what came of each request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

from proxy.sandbox.people import find
from tests.bench.load import PATIENCE, Connections
from tests.conftest import SECRET

CONNECTIONS = 41  # a prime: whoever asks in turn comes upon each of them, and with them upon each worker

WHOLE_SECONDS = 30.0
ACCEPTED_SECONDS = 0.2

Kind = Literal["cached", "renewed", "missed", "retried"]
RATES: dict[Kind, float] = {"cached": 100, "renewed": 1, "missed": 2, "retried": 0.5}
"""Requests a second. Even if each retry cost a call, all were within the quota: it must not hide the fault."""
_EXISTING = [f"user-{number}" for number in islice((one for one in count(1) if find(f"user-{one}", None)), 40)]
CACHED, RENEWED = _EXISTING[:30], _EXISTING[30:]


@dataclass(frozen=True)
class Asked:
    """One request and what came of it: a status, or why there was none."""

    kind: Kind
    user: str
    began: float
    took: float
    status: int | Literal["refused", "cut off", "gave up"]
    ok: bool = False
    word: str | None = None
    """The error word: of the body, or for which an older copy stands in."""

    @property
    def whole(self) -> bool:
        """Say whether it was answered in full."""
        return self.status == 200 and self.ok and self.word is None


class Load:
    """A steady load of all kinds for the time of an `async with`."""

    def __init__(self, port: int, workers: Sequence[int] = ()) -> None:
        self._workers = workers
        self._connections = Connections(port, f"X-API-Key: {SECRET}", least=CONNECTIONS)
        self._tasks: set[asyncio.Future[object]] = set()
        self.asked: list[Asked] = []

    async def __aenter__(self) -> Load:
        for worker in self._workers:
            # Whoever accepts first takes nearly all; each gets its share while the others are held.
            others = [other for other in self._workers if other != worker]
            for other in others:
                os.kill(other, signal.SIGSTOP)
            await self._connections.open(CONNECTIONS // len(self._workers))
            await asyncio.sleep(ACCEPTED_SECONDS)
            for other in others:
                os.kill(other, signal.SIGCONT)
        # A service before an empty Redis is whole after a moment; what is asked until then tells nothing.
        async with asyncio.timeout(WHOLE_SECONDS):
            while not all(asked.whole for asked in await self._ask_all()):
                pass
        self.asked.clear()
        for _ in range(CONNECTIONS):  # so that each worker holds a copy of its own
            await self._ask_all()
        asks: dict[Kind, Callable[[int], Awaitable[object]]] = {
            "cached": lambda number: self.ask("cached", CACHED[number % len(CACHED)], "properties"),
            "renewed": lambda number: self.ask("renewed", RENEWED[number % len(RENEWED)], "properties"),
            "missed": lambda number: self.ask("missed", f"user-{1_000_000 + number}", "profile"),
            "retried": lambda number: self._with_retries(f"user-{2_000_000 + number}"),
        }
        self._kinds = [asyncio.create_task(self._steadily(RATES[kind], ask)) for kind, ask in asks.items()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for kind in self._kinds:
            kind.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._kinds, *self._tasks, return_exceptions=True)
        self._connections.close()

    async def _ask_all(self) -> list[Asked]:
        return await asyncio.gather(*(self.ask("cached", user, "properties") for user in CACHED + RENEWED))

    async def ask(self, kind: Kind, user: str, route: str) -> Asked:
        """Ask once; note and return what came of it."""
        rest = {"profile": "&include=properties,cohorts", "recommendations": "&rec_id=homepage"}.get(route, "")
        rest += "&on_error=retry" if kind == "retried" else ""
        headers = ["Cache-Control: no-cache"] if kind == "renewed" else []
        began = time.monotonic()
        status: int | Literal["refused", "cut off", "gave up"]
        ok, word = False, None
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._connections.get(f"/v1/{route}?user_id={user}{rest}", *headers)
        except TimeoutError:
            status = "gave up"
        except ConnectionRefusedError:
            status = "refused"
        except (OSError, EOFError):
            status = "cut off"
        else:
            status = answer.status
            body = json.loads(answer.body)
            ok, word = body.get("ok") is True, body.get("error")
            standing_in = (answer.header("cache-status") or "").partition("detail=")[2]
            word = word or standing_in or None
        asked = Asked(kind, user, began, time.monotonic() - began, status, ok, word)
        self.asked.append(asked)
        return asked

    async def _with_retries(self, user: str) -> None:
        for wait in (1, 2, 4, 8, 16, 0):
            if (await self.ask("retried", user, "recommendations")).status == 200:
                return
            await asyncio.sleep(wait)

    async def _steadily(self, rate: float, ask: Callable[[int], Awaitable[object]]) -> None:
        began = time.monotonic()
        for number in count():
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            task = asyncio.ensure_future(ask(number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
