"""Builds the answers of the emulated User Profile API.

Follows amplitude.com/docs/apis/analytics/user-profile. `Documented` has a switch for each point on which the
pages contradict each other or are silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from proxy.sandbox.people import COMPUTATIONS, Person


@dataclass(frozen=True)
class Documented:
    """Interpretation of the documentation where the pages are silent or contradict each other."""

    unknown_status: int = 400
    """Status of "User id and device id not seen before"."""
    unasked: Literal["null", "missing"] = "null"
    """The form of parts that were not requested."""
    dormant: Literal["null", "missing", "empty"] = "null"
    """The form of the recommendations of a user who has been inactive for 90 days."""
    credentials: Literal["both", "api-key", "basic"] = "both"
    retry_after: int | None = None
    """Seconds in the Retry-After header of a 429; None sends no header."""
    cohort_file: Literal["redirect", "inline"] = "redirect"
    """Whether the file of a cohort is sent directly, as for small cohorts, or after a redirect."""
    cohort_polls: int = 1
    """Number of polls that report a job as in progress."""
    cohort_column: Literal["user_id", "User ID", "userId", "userID"] = "user_id"
    """The header of the column with the user ids in the file of a cohort."""
    cohort_prefix: Literal["none", "gp"] = "none"
    """Whether the names of property columns begin with `gp:`."""
    cohort_quoting: Literal["all", "minimal"] = "all"
    """Whether all cells are quoted, or only those that need quotes."""
    cohort_empty: Literal["blank", "null"] = "blank"
    """The cell of a property that the member does not have."""
    cohort_format: Literal["csv", "json"] = "csv"
    """The format of a file with properties."""
    cohort_gzip: Literal["no", "yes"] = "no"
    """Whether the file of a cohort is compressed."""


def user_data(person: Person, query: Mapping[str, str], documented: Documented) -> dict[str, Any]:
    """Return the `userData` object that answers `query`."""
    requested = {name for name in query if name.startswith("get_") and query[name] == "true"}
    data: dict[str, Any] = {"user_id": person.user_id, "device_id": person.device_id}
    parts: dict[str, Any] = {"recommendations": None, "amp_props": None, "cohort_ids": None}
    if "get_recs" in requested or "rec_id" in query:
        parts["recommendations"] = _recommendations(person, query, documented)
    if "get_cohort_ids" in requested:
        parts["cohort_ids"] = list(person.cohort_ids)
    if "get_amp_props" in requested:
        parts["amp_props"] = dict(person.properties)
    if "get_computations" in requested or "comp_id" in query:
        parts["amp_props"] = (parts["amp_props"] or {}) | _computations(person, query)
    if "get_propensity" in requested:
        data |= _propensities(person, query)
    if documented.unasked == "missing" or (documented.dormant == "missing" and person.recommendations is None):
        keep_null = set() if documented.unasked == "missing" else {"amp_props", "cohort_ids"}
        parts = {name: value for name, value in parts.items() if value is not None or name in keep_null}
    return {**parts, **data}


def split_parameter(query: Mapping[str, str], name: str) -> list[str]:
    """Return the entries of a comma-separated parameter."""
    return [entry for entry in query.get(name, "").split(",") if entry]


def _recommendations(person: Person, query: Mapping[str, str], documented: Documented) -> Any:
    if person.recommendations is None:
        return [] if documented.dormant == "empty" else None
    recommendations = [
        person.recommendations[rec_id]
        for rec_id in split_parameter(query, "rec_id")
        if rec_id in person.recommendations
    ]
    if rec_type := query.get("rec_type"):  # a recommendation by type is outside the experiment
        return [{**entry, "is_control": False, "recommendation_source": rec_type} for entry in recommendations]
    return recommendations


def _computations(person: Person, query: Mapping[str, str]) -> dict[str, str]:
    comp_ids = split_parameter(query, "comp_id") or COMPUTATIONS
    names = {COMPUTATIONS.get(comp_id) for comp_id in comp_ids}
    return {name: value for name, value in person.computations.items() if name in names}


def _propensities(person: Person, query: Mapping[str, str]) -> dict[str, Any]:
    kind = query.get("propensity_type", "score")
    propensities = [
        {
            "prop": person.propensities[prediction][1 if kind == "pct" else 0],
            "pred_id": prediction,
            "prop_type": kind,
        }
        for prediction in split_parameter(query, "prediction_id")
        if prediction in person.propensities
    ]
    return {"propensity": propensities[0]["prop"] if propensities else None, "propensities": propensities}
