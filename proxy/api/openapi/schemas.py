"""JSON Schemas of bodies, closed where the contract fixes the keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.api.errors import BLANK_ID
from proxy.profile.errors import UpstreamError
from proxy.profile.parts import SECTIONS, Section

Schema = dict[str, Any]

MISSING_WORDS = [kind.word for kind in UpstreamError.__subclasses__()]
"""The error words that `on_error=retry` can meet: why Amplitude's answer is not there."""


def ref(name: str, kind: str = "schemas") -> Schema:
    """Return a reference to one of the document's components."""
    return {"$ref": f"#/components/{kind}/{name}"}


def closed(properties: Mapping[str, Schema], *, optional: tuple[str, ...] = (), **more: Any) -> Schema:
    """Return an object with these keys and no other, all of them there but the `optional` ones."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
        **more,
    }


def _of(kind: str, description: str = "", *, null: bool = False, **more: Any) -> Schema:
    told = {"description": description} if description else {}
    return {"type": [kind, "null"] if null else kind, **told, **more}


def _list(description: str, items: Schema) -> Schema:
    return _of("array", description, items=items)


def _keyed(description: str, values: Schema) -> Schema:
    return _of("object", description, additionalProperties=values)


_STRING = _of("string")
_LIQUID_SAFE = {"pattern": "^[A-Za-z_][A-Za-z0-9_-]*$"}

ENVELOPE: Mapping[str, Schema] = {
    "ok": _of("boolean", "Every part that was asked is answered, fresh or stale."),
    "found": _of("boolean", "Amplitude knows this user."),
    "error": {
        "description": "Null when `ok`; else why the first missing part is missing. Others are filled all the same.",
        "enum": [None, BLANK_ID, *MISSING_WORDS],
    },
    "stale": _of("boolean", "Some part is older than its freshness lifetime."),
    "as_of": _of("integer", "When Amplitude said so (the oldest part's), in Unix seconds.", null=True),
    "user_id": _of("string", "As Amplitude returned it, else as asked.", null=True),
    "device_id": _of("string", "As Amplitude returned it, else as asked.", null=True),
}

_RECOMMENDATION: Mapping[str, Schema] = {
    "items": _list("The items to show; empty when there are none, and for the control group.", _STRING),
    "personalized": _of("boolean", "`items` is not empty."),
    "is_control": _of("boolean", "The user is in the control group: show the default."),
    "control_items": _list("What Amplitude sent for a user of the control group: not to be shown.", _STRING),
    "rec_id": _STRING,
    "source": _of("string", "Amplitude's `recommendation_source`.", null=True),
    "last_updated": _of("integer", "Unix seconds.", null=True),
}

OF_SECTION: Mapping[Section, Mapping[str, Schema]] = {
    "recommendations": {
        **_RECOMMENDATION,
        "recommendations": _list("One entry per `rec_id`, in the order asked.", ref("Recommendation")),
        "recommendations_by_id": _keyed("The same entries by `rec_id`.", ref("Recommendation")),
    },
    "properties": {
        "properties": _of("object", "By Liquid-safe name.", propertyNames=_LIQUID_SAFE),
        "properties_by_name": _of("object", "By exact name, or as called in `keys`."),
    },
    "cohorts": {
        "cohort_ids": _list("The user's cohorts, of those asked.", _STRING),
        "member": _keyed("Cohort id to whether the user is in it.", _of("boolean")),
        "is_member": _of("boolean", "In every asked `cohort_id`; false when none was asked."),
    },
    "computations": {
        "computations": _of("object", "By Liquid-safe name; decimals are numbers.", propertyNames=_LIQUID_SAFE),
        "computations_by_name": _of("object", "By Amplitude's exact name."),
    },
    "propensities": {
        "propensity": _of("number", "The first asked prediction's.", null=True),
        "propensities": _list("One entry per `prediction_id`, in the order asked.", ref("Propensity")),
        "propensities_by_id": _keyed("The same entries by `prediction_id`.", ref("Propensity")),
    },
}

_AMPLITUDES_RECOMMENDATION: Schema = {
    "type": "object",
    "description": "As Amplitude sent it.",
    "properties": {
        "rec_id": _STRING,
        "child_rec_id": _of("string", null=True),
        "items": _list("", _STRING),
        "is_control": _of("boolean"),
        "recommendation_source": _of("string", null=True),
        "last_updated": _of("integer", null=True),
    },
}

_PROBLEM: Mapping[str, Schema] = {
    "type": {"const": "about:blank"},
    "title": _STRING,
    "status": _of("integer"),
    "detail": _of("string", "The fault and the mend; never an id or a secret."),
}


def answer_name(section: Section | None) -> str:
    """Return the component's name for the answers of `section`; None is the profile."""
    return f"{(section or 'profile').capitalize()}Answer"


def components() -> dict[str, Schema]:
    """Return every schema that the document refers to, by name."""
    answers = {answer_name(section): closed({**ENVELOPE, **OF_SECTION[section]}) for section in SECTIONS}
    of_sections = {name: schema for section in SECTIONS for name, schema in OF_SECTION[section].items()}
    profile = closed(
        {**ENVELOPE, **of_sections},
        optional=tuple(of_sections),
        description="The envelope, and all keys of each section that `include` names.",
        # A section is there whole or not at all.
        dependentRequired={
            name: [other for other in OF_SECTION[section] if other != name]
            for section in SECTIONS
            for name in OF_SECTION[section]
            if len(OF_SECTION[section]) > 1
        },
    )
    return {
        **answers,
        answer_name(None): profile,
        "Recommendation": closed({**_RECOMMENDATION, "child_rec_id": _of("string", null=True)}),
        "Propensity": closed(
            {
                "prediction_id": _STRING,
                "value": _of("number", "Null when Amplitude has none.", null=True),
                "type": {"enum": ["score", "pct"]},
            }
        ),
        "UserProfile": closed({"userData": ref("UserData")}),
        "UserData": closed(
            {
                "recommendations": _of("array", null=True, items=_AMPLITUDES_RECOMMENDATION),
                "user_id": _of("string", null=True),
                "device_id": _of("string", null=True),
                "amp_props": _of("object", "Properties and computations, merged.", null=True),
                "cohort_ids": _of("array", null=True, items=_STRING),
                "propensity": _of("number", "The first asked prediction's; only when asked.", null=True),
                "propensities": _list("Only when asked.", ref("AmplitudesPropensity")),
            },
            optional=("propensity", "propensities"),
            description="What Amplitude's own endpoint answers; parts not asked for are null.",
        ),
        "AmplitudesPropensity": closed(
            {"prop": _of("number"), "pred_id": _STRING, "prop_type": {"enum": ["score", "pct"]}}
        ),
        "NotSeenBefore": closed({"error": {"const": "User id and device id not seen before"}}),
        "NoAnswer": closed({"error": {"enum": MISSING_WORDS}}),
        "Problem": closed(_PROBLEM, description="RFC 9457."),
        "TryAgain": closed(
            {**_PROBLEM, "ok": {"const": False}, "error": {"enum": MISSING_WORDS}},
            description="RFC 9457, with the error word that a 200 would have had.",
        ),
        "Forgotten": closed(
            {
                "records": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "How many pairs something was kept about, in the process asked or in Redis.",
                },
                "waiting": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "How many of them waited for a call in the process asked.",
                },
            }
        ),
        "Health": closed({"status": {"const": "ok"}}),
        "Readiness": _readiness("ok", "degraded"),
        "Unready": _readiness("unavailable", "draining"),
    }


def _readiness(*statuses: str) -> Schema:
    return closed(
        {
            "status": {"enum": list(statuses)},
            "upstream": {"enum": ["ok", "unknown", "rejected", "failing", "invalid"]},
            "quota": {"enum": ["ok", "spent"]},
            "redis": {"enum": ["ok", "gone"]},
        },
        optional=("redis",),
    )
