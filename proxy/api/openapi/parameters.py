"""Parameters, bodies, request headers and credentials of operations, from the parameter tables of the parser."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from proxy.api.openapi.examples import as_text
from proxy.api.openapi.schemas import Schema
from proxy.api.parameters import BOOLEANS, MAX_ENTRIES, MAX_LENGTH, Parameter

SECURITY_SCHEMES: Mapping[str, Schema] = {
    "xApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "`X-API-Key: <secret>`; looked at when there is no `Authorization`.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Authorization: Api-Key <secret>`, as a template written for Amplitude sends it. "
        "The value is `Api-Key`, a space and the secret.",
    },
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer <secret>`."},
    # Last, for there Swagger UI puts the cursor.
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "Name and secret of a key; what Braze's `:basic_auth` sends.",
    },
}
SECURITY: list[dict[str, list[str]]] = [{name: []} for name in SECURITY_SCHEMES]

# Inside a value, for at its ends white space is trimmed. As what must not match: Swagger UI would make up values from
# a pattern that must, and fill its forms with them.
_CONTROL = r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]|\S\s*[\t-\r\x1c-\x1f\x85]\s*\S"
_CONTROL_OR_COMMA = f"{_CONTROL}|,"
# What a regular expression of JSON Schema takes for white space is less than what is trimmed.
_NOT_BLANK = r"[^\s\x1c-\x1f\x85]"


def _header(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


REQUEST_HEADERS: Mapping[str, Schema] = {
    "RequestCacheControl": _header(
        "Cache-Control",
        "`no-cache` or `max-age=N`: nothing older than that, if Amplitude can answer. Other directives are ignored.",
    ),
    "RequestPriority": _header(
        "Priority",
        "`u=7` (RFC 9218) lets everybody else go first, and what is fetched is fresh for longer: for "
        "warming the cache ahead of a send. Any other priority is ignored.",
    ),
    "IfNoneMatch": _header(
        "If-None-Match", "The `ETag` of an answer that you have: a 304 without a body while it is still the same."
    ),
    "RequestId": _header("X-Request-ID", "1 to 200 of `A-Z a-z 0-9 . _ ~ + / = -`; anything else is replaced."),
}


def query_parameters(
    known: Collection[Parameter], required: Collection[Parameter], question: Mapping[str, Any]
) -> list[Schema]:
    """Return the parameters of a URL, those of the `question` with its values as examples."""
    return [
        {
            "name": parameter.name,
            "in": "query",
            **_described(parameter),
            **({"required": True} if parameter in required else {}),
            **(_LIST_STYLE if parameter.many else {}),
            "schema": _in_url(parameter, parameter in required),
            **({"example": question[parameter.name]} if parameter.name in question else {}),
        }
        for parameter in known
    ]


def body(known: Collection[Parameter], required: Collection[Parameter], question: Mapping[str, Any]) -> Schema:
    """Return the body of a POST: the same parameters as a form or as a JSON object."""
    rules = {
        "type": "object",
        "required": [parameter.name for parameter in required],
        "anyOf": [{"required": ["user_id"]}, {"required": ["device_id"]}],
    }
    in_json = {
        parameter.name: _described(parameter) | _in_json(parameter, parameter in required) for parameter in known
    }
    in_form = {
        parameter.name: _described(parameter) | _in_url(parameter, parameter in required) | _shown(parameter, question)
        for parameter in known
    }
    return {
        "description": "A parameter may be in the URL or in the body, not in both. 16 KiB at most.",
        "required": True,
        "content": {
            "application/json": {"schema": {**rules, "properties": in_json}, "example": dict(question)},
            "application/x-www-form-urlencoded": {
                "schema": {**rules, "properties": in_form},
                "encoding": {parameter.name: _LIST_STYLE for parameter in known if parameter.many},
                "example": as_text(question),
            },
        },
    }


_LIST_STYLE = {"style": "form", "explode": False}


def _described(parameter: Parameter) -> Schema:
    about = parameter.help[0].upper() + parameter.help[1:] + "."
    return {"description": f"{about} Comma separated, {MAX_ENTRIES} at most." if parameter.many else about}


def _shown(parameter: Parameter, question: Mapping[str, Any]) -> Schema:
    """Return what a form shows in a field: the question's value, else nothing rather than a made-up one."""
    if parameter.name in question:
        return {"examples": [question[parameter.name]]}
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
    # An entry of white space is dropped, so where one is required it must have something else in it.
    not_blank = {"pattern": _NOT_BLANK} if required else {}
    return {"type": "string", "maxLength": MAX_LENGTH, "not": {"pattern": not_allowed}, **not_blank}


ID = _entry(_CONTROL, required=True)
"""An id that must be there."""


def _listed(required: bool) -> Schema:
    entry = rf"[^\x00-\x1f\x7f-\x9f,]{{0,{MAX_LENGTH}}}"
    return {
        "type": "string",
        "description": "Comma separated.",
        "pattern": rf"^\s*{entry}(,{entry}){{0,{MAX_ENTRIES - 1}}}\s*$",
        **({"allOf": [{"pattern": r"[^\s,]"}]} if required else {}),
    }
