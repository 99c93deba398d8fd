"""Operation that the status page calls."""

from __future__ import annotations

from proxy.api.openapi.schemas import MISSING_WORDS, Schema, closed, ref

_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNTS: Schema = {"type": "array", "items": _COUNT}
_TIMES = closed(
    {name: {"type": "array", "items": {"type": ["number", "null"], "minimum": 0}} for name in ("median", "p95")},
    description="In milliseconds; null where nothing was asked.",
)

SCHEMAS: dict[str, Schema] = {
    "Status": closed(
        {
            "findings": {"type": "array", "items": ref("StatusFinding"), "minItems": 1},
            "now": {
                "type": "object",
                "additionalProperties": _COUNT,
                "description": "How things stand, by the names of the gauges in `/metrics` without their prefix.",
            },
            "step_seconds": _COUNT,
            "kept_seconds": _COUNT,
            "hour": closed(
                {
                    "at": {**_COUNTS, "description": "Unix seconds; the other lists have an entry for each of these."},
                    "answers": closed(dict.fromkeys(("hit", "stale", "fetched", "missing"), _COUNTS)),
                    "answer_ms": _TIMES,
                    "call_ms": _TIMES,
                    "calls": _COUNTS,
                    "quota_used": _COUNTS,
                    "backlog": _COUNTS,
                    "errors": {
                        "type": "object",
                        "propertyNames": {"enum": MISSING_WORDS},
                        "additionalProperties": _COUNTS,
                    },
                }
            ),
        }
    ),
    "StatusFinding": closed(
        {
            "level": {"enum": ["good", "warn", "bad"]},
            "what": {"type": "string"},
            "meaning": {"type": "string", "description": "For messages."},
            "fix": {"type": "string", "description": "What to do; empty where there is nothing."},
        }
    ),
}
