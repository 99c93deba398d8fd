"""Describes responses: headers, problems, and the responses that routes share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proxy.api.bodies.vocabulary import MISSING_WORDS
from proxy.api.errors import Code
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
        "The id of the request in the log: the caller's id if valid, or else a new id.",
        pattern="^[A-Za-z0-9._~+/=-]{1,200}$",
    ),
    "Age": _header("integer", "Age in seconds of the oldest data in the answer.", required=False, minimum=0),
    "Cache-Control": _header(
        "string",
        "How long the answer stays fresh, measured from age 0. `no-store` if `ok` is false.",
        pattern="^(private, max-age=[0-9]+|no-store)$",
    ),
    "Cache-Status": _header(
        "string",
        "The origin of the answer (RFC 9211). `detail` is an error word. Absent for an anonymous user.",
        required=False,
        example=f"{_CACHE}; hit; ttl=231",
        pattern=rf"^{_CACHE}; (hit; ttl=-?[0-9]+"
        rf"|fwd=(miss|partial|request|stale); (stored|collapsed|detail=({'|'.join(MISSING_WORDS)})))$",
    ),
    "X-Amplitude-Calls": _header(
        "integer",
        "Number of calls to Amplitude that the request sent or joined. 0 if the answer is from the cache.",
        minimum=0,
    ),
    "ETag": _header("string", "A strong validator of the body, for `If-None-Match`.", pattern='^"[0-9a-f]+(-gzip)?"$'),
    "Retry-After": _header("integer", "Seconds to wait before trying again.", minimum=1),
    "WWW-Authenticate": _header(
        "string", "The Basic scheme, which every HTTP client supports.", pattern='^Basic realm="'
    ),
    "Allow": _header("string", "The methods that the route accepts.", pattern="^[A-Z]+(, [A-Z]+)*$"),
}
DATA_HEADERS = ("Age", "Cache-Control", "Cache-Status", "X-Amplitude-Calls")


def answer(
    description: str,
    content: Mapping[str, Schema] | None = None,
    headers: Iterable[str] = (),
    optional: Iterable[str] = (),
) -> Schema:
    """Return a response.

    headers: the headers that are always present, besides X-Request-ID. optional: the headers that may be absent.
    """
    optional_headers = {
        name: {key: value for key, value in HEADERS[name].items() if key != "required"} for name in optional
    }
    return {
        "description": description,
        "headers": {name: ref(name, "headers") for name in ("X-Request-ID", *headers)} | optional_headers,
        **({"content": dict(content)} if content else {}),
    }


def as_json(schema: str, examples: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Schema]:
    """Return the content of a JSON answer with the component `schema`."""
    return {"application/json": {"schema": ref(schema), **({"examples": examples} if examples else {}), **more}}


def problem(
    status: int, title: str, detail: str, *headers: str, code: Code, schema: str = "Problem", **more: Any
) -> Schema:
    """Return an error response in the format of RFC 9457, with an example."""
    example = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, **more}
    return answer(
        title, {"application/problem+json": {"schema": ref(schema), "example": example}}, ["Cache-Control", *headers]
    )


def shared(*names: str) -> Schema:
    """Return the shared responses with these names, by status."""
    problems = {name: SHARED[name]["content"]["application/problem+json"]["example"] for name in names}
    return {str(problem["status"]): ref(name, "responses") for name, problem in problems.items()}


SHARED: Mapping[str, Schema] = {
    "BadRequest": problem(
        400, "Bad Request", "rec_id is required; add rec_id=<id>", code="missing_parameter", parameter="rec_id"
    ),
    "Unauthorized": problem(
        401,
        "Unauthorized",
        "credentials are missing or wrong; send Basic (name and secret), Bearer, Api-Key or X-API-Key",
        "WWW-Authenticate",
        code="unauthorized",
    ),
    "Forbidden": problem(
        403,
        "Forbidden",
        "this address is not allowed; ask the operator to add the address from the log to ALLOWED_NETWORKS",
        code="forbidden_network",
    ),
    "NotFound": problem(
        404,
        "Not Found",
        "the path is unknown; use /v1/recommendations, /v1/properties, /v1/cohorts, /v1/computations, "
        "/v1/propensities, /v1/profile, /v1/userprofile, or see /docs for all routes",
        code="not_found",
    ),
    "MethodNotAllowed": problem(
        405,
        "Method Not Allowed",
        "the method is not allowed on this route; use a method from the Allow header",
        "Allow",
        code="method_not_allowed",
    ),
    "ContentTooLarge": problem(
        413, "Request Entity Too Large", "the body is too large; send at most 16 KiB", code="body_too_large"
    ),
    "UnsupportedMediaType": problem(
        415,
        "Unsupported Media Type",
        "the content type is not supported; send application/x-www-form-urlencoded or application/json",
        code="unsupported_media_type",
    ),
    "TryAgain": problem(
        500,
        "No answer yet",
        "the quota is used up, so the call to Amplitude could not be sent in time; try again",
        "Retry-After",
        "Cache-Status",
        "X-Amplitude-Calls",
        code="no_answer",
        schema="TryAgain",
        ok=False,
        error="quota_exhausted",
    ),
}

GUARDED = shared("Unauthorized", "Forbidden")
"""The responses of every route that needs a key."""
