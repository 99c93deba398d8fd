"""Responses of operations: headers, problems, and the answers that routes share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proxy.api.bodies import MISSING_WORDS
from proxy.api.openapi.schemas import Schema, ref

_CACHE = "connected-content-proxy"


def _header(kind: str, description: str, *, required: bool = True, example: str = "", **rules: Any) -> Schema:
    return {
        "description": description,
        **({"required": True} if required else {}),
        "schema": {"type": kind, **rules},
        **({"example": example} if example else {}),
    }


HEADERS: Mapping[str, Schema] = {
    "X-Request-ID": _header(
        "string",
        "The caller's when it sent a sane one, else a new one; the log has it too.",
        pattern="^[A-Za-z0-9._~+/=-]{1,200}$",
    ),
    "Age": _header("integer", "Seconds since Amplitude said so (the oldest part's).", required=False, minimum=0),
    "Cache-Control": _header(
        "string",
        "For how long it is fresh, counted from `Age` 0; `no-store` when `ok` is false.",
        pattern="^(private, max-age=[0-9]+|no-store)$",
    ),
    "Cache-Status": _header(
        "string",
        "Where the answer came from (RFC 9211); `detail` is an error word. None for a blank id.",
        required=False,
        example=f"{_CACHE}; hit; ttl=231",
        pattern=rf"^{_CACHE}; (hit; ttl=-?[0-9]+"
        rf"|fwd=(miss|partial|request|stale); (stored|collapsed|detail=({'|'.join(MISSING_WORDS)})))$",
    ),
    "X-Amplitude-Calls": _header(
        "integer", "How many calls to Amplitude this answer sent or joined; 0 for a hit.", minimum=0
    ),
    "ETag": _header("string", "Of these very bytes; for `If-None-Match`.", pattern='^"[0-9a-f]+(-gzip)?"$'),
    "Retry-After": _header("integer", "Seconds until another try may help.", minimum=1),
    "WWW-Authenticate": _header("string", "The scheme that every HTTP client knows.", pattern='^Basic realm="'),
    "Allow": _header("string", "The methods that the route takes.", pattern="^[A-Z]+(, [A-Z]+)*$"),
}
DATA_HEADERS = ("Age", "Cache-Control", "Cache-Status", "X-Amplitude-Calls")


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


def shared(*names: str) -> Schema:
    """Return these of the shared responses, by status."""
    problems = {name: SHARED[name]["content"]["application/problem+json"]["example"] for name in names}
    return {str(problem["status"]): ref(name, "responses") for name, problem in problems.items()}


def headers_only(get: Schema) -> Schema:
    """Return the HEAD of a GET: the same without bodies."""
    responses = {}
    for status, response in get["responses"].items():
        whole = SHARED[response["$ref"].rpartition("/")[2]] if "$ref" in response else response
        responses[status] = {"description": whole["description"], "headers": whole["headers"]}
    return {
        **get,
        "operationId": f"head{get['operationId'].removeprefix('get')}",
        "summary": f"{get['summary']} (headers only)",
        "responses": responses,
    }


SHARED: Mapping[str, Schema] = {
    "BadRequest": problem(
        400, "Bad Request", "rec_id is missing: name one or more recommendations, e.g. rec_id=abc123"
    ),
    "Unauthorized": problem(
        401,
        "Unauthorized",
        "credentials are missing or wrong; send Basic (name and secret), Bearer, Api-Key or X-API-Key",
        "WWW-Authenticate",
    ),
    "Forbidden": problem(
        403,
        "Forbidden",
        "this address is not allowed; ask the operator to add the address from the log to ALLOWED_NETWORKS",
    ),
    "NotFound": problem(
        404,
        "Not Found",
        "the path is unknown; use /v1/recommendations, /v1/properties, /v1/cohorts, /v1/computations, "
        "/v1/propensities, /v1/profile, /v1/userprofile, or see /docs for all routes",
    ),
    "MethodNotAllowed": problem(
        405,
        "Method Not Allowed",
        "the method is not allowed on this route; use a method from the Allow header",
        "Allow",
    ),
    "ContentTooLarge": problem(413, "Request Entity Too Large", "the body is too large; send at most 16 KiB"),
    "UnsupportedMediaType": problem(
        415,
        "Unsupported Media Type",
        "the content type is not supported; send application/x-www-form-urlencoded or application/json",
    ),
    "TryAgain": problem(
        500,
        "No answer yet",
        "the quota is used up, so the call to Amplitude could not be sent in time; try again",
        "Retry-After",
        "Cache-Status",
        "X-Amplitude-Calls",
        schema="TryAgain",
        ok=False,
        error="quota_exhausted",
    ),
}
