"""What the simulated messages ask, and how it is asked: of the service, or of Amplitude itself.

What the service says is held to the truth, which is what the sandbox knows: a message is not personalised by an
answer that is wrong.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from proxy.sandbox.people import find
from tests.bench.braze import Ask
from tests.bench.load import Connections

REC_ID = "homepage"
COHORT_ID = "c7"
ALL = ("recommendations", "properties", "cohorts")
"""One tag for each section."""
PUSHABLE = ("properties", "membership")
"""The tags that what Amplitude pushes can answer: all properties, and whether the user is in a cohort that is named."""
_ROUTES = {
    "recommendations": f"recommendations?rec_id={REC_ID}&",
    "properties": "properties?",
    "cohorts": "cohorts?",
    "membership": f"cohorts?cohort_id={COHORT_ID}&",
}
_STRAIGHT = {
    "recommendations": f"get_recs=true&rec_id={REC_ID}",
    "properties": "get_amp_props=true",
    "cohorts": "get_cohort_ids=true",
}
_found = functools.cache(find)


def by_service(connections: Connections) -> Ask:
    """Return how a template with `:retry` asks the service."""

    async def ask(user: str, tag: str) -> int:
        answer = await connections.get(f"/v1/{_ROUTES[tag]}user_id={user}&on_error=retry")
        if answer.status == 200:
            said = json.loads(answer.body)
            if said["ok"] is not True:
                raise AssertionError("a 200 without an answer, though on_error=retry")
            if not _true(user, tag, said):
                raise AssertionError(f"{tag} of {user} are not what Amplitude knows")
        return answer.status

    return ask


def straight(connections: Connections, *, cached: bool) -> Ask:
    """Return how a template asks Amplitude itself, through a plain cache by URL or without one."""
    kept: set[tuple[str, str]] = set()

    async def ask(user: str, tag: str) -> int:
        if cached and (user, tag) in kept:
            return 200
        answer = await connections.get(f"/v1/userprofile?user_id={user}&{_STRAIGHT[tag]}")
        status = 200 if answer.status == 400 else answer.status  # "not seen before" is an answer
        if status == 200:
            kept.add((user, tag))
        return status

    return ask


def _true(user: str, tag: str, said: Mapping[str, Any]) -> bool:
    person = _found(user, None)
    if person is None:
        return said["found"] is False
    match tag:
        case "properties":
            # What was pushed has no prefix; names are settled elsewhere.
            properties = {name.removeprefix("gp:"): value for name, value in said["properties_by_name"].items()}
            known = {name.removeprefix("gp:"): value for name, value in person.properties.items()}
            return properties == known
        case "cohorts":
            return set(said["cohort_ids"]) == set(person.cohort_ids)
        case "membership":
            return said["is_member"] is (COHORT_ID in person.cohort_ids)
    recommended = (person.recommendations or {}).get(REC_ID)
    items: list[str] = recommended["items"] if recommended and not recommended["is_control"] else []
    return bool(items == said["items"])
