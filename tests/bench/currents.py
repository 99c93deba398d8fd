"""Relays events of Braze Currents through faults of Amplitude: `python -m tests.bench.currents`.

Sends batches as Braze does: at least once, again after a 5xx or 429, and never again after most 4xx. Counts the events
in the emulated Amplitude by `insert_id`.
"""

from __future__ import annotations

import itertools
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.bench.load import command_line
from tests.bench.processes import SandboxProcess, Service
from tests.support.batch_upstream import braze_event
from tests.support.service import SECRET

FAULTS = {
    "throttled": 4,
    "uncertain": 4,
    "reset": 4,
    "too-large": 2,
    "bad-request": 2,
    "broken-json": 4,
    "status": 4,
    "hang-accepted": 4,
}
"""The number of faulty requests of each kind. `uncertain` and `hang-accepted` accept the events, and do not answer.

A batch with a single event would be skipped after `too-large` and `bad-request`, so these are few.
"""
_HEADERS = {"Authorization": f"Bearer {SECRET}"}
_TYPES = ("users.messages.email.Open", "users.messages.pushnotification.Send", "users.behaviors.Purchase")


@dataclass
class Figures:
    """The results of a campaign."""

    statuses: Counter[int] = field(default_factory=Counter)
    """The statuses of all requests of Braze; 0 without an answer."""
    dropped: int = 0
    """Batches that Braze would never send again."""
    seconds: list[float] = field(default_factory=list)
    """The times of the answers with status 200."""


def batches_of(events: int, size: int) -> list[list[dict[str, Any]]]:
    """Return the events in batches of `size`. A tenth of the batches and a tenth of the events occur twice."""
    dice = random.Random(1)  # noqa: S311  # a simulation
    unique = [braze_event(f"event-{number}", _TYPES[number % 3]) for number in range(events)]
    doubled = [*unique, *dice.sample(unique, events // 10)]
    batches = [doubled[start : start + size] for start in range(0, len(doubled), size)]
    batches += dice.sample(batches, len(batches) // 10)
    dice.shuffle(batches)
    return batches


def deliver(service: str, batch: Sequence[dict[str, Any]], figures: Figures, longest_pause: float) -> None:
    """Send a batch as Braze does, until it is accepted or dropped."""
    refusals = 0
    for attempt in itertools.count():
        began = time.perf_counter()
        try:
            status = requests.post(
                f"{service}/v1/webhooks/braze/currents", json={"events": batch}, headers=_HEADERS, timeout=30
            ).status_code
        except requests.RequestException:
            status = 0
        figures.statuses[status] += 1
        if status == 200:
            figures.seconds.append(time.perf_counter() - began)
            return
        refusals += status == 400
        if refusals > 1 or status in (401, 403, 404, 413):
            figures.dropped += 1
            return
        time.sleep(min(0.05 * 2**attempt, longest_pause))


@contextmanager
def faults(sandbox: str, figures: Figures, batches: int, outage_seconds: float) -> Iterator[None]:
    """Set one fault after another as the campaign progresses, and an outage of `outage_seconds` in the middle."""
    switch, ended = f"{sandbox}/emulator/batch/fault", threading.Event()
    stages = list(FAULTS.items())
    stages.insert(len(stages) // 2, ("status", 0))

    def run() -> None:
        for stage, (kind, times) in enumerate(stages, start=1):
            while len(figures.seconds) < batches * stage / (len(stages) + 1):
                if ended.wait(0.005):
                    return
            options: dict[str, Any] = {"kind": kind, "times": times, "status": 503, "seconds": 0.3}
            requests.post(switch, params=options, timeout=5).raise_for_status()
            if not times:
                ended.wait(outage_seconds)
                requests.delete(switch, timeout=5).raise_for_status()
            while requests.get(f"{sandbox}/emulator/batch", timeout=5).json()["fault"]:
                if ended.wait(0.005):
                    return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def campaign(
    service: str, sandbox: str, *, events: int, outage_seconds: float, size: int = 100, longest_pause: float = 1.0
) -> Figures:
    """Deliver `events` with duplicates through all faults. Returns the figures of Braze's side.

    size: events in a batch. longest_pause: seconds between two attempts of Braze, at most.
    """
    figures, batches = Figures(), batches_of(events, size)
    with faults(sandbox, figures, len(batches), outage_seconds), ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(deliver, service, batch, figures, longest_pause) for batch in batches]:
            future.result()
    return figures


def arrivals(sandbox: str) -> Counter[str]:
    """Return how often each `insert_id` is stored in the emulated Amplitude."""
    stored = requests.get(f"{sandbox}/emulator/batch/events", timeout=60).json()
    return Counter(event["insert_id"] for event in stored)


def main() -> None:
    """Run the campaign, and print its figures. Fails if an event is missing or doubled."""
    parser = command_line(__doc__)
    parser.add_argument("--events", type=int, default=50_000, help="number of different events")
    parser.add_argument("--outage", type=float, default=10, help="seconds of the outage")
    options = parser.parse_args()
    with SandboxProcess() as sandbox:
        settings = {
            "AMPLITUDE_API_KEY": "sandbox-api-key",
            "AMPLITUDE_INGEST_URL": f"{sandbox.url}/batch",
            "LOG_LEVEL": "ERROR",
        }
        with Service(sandbox, options=("--log-level", "error"), **settings) as service:
            began = time.perf_counter()
            figures = campaign(service.url, sandbox.url, events=options.events, outage_seconds=options.outage)
            seconds = time.perf_counter() - began
            report = requests.get(f"{sandbox.url}/emulator/batch", timeout=60).json()
            counts = arrivals(sandbox.url)
    expected = {f"event-{number}" for number in range(options.events)}
    missing, doubled = expected - counts.keys(), [id for id, count in counts.items() if count > 1]
    print(f"{options.events:,} events in {seconds:.1f} s: {options.events / seconds:,.0f} events a second")
    print(f"answers to Braze: {dict(sorted(figures.statuses.items()))}, dropped batches: {figures.dropped}")
    print(f"time of an answer with status 200: median {statistics.median(figures.seconds) * 1000:.0f} ms")
    print(f"requests to Amplitude: {report['statuses']}, ignored duplicates: {report['duplicates']:,}")
    print(f"arrived once: {len(counts) - len(doubled):,}, missing: {len(missing):,}, doubled: {len(doubled):,}")
    assert counts.keys() == expected, "events are missing, or events arrived that Braze did not send"
    assert not doubled, "events arrived twice"
    assert not figures.dropped, "Braze dropped batches"


if __name__ == "__main__":
    main()
