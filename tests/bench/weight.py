"""What the service weighs: time to start, memory at rest, bytes a cached profile. From outside, by its processes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from statistics import median

from tests.bench.machine import memory
from tests.bench.running import Processes, Running, ask, warm
from tests.bench.wrk import ASK

FEW = 2_000
STARTS = 5
SMALL_MB = 4
AMPLITUDE = ASK.replace("/v1/profile?include=recommendations,properties,cohorts", "/v1/userprofile?get_recs=true") + (
    "{user}&get_amp_props=true&get_cohort_ids=true"
)


def growth(service: Running, paths: Sequence[str]) -> float:
    """Warm `service`; return by how many bytes its processes grew for each profile, after the first ones."""
    warm(service.port, paths[:FEW])
    few = memory(service.process)
    warm(service.port, paths[FEW:])
    return (memory(service.process) - few) / (len(paths) - FEW)


def show(processes: Processes, sandbox: Running, growth: float, paths: Sequence[str]) -> None:
    """Print it all."""
    taken, rest = [], []
    for _ in range(STARTS):
        with processes.once() as once:
            service = once.gunicorn("wsgi:app", sandbox)
            taken.append(service.started)
            rest.append(memory(service.process))
    print(f"start to first answer: {median(taken):.2f} s ({min(taken):.2f}-{max(taken):.2f}, {STARTS} starts)")
    print(f"memory at rest: {median(rest) / 2**20:.0f} MiB, gunicorn's master included")
    user = paths[0].rpartition("-")[2]
    said = next(ask(sandbox.port, [AMPLITUDE.format(user=user)], authorization="Api-Key sandbox-secret-key"))
    size = len(json.dumps(json.loads(said.body)["userData"], separators=(",", ":")))
    held = _held(processes, sandbox, paths)
    counted = SMALL_MB * 2**20 / held
    print(
        f"bytes per cached profile of {size} bytes: {counted:,.0f} as the cache counts, {growth:,.0f} of process memory"
    )
    print(f"  the same for one of 2,800 bytes: {counted + 2800 - size:,.0f} and {growth + 2800 - size:,.0f}")
    print(f"profiles per 64 MiB: {held * 64 // SMALL_MB:,}", flush=True)


def _held(processes: Processes, sandbox: Running, paths: Sequence[str]) -> int:
    """Return how many profiles a small cache holds: asked for in reverse, so many are hits before the first miss."""
    with processes.once() as once:
        small = once.gunicorn("wsgi:app", sandbox, CACHE_MAX_MB=str(SMALL_MB))
        some = paths[: SMALL_MB * 1000]
        warm(small.port, some, at_once=1)
        hits = itertools.takewhile(
            lambda answer: answer.headers["X-Amplitude-Calls"] == "0", ask(small.port, some[::-1])
        )
        held = sum(1 for _ in hits)
    if held == len(some):
        raise RuntimeError(f"a cache of {SMALL_MB} MiB held every profile: warm more")
    return held
