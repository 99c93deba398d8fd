"""Measures the forwarding of Amplitude's event stream while Braze fails.

    python -m tests.bench.event_stream

Runs the service as shipped with one worker, and with two workers and Redis. Sends 500 events a second for a minute as
Amplitude does: one event a message, and a message up to ten times until the answer is 200. Braze answers 503 for 10
seconds. Later, for a second, it accepts requests but does not answer.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click
import requests

from tests.bench.load import Connections
from tests.bench.processes import LONG_LIVED, SandboxProcess, Service
from tests.support.redis_server import RedisServer
from tests.support.service import SECRET

_USERS = 2_000
_HEADERS = {"X-API-Key": SECRET}
_CONNECTIONS = 500
"""The maximum number of messages in progress. Amplitude's limit is not documented."""
_ATTEMPTS = 10
"""Amplitude sends a message nine more times, and then drops it."""
_FIRST_PAUSE_SECONDS = 1.0
"""Each pause is twice as long as the pause before. Amplitude's pauses add up to four hours, and these to 9 minutes."""
_TIMEOUT_SECONDS = 10.0
_PROGRESS_SECONDS = 5.0
_OUTCOME = "ccproxy_forwarded_objects_total{"


class Amplitude:
    """Sends the stream to a service, and sends a message again until it is answered with 200."""

    def __init__(self, port: int) -> None:
        self._connections = Connections(port, f"X-API-Key: {SECRET}")
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self.statuses: Counter[int] = Counter()
        self.sent = 0
        """The number of messages that were sent at least once."""
        self.seconds = 0.0
        """The duration until the last message was delivered."""
        self.latest: dict[str, int] = {}
        """The number of the last event of each user."""

    async def run(self, a_second: int, seconds: int) -> None:
        """Send the events at an even rate, and wait until all are delivered."""
        tasks = set()
        started = time.monotonic()
        progress = asyncio.create_task(self._show_progress(started))
        for number in range(a_second * seconds):
            await asyncio.sleep(max(0.0, started + number / a_second - time.monotonic()))
            tasks.add(asyncio.create_task(self._deliver(number)))
            self.sent = number + 1
        await asyncio.gather(*tasks)
        self.seconds = time.monotonic() - started
        progress.cancel()
        self._connections.close()

    async def _show_progress(self, started: float) -> None:
        before = Counter[int]()
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            answers = dict(sorted((self.statuses - before).items()))
            before = self.statuses.copy()
            waiting = self.sent - self.statuses[200]
            click.echo(f"  {time.monotonic() - started:.0f} s: answers {answers}, {waiting:,} not delivered", err=True)

    async def _deliver(self, number: int) -> None:
        user_id = f"user-{number % _USERS}"
        self.latest[user_id] = number
        body = json.dumps(
            {
                "user_id": user_id,
                "event_type": "Order",
                "event_time": int(time.time() * 1000),
                "uuid": f"event-{number}",
                "event_properties": {"number": number},
                "user_properties": {"last_order": str(number)},
            }
        ).encode()
        for attempt in range(_ATTEMPTS):
            try:
                async with self._places, asyncio.timeout(_TIMEOUT_SECONDS):
                    status = (await self._connections.post("/v1/webhooks/amplitude/users", body)).status
            except (OSError, TimeoutError):
                status = 0
            self.statuses[status] += 1
            if status == 200:
                return
            await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.8, 1.2))  # noqa: S311  # jitter


async def _fail(url: str, seconds: int) -> None:
    """Set two kinds of faults of Braze during the run."""
    loop = asyncio.get_running_loop()

    def fault(**query: str) -> None:
        requests.post(f"{url}/emulator/braze/fault", params=query, timeout=10).raise_for_status()

    def clear() -> None:
        requests.delete(f"{url}/emulator/braze/fault", timeout=10).raise_for_status()

    await asyncio.sleep(seconds * 0.2)
    await loop.run_in_executor(None, lambda: fault(kind="status", status="503"))
    await asyncio.sleep(min(10.0, seconds * 0.2))
    await loop.run_in_executor(None, clear)
    await asyncio.sleep(seconds * 0.3)
    await loop.run_in_executor(None, lambda: fault(kind="uncertain"))
    await asyncio.sleep(1.0)
    await loop.run_in_executor(None, clear)


def _outcomes(url: str) -> Mapping[str, float]:
    text = requests.get(f"{url}/metrics", headers=_HEADERS, timeout=10).text
    lines = [line.removeprefix(_OUTCOME) for line in text.splitlines() if line.startswith(_OUTCOME)]
    return {line.partition("}")[0]: float(line.rpartition(" ")[2]) for line in lines}


def measure(sandbox: SandboxProcess, a_second: int, seconds: int, **variables: str) -> list[str]:
    """Return the lines of the result."""
    requests.delete(f"{sandbox.url}/emulator/braze", timeout=10).raise_for_status()
    settings = LONG_LIVED | {
        "BRAZE_REST_ENDPOINT": sandbox.url,
        "BRAZE_API_KEY": "sandbox-braze-key",
        "BRAZE_CREATE_USERS": "true",
        "FORWARD_EVENTS": "*",
        "FORWARD_PROPERTIES": "last_order",
    }
    with Service(sandbox, **settings | variables) as service:
        before = service.processor_seconds()

        async def run() -> Amplitude:
            amplitude = Amplitude(service.port)
            await asyncio.gather(amplitude.run(a_second, seconds), _fail(sandbox.url, seconds))
            return amplitude

        amplitude = asyncio.run(run())
        outcomes, processor = _outcomes(service.url), service.processor_seconds() - before
        memory = service.memory()
    report, events, users = (
        requests.get(f"{sandbox.url}/emulator/braze{path}", timeout=60).json() for path in ("", "/events", "/users")
    )
    numbers = Counter(event["properties"]["number"] for event in events)
    outdated = sum(users.get(user_id, {}).get("last_order") != number for user_id, number in amplitude.latest.items())
    answers = dict(sorted(amplitude.statuses.items()))
    return [
        f"{a_second * seconds:,} events, ended after {amplitude.seconds:.0f} s; answers {answers}",
        f"at Braze: {len(numbers):,} events, missing {a_second * seconds - len(numbers):,}, "
        f"doubled {numbers.total() - len(numbers):,}, uncertain {_number(outcomes, 'events', 'uncertain'):,}",
        f"users whose attribute is not the newest: {outdated:,}; requests {report['requests']:,}, worst minute "
        f"{report['worst_minute']['requests']:,}, overlapping users {report['overlapping_users']}",
        f"processor {processor / (a_second * seconds) * 1e3:.2f} ms an event, memory {memory / 2**20:.0f} MiB",
    ]


def _number(outcomes: Mapping[str, Any], kind: str, outcome: str) -> int:
    return int(outcomes.get(f'kind="{kind}",outcome="{outcome}"', 0))


@click.command()
@click.option("--a-second", default=500, show_default=True, help="Events a second.")
@click.option("--seconds", default=60, show_default=True, help="Duration of the stream.")
@click.option("--workers", default=[1, 2], show_default=True, multiple=True, help="Number of workers; two share Redis.")
def main(a_second: int, seconds: int, workers: Sequence[int]) -> None:
    """Measure the forwarding of an event stream."""
    with SandboxProcess() as sandbox, RedisServer() as redis:
        for number in workers:
            click.echo(f"{number} {'worker' if number == 1 else 'workers and Redis'}:")
            variables = {} if number == 1 else {"WEB_CONCURRENCY": str(number), "REDIS_URL": redis.url}
            for line in measure(sandbox, a_second, seconds, **variables):
                click.echo(f"  {line}")


if __name__ == "__main__":
    main()
