"""Describes the operation of the playground."""

from __future__ import annotations

from proxy.api.bodies.playground import Rendering
from proxy.api.bodies.requests import Message
from proxy.api.openapi import examples
from proxy.api.openapi.parameters import security
from proxy.api.openapi.responses import GUARDED, answer, as_json, shared
from proxy.api.openapi.schemas import Schema, ref

EXAMPLE: Message = {
    "template": "{% connected_content https://your-host/v1/properties?user_id={{${user_id} | url_param_escape}}"
    "&keys=first_name,loyalty_points :basic_auth us :save p %}Hi {{ p.properties.first_name | default: 'there' }}!",
    "user_id": "ava",
}
RENDERED: Rendering = {
    "outcome": "sent",
    "good": True,
    "message": "Hi Ava!",
    "reason": "",
    "tags": [
        {
            "line": 1,
            "method": "GET",
            "url": "https://your-host/v1/properties?user_id=ava&keys=first_name,loyalty_points",
            "called": "/v1/properties",
            "saved_as": "p",
            "status": 200,
            "needs_render": False,
            "json": examples.answers("properties")["ava"]["value"],
            "cache_status": "hit; ttl=231",
            "age": 669,
            "calls": 0,
            "ms": 2,
            "exposure": None,
        }
    ],
    "findings": [],
    "answers": [],
    "unknown_values": [],
}


def paths() -> dict[str, Schema]:
    """Return the path of the playground."""
    rendering = {
        "operationId": "renderMessage",
        "tags": ["Playground"],
        "summary": "Render a message as Braze would",
        "description": "Each Connected Content tag calls the data routes of this service, with the credentials of the "
        "caller. The tags make calls to Amplitude and log exposures, as in a sent message. With "
        "`fetch: false`, no call is made. A request from a page of another site gets a 403.",
        "security": security("read"),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ref("Message"), "example": EXAMPLE}},
        },
        "responses": {
            "200": answer(
                "The rendered message, even if Braze would reject it.",
                as_json("Rendering", example=RENDERED),
                ["Cache-Control"],
            ),
            **shared("BadRequest", "ContentTooLarge", "UnsupportedMediaType"),
            **GUARDED,
        },
    }
    return {"/playground/render": {"post": rendering}}
