"""Example requests and answers: Ava and Ben of the sandbox, shaped by the functions that the service uses."""

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

QUESTIONS: Mapping[Section | None, Mapping[str, Any]] = {
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

DROP_IN_QUESTION: Mapping[str, Any] = {
    "user_id": "ava",
    "get_recs": "true",
    "rec_id": ["homepage"],
    "get_cohort_ids": "true",
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
    """Return what the route of `section` may answer with a 200, each as an OpenAPI example."""
    examples = {"ava": ("A known user", _answer(section, "ava", _record("ava", _AVA)))}
    if section == "recommendations":
        examples["ben"] = ("A user of the control group", _answer(section, "ben", _record("ben", _BEN)))
    examples["unknown"] = ("A user whom Amplitude does not know", _answer(section, "nobody", Record(unknown_at=AS_OF)))
    examples["blank"] = ("An anonymous user", _answer(section, "", EMPTY, error=BLANK_ID))
    examples["missing"] = ("No answer in time", _answer(section, "ava", EMPTY, error=QuotaExhausted.word))
    return {name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()}


def drop_in_answer() -> dict[str, Any]:
    """Return what the drop-in answers to its question."""
    return shape_drop_in(parse_drop_in(as_text(DROP_IN_QUESTION).items()), _record("ava", _AVA))


def as_text(question: Mapping[str, Any]) -> dict[str, str]:
    """Return `question` as it goes into a URL or form: lists with commas."""
    return {name: ",".join(value) if isinstance(value, list) else value for name, value in question.items()}


def _answer(section: Section | None, user_id: str, record: Record, error: str | None = None) -> dict[str, Any]:
    question = {**QUESTIONS[section], "user_id": user_id}
    body: dict[str, Any] = json.loads(shape(parse(section, as_text(question).items()), record, error=error))
    return body


def _record(user_id: str, values: Mapping[Part, Any]) -> Record:
    parts = {part: CachedPart(encoding.write(value), AS_OF) for part, value in values.items()}
    return Record(parts, None, user_id, f"device-{user_id}")
