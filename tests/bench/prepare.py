"""Ways to prepare a simulated send: warming, and Amplitude's webhooks.

Warming for N minutes fetches what N minutes of the quota allow, with the real command and service. It runs with ten
times the quota, followed by the minute for which the quota counts; else the simulation would take as long as warming.

Webhooks send what Amplitude sends: the default payload of a cohort, first its members, then users who left it; and all
properties of each user. That every other user has left the cohort is an assumption: Amplitude says nothing of users who
never were members.
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
from tests.bench.braze import COHORT_ID, REC_ID
from tests.bench.processes import SandboxProcess, Service
from tests.support.service import KEYS, ROOT, SECRET

SHARE = 80
"""Percent of the quota that warming takes by default."""
_FASTER = 10
_CONNECTIONS = 8


@dataclass(frozen=True)
class Stage:
    """Where a send will take place: Amplitude, the service's settings, and the users in the order of the send."""

    sandbox: SandboxProcess
    settings: Mapping[str, str]
    users: Sequence[str]
    per_minute: int
    seed: int


Preparation = Callable[[Stage], set[str]]
"""Prepares a send. Returns the users for whom the service then has all that their message needs."""


def warmed(minutes: int) -> Preparation:
    """Return a preparation that warms the cache for this long, in another order than that of the send."""

    def prepare(stage: Stage) -> set[str]:
        audience = list(stage.users)
        random.Random(stage.seed).shuffle(audience)  # noqa: S311  # chance, not secrets
        audience = audience[: minutes * stage.per_minute * SHARE // 100]
        quota = stage.per_minute * _FASTER
        stage.sandbox.reset(quota)
        settings = {**stage.settings, "AMPLITUDE_REQUESTS_PER_MINUTE": str(quota)}
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file, Service(stage.sandbox, **settings) as service:
            file.write("".join(f"{user}\n" for user in audience))
            file.flush()
            options = ["--url", service.url, "--credentials", KEYS, "--quota", str(quota), "--share", str(SHARE)]
            options += ["--include", "recommendations,properties,cohorts", "--rec-id", REC_ID, "--log-exposures"]
            command = [sys.executable, "-m", "proxy", "warm", file.name, *options]
            subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        time.sleep(WINDOW_SECONDS + 2)
        return {user for user in audience if find(user, None) is not None}

    return prepare


def pushed(stage: Stage) -> set[str]:
    """Have Amplitude push a cohort and all properties of every user it knows. Causes no call."""
    people = [person for user in stage.users if (person := find(user, None))]
    with Service(stage.sandbox, **stage.settings) as service:
        url = f"{service.url}/v1/webhooks/amplitude"
        for is_in in (True, False):
            users = [person for person in people if (COHORT_ID in person.cohort_ids) is is_in]
            _push(f"{url}/cohorts", _cohort(users, is_in=is_in), len(users))
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            list(pool.map(lambda person: _push(f"{url}/users", _all_properties(person), 1), people))
    if calls := stage.sandbox.calls():
        raise AssertionError(f"the webhooks caused {calls} calls")
    return {person.user_id for person in people if person.user_id}


def _cohort(people: Sequence[Person], *, is_in: bool) -> dict[str, Any]:
    """Return the cohort webhook's default payload."""
    return {
        "cohort_name": "Active this week",
        "cohort_id": COHORT_ID,
        "in_cohort": is_in,
        "computed_time": str(int(time.time())),
        "message_id": f"{uuid.uuid4()}::0",
        "users": [{"user_id": person.user_id} for person in people],
    }


def _all_properties(person: Person) -> dict[str, Any]:
    """Return the body of the README's template for a stream: Amplitude sends names without their prefix."""
    return {
        "user_id": person.user_id,
        "event_time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
        "message_id": str(uuid.uuid4()),
        "whole": True,
        "user_properties": {name.removeprefix(USER_PROPERTY): value for name, value in person.properties.items()},
    }


def _push(url: str, body: Mapping[str, Any], users: int) -> None:
    answer = requests.post(url, json=body, headers={"Authorization": f"Bearer {SECRET}"}, timeout=10)
    answer.raise_for_status()
    if answer.json()["applied"] != users:
        raise AssertionError(f"some users were skipped: {answer.text}")
