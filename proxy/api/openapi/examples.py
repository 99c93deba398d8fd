"""Example requests and answers for the demo users Ava and Ben, built by the code of the service."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proxy.api.drop_in import parse_drop_in, shape_drop_in
from proxy.api.errors import BLANK_ID
from proxy.api.parse import parse
from proxy.api.response import shape
from proxy.profile import encoding
from proxy.profile.errors import QuotaExhausted
from proxy.profile.parts import COHORTS, PROPERTIES, Part, Section, computations, prediction, recommendation
from proxy.profile.record import EMPTY, CachedPart, Record

AS_OF = 1_795_000_000

REQUESTS: Mapping[Section | None, Mapping[str, Any]] = {
    "recommendations": {"user_id": "ava", "rec_id": ["homepage"]},
    "properties": {"user_id": "ava", "keys": ["first_name", "loyalty_points"]},
    "cohorts": {"user_id": "ava", "cohort_id": ["vip"]},
    "computations": {"user_id": "ava", "comp_id": ["comp-orders", "comp-spend"]},
    "propensities": {"user_id": "ava", "prediction_id": ["pred-buy"], "propensity_type": "pct"},
    None: {
        "user_id": "ava",
        "include": ["recommendations", "properties", "cohorts"],
        "rec_id": ["homepage"],
        "keys": ["first_name"],
        "cohort_id": ["vip"],
    },
}
"""Example parameters of each route; None is the profile."""

DROP_IN_REQUEST: Mapping[str, Any] = {
    "user_id": "ava",
    "get_recs": True,
    "rec_id": ["homepage"],
    "get_cohort_ids": True,
}

NOT_SEEN_BEFORE = {"error": "User id and device id not seen before"}

_AVA: Mapping[Part, Any] = {
    recommendation("homepage"): {
        "rec_id": "homepage",
        "child_rec_id": "homepage",
        "items": ["trail-shoe", "rain-shell", "head-torch"],
        "is_control": False,
        "recommendation_source": "model",
        "last_updated": 1_763_856_000,
    },
    PROPERTIES: {"gp:first_name": "Ava", "gp:loyalty_points": 420},
    COHORTS: ["vip", "c31"],
    computations(["comp-orders", "comp-spend"]): {"orders": "12", "lifetime_spend": "1849.50"},
    prediction("pred-buy", "pct"): 97,
}
_BEN: Mapping[Part, Any] = {
    recommendation("homepage"): {
        "rec_id": "homepage",
        "child_rec_id": "homepage",
        "items": ["garden-hose", "desk-lamp"],
        "is_control": True,
        "recommendation_source": "random",
        "last_updated": 1_763_856_000,
    },
}


def answers(section: Section | None) -> dict[str, dict[str, Any]]:
    """Return example answers of the route of `section` with status 200, as OpenAPI examples."""
    examples = {"ava": ("A known user", _answer(section, "ava", _record("ava", _AVA)))}
    if section == "recommendations":
        examples["ben"] = ("A user in the control group", _answer(section, "ben", _record("ben", _BEN)))
    examples["unknown"] = ("A user unknown to Amplitude", _answer(section, "stranger", Record(unknown_at=AS_OF)))
    examples["blank"] = ("An anonymous user", _answer(section, "", EMPTY, error=BLANK_ID))
    examples["missing"] = ("Missing data", _answer(section, "ava", EMPTY, error=QuotaExhausted.word))
    return {name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()}


def drop_in_answer() -> dict[str, Any]:
    """Return the answer of the drop-in to its example request."""
    return shape_drop_in(parse_drop_in(as_text(DROP_IN_REQUEST).items()), _record("ava", _AVA))


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Return `values` as text for a URL or form: lists become comma-separated."""
    return {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in values.items()}


def _answer(section: Section | None, user_id: str, record: Record, error: str | None = None) -> dict[str, Any]:
    request = {**REQUESTS[section], "user_id": user_id}
    body: dict[str, Any] = json.loads(shape(parse(section, as_text(request).items()), record, error=error))
    return body


def _record(user_id: str, values: Mapping[Part, Any]) -> Record:
    parts = {part: CachedPart(encoding.write(value), AS_OF) for part, value in values.items()}
    return Record(parts, None, user_id, f"device-{user_id}")
