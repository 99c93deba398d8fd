"""Prepares a simulated send: warms the cache, or pushes data by Amplitude's webhooks.

Warming for N minutes uses the real command and service, and fetches as many users as N minutes of the quota allow. To
save time, it runs with ten times the quota, and then waits for the minute in which these calls count.

The webhooks push the default payload of a cohort, first for its members, then for users who left it. They also push all
properties of each user. In the simulation, every user outside the cohort has left it. In reality, Amplitude pushes
nothing about users who never were members.

A cohort download needs no such batches, because its snapshot answers for every user.
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
from tests.bench.export import export
from tests.bench.processes import SandboxProcess, Service
from tests.support.service import KEYS, ROOT, SECRET

SHARE = 80
"""Percentage of the quota that `warm` uses by default."""
_SPEEDUP = 10
_CONNECTIONS = 8


@dataclass(frozen=True)
class Stage:
    """The conditions of a send: Amplitude, the settings of the service, and the users in the order of the send."""

    sandbox: SandboxProcess
    settings: Mapping[str, str]
    users: Sequence[str]
    per_minute: int
    seed: int


Preparation = Callable[[Stage], set[str]]
"""Prepares a send. Returns the users whose data is then complete in the service."""


def warmed(minutes: int) -> Preparation:
    """Return a preparation that warms the cache for `minutes`, in a different order than the send."""

    def prepare(stage: Stage) -> set[str]:
        audience = list(stage.users)
        random.Random(stage.seed).shuffle(audience)  # noqa: S311  # not a secret
        audience = audience[: minutes * stage.per_minute * SHARE // 100]
        quota = stage.per_minute * _SPEEDUP
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
    """Push a cohort, and all properties of every user known to Amplitude. Causes no call."""
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


def exported(stage: Stage) -> set[str]:
    """Store all properties of all users and the members of the cohort, by two downloads. Causes no call."""
    began = time.monotonic()
    all_users = f"crowd-{len(stage.users)}"
    with Service(stage.sandbox, **stage.settings):
        for cohort, section in ((all_users, "properties"), (COHORT_ID, "cohorts")):
            export(stage.sandbox, [cohort], "--include", section, **stage.settings)
    print(f"exported in {time.monotonic() - began:.0f} s", file=sys.stderr)
    if calls := stage.sandbox.calls():
        raise AssertionError(f"the downloads caused {calls} calls")
    return {user for user in stage.users if find(user, None) is not None}


def _cohort(people: Sequence[Person], *, is_in: bool) -> dict[str, Any]:
    """Return the default payload of a cohort webhook."""
    return {
        "cohort_name": "Active this week",
        "cohort_id": COHORT_ID,
        "in_cohort": is_in,
        "computed_time": str(int(time.time())),
        "message_id": f"{uuid.uuid4()}::0",
        "users": [{"user_id": person.user_id} for person in people],
    }


def _all_properties(person: Person) -> dict[str, Any]:
    """Return the body of the template in docs/webhooks.md. Amplitude sends names without the prefix `gp:`."""
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
