"""Describes the operation for Braze Currents."""

from __future__ import annotations

from proxy.api.bodies.changes import CurrentsResult
from proxy.api.bodies.requests import CurrentsMessage
from proxy.api.openapi.parameters import security
from proxy.api.openapi.responses import GUARDED, answer, as_json, problem, shared
from proxy.api.openapi.schemas import Schema, ref

EXAMPLE: CurrentsMessage = {
    "events": [
        {
            "event_type": "users.messages.email.Open",
            "id": "f47ac10b-58cc-4372-a567-0e02b2c3d479",
            "time": 1767225600,
            "user": {
                "user_id": "639a35d192b0df004d06514c",
                "external_user_id": "user_one@example.com",
                "device_id": "device-1",
                "timezone": "America/New_York",
            },
            "properties": {"campaign_name": "Spring sale", "machine_open": "false"},
        }
    ]
}
_RESULT: CurrentsResult = {"accepted": 1, "skipped": 0, "skipped_by_reason": {}, "repeated": 0}


def paths() -> dict[str, Schema]:
    """Return the path of the relay."""
    return {"/v1/webhooks/braze/currents": {"post": _relay()}}


def _relay() -> Schema:
    content = {"application/json": {"schema": ref("CurrentsMessage"), "example": EXAMPLE}}
    return {
        "operationId": "postBrazeCurrents",
        "tags": ["Webhooks"],
        "summary": "Events of Braze Currents, for Amplitude",
        "description": "Braze's custom HTTP connector calls this route, from any address: `ALLOWED_NETWORKS` does not "
        "apply. The service sends the events to Amplitude's Batch API, and answers when Amplitude has accepted them. "
        "Braze sends an empty body to test the connection. A body has at most 8 MiB, 50,000 events, 500,000 values and "
        "1,048,576 characters per event. The body may be compressed with gzip. The status is 503 with `Retry-After` if "
        "Amplitude does not accept the events, if too many batches are being sent, or if `AMPLITUDE_API_KEY` is not "
        "set. Braze then sends the events again.",
        "security": security("push"),
        "parameters": [ref("RequestId", "parameters")],
        "requestBody": {"required": False, "content": content},
        "responses": {
            "200": answer(
                "Amplitude has accepted the events. Events that Amplitude can never accept are skipped and counted.",
                as_json("CurrentsResult", example=_RESULT),
                ["Cache-Control"],
            ),
            **shared("BadRequest", "ContentTooLarge"),
            **GUARDED,
            "503": problem(
                503,
                "Service Unavailable",
                "Amplitude has not accepted all events; send the batch again",
                "Retry-After",
                code="not_delivered",
            ),
        },
    }
