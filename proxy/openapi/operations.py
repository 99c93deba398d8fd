"""The parts of an operation: parameters and bodies from the table in `query`, headers, answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proxy.openapi.examples import sent
from proxy.openapi.schemas import MISSING_WORDS, Schema, ref
from proxy.query import BOOLEANS, MAX_ENTRIES, MAX_LENGTH, Parameter

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

_CACHE = "connected-content-proxy"
# Inside a value, for at its ends white space is trimmed. As what must not match: Swagger UI would make up values from
# a pattern that must, and fill its forms with them.
_CONTROL = r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]|\S\s*[\t-\r\x1c-\x1f\x85]\s*\S"
_CONTROL_OR_COMMA = f"{_CONTROL}|,"

HEADERS: Mapping[str, Schema] = {
    "X-Request-ID": {
        "description": "The caller's when it sent a sane one, else a new one; the log has it too.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._~+/=-]{1,200}$"},
    },
    "Age": {
        "description": "Seconds since Amplitude said so (the oldest part's).",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Cache-Control": {
        "description": "For how long it is fresh, counted from `Age` 0; `no-store` when `ok` is false.",
        "required": True,
        "schema": {"type": "string", "pattern": "^(private, max-age=[0-9]+|no-store)$"},
    },
    "Cache-Status": {
        "description": "Where the answer came from (RFC 9211); `detail` is an error word. None for a blank id.",
        "schema": {
            "type": "string",
            "pattern": rf"^{_CACHE}; (hit; ttl=-?[0-9]+"
            rf"|fwd=(miss|partial|request|stale); (stored|collapsed|detail=({'|'.join(MISSING_WORDS)})))$",
        },
        "example": f"{_CACHE}; hit; ttl=231",
    },
    "X-Amplitude-Calls": {
        "description": "How many calls to Amplitude this answer sent or joined; 0 for a hit.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "ETag": {
        "description": "Of these very bytes; for `If-None-Match`.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[0-9a-f]+"$'},
    },
    "Retry-After": {
        "description": "Seconds until another try may help.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "The scheme that every HTTP client knows.",
        "required": True,
        "schema": {"type": "string", "pattern": '^Basic realm="'},
    },
    "Allow": {
        "description": "The methods that the route takes.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Z]+(, [A-Z]+)*$"},
    },
}
DATA_HEADERS = ("Age", "Cache-Control", "Cache-Status", "X-Amplitude-Calls")

REQUEST_HEADERS: Mapping[str, Schema] = {
    "RequestCacheControl": {
        "name": "Cache-Control",
        "in": "header",
        "description": "`no-cache` or `max-age=N`: nothing older than that, if Amplitude can answer. "
        "Other directives are ignored.",
        "schema": {"type": "string"},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The `ETag` of an answer that you have: a 304 without a body while it is still the same.",
        "schema": {"type": "string"},
    },
    "RequestId": {
        "name": "X-Request-ID",
        "in": "header",
        "description": "1 to 200 of `A-Z a-z 0-9 . _ ~ + / = -`; anything else is replaced.",
        "schema": {"type": "string"},
    },
}


def query_parameters(
    known: Iterable[Parameter], required: Iterable[Parameter], question: Mapping[str, Any]
) -> list[Schema]:
    """Return the parameters of a URL, those of the `question` with its values as examples."""
    return [
        {
            "name": parameter.name,
            "in": "query",
            "description": _told(parameter),
            **({"required": True} if parameter in required else {}),
            **({"style": "form", "explode": False} if parameter.many else {}),
            "schema": _in_url(parameter, parameter in required),
            **({"example": question[parameter.name]} if parameter.name in question else {}),
        }
        for parameter in known
    ]


def body(known: Iterable[Parameter], required: Iterable[Parameter], question: Mapping[str, Any]) -> Schema:
    """Return the body of a POST: the same parameters as a form or as a JSON object."""
    known, required = list(known), list(required)
    rules = {
        "type": "object",
        "required": [parameter.name for parameter in required],
        "anyOf": [{"required": ["user_id"]}, {"required": ["device_id"]}],
    }
    form = {
        parameter.name: _described(_in_url(parameter, parameter in required), parameter) | _shown(parameter, question)
        for parameter in known
    }
    document = {
        parameter.name: _described(_in_json(parameter, parameter in required), parameter) for parameter in known
    }
    return {
        "description": "A parameter may be in the URL or in the body, not in both. 16 KiB at most.",
        "required": True,
        "content": {
            "application/json": {"schema": {**rules, "properties": document}, "example": dict(question)},
            "application/x-www-form-urlencoded": {
                "schema": {**rules, "properties": form},
                "encoding": {one.name: {"style": "form", "explode": False} for one in known if one.many},
                "example": sent(question),
            },
        },
    }


def answer(
    description: str,
    content: Mapping[str, Schema] | None = None,
    headers: Iterable[str] = (),
    perhaps: Iterable[str] = (),
) -> Schema:
    """Return a response. Every one has a request id beside its `headers`; those in `perhaps` may be missing."""
    optional = {name: {key: value for key, value in HEADERS[name].items() if key != "required"} for name in perhaps}
    return {
        "description": description,
        "headers": {name: ref(name, "headers") for name in ("X-Request-ID", *headers)} | optional,
        **({"content": dict(content)} if content else {}),
    }


def as_json(schema: str, examples: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Schema]:
    """Return the content of a JSON answer of the component `schema`."""
    return {"application/json": {"schema": ref(schema), **({"examples": examples} if examples else {}), **more}}


def problem(status: int, title: str, detail: str, *headers: str, schema: str = "Problem", **more: Any) -> Schema:
    """Return a response in RFC 9457's form, with what it says for example."""
    example = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return answer(
        title, {"application/problem+json": {"schema": ref(schema), "example": example}}, ["Cache-Control", *headers]
    )


def _told(parameter: Parameter) -> str:
    about = parameter.help[0].upper() + parameter.help[1:] + "."
    return f"{about} Comma separated, {MAX_ENTRIES} at most." if parameter.many else about


def _described(schema: Schema, parameter: Parameter) -> Schema:
    return {"description": _told(parameter), **schema}


def _shown(parameter: Parameter, question: Mapping[str, Any]) -> Schema:
    """Return what a form shows in a field: the question's value, else nothing rather than a made-up one."""
    if parameter.name in question:
        return {"examples": [question[parameter.name]]}
    return {} if parameter.words else {"examples": [[] if parameter.many else ""]}


def _in_url(parameter: Parameter, required: bool) -> Schema:
    if not parameter.many:
        return _text(parameter)
    entry = _words(parameter) if parameter.words else _entry(_CONTROL_OR_COMMA, required)
    return {"type": "array", "items": entry, "maxItems": MAX_ENTRIES, **({"minItems": 1} if required else {})}


def _in_json(parameter: Parameter, required: bool) -> Schema:
    if parameter.words == BOOLEANS:
        return {"anyOf": [{"type": "boolean"}, _text(parameter)]}
    if not parameter.many:
        return _text(parameter) if parameter.words else {"anyOf": [_text(parameter), {"type": "number"}]}
    if parameter.words:
        one = _words(parameter)
        alone = [one]
    else:
        unspeakable = _CONTROL if parameter.holds_comma else _CONTROL_OR_COMMA
        one = {"anyOf": [_entry(unspeakable, required), {"type": "number"}]}
        alone = [_listed(required), {"type": "number"}]
    some = {"type": "array", "items": one, "maxItems": MAX_ENTRIES, **({"minItems": 1} if required else {})}
    return {"anyOf": [some, *alone]}


def _words(parameter: Parameter) -> Schema:
    return {"type": "string", "enum": list(parameter.words)}


def _text(parameter: Parameter) -> Schema:
    if not parameter.words:
        return {"type": "string", "maxLength": MAX_LENGTH, "not": {"pattern": _CONTROL}}
    default = {} if parameter.words == BOOLEANS else {"default": parameter.words[0]}
    return {**_words(parameter), **default}


def _entry(unspeakable: str, required: bool) -> Schema:
    # An entry of white space is dropped, so where one is required it must have something else in it.
    something = {"pattern": r"\S"} if required else {}
    return {"type": "string", "maxLength": MAX_LENGTH, "not": {"pattern": unspeakable}, **something}


def _listed(required: bool) -> Schema:
    entry = rf"[^\x00-\x1f\x7f-\x9f,]{{0,{MAX_LENGTH}}}"
    return {
        "type": "string",
        "description": "Comma separated.",
        "pattern": rf"^\s*{entry}(,{entry}){{0,{MAX_ENTRIES - 1}}}\s*$",
        **({"allOf": [{"pattern": r"[^\s,]"}]} if required else {}),
    }
