"""Plans the changes of staged users, and reports the costs and the limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from proxy.cli.formats import format_count, printable
from proxy.cli.sync.staging import Staging
from proxy.sync.changes import ChangeCounts, ChangePlanner
from proxy.sync.delivery import Change
from proxy.sync.state import SyncState

_LIMITS = {
    "text_cut": "cut to 255 characters",
    "list_cut": "cut to 500 items",
    "name_empty": "the name is empty",
    "name_too_long": "the name is longer than 255 characters",
    "name_invalid": "the name has a dot or $; choose another name with --rename",
    "operation": "Braze would apply an object with only inc, add or remove, and not store it",
    "list_in_list": "Braze does not support a list in a list",
    "key_invalid": "an object has a key that Braze rejects, for example with a space, a dot or $",
    "object_too_large": "the object is larger than 100 KB",
}


def plan(
    staging: Staging,
    state: SyncState,
    *,
    computed: Sequence[str],
    membership: str | None,
    at: float,
    resend_unchanged: bool,
    start_over: bool,
) -> ChangeCounts:
    """Add the changes of all staged users to the staging, and return their counts.

    `computed`: the attributes of computed values. `membership`: the attribute of a cohort that was read completely;
    None if a user outside of the staging may be a member. `at`: the time of the download. `start_over`: ignore the
    values in the state.
    """
    planner = ChangePlanner(state.digest, resend_unchanged=resend_unchanged)

    def departures() -> Iterator[Change | None]:
        former_members: set[str] = set()
        for user_id, accepted in state.users():
            if membership in accepted and user_id not in staging and user_id not in former_members:
                former_members.add(user_id)  # Redis may yield a user twice
                yield planner.departure(user_id, str(membership), accepted, at)

    for page in staging.users(computed):
        accepted = [{}] * len(page) if start_over else state.read([user.user_id for user in page])
        staging.add_changes(planner.change(user, last) for user, last in zip(page, accepted, strict=True))
    if membership is not None and not start_over:
        staging.add_changes(departures())
    return planner.counts


def forecast(users: int, counts: ChangeCounts, batch_objects: int) -> str:
    """Return the line with the costs of a run."""
    requests = math.ceil(counts.users / batch_objects)
    return (
        f"{format_count(users, 'user')}, {format_count(counts.changed, 'changed value')}, "
        f"{format_count(requests, 'request')}, about {format_count(counts.changed, 'data point')}; "
        f"{counts.saved_percent} % saved by sending only changes"
    )


def limit_lines(counts: ChangeCounts) -> Iterator[str]:
    """Yield a line for each kind of values that are changed or left out."""
    for (name, reason), number in sorted(counts.fitted.items()):
        yield f"{printable(name)}: {format_count(number, 'value')} {_LIMITS.get(reason, reason)}"
    for (name, reason), number in sorted(counts.left_out.items()):
        yield f"{printable(name)}: {format_count(number, 'value')} left out: {_LIMITS.get(reason, reason)}"
    if counts.outdated:
        yield (
            f"skipped {format_count(counts.outdated, 'value')}: Braze has a newer value; if this repeats, a clock was "
            "ahead: correct it, and start with another state"
        )
