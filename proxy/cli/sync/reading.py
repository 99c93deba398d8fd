"""Reads the values for Braze from cohort downloads, and other values with one call per user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import click

from proxy.amplitude.cohort_export import CohortExport
from proxy.cli.client import ServiceRefused
from proxy.cli.formats import format_count
from proxy.cli.sync.selection import Selection
from proxy.cli.sync.staging import Staging
from proxy.cli.user_file import file_name, read_user_file
from proxy.cli.user_ids import UserIds
from proxy.cli.warmup.audience import Audience, Values
from proxy.cli.warmup.fetching import set_by_signals
from proxy.cli.warmup.progress import progress_report
from proxy.cli.warmup.property_types import TypeCounts
from proxy.cli.warmup.runner import Warmer
from proxy.cli.warmup.staged_cohort import stage_cohort
from proxy.liquid.types import Ask
from proxy.profile.errors import UpstreamRejected
from proxy.profile.text_values import convert_text
from proxy.sync.changes import UserAttributes

CONNECTIONS = 16
_REJECTED_FIX = "correct AMPLITUDE_SECRET_KEY, and AMPLITUDE_API_KEY if it is set"


@dataclass(slots=True)
class ReadResult:
    """The result of reading. `at`: the time of the last download (Unix seconds). `lines`: lines for the summary.

    `computed`: the names of computed values in Amplitude's answers. `unreadable`: the number of skipped lines that may
    name a user. `complete`: whether all rows and columns were read. `failures`: users without an answer, by reason.
    """

    at: float = 0.0
    empty_cohorts: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    computed: dict[str, None] = field(default_factory=dict)
    unreadable: int = 0
    complete: bool = True
    unknown: int = 0
    unanswered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    refused: ServiceRefused | None = None
    stopped: bool = False

    def skipped_lines(self) -> Iterator[str]:
        """Yield a line for each reason to skip users."""
        if self.unknown:
            yield f"skipped {format_count(self.unknown, 'user')}: unknown to Amplitude"
        if self.unanswered:
            yield f"skipped {format_count(self.unanswered, 'user')}: Amplitude's answer is incomplete"
        for reason, number in sorted(self.failures.items()):
            fix = _REJECTED_FIX if reason == UpstreamRejected.word else "run the command again"
            yield f"skipped {format_count(number, 'user')}: no answer ({reason}); {fix}"


def read_file(users: BinaryIO, column: str | None, staging: Staging, result: ReadResult) -> None:
    """Read the user ids of a file. Raises UnreadableFile."""
    ids = UserIds()
    staging.add_users(ids.of(read_user_file(users, column)))
    if not len(staging):
        raise click.ClickException(f"{file_name(users)} has no user ids; check its content")
    result.lines += ids.summary(len(staging))
    result.complete &= not ids.unreadable


def read_cohorts(
    client: CohortExport,
    cohort_ids: Sequence[str],
    selection: Selection,
    text_properties: frozenset[str],
    staging: Staging,
    result: ReadResult,
) -> None:
    """Download cohorts, and read their members with the selected properties. Raises NotDownloaded and DiskFull."""
    types = TypeCounts(text_properties)
    property_names: dict[str, None] = {}
    for cohort_id in cohort_ids:
        with closing(Audience()) as audience:
            result.at, names = _download(client, cohort_id, selection, audience, result)
            property_names.update(dict.fromkeys(names))

            def read_members(names: tuple[str, ...] = names, at: float = result.at) -> Iterator[UserAttributes]:
                for user_id, values in audience.members():  # read before the next cohort
                    yield UserAttributes(user_id, _attributes(selection, names, values, types, text_properties), at)

            staging.add(read_members())
    result.lines += types.lines()
    result.lines += [
        f"property {name!r}: no user has a value; check --properties" for name in property_names if name not in types
    ]


def _download(
    client: CohortExport, cohort_id: str, selection: Selection, audience: Audience, result: ReadResult
) -> tuple[float, tuple[str, ...]]:
    """Download a cohort. Return the time of the request, and the names of the properties in the file."""
    cohort = stage_cohort(client, cohort_id, selection.properties, audience)
    result.lines += cohort.ids.summary(len(audience), "; the last row of each user was used")
    result.lines += [f"property {name!r} is not in the file; correct --properties" for name in cohort.missing]
    result.unreadable += cohort.ids.unreadable
    result.complete &= not (cohort.ids.unreadable or cohort.missing)
    if not len(audience):
        result.empty_cohorts.append(cohort_id)
    return cohort.requested_at, cohort.names


def _attributes(
    selection: Selection,
    names: Sequence[str],
    values: Values,
    types: TypeCounts,
    text_properties: frozenset[str],
) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        if value is not None:
            types.add(name, value)
        attributes[selection.attribute(name)] = convert_text(name, value, text_properties)
    if selection.membership is not None:
        attributes[selection.attribute(selection.membership)] = True
    return attributes


def read_answers(
    ask_functions: Sequence[Ask],
    question: Mapping[str, str],
    per_minute: int,
    selection: Selection,
    staging: Staging,
    result: ReadResult,
    on_failed: Callable[[str, str], None],
) -> None:
    """Fetch the values of every user, until all have an answer or a SIGINT or SIGTERM arrives. Raises DiskFull."""

    names_with_values: set[str] = set()

    def take(user_id: str, body: Mapping[str, Any]) -> None:
        if not body["found"]:
            result.unknown += 1
        elif not body.get("ok") or not isinstance(as_of := body.get("as_of"), int | float):
            result.unanswered += 1
        else:
            attributes = _read_attributes(body, selection, result.computed)
            names_with_values.update(name for name, value in attributes.items() if value not in (None, []))
            staging.merge(user_id, attributes, float(as_of))

    def fail(user_id: str, reason: str) -> None:
        result.failures[reason] += 1
        result.complete = False
        on_failed(user_id, f"no answer: {reason}")

    with progress_report() as report:
        warmer = Warmer(ask_functions, question, per_minute, report=report, on_answer=take, on_failed=fail)
        with set_by_signals(warmer.stop):
            progress = warmer.run(staging.user_ids(), len(staging))
    result.refused = warmer.refused
    result.stopped = bool(progress.remaining) and warmer.refused is None
    answered = len(staging) - result.unknown - result.unanswered - result.failures.total()
    if answered and not progress.remaining:
        result.lines += _lines_without_values(question, selection, names_with_values, len(result.computed))


def _lines_without_values(
    question: Mapping[str, str], selection: Selection, names_with_values: AbstractSet[str], computed: int
) -> Iterator[str]:
    """Yield a line for each name that is probably misspelt, because no answer has a value."""
    if "keys" in question:
        for name in selection.properties:
            if selection.attribute(name) not in names_with_values:
                yield f"property {name!r}: no user has a value; check --properties"
    for rec_id in selection.recommendations:
        if selection.attribute(rec_id) not in names_with_values:
            yield f"recommendation {rec_id!r}: no user has items; check --recommendations"
    if computed < len(selection.computations):
        verb = "has" if computed == 1 else "have"
        yield f"computations: {computed} of {len(selection.computations)} {verb} a value; check --computations"


def _read_attributes(body: Mapping[str, Any], selection: Selection, computed: dict[str, None]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for name in selection.properties if "properties_by_name" in body else ():
        attributes[selection.attribute(name)] = body["properties_by_name"].get(name)
    for name, value in body.get("computations_by_name", {}).items():
        computed.setdefault(name)
        attributes[selection.attribute(name)] = value
    for rec_id in selection.recommendations:
        # The items are empty in the control group, and for a user without recommendations.
        attributes[selection.attribute(rec_id)] = body["recommendations_by_id"][rec_id]["items"]
    return attributes
