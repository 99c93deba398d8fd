"""Pushes the data of the demo without the User Profile API to the service, and lists examples of this data."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from urllib.parse import quote

import requests

from proxy.sandbox.people import Person, example_people

PUSHED_EXAMPLES = (
    ("properties", "user_id=ava&keys=first_name,loyalty_points", "props"),
    ("cohorts", "user_id=ava&cohort_id=vip", "cohorts"),
    ("profile", "user_id=ava&include=properties,cohorts&keys=first_name&cohort_id=vip", "profile"),
)
"""Route, query and variable of each example that pushed data answers."""
_SECONDS = 10.0
_PREFIX = "gp:"


def push_users(service: str, credentials: tuple[str, str]) -> None:
    """Push the named users to the service. Raises requests.RequestException.

    Properties go to the webhook of users. Each cohort becomes a snapshot, as after a cohort download.
    """
    session = requests.Session()
    session.trust_env = False
    session.auth = credentials
    users, cohorts = [], defaultdict(list)
    for person in example_people():
        if person.user_id is None:  # pushed and exported data has no users without a user id
            continue
        properties = {name.removeprefix(_PREFIX): value for name, value in person.properties.items()}
        user = {"user_id": person.user_id, "event_time": time.time(), "whole": True, "user_properties": properties}
        users.append(user)
        for cohort_id in person.cohort_ids:
            cohorts[cohort_id].append(person.user_id)
    # Only the commands that the user runs send data to the emulated Braze.
    session.post(
        f"{service}/v1/webhooks/amplitude/users?forward=false", json=users, timeout=_SECONDS
    ).raise_for_status()
    for cohort_id, members in cohorts.items():
        session.put(
            f"{service}/v1/snapshots/{quote(cohort_id, safe='')}",
            data="\n".join(map(json.dumps, members)),
            headers={"Content-Type": "application/x-ndjson"},
            timeout=_SECONDS,
        ).raise_for_status()


def describe_pushes(person: Person) -> str:
    """Return a description of the data that `push_users` pushes about `person`."""
    count = len(person.properties)
    cohorts = f"and is in {' and '.join(person.cohort_ids)}" if person.cohort_ids else "and is in no cohort"
    return f"has {count} {'property' if count == 1 else 'properties'}, {cohorts}"
