"""What is done before a simulated send, so that it finds answers: each way a function of the stage.

To warm for N minutes is to fetch what N minutes of the quota bring, with the real command before the real service. It
is done at ten times the pace, quota and all, and the minute that the quota remembers is waited for afterwards: else
the simulation would take as long as the warming itself.

What is pushed comes by HTTP as Amplitude sends it: of a cohort the default payload, first who is in it, then who has
left it; of properties a whole set for each user, one a call. That everybody who is not in the cohort has left it is
the assumption here: of who never was in it Amplitude says nothing.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests

from proxy.amplitude.sliding_window import WINDOW_SECONDS
from proxy.profile.liquid_names import USER_PROPERTY
from proxy.sandbox.people import Person, find
from tests.bench.processes import SandboxProcess, Service
from tests.bench.tags import COHORT_ID, REC_ID
from tests.conftest import ROOT, SECRET

SHARE = 80
"""Percent of the quota that warming takes, as it is by default."""
_FASTER = 10
_BATCH = 10_000
_CONNECTIONS = 8


@dataclass(frozen=True)
class Stage:
    """Where a send will take place: Amplitude, the settings of the service, who is sent to, in what order it may be."""

    sandbox: SandboxProcess
    settings: Mapping[str, str]
    users: Sequence[str]
    per_minute: int
    seed: int


Ahead = Callable[[Stage], set[str]]
"""Prepares a send. Returns those of whom the service then has all that their message asks for."""


def warmed(minutes: int) -> Ahead:
    """Return how the cache is warmed for so long, in an order that is not that of the send."""

    def ahead(stage: Stage) -> set[str]:
        audience = list(stage.users)
        random.Random(stage.seed).shuffle(audience)  # noqa: S311  # chance, not secrets
        audience = audience[: minutes * stage.per_minute * SHARE // 100]
        quota = str(stage.per_minute * _FASTER)
        stage.sandbox.begin_anew(stage.per_minute * _FASTER)
        faster = {**stage.settings, "AMPLITUDE_REQUESTS_PER_MINUTE": quota}
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file, Service(stage.sandbox, **faster) as service:
            file.write("".join(f"{user}\n" for user in audience))
            file.flush()
            to = ["--url", f"http://127.0.0.1:{service.port}", "--credentials", f"braze:{SECRET}"]
            what = ["--include", "recommendations,properties,cohorts", "--rec-id", REC_ID, "--log-exposures"]
            command = [sys.executable, "-m", "proxy", "warm", file.name, *to, *what, "--quota", quota]
            subprocess.run([*command, "--share", str(SHARE)], cwd=ROOT, check=True, stdout=sys.stderr)
        print(f"  the quota's minute passes: {WINDOW_SECONDS:.0f} s", file=sys.stderr, flush=True)
        time.sleep(WINDOW_SECONDS + 2)
        return {user for user in audience if find(user, None) is not None}

    return ahead


def pushed(stage: Stage) -> set[str]:
    """Have Amplitude push a cohort and all properties of everybody it knows. No call may come of that."""
    people = [person for user in stage.users if (person := find(user, None))]
    with Service(stage.sandbox, **stage.settings) as service:
        began = time.monotonic()
        hooks = f"http://127.0.0.1:{service.port}/v1/webhooks/amplitude"
        members = [person for person in people if COHORT_ID in person.cohort_ids]
        left = [person for person in people if COHORT_ID not in person.cohort_ids]
        with requests.Session() as session:
            batches = [*_batches(members, is_in=True), *_batches(left, is_in=False)]
            for batch in batches:
                _push(session, f"{hooks}/cohorts", batch, len(batch["users"]))

        def push_all(some: Sequence[Person]) -> None:
            with requests.Session() as session:
                for person in some:
                    _push(session, f"{hooks}/users", _whole_set(person), 1)

        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            list(pool.map(push_all, (people[first::_CONNECTIONS] for first in range(_CONNECTIONS))))
        seconds = time.monotonic() - began
    calls = len(stage.sandbox.seen().calls)
    if calls:
        raise AssertionError(f"{calls} calls came of what was pushed")
    print(f"  {len(batches)} batches and {len(people):,} users pushed in {seconds:.0f} s", file=sys.stderr, flush=True)
    return {person.user_id for person in people if person.user_id}


def _batches(people: Sequence[Person], *, is_in: bool) -> list[dict[str, Any]]:
    """Return the cohort webhook's default payload, in batches."""
    return [
        {
            "cohort_name": "Active this week",
            "cohort_id": COHORT_ID,
            "in_cohort": is_in,
            "computed_time": str(int(time.time())),
            "message_id": f"{uuid.uuid4()}::{first}",
            "users": [{"user_id": person.user_id} for person in people[first : first + _BATCH]],
        }
        for first in range(0, len(people), _BATCH)
    ]


def _whole_set(person: Person) -> dict[str, Any]:
    """Return what the README's template for a stream makes of a user: Amplitude sends names without their prefix."""
    return {
        "user_id": person.user_id,
        "event_time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
        "message_id": str(uuid.uuid4()),
        "whole": True,
        "user_properties": {name.removeprefix(USER_PROPERTY): value for name, value in person.properties.items()},
    }


def _push(session: requests.Session, url: str, said: Mapping[str, Any], users: int) -> None:
    answer = session.post(url, json=said, headers={"Authorization": f"Bearer {SECRET}"}, timeout=10)
    answer.raise_for_status()
    if answer.json()["applied"] != users:
        raise AssertionError(f"not all that was pushed was taken: {answer.text}")
