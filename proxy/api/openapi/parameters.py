"""Builds the OpenAPI descriptions of the parser's parameters, of request headers and of credentials."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from proxy.api.caller_keys import Scope
from proxy.api.openapi.schemas import Schema
from proxy.api.parameters import BOOLEANS, MAX_ENTRIES, MAX_LENGTH, Parameter

SECURITY_SCHEMES: Mapping[str, Schema] = {
    "xApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "`X-API-Key: <secret>`. Ignored if the request has `Authorization`.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Authorization: Api-Key <secret>`, as in templates for Amplitude's endpoint. "
        "Enter `Api-Key`, a space and the secret.",
    },
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer <secret>`."},
    # Last, because Swagger UI puts the cursor there.
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "Name and secret of a key, as sent by Braze's `:basic_auth`.",
    },
}


def security(scope: Scope) -> list[dict[str, list[str]]]:
    """Return the requirement of a key with this scope, which is a role in OpenAPI 3.1 (Security Requirement Object)."""
    return [{name: [scope]} for name in SECURITY_SCHEMES]


# Every regular expression library and every generator of clients accepts these. The wire accepts more: white space at
# the ends is trimmed.
_TEXT = r"^[^\x00-\x1f\x7f-\x9f]*$"
_ENTRY = r"^[^\x00-\x1f\x7f-\x9f,]*$"
# The parser drops blank entries, so an entry of a required list must not be blank.
_REQUIRED_ENTRY = r"^[^\s\x00-\x1f\x7f-\x9f,][^\x00-\x1f\x7f-\x9f,]*$"


def _header(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


REQUEST_HEADERS: Mapping[str, Schema] = {
    "RequestCacheControl": _header(
        "Cache-Control",
        "`no-cache` requests an answer from Amplitude. `max-age=N` does the same if the cached copy is older than N "
        "seconds. If Amplitude cannot answer, an older copy is returned. Other directives are ignored.",
    ),
    "RequestPriority": _header(
        "Priority",
        "`u=7` (RFC 9218) gives this request the lowest priority, and keeps the fetched data fresh for longer. Use "
        "`u=7` to warm the cache before a send. Other priorities are ignored.",
    ),
    "IfNoneMatch": _header(
        "If-None-Match", "The `ETag` of an earlier answer. The status is 304 if this `ETag` is still current."
    ),
    "RequestId": _header(
        "X-Request-ID",
        "An id for the log: 1 to 200 characters from `A-Z a-z 0-9 . _ ~ + / = -`. Other values are replaced.",
    ),
}


def query_parameters(
    known: Collection[Parameter], required: Collection[Parameter], example: Mapping[str, Any]
) -> list[Schema]:
    """Return the parameters of a URL, with the values of `example`."""
    return [
        {
            "name": parameter.name,
            "in": "query",
            "description": _description(parameter, "Comma-separated, or repeated."),
            **({"required": True} if parameter in required else {}),
            # The shorter of the two accepted styles. With `explode: true`, clients would repeat the parameter.
            **({"style": "form", "explode": False} if parameter.many else {}),
            "schema": _schema(parameter, parameter in required, _ENTRY) | _default(parameter),
            **({"example": example[parameter.name]} if parameter.name in example else {}),
        }
        for parameter in known
    ]


def request_schema(known: Collection[Parameter], required: Collection[Parameter]) -> Schema:
    """Return the schema of a JSON object with the same parameters, for the body of a POST."""
    return {
        "type": "object",
        "description": "At least one of `user_id` and `device_id` is required.",
        "properties": {
            parameter.name: {
                "description": _description(parameter),
                **_schema(parameter, parameter in required, _TEXT if parameter.holds_comma else _ENTRY),
            }
            for parameter in known
        },
        "required": [parameter.name for parameter in required],
    }


def request_body(schema: Schema, example: Mapping[str, Any]) -> Schema:
    """Return the body of a POST with parameters, and the values of `example`."""
    return {
        "description": "A parameter may be in the URL or in the body, but not in both. The body is at most 16 KiB. "
        "A form with the same fields is accepted too (`application/x-www-form-urlencoded`).",
        "required": True,
        "content": {"application/json": {"schema": schema, "example": dict(example)}},
    }


def _description(parameter: Parameter, *about_list: str) -> str:
    about = parameter.help[0].upper() + parameter.help[1:] + "."
    return " ".join([about, *about_list, f"At most {MAX_ENTRIES}."]) if parameter.many else about


def _default(parameter: Parameter) -> Schema:
    if parameter.many or not parameter.words or parameter.words == BOOLEANS:
        return {}
    return {"default": parameter.words[0]}


def _schema(parameter: Parameter, required: bool, entry: str) -> Schema:
    if parameter.words == BOOLEANS:
        return {"type": "boolean"}
    pattern = _TEXT if not parameter.many else _REQUIRED_ENTRY if required else entry
    rules = {"enum": list(parameter.words)} if parameter.words else {"maxLength": MAX_LENGTH, "pattern": pattern}
    text = {"type": "string", **rules}
    if not parameter.many:
        return text
    return {"type": "array", "items": text, "maxItems": MAX_ENTRIES, **({"minItems": 1} if required else {})}
