"""Formats the members of the sandbox's cohorts as Amplitude's CSV download.

Follows amplitude.com/docs/apis/analytics/behavioral-cohorts and published examples of such a file: every cell is
quoted, and a member who has never logged in has a blank `user_id`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from proxy.sandbox.people import find, named

_CROWD = 2000
"""Number of numbered users that are searched for members of a cohort."""
_SIZED = re.compile(r"crowd-([1-9][0-9]{0,6})\Z")


def table(cohort_id: str) -> bytes | None:
    """Return the CSV of a cohort's members; None if the cohort is unknown.

    `crowd-N` has the members `user-1` to `user-N` and an anonymous member.
    """
    members = list(_members(cohort_id))
    if not members:
        return None
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(("amplitude_id", "user_id"))
    writer.writerows(enumerate(members, start=356_000_000_001))
    return file.getvalue().encode()


def _members(cohort_id: str) -> Iterator[str]:
    if sized := _SIZED.match(cohort_id):
        yield from (f"user-{number}" for number in range(1, int(sized[1]) + 1))
        yield ""
        return
    yield from (person.user_id or "" for person in named() if cohort_id in person.cohort_ids)
    for number in range(1, _CROWD + 1) if re.match(r"c[0-9]", cohort_id) else ():
        person = find(f"user-{number}", None)
        if person and cohort_id in person.cohort_ids:
            yield f"user-{number}"
