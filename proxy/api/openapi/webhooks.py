"""Describes the operations of Amplitude's webhooks."""

from __future__ import annotations

from typing import Any

from proxy.api.openapi.parameters import ID, security
from proxy.api.openapi.responses import answer, as_json, problem, shared
from proxy.api.openapi.schemas import Schema, ref

_TIME: Schema = {
    "description": "Unix seconds, as a string or a number. Updates older than the cache lifetime are skipped.",
    "anyOf": [
        {"type": "string", "pattern": r"^[1-9][0-9]{0,17}$"},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1e17},
    ],
}
_PROPERTIES: Schema = {
    "type": "object",
    "description": "Names and values, or Amplitude's operators `$set` and `$unset`. For properties with other "
    "operators, only Amplitude knows the result, so the service fetches them again.",
}
_BATCH: Schema = {"type": ["array", "object"], "description": "A batch of messages."}

SCHEMAS: dict[str, Schema] = {
    "CohortMessage": {
        "type": "object",
        "description": "Amplitude's default payload of a cohort webhook. Users without a valid `user_id` are skipped "
        "and counted. Unknown fields are ignored.",
        "properties": {
            "cohort_id": ID,
            "in_cohort": {
                "description": "True if the users entered the cohort, false if they left it.",
                "enum": [True, False, "true", "false"],
            },
            "computed_time": _TIME,
            "message_id": {
                "type": "string",
                "description": "A message with an id that was already applied is skipped.",
            },
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
        "description": "An event in Amplitude's export format, or properties of a user. Unknown fields are ignored.",
        "properties": {
            "user_id": {"type": "string"},
            "user_properties": _PROPERTIES,
            "event_time": {
                "description": "The time of the properties: ISO 8601 (UTC if without a zone), Unix seconds or "
                "milliseconds. The default is four hours ago, because Amplitude retries for four hours."
            },
            "whole": {"description": "`true` if the user has no other properties."},
            "message_id": {
                "type": "string",
                "description": "Id of the message. `uuid` is accepted too. A message with an id that was already "
                "applied is skipped.",
            },
            "users": _BATCH,
            "events": _BATCH,
            "identification": _BATCH,
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
_RESULT = {"applied": 2, "skipped": 0, "skipped_by_reason": {}, "unapplied_properties": 0, "duplicate": False}


def cohorts() -> Schema:
    """Return the path of the cohort webhook."""
    return _webhook("Cohorts", "Users who entered or left a cohort", ref("CohortMessage"), COHORT_EXAMPLE, _RESULT)


def users() -> Schema:
    """Return the path of the streaming webhook."""
    message = ref("UserMessage")
    messages = {"anyOf": [message, {"type": "array", "items": message}]}
    return _webhook("Users", "Properties of users", messages, USER_EXAMPLE, _RESULT | {"applied": 1})


def _webhook(name: str, summary: str, schema: Schema, example: Any, result: Any) -> Schema:
    operation = {
        "operationId": f"postAmplitude{name}",
        "tags": ["Webhooks"],
        "summary": summary,
        "description": "Amplitude calls this route, from any address: `ALLOWED_NETWORKS` does not apply. The update "
        "with the latest time takes precedence, whatever the order of arrival. A body has at most 8 MiB, 50,000 users, "
        "500,000 values, and 64 KiB per user. The status is 500 with `Retry-After` if too many batches are being "
        "processed, or if Redis does not answer.",
        "security": security("push"),
        "parameters": [ref("RequestId", "parameters")],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
        "responses": {
            "200": answer(
                "The valid updates are stored. The others are skipped and counted.",
                as_json("WebhookResult", example=result),
                ["Cache-Control"],
            ),
            **shared("BadRequest", "Unauthorized", "Forbidden", "ContentTooLarge", "UnsupportedMediaType"),
            "500": problem(
                500,
                "Redis not updated",
                "Redis is unavailable, so only one process stored the batch; send the batch again",
                "Retry-After",
                code="internal",
            ),
        },
    }
    return {"post": operation}
