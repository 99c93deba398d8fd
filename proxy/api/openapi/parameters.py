"""Builds the OpenAPI descriptions of the parser's parameters, and of bodies, request headers and credentials."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from proxy.api.caller_keys import Scope
from proxy.api.openapi.examples import as_text
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


# A control character inside a value; at the ends, white space is trimmed. Used with `not`, because Swagger UI fills its
# forms with values made up from a positive `pattern`.
_CONTROL = r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]|\S\s*[\t-\r\x1c-\x1f\x85]\s*\S"
_CONTROL_OR_COMMA = f"{_CONTROL}|,"
# The parser trims more characters than `\s` matches in JSON Schema.
_NOT_BLANK = r"[^\s\x1c-\x1f\x85]"


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
            **_described(parameter, _LIST_IN_URL),
            **({"required": True} if parameter in required else {}),
            **(_LIST_STYLE if parameter.many else {}),
            "schema": _in_url(parameter, parameter in required),
            **({"example": example[parameter.name]} if parameter.name in example else {}),
        }
        for parameter in known
    ]


def body(known: Collection[Parameter], required: Collection[Parameter], example: Mapping[str, Any]) -> Schema:
    """Return the body of a POST: the same parameters, as a form or as a JSON object."""
    rules = {
        "type": "object",
        "required": [parameter.name for parameter in required],
        "anyOf": [{"required": ["user_id"]}, {"required": ["device_id"]}],
    }
    in_json = {
        parameter.name: _described(parameter, _LIST_IN_JSON) | _in_json(parameter, parameter in required)
        for parameter in known
    }
    in_form = {
        parameter.name: _described(parameter, _LIST_IN_URL)
        | _in_url(parameter, parameter in required)
        | _form_example(parameter, example)
        for parameter in known
    }
    return {
        "description": "A parameter may be in the URL or in the body, but not in both. The body is at most 16 KiB.",
        "required": True,
        "content": {
            "application/json": {"schema": {**rules, "properties": in_json}, "example": dict(example)},
            "application/x-www-form-urlencoded": {
                "schema": {**rules, "properties": in_form},
                "encoding": {parameter.name: _LIST_STYLE for parameter in known if parameter.many},
                "example": as_text(example),
            },
        },
    }


_LIST_STYLE = {"style": "form", "explode": False}
"""The shorter of the two accepted styles. With `explode: true`, clients would repeat the parameter."""
_LIST_IN_URL = f"Comma-separated, or repeated. At most {MAX_ENTRIES} in all."
_LIST_IN_JSON = f"An array, or comma-separated text. At most {MAX_ENTRIES}."


def _described(parameter: Parameter, about_list: str) -> Schema:
    about = parameter.help[0].upper() + parameter.help[1:] + "."
    return {"description": f"{about} {about_list}" if parameter.many else about}


def _form_example(parameter: Parameter, example: Mapping[str, Any]) -> Schema:
    """Return the example of a form field. Without a value, it is blank, or Swagger UI would make up a value."""
    if parameter.name in example:
        return {"examples": [example[parameter.name]]}
    if parameter.words == BOOLEANS:
        return {"examples": ["false"]}
    return {} if parameter.words else {"examples": [[] if parameter.many else ""]}


def _in_url(parameter: Parameter, required: bool) -> Schema:
    if not parameter.many:
        return _text(parameter)
    entry = _words(parameter) if parameter.words else _entry(_CONTROL_OR_COMMA, required)
    return {"type": "array", "items": entry, "maxItems": MAX_ENTRIES, **({"minItems": 1} if required else {})}


def _in_json(parameter: Parameter, required: bool) -> Schema:
    if not parameter.many:
        if parameter.words == BOOLEANS:
            return {"anyOf": [{"type": "boolean"}, _text(parameter)]}
        return _text(parameter) if parameter.words else {"anyOf": [_text(parameter), _NUMBER]}
    array = _in_url(parameter, required)
    if parameter.words:
        return {"anyOf": [array, array["items"]]}
    not_allowed = _CONTROL if parameter.holds_comma else _CONTROL_OR_COMMA
    array["items"] = {"anyOf": [_entry(not_allowed, required), _NUMBER]}
    return {"anyOf": [array, _listed(required), _NUMBER]}


_NUMBER = {"type": "number"}


def _words(parameter: Parameter) -> Schema:
    return {"type": "string", "enum": list(parameter.words)}


def _text(parameter: Parameter) -> Schema:
    if not parameter.words:
        return {"type": "string", "maxLength": MAX_LENGTH, "not": {"pattern": _CONTROL}}
    return _words(parameter) | ({} if parameter.words == BOOLEANS else {"default": parameter.words[0]})


def _entry(not_allowed: str, required: bool) -> Schema:
    # The parser drops blank entries, so an entry of a required list must not be blank.
    not_blank = {"pattern": _NOT_BLANK} if required else {}
    return {"type": "string", "maxLength": MAX_LENGTH, "not": {"pattern": not_allowed}, **not_blank}


ID = _entry(_CONTROL, required=True)
"""The schema of a required id."""


def _listed(required: bool) -> Schema:
    entry = rf"[^\x00-\x1f\x7f-\x9f,]{{0,{MAX_LENGTH}}}"
    return {
        "type": "string",
        "description": "Comma-separated.",
        "pattern": rf"^\s*{entry}(,{entry}){{0,{MAX_ENTRIES - 1}}}\s*$",
        **({"allOf": [{"pattern": r"[^\s,]"}]} if required else {}),
    }
