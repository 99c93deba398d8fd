"""Operations of Amplitude's webhooks."""

from __future__ import annotations

from typing import Any

from proxy.api.openapi.parameters import ID, SECURITY
from proxy.api.openapi.responses import answer, as_json, problem, shared
from proxy.api.openapi.schemas import Schema, ref

_MOMENT: Schema = {
    "description": "Unix seconds, as text or as a number. What is older than it could be served is passed over.",
    "anyOf": [
        {"type": "string", "pattern": r"^[1-9][0-9]{0,17}$"},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1e17},
    ],
}
_PROPERTIES: Schema = {
    "type": "object",
    "description": "Names and values, or Amplitude's operators (`$set`, `$unset`; of what the others leave only "
    "Amplitude knows the value).",
}
_SEVERAL: Schema = {"type": ["array", "object"], "description": "Several of them instead."}

SCHEMAS: dict[str, Schema] = {
    "CohortMessage": {
        "type": "object",
        "description": "Amplitude's default payload of a cohort webhook. A user without a readable `user_id` is "
        "counted and passed over; unknown fields are ignored.",
        "properties": {
            "cohort_id": ID,
            "in_cohort": {"description": "Whether the users entered or left.", "enum": [True, False, "true", "false"]},
            "computed_time": _MOMENT,
            "message_id": {"type": "string", "description": "The same message again is passed over."},
            "users": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"user_id": {"type": "string"}, "user_properties": _PROPERTIES},
                },
            },
        },
        "required": ["cohort_id", "in_cohort", "computed_time", "users"],
    },
    "UserMessage": {
        "type": "object",
        "description": "An event as Amplitude exports it, or a user as identified. Unknown fields are ignored.",
        "properties": {
            "user_id": {"type": "string"},
            "user_properties": _PROPERTIES,
            "event_time": {
                "description": "When that was so: an ISO 8601 time, in UTC where it names no zone, or Unix seconds or "
                "milliseconds. Absent: four hours ago, for so long Amplitude tries again."
            },
            "whole": {"description": "`true`: the user has no other properties than these."},
            "message_id": {"type": "string", "description": "Or `uuid`. The same message again is passed over."},
            "users": _SEVERAL,
            "events": _SEVERAL,
            "identification": _SEVERAL,
        },
    },
}

COHORT_EXAMPLE: dict[str, Any] = {
    "cohort_name": "My Test Cohort",
    "cohort_id": "7khm89cz",
    "in_cohort": True,
    "computed_time": "1692206763",
    "message_id": "9baaa88f-9d46-4ee5-a946-be0c6aea0046::enter::0",
    "users": [
        {"user_id": "user_one@example.com", "user_properties": {"name": "John Doe", "country": "US"}},
        {"user_id": "user_two@example.com"},
    ],
}
USER_EXAMPLE: dict[str, Any] = {
    "user_id": "user_one@example.com",
    "event_time": "2023-08-16 17:26:03.123000",
    "event_type": "click event",
    "uuid": "bf0b9b2a-304d-11e6-934f-22000b56058f",
    "user_properties": {"name": "John Doe", "loyalty_points": 420},
}
_TAKEN = {"applied": 2, "skipped": 0, "skipped_by_reason": {}, "unapplied_properties": 0, "duplicate": False}


def cohorts() -> Schema:
    """Return the path of the cohort webhook."""
    return _webhook("Cohorts", "Who entered a cohort, or left it", ref("CohortMessage"), COHORT_EXAMPLE, _TAKEN)


def users() -> Schema:
    """Return the path of the streaming webhook."""
    message = ref("UserMessage")
    messages = {"anyOf": [message, {"type": "array", "items": message}]}
    return _webhook("Users", "Properties of users", messages, USER_EXAMPLE, _TAKEN | {"applied": 1})


def _webhook(name: str, summary: str, schema: Schema, example: Any, taken: Any) -> Schema:
    operation = {
        "operationId": f"postAmplitude{name}",
        "tags": ["Webhooks"],
        "summary": summary,
        "description": "For Amplitude to call, from whatever address: `ALLOWED_NETWORKS` is not asked. What was said "
        "later wins, by its own time, in whatever order it comes and however often. 8 MiB, 50,000 "
        "users and 500,000 values at most, and 64 KiB per user. 500 with `Retry-After` when too many bodies are being "
        "processed, or Redis does not answer.",
        "security": SECURITY,
        "parameters": [ref("RequestId", "parameters")],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
        "responses": {
            "200": answer("Taken, as far as could be.", as_json("Taken", example=taken), ["Cache-Control"]),
            **shared("BadRequest", "Unauthorized", "ContentTooLarge", "UnsupportedMediaType"),
            "500": problem(
                500,
                "Redis not updated",
                "Redis is unavailable, so only one process stored the batch; send the batch again",
                "Retry-After",
            ),
        },
    }
    return {"post": operation}
