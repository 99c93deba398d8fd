"""Who is in the sandbox's cohorts, as the table that Amplitude lets download. Pure.

Written from amplitude.com/docs/apis/analytics/behavioral-cohorts, and from what others have published of such a file:
every cell in quotes, and a blank `user_id` for a member who has never logged in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.sandbox.people import find, named

_CROWD = 2000
"""Of the endless crowd so many are looked at for who is in a cohort."""
_SIZED = re.compile(r"crowd-([1-9][0-9]{0,6})\Z")


def table(cohort_id: str) -> bytes | None:
    """Return the table of a cohort's members; None for a cohort that there is not.

    `crowd-N` is a cohort of `user-1` to `user-N`, with one anonymous member more.
    """
    members = list(_members(cohort_id))
    if not members:
        return None
    rows = [
        '"amplitude_id","user_id"',
        *(f'"{number}","{_quoted(user)}"' for number, user in enumerate(members, start=356_000_000_001)),
    ]
    return "".join(f"{row}\n" for row in rows).encode()


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


def _quoted(text: str) -> str:
    return text.replace('"', '""')
