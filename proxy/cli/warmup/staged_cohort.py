"""Downloads a cohort, and stages its members with their properties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from proxy.amplitude.cohort_export import CohortExport
from proxy.amplitude.cohort_file import CohortFile
from proxy.cli.user_ids import UserIds
from proxy.cli.warmup.audience import Audience


class StagedCohort(NamedTuple):
    """A downloaded cohort. `requested_at`: the time of the request (Unix seconds)."""

    requested_at: float
    ids: UserIds
    names: tuple[str, ...]
    """The properties in the file."""
    missing: tuple[str, ...]
    """The requested properties that the file does not have."""


def stage_cohort(
    client: CohortExport, cohort_id: str, properties: Sequence[str] | None, audience: Audience
) -> StagedCohort:
    """Replace the users in `audience` by the members of a cohort. Raises NotDownloaded and DiskFull.

    `properties`: as for `CohortExport.download`.
    """
    ids = UserIds()
    names: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def stage(file: CohortFile) -> None:
        nonlocal names, missing
        names, missing = file.names, file.missing
        ids.restart()
        audience.clear()
        audience.replace((row.user_id, values) for row, values in file.rows if ids.accepts(row))

    requested_at = client.download(cohort_id, stage, properties)
    return StagedCohort(requested_at, ids, names, missing)
