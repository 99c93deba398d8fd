"""Defines the parts of a profile, which are fetched and cached separately."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

Section = Literal["recommendations", "properties", "cohorts", "computations", "propensities"]

SECTIONS: tuple[Section, ...] = get_args(Section)


class Identity(NamedTuple):
    """The pair of ids that identifies a record, as requested: trimmed, and None if blank."""

    user_id: str | None
    device_id: str | None


class Part(NamedTuple):
    """The smallest unit that is fetched and cached. The meaning of `id` and `type` depends on the section."""

    section: Section
    id: str = ""
    type: str | None = None


PROPERTIES = Part("properties")

COHORTS = Part("cohorts")


def recommendation(rec_id: str, rec_type: str | None = None) -> Part:
    """Return the part of one `rec_id` and one type. Without `rec_type`, Amplitude's experiment chooses the type."""
    return Part("recommendations", rec_id, rec_type)


def computations(comp_ids: Iterable[str] = ()) -> Part:
    """Return the part of exactly this set of ids, in any order; without ids, the part of all computations.

    Amplitude's answers do not contain the `comp_id`, so a set of computations cannot answer a request for another set.
    """
    return Part("computations", ",".join(sorted(comp_ids)))


def prediction(prediction_id: str, propensity_type: str = "score") -> Part:
    """Return the part of one prediction, as a score or as a percentile (`pct`)."""
    return Part("propensities", prediction_id, propensity_type)
