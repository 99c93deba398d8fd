"""Describes the operations of Amplitude's webhooks."""

from __future__ import annotations

from typing import Any

from proxy.api.bodies.changes import WebhookResult
from proxy.api.bodies.requests import CohortMessage, UserMessage
from proxy.api.openapi.parameters import security
from proxy.api.openapi.responses import GUARDED, answer, as_json, problem, shared
from proxy.api.openapi.schemas import Schema, ref

COHORT_EXAMPLE: CohortMessage = {
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
USER_EXAMPLE: UserMessage = {
    "user_id": "user_one@example.com",
    "event_time": "2023-08-16 17:26:03.123000",
    "event_type": "click event",
    "uuid": "bf0b9b2a-304d-11e6-934f-22000b56058f",
    "user_properties": {"name": "John Doe", "loyalty_points": 420},
}
_RESULT: WebhookResult = {
    "applied": 2,
    "skipped": 0,
    "skipped_by_reason": {},
    "unapplied_properties": 0,
    "duplicate": False,
}
_FORWARD: Schema = {
    "name": "forward",
    "in": "query",
    "description": "With `false`, the service stores the properties and forwards nothing to Braze.",
    "schema": {"type": "boolean", "default": True},
}


def paths() -> dict[str, Schema]:
    """Return the paths of both webhooks."""
    message = ref("UserMessage")
    messages = {"anyOf": [message, {"type": "array", "items": message}]}
    about_cohorts, about_users = "Users who entered or left a cohort", "Properties of users"
    users = _webhook("Users", about_users, messages, USER_EXAMPLE, _RESULT | {"applied": 1})
    users["post"]["parameters"].append(_FORWARD)
    users["post"]["responses"]["503"] = problem(
        503,
        "Not delivered to Braze",
        "Braze has not accepted all objects; send the message again (the status page shows the reason)",
        "Retry-After",
        code="not_delivered",
    )
    return {
        "/v1/webhooks/amplitude/cohorts": _webhook(
            "Cohorts", about_cohorts, ref("CohortMessage"), COHORT_EXAMPLE, _RESULT
        ),
        "/v1/webhooks/amplitude/users": users,
    }


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
            **shared("BadRequest", "ContentTooLarge", "UnsupportedMediaType"),
            **GUARDED,
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
