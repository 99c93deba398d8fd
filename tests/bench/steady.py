"""Sends a steady load of several kinds of requests, and records the outcome of each request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Literal

from tests.bench.load import TIMEOUT_SECONDS, Connections
from tests.bench.processes import AUTHORIZATION
from tests.bench.wrk import known_users

CONNECTIONS = 41
"""A prime number, so that each user is requested over every connection, and from every worker."""
COMPLETE_SECONDS = 30.0
ACCEPTED_SECONDS = 0.2

Kind = Literal["cached", "renewed", "missed", "retried"]
RATES: dict[Kind, float] = {"cached": 100, "renewed": 1, "missed": 2, "retried": 0.5}
"""Requests a second. The rates are low, so that the quota does not hide a fault."""
_USERS = [f"user-{number}" for number in islice(known_users(), 40)]
CACHED, RENEWED = _USERS[:30], _USERS[30:]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a request: a status, or the reason why there is no answer."""

    kind: Kind
    user: str
    began: float
    seconds: float
    status: int | Literal["refused", "closed", "timeout"]
    ok: bool = False
    error: str | None = None
    """The error word of the body, or of `Cache-Status` if an older copy is returned."""

    @property
    def complete(self) -> bool:
        """Return whether the answer has status 200, `ok: true` and fresh data."""
        return self.status == 200 and self.ok and self.error is None


class Load:
    """Sends a steady load of all kinds during an `async with`."""

    def __init__(self, port: int, workers: Sequence[int] = ()) -> None:
        self._workers = workers
        self._connections = Connections(port, f"Authorization: {AUTHORIZATION}", minimum=CONNECTIONS)
        self._tasks: set[asyncio.Future[Any]] = set()
        self.outcomes: list[Outcome] = []

    async def __aenter__(self) -> Load:
        for worker in self._workers:
            # The first worker accepts almost all connections, so the other workers are stopped for a moment.
            others = [other for other in self._workers if other != worker]
            for other in others:
                os.kill(other, signal.SIGSTOP)
            await self._connections.open(CONNECTIONS // len(self._workers))
            await asyncio.sleep(ACCEPTED_SECONDS)
            for other in others:
                os.kill(other, signal.SIGCONT)
        # With a new Redis, the service sends no calls at first.
        async with asyncio.timeout(COMPLETE_SECONDS):
            while not all(outcome.complete for outcome in await self._request_all()):
                pass
        self.outcomes.clear()
        for _ in range(CONNECTIONS):  # so that each worker has the data in its own memory
            await self._request_all()
        requests: dict[Kind, Callable[[int], Awaitable[object]]] = {
            "cached": lambda number: self.request("cached", CACHED[number % len(CACHED)], "properties"),
            "renewed": lambda number: self.request("renewed", RENEWED[number % len(RENEWED)], "properties"),
            "missed": lambda number: self.request("missed", f"user-{1_000_000 + number}", "profile"),
            "retried": lambda number: self._with_retries(f"user-{2_000_000 + number}"),
        }
        self._kinds = [asyncio.create_task(self._steadily(RATES[kind], request)) for kind, request in requests.items()]
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks: list[asyncio.Future[Any]] = [*self._kinds, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._connections.close()

    async def _request_all(self) -> list[Outcome]:
        return await asyncio.gather(*(self.request("cached", user, "properties") for user in CACHED + RENEWED))

    async def request(self, kind: Kind, user: str, route: str) -> Outcome:
        """Send a request. Record and return the outcome."""
        query = {"profile": "&include=properties,cohorts", "recommendations": "&rec_id=homepage"}.get(route, "")
        query += "&on_error=retry" if kind == "retried" else ""
        headers = ["Cache-Control: no-cache"] if kind == "renewed" else []
        began = time.monotonic()
        status: int | Literal["refused", "closed", "timeout"]
        ok, error = False, None
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                answer = await self._connections.get(f"/v1/{route}?user_id={user}{query}", *headers)
        except TimeoutError:
            status = "timeout"
        except ConnectionRefusedError:
            status = "refused"
        except OSError:
            status = "closed"
        else:
            status = answer.status
            body = json.loads(answer.body)
            ok = body.get("ok") is True
            error = body.get("error") or (answer.header("cache-status") or "").partition("detail=")[2] or None
        outcome = Outcome(kind, user, began, time.monotonic() - began, status, ok, error)
        self.outcomes.append(outcome)
        return outcome

    async def _with_retries(self, user: str) -> None:
        for wait in (1, 2, 4, 8, 16, 0):
            if (await self.request("retried", user, "recommendations")).status == 200:
                return
            await asyncio.sleep(wait)

    async def _steadily(self, rate: float, request: Callable[[int], Awaitable[object]]) -> None:
        began = time.monotonic()
        for number in count():
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            task = asyncio.ensure_future(request(number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
