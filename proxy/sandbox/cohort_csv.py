"""Formats the members of the sandbox's cohorts as Amplitude's download, with or without their user properties.

Follows amplitude.com/docs/apis/analytics/behavioral-cohorts and published examples of such a file: every cell is
quoted, and a member who has never logged in has a blank `user_id`. These sources do not describe the columns
and cells of properties, so `Documented` has a switch for each point.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from proxy.sandbox.people import Person, example_people, find
from proxy.sandbox.user_data import Documented

_CROWD = 4000
"""The number of numbered users who can be members of a cohort, equal to the recipients of a simulated send."""
_SIZED = re.compile(r"crowd-([1-9][0-9]{0,6})\Z")
_PREFIX = "gp:"
_FIRST_AMPLITUDE_ID = 356_000_000_001


def table(
    cohort_id: str,
    documented: Documented,
    properties: Sequence[str] | None = (),
    *,
    repeated_column: bool = False,
) -> bytes | None:
    """Return the file with a cohort's members; None if the cohort is unknown.

    `properties`: the names of the property columns, with or without `gp:`; None for the properties of all members.
    `crowd-N` has the members `user-1` to `user-N` and an anonymous member. `repeated_column`: the first property has
    two columns, as in a portfolio project with two apps.
    """
    user_ids = list(_members(cohort_id))
    if not user_ids:
        return None
    if properties == ():
        return _csv(
            ("amplitude_id", documented.cohort_column), enumerate(user_ids, start=_FIRST_AMPLITUDE_ID), documented
        )
    people = [find(user_id, None) if user_id else None for user_id in user_ids]
    names = list(dict.fromkeys(_plain(name) for name in (_all_names(people) if properties is None else properties)))
    if repeated_column:
        names = [names[0], *names]
    prefix = _PREFIX if documented.cohort_prefix == "gp" else ""
    header = ("amplitude_id", documented.cohort_column, *(prefix + name for name in names))
    members = enumerate(zip(user_ids, people, strict=True), start=_FIRST_AMPLITUDE_ID)
    rows = ((number, user_id, *_cells(person, names, documented)) for number, (user_id, person) in members)
    if documented.cohort_format == "json":
        return json.dumps([dict(zip(header, row, strict=True)) for row in rows]).encode()
    return _csv(header, rows, documented)


def _csv(header: Iterable[str], rows: Iterable[Iterable[object]], documented: Documented) -> bytes:
    file = io.StringIO()
    all_quoted = documented.cohort_quoting == "all"
    writer = csv.writer(file, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue().encode()


def _plain(name: str) -> str:
    return name.removeprefix(_PREFIX)


def _all_names(people: Iterable[Person | None]) -> Iterator[str]:
    """Yield the names of user properties. Other properties, such as `country`, are not user properties."""
    for person in people:
        yield from (name for name in (person.properties if person else ()) if name.startswith(_PREFIX))


def _cells(person: Person | None, names: Iterable[str], documented: Documented) -> Iterator[str]:
    values = person.properties if person else {}
    for name in names:
        value = values.get(_PREFIX + name, values.get(name))
        yield _text(value) if value is not None else "" if documented.cohort_empty == "blank" else "null"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _members(cohort_id: str) -> Iterator[str]:
    if sized := _SIZED.match(cohort_id):
        yield from (f"user-{number}" for number in range(1, int(sized[1]) + 1))
        yield ""
        return
    yield from (person.user_id or "" for person in example_people() if cohort_id in person.cohort_ids)
    for number in range(1, _CROWD + 1) if re.match(r"c[0-9]", cohort_id) else ():
        person = find(f"user-{number}", None)
        if person and cohort_id in person.cohort_ids:
            yield f"user-{number}"
