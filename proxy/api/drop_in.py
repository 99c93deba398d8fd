"""Emulates Amplitude's own endpoint: reads Amplitude's parameters and builds Amplitude's answer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from proxy.api.bodies.answers import UserData
from proxy.api.errors import BadRequest
from proxy.api.parameters import BOOLEANS, DEVICE_ID, USER_ID, Parameter, entries, flag, is_short, parse_identity, word
from proxy.api.parse import CACHED_QUERIES, COMP_ID, PREDICTION_ID, PROPENSITY_TYPE, REC_ID, REC_TYPE
from proxy.profile.aliases import NO_ALIASES, Aliases
from proxy.profile.encoding import part_object, part_value
from proxy.profile.parts import COHORTS, PROPERTIES, SECTIONS, Section
from proxy.profile.query import ProfileQuery, ProfileRequest
from proxy.profile.record import Record

GET_RECS = Parameter("get_recs", "return recommendations; true by default if `rec_id` is present", words=BOOLEANS)
GET_AMP_PROPS = Parameter("get_amp_props", "return user properties", words=BOOLEANS)
GET_COHORT_IDS = Parameter("get_cohort_ids", "return the user's cohorts", words=BOOLEANS)
GET_COMPUTATIONS = Parameter(
    "get_computations",
    "return the computations in `comp_id`, or all if `comp_id` is absent; true by default if `comp_id` is present",
    words=BOOLEANS,
)
GET_PROPENSITY = Parameter("get_propensity", "return the propensities for `prediction_id`", words=BOOLEANS)
DROP_IN = (
    USER_ID,
    DEVICE_ID,
    GET_RECS,
    REC_ID,
    REC_TYPE,
    GET_AMP_PROPS,
    GET_COHORT_IDS,
    GET_COMPUTATIONS,
    COMP_ID,
    GET_PROPENSITY,
    PREDICTION_ID,
    PROPENSITY_TYPE,
)


def parse_drop_in(pairs: Iterable[tuple[str, Any]], aliases: Aliases = NO_ALIASES) -> ProfileRequest:
    """Return the request for Amplitude's own parameters. Raises BadRequest as `parse` does."""
    identity, values = parse_identity(_NAMES, pairs)
    query = _query if is_short(values.values()) else _query.__wrapped__
    return ProfileRequest(identity, query(tuple(values.items()), aliases))


@lru_cache(CACHED_QUERIES)
def _query(pairs: tuple[tuple[str, Any], ...], aliases: Aliases) -> ProfileQuery:
    values = dict(pairs)
    rec_ids, comp_ids, prediction_ids = (entries(values, ids) for ids in (REC_ID, COMP_ID, PREDICTION_ID))
    recommended = flag(values, GET_RECS, default=bool(rec_ids))
    if recommended and not rec_ids:
        raise BadRequest("get_recs requires rec_id; add rec_id=<id>", code="missing_parameter", parameter=REC_ID.name)
    predicted = flag(values, GET_PROPENSITY)
    if predicted and not prediction_ids:
        raise BadRequest(
            "get_propensity requires prediction_id; add prediction_id=<id>",
            code="missing_parameter",
            parameter=PREDICTION_ID.name,
        )
    requested: dict[Section, bool] = {
        "recommendations": recommended,
        "properties": flag(values, GET_AMP_PROPS),
        "cohorts": flag(values, GET_COHORT_IDS),
        "computations": flag(values, GET_COMPUTATIONS, default=bool(comp_ids)),
        "propensities": predicted,
    }
    return ProfileQuery(
        tuple(section for section in SECTIONS if requested[section]),
        rec_ids=rec_ids,
        rec_type=word(values, REC_TYPE),
        comp_ids=comp_ids,
        prediction_ids=prediction_ids,
        propensity_type="pct" if word(values, PROPENSITY_TYPE) == "pct" else "score",
        aliases=aliases,
    )


_NAMES = frozenset(parameter.name for parameter in DROP_IN)


def shape_drop_in(request: ProfileRequest, record: Record) -> dict[str, Any]:
    """Return `{"userData": …}` with Amplitude's own values. Parts that were not requested are null."""
    data: UserData = {
        "recommendations": None,
        "user_id": record.user_id if record.user_id is not None else request.identity.user_id,
        "device_id": record.device_id if record.device_id is not None else request.identity.device_id,
        "amp_props": None,
        "cohort_ids": None,
    }
    query = request.query
    for section in query.sections:
        match section:
            case "recommendations":
                values = [part_value(record, part) for part in query.parts if part.section == section]
                data["recommendations"] = [value for value in values if value is not None] or None
            case "properties":
                data["amp_props"] = part_object(record, PROPERTIES)
            case "cohorts":
                data["cohort_ids"] = part_value(record, COHORTS)
            case "computations":
                computed = part_object(record, query.computations)
                data["amp_props"] = (data["amp_props"] or {}) | computed
            case "propensities":
                predictions = {id: part_value(record, query.prediction(id)) for id in query.prediction_ids}
                data["propensity"] = predictions[query.prediction_ids[0]]
                data["propensities"] = [
                    {"prop": value, "pred_id": id, "prop_type": query.propensity_type}
                    for id, value in predictions.items()
                    if value is not None
                ]
    return {"userData": data}
