"""What the emulated User Profile API says of a person. Pure.

Written from amplitude.com/docs/apis/analytics/user-profile. Where the pages differ or say nothing,
`Documented` has a switch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from proxy.sandbox.people import COMPUTATIONS, Person


@dataclass(frozen=True)
class Documented:
    """How the sandbox reads the documentation where it is silent or differs from page to page."""

    unknown_status: int = 400
    """The status of "User id and device id not seen before"."""
    unasked: Literal["null", "missing"] = "null"
    dormant: Literal["null", "missing", "empty"] = "null"
    credentials: Literal["both", "api-key", "basic"] = "both"
    several_comp_ids: Literal["all", "first"] = "all"
    comp_id_with_get_computations: Literal["one", "all"] = "one"
    prop_type: Literal["as-asked", "score"] = "as-asked"
    retry_after: int | None = None
    """Seconds in the 429's Retry-After header; None sends none."""
    cohort_file: Literal["redirect", "inline"] = "redirect"
    """Whether a cohort is small enough for its file to come at once."""
    cohort_polls: int = 1
    """How often its job is found to be in progress."""


def user_data(person: Person, query: Mapping[str, str], documented: Documented) -> dict[str, Any]:
    """Return the `userData` object that answers `query`."""
    asked = {name for name in query if name.startswith("get_") and query[name] == "true"}
    data: dict[str, Any] = {"user_id": person.user_id, "device_id": person.device_id}
    parts: dict[str, Any] = {"recommendations": None, "amp_props": None, "cohort_ids": None}
    if "get_recs" in asked or "rec_id" in query:
        parts["recommendations"] = _recommendations(person, query, documented)
    if "get_cohort_ids" in asked:
        parts["cohort_ids"] = list(person.cohort_ids)
    if "get_amp_props" in asked:
        parts["amp_props"] = dict(person.properties)
    if "get_computations" in asked or "comp_id" in query:
        parts["amp_props"] = (parts["amp_props"] or {}) | _computations(person, query, asked, documented)
    if "get_propensity" in asked:
        data |= _propensities(person, query, documented)
    if documented.unasked == "missing" or (documented.dormant == "missing" and person.recommendations is None):
        keep_null = set() if documented.unasked == "missing" else {"amp_props", "cohort_ids"}
        parts = {name: value for name, value in parts.items() if value is not None or name in keep_null}
    return {**parts, **data}


def listed(query: Mapping[str, str], name: str) -> list[str]:
    """Return the entries of a comma separated parameter."""
    return [one for one in query.get(name, "").split(",") if one]


def _recommendations(person: Person, query: Mapping[str, str], documented: Documented) -> Any:
    if person.recommendations is None:
        return [] if documented.dormant == "empty" else None
    found = [person.recommendations[one] for one in listed(query, "rec_id") if one in person.recommendations]
    if rec_type := query.get("rec_type"):  # asked for by name, it is outside the experiment
        return [{**one, "is_control": False, "recommendation_source": rec_type} for one in found]
    return found


def _computations(person: Person, query: Mapping[str, str], asked: set[str], documented: Documented) -> dict[str, str]:
    comp_ids = listed(query, "comp_id")
    if documented.several_comp_ids == "first":
        comp_ids = comp_ids[:1]
    every = not comp_ids or ("get_computations" in asked and documented.comp_id_with_get_computations == "all")
    names = set(COMPUTATIONS.values()) if every else {COMPUTATIONS.get(comp_id) for comp_id in comp_ids}
    return {name: value for name, value in person.computations.items() if name in names}


def _propensities(person: Person, query: Mapping[str, str], documented: Documented) -> dict[str, Any]:
    kind = query.get("propensity_type", "score")
    found = [
        {
            "prop": person.propensities[prediction][1 if kind == "pct" else 0],
            "pred_id": prediction,
            "prop_type": kind if documented.prop_type == "as-asked" else "score",
        }
        for prediction in listed(query, "prediction_id")
        if prediction in person.propensities
    ]
    return {"propensity": found[0]["prop"] if found else None, "propensities": found}
