"""Parses request parameters into a `ProfileRequest`: a user and a query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, get_args

from proxy.api.errors import BadRequest
from proxy.api.parameters import DEVICE_ID, USER_ID, Parameter, entries, is_short, parse_identity, word
from proxy.profile.aliases import NO_ALIASES, Aliases
from proxy.profile.parts import SECTIONS, Identity, Section
from proxy.profile.query import OnError, ProfileQuery, ProfileRequest, PropensityType

CACHED_QUERIES = 256
"""Number of cached queries. The requests of a send have different users and the same query."""

ON_ERROR = Parameter(
    "on_error", "the status if data is missing: 200 (`default`) or 500 (`retry`)", words=get_args(OnError)
)
REC_ID = Parameter("rec_id", "the ids of the recommendations", many=True)
REC_TYPE = Parameter(
    "rec_type",
    "`model`, `random` or another type that Amplitude supports; if absent, Amplitude's experiment chooses the type",
)
KEYS = Parameter("keys", "the exact names of the properties; if absent, all properties", many=True, holds_comma=True)
COHORT_ID = Parameter(
    "cohort_id", "the ids of the cohorts; if absent, all of the user's cohorts", many=True, holds_comma=True
)
COMP_ID = Parameter("comp_id", "the ids of the computations; if absent, all of the user's computations", many=True)
PREDICTION_ID = Parameter("prediction_id", "the ids of the predictions", many=True)
PROPENSITY_TYPE = Parameter(
    "propensity_type", "a score from 0 to 1 (`score`) or a percentile (`pct`)", words=get_args(PropensityType)
)
INCLUDE = Parameter("include", "the sections in the answer", many=True, words=SECTIONS)

COMMON = (USER_ID, DEVICE_ID, ON_ERROR)
OF_SECTION: Mapping[Section, tuple[Parameter, ...]] = {
    "recommendations": (REC_ID, REC_TYPE),
    "properties": (KEYS,),
    "cohorts": (COHORT_ID,),
    "computations": (COMP_ID,),
    "propensities": (PREDICTION_ID, PROPENSITY_TYPE),
}


def parameters_of(section: Section | None) -> tuple[Parameter, ...]:
    """Return the parameters of the route of `section`. None: /v1/profile, with those of all sections and `include`."""
    if section is not None:
        return COMMON + OF_SECTION[section]
    return (*COMMON, INCLUDE, *(parameter for of_section in OF_SECTION.values() for parameter in of_section))


LISTS = frozenset(parameter.name for parameter in parameters_of(None) if parameter.many)
"""The names of the parameters that are lists, on every route."""


def parse(section: Section | None, pairs: Iterable[tuple[str, Any]], aliases: Aliases = NO_ALIASES) -> ProfileRequest:
    """Return the parsed request to the route of `section`; None is the profile.

    pairs: names and values from the URL, then from the body, decoded by `pairs_of` or `from_json`.
    Raises BadRequest, whose text has the parameter and the fix, but no value.
    """
    identity, values = parse_identity(_KNOWN[section], pairs)
    query = _query if is_short(values.values()) else _query.__wrapped__
    return ProfileRequest(identity, query(section, tuple(values.items()), aliases))


@lru_cache(CACHED_QUERIES)
def _query(section: Section | None, pairs: tuple[tuple[str, Any], ...], aliases: Aliases) -> ProfileQuery:
    values = dict(pairs)
    on_error: OnError = "retry" if word(values, ON_ERROR) == "retry" else "default"
    if section is not None:
        sections: tuple[Section, ...] = (section,)
    else:
        included = entries(values, INCLUDE)
        if not included:
            raise BadRequest(
                f"include is required; add one or more of {', '.join(SECTIONS)}",
                code="missing_parameter",
                parameter=INCLUDE.name,
            )
        sections = tuple(name for name in SECTIONS if name in included)
    # Parameters of other sections are ignored, even invalid ones.
    relevant = {parameter.name for name in sections for parameter in OF_SECTION[name]}
    values = {name: value for name, value in values.items() if name in relevant}
    query = ProfileQuery(
        sections,
        rec_ids=entries(values, REC_ID),
        rec_type=word(values, REC_TYPE),
        keys=entries(values, KEYS),
        cohort_ids=entries(values, COHORT_ID),
        comp_ids=entries(values, COMP_ID),
        prediction_ids=entries(values, PREDICTION_ID),
        propensity_type="pct" if word(values, PROPENSITY_TYPE) == "pct" else "score",
        on_error=on_error,
        aliases=aliases,
    )
    if "recommendations" in sections and not query.rec_ids:
        raise BadRequest("rec_id is required; add rec_id=<id>", code="missing_parameter", parameter=REC_ID.name)
    if "propensities" in sections and not query.prediction_ids:
        raise BadRequest(
            "prediction_id is required; add prediction_id=<id>", code="missing_parameter", parameter=PREDICTION_ID.name
        )
    return query


_KNOWN = {section: frozenset(parameter.name for parameter in parameters_of(section)) for section in (*SECTIONS, None)}

ID_PARAMETERS = (USER_ID, DEVICE_ID)


def parse_ids(pairs: Iterable[tuple[str, Any]]) -> Identity:
    """Return the ids of a user. Raises BadRequest as `parse` does, and if both ids are blank."""
    identity, _ = parse_identity({parameter.name for parameter in ID_PARAMETERS}, pairs)
    if not any(identity):
        raise BadRequest("user_id and device_id are blank; send at least one of them", code="missing_parameter")
    return identity
