"""Operations of the playground."""

from __future__ import annotations

from typing import Any

from proxy.api.openapi import examples
from proxy.api.openapi.parameters import SECURITY
from proxy.api.openapi.responses import answer, as_json
from proxy.api.openapi.schemas import Schema, closed, ref

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_LINE: Schema = {"type": "integer", "minimum": 1, "description": "Of the message, counted from 1."}

SCHEMAS: dict[str, Schema] = {
    "Message": {
        "type": "object",
        "properties": {
            "template": {"type": "string", "description": "The message as it is written in Braze."},
            "user_id": {"type": "string", "default": "", "description": "Who it is rendered for; blank: anonymous."},
            "device_id": {"type": "string", "default": ""},
        },
        "required": ["template"],
    },
    "Rendering": closed(
        {
            "outcome": {
                "enum": ["sent", "aborted", "retried", "refused"],
                "description": "What Braze would do: send `message`; abort, for `reason`; try again later, since a "
                "call with `:retry` failed; refuse the message, for `reason`.",
            },
            "message": _TEXT,
            "reason": _TEXT,
            "tags": {"type": "array", "items": ref("TagCall")},
            "findings": {"type": "array", "items": ref("Finding")},
        }
    ),
    "TagCall": closed(
        {
            "line": _LINE,
            "method": _TEXT,
            "url": {"type": "string", "description": "As rendered; its host is not looked at."},
            "called": {"type": ["string", "null"], "description": "The data route; null when the URL names none."},
            "saved_as": _TEXT_OR_NULL,
            "status": {"type": ["integer", "null"], "description": "Null when nothing was called."},
            "json": {"description": "The answer; text when it is not JSON."},
            "cache_status": _TEXT_OR_NULL,
            "age": {"type": ["integer", "null"], "minimum": 0},
            "calls": {**_COUNT, "description": "To Amplitude, sent or joined."},
            "ms": _COUNT,
            "exposure": {"type": ["string", "null"], "description": "Null where no recommendation was asked for."},
        }
    ),
    "Finding": closed(
        {
            "line": _LINE,
            "rule": _TEXT,
            "problem": _TEXT,
            "fix": {"type": "string", "description": "What to write instead."},
            "level": {"enum": ["problem", "note"]},
        }
    ),
}

EXAMPLE: dict[str, str] = {
    "template": "{% connected_content https://your-host/v1/properties?user_id={{${user_id} | url_param_escape}}"
    "&keys=first_name,loyalty_points :basic_auth us :save p %}Hi {{ p.properties.first_name | default: 'there' }}!",
    "user_id": "ava",
}
RENDERED: dict[str, Any] = {
    "outcome": "sent",
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
            "json": examples.answers("properties")["ava"]["value"],
            "cache_status": "hit; ttl=231",
            "age": 669,
            "calls": 0,
            "ms": 2,
            "exposure": None,
        }
    ],
    "findings": [],
}


def rendering() -> Schema:
    """Return the operation that renders a message."""
    operation: dict[str, Any] = {
        "operationId": "postRendering",
        "tags": ["Pages"],
        "summary": "What Braze would send of a message",
        "description": "Each Connected Content tag is asked of the data routes here, with the caller's credentials: "
        "it costs calls, and logs exposures, as a sent message does. Refused to pages of other sites.",
        "security": SECURITY,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ref("Message"), "example": EXAMPLE}},
        },
        "responses": {
            "200": answer(
                "What would happen, a refusal included.", as_json("Rendering", example=RENDERED), ["Cache-Control"]
            ),
            "400": ref("BadRequest", "responses"),
            "401": ref("Unauthorized", "responses"),
            "403": ref("Forbidden", "responses"),
            "413": ref("ContentTooLarge", "responses"),
            "415": ref("UnsupportedMediaType", "responses"),
        },
    }
    return operation
