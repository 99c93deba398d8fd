"""Lists the keys and types of every answer, independently of the code."""

from __future__ import annotations

from typing import Any

from proxy.profile.parts import Section

RECOMMENDATION = {
    "items": [str],
    "personalized": bool,
    "is_control": bool,
    "control_items": [str],
    "rec_id": str,
    "source": (str, None),
    "last_updated": (int, None),
}
ENTRY = RECOMMENDATION | {"child_rec_id": (str, None)}
PROPENSITY = {"prediction_id": str, "value": (float, None), "type": str}
ENVELOPE = {
    "ok": bool,
    "found": bool,
    "error": (str, None),
    "stale": bool,
    "as_of": (int, None),
    "user_id": (str, None),
    "device_id": (str, None),
}
SECTION: dict[Section, dict[str, Any]] = {
    "recommendations": RECOMMENDATION | {"recommendations": [ENTRY], "recommendations_by_id": {str: ENTRY}},
    "properties": {"properties": dict, "properties_by_name": dict},
    "computations": {"computations": dict, "computations_by_name": dict},
    "propensities": {
        "propensity": (float, None),
        "propensities": [PROPENSITY],
        "propensities_by_id": {str: PROPENSITY},
    },
    "cohorts": {"cohort_ids": [str], "member": {str: bool}, "is_member": bool},
}


def conforms(value: Any, expected: Any) -> bool:
    """Return whether `value` has the type `expected`."""
    match expected:
        case tuple():
            return value is None or conforms(value, expected[0])
        case list():
            return isinstance(value, list) and all(conforms(entry, expected[0]) for entry in value)
        case dict() if str in expected:
            return isinstance(value, dict) and all(conforms(entry, expected[str]) for entry in value.values())
        case dict():
            return (
                isinstance(value, dict)
                and value.keys() == expected.keys()
                and all(conforms(value[key], kind) for key, kind in expected.items())
            )
    if expected in (int, float):
        return isinstance(value, int | expected) and not isinstance(value, bool)
    return isinstance(value, expected)
