"""Parses request parameters into a `ProfileRequest`: a query and the user it is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, get_args

from proxy.api.errors import BadRequest
from proxy.api.parameters import DEVICE_ID, USER_ID, Parameter, entries, identified, is_short, word
from proxy.profile.aliases import NO_ALIASES, Aliases
from proxy.profile.parts import SECTIONS, Identity, Section
from proxy.profile.query import OnError, ProfileQuery, ProfileRequest, PropensityType

CACHED_QUERIES = 256
"""How many queries are cached: in a send the users differ, and the query does not."""

ON_ERROR = Parameter("on_error", "what to answer when something is missing", words=get_args(OnError))
REC_ID = Parameter("rec_id", "the recommendations to show", many=True)
REC_TYPE = Parameter("rec_type", "`model`, `random`, or any word Amplitude comes to know; absent obeys the experiment")
KEYS = Parameter("keys", "only the properties of these exact names", many=True, holds_comma=True)
COHORT_ID = Parameter("cohort_id", "speak only of these cohorts", many=True, holds_comma=True)
COMP_ID = Parameter("comp_id", "only these computations; without it, all of the user's", many=True)
PREDICTION_ID = Parameter("prediction_id", "the predictions whose propensities to answer", many=True)
PROPENSITY_TYPE = Parameter("propensity_type", "a score from 0 to 1, or a percentile", words=get_args(PropensityType))
INCLUDE = Parameter("include", "the sections to answer", many=True, words=SECTIONS)

COMMON = (USER_ID, DEVICE_ID, ON_ERROR)
OF_SECTION: Mapping[Section, tuple[Parameter, ...]] = {
    "recommendations": (REC_ID, REC_TYPE),
    "properties": (KEYS,),
    "cohorts": (COHORT_ID,),
    "computations": (COMP_ID,),
    "propensities": (PREDICTION_ID, PROPENSITY_TYPE),
}


def parameters_of(section: Section | None) -> tuple[Parameter, ...]:
    """Return the parameters of a route: those of its section, or all and `include` for the profile (None)."""
    if section is not None:
        return COMMON + OF_SECTION[section]
    return (*COMMON, INCLUDE, *(parameter for of_section in OF_SECTION.values() for parameter in of_section))


def parse(section: Section | None, pairs: Iterable[tuple[str, Any]], aliases: Aliases = NO_ALIASES) -> ProfileRequest:
    """Return the request that a caller sent to the route of `section` (None: the profile).

    pairs: names and values as sent, repeats included; text from a URL or form, or the result of `from_json`.
    Raises BadRequest, whose text names the parameter and the fix and repeats no value.
    """
    identity, values = identified(_KNOWN[section], pairs)
    query = _query if is_short(values.values()) else _query.__wrapped__
    return ProfileRequest(identity, query(section, tuple(values.items()), aliases))


@lru_cache(CACHED_QUERIES)
def _query(section: Section | None, sent: tuple[tuple[str, Any], ...], aliases: Aliases) -> ProfileQuery:
    values = dict(sent)
    on_error: OnError = "retry" if word(values, ON_ERROR) == "retry" else "default"
    if section is not None:
        sections: tuple[Section, ...] = (section,)
    else:
        included = entries(values, INCLUDE)
        if not included:
            raise BadRequest(f"include is missing: name one or more of {', '.join(SECTIONS)}")
        sections = tuple(name for name in SECTIONS if name in included)
    # A parameter of another section is ignored, whether it is valid or not.
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
        raise BadRequest("rec_id is missing: name one or more recommendations, e.g. rec_id=abc123")
    if "propensities" in sections and not query.prediction_ids:
        raise BadRequest("prediction_id is missing: name one or more predictions, e.g. prediction_id=abc123")
    return query


_KNOWN = {section: frozenset(parameter.name for parameter in parameters_of(section)) for section in (*SECTIONS, None)}

FORGETTING = (USER_ID, DEVICE_ID)


def parse_forgetting(pairs: Iterable[tuple[str, Any]]) -> Identity:
    """Return the ids to forget, at least one. Raises BadRequest as `parse` does."""
    identity, _ = identified({parameter.name for parameter in FORGETTING}, pairs)
    if not any(identity):
        raise BadRequest("no user: every id is blank, and nothing is kept about an anonymous user")
    return identity
