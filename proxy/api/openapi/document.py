"""The document. A route that is added to the application is added to `_paths` too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from proxy import __version__
from proxy.api.drop_in import DROP_IN
from proxy.api.openapi import examples, playground, webhooks
from proxy.api.openapi.parameters import REQUEST_HEADERS, SECURITY, SECURITY_SCHEMES, body, query_parameters
from proxy.api.openapi.responses import DATA_HEADERS, HEADERS, SHARED, answer, as_json, headers_only, problem, shared
from proxy.api.openapi.schemas import Schema, answer_name, components, ref
from proxy.api.parameters import Parameter
from proxy.api.parse import FORGETTING, INCLUDE, PREDICTION_ID, REC_ID, parameters_of
from proxy.profile.parts import SECTIONS, Section


def document() -> Schema:
    """Return the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Connected Content proxy",
            "version": __version__,
            "summary": "What Amplitude knows of a user, as cached JSON for Braze Connected Content.",
            "description": _ABOUT,
        },
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": _paths(),
        "components": {
            "schemas": components() | playground.SCHEMAS | webhooks.SCHEMAS,
            "responses": SHARED,
            "headers": HEADERS,
            "parameters": REQUEST_HEADERS,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


_ABOUT = """\
Every data route answers `GET`, `POST` and `HEAD` (as `GET`, without the body), with a trailing slash too; nothing is
ever redirected. At least one of `user_id` and `device_id` must be present. Values are trimmed, a known parameter given
twice is a 400, an unknown one is ignored.

When something is missing the answer is a 200 with `ok: false`, the reason in `error`, and every key at its empty value;
with `on_error=retry` it is a 500, on which Braze's `:retry` acts. An anonymous user (every id blank) is a 200 with
`error: blank_id` and costs no call. An unknown path is a 404, a method that a route does not take a 405 with `Allow`.

Whatever the route and the credentials, a URL over 8 KiB is a 414 (send the parameters in the body of a POST), and more
than 100 headers, one over 8 KiB, or more than 32 KiB in all, a 431; both are problems as the others are, without
`X-Request-ID`.

Asking for a `rec_id` that is not in the cache logs an exposure in Amplitude, here as anywhere.\
"""

_TAGS = {
    "Data": "What Amplitude knows of a user, for templates.",
    "Drop-in": "Amplitude's own endpoint, from the same cache and within the same quota.",
    "Webhooks": "What Amplitude pushes, so that it need not be asked for.",
    "Operation": "For platforms and monitors. These cost no call.",
    "Pages": "For people.",
}

_SUMMARIES: Mapping[Section | None, str] = {
    "recommendations": "The items to show to a user",
    "properties": "A user's properties",
    "cohorts": "The cohorts a user is in",
    "computations": "What was computed of a user",
    "propensities": "How likely a user is to do something",
    None: "Several sections in one answer",
}
_REQUIRED: Mapping[Section | None, tuple[Parameter, ...]] = {
    "recommendations": (REC_ID,),
    "propensities": (PREDICTION_ID,),
    None: (INCLUDE,),
}
_ABOUT_PROFILE = (
    "The answer is the union of what the routes of the sections in `include` answer. `recommendations` needs `rec_id`, "
    "`propensities` needs `prediction_id`; what belongs to a section that is not named is ignored."
)


def _paths() -> dict[str, Schema]:
    page, cache_control = _revalidated("text/html", "The page."), ["Cache-Control"]
    return {
        **{f"/v1/{section}": _data(section) for section in SECTIONS},
        "/v1/profile": _data(None) | {"delete": _forgetting()},
        "/v1/userprofile": _drop_in(),
        "/v1/webhooks/amplitude/cohorts": webhooks.cohorts(),
        "/v1/webhooks/amplitude/users": webhooks.users(),
        "/healthz": _get(
            "Healthz",
            "Operation",
            "Whether the process serves",
            {"200": answer("It does.", as_json("Health", example={"status": "ok"}))},
        ),
        "/readyz": _get(
            "Readyz",
            "Operation",
            "Whether it can answer",
            {
                "200": answer(
                    "It can, if perhaps only from what it has kept.",
                    as_json("Readiness", example={"status": "degraded", "upstream": "failing", "quota": "ok"}),
                ),
                "503": answer(
                    "Nothing could be answered, or the process is stopping.",
                    as_json("Unready", example={"status": "unavailable", "upstream": "rejected", "quota": "ok"}),
                ),
            },
            description="Judged by the last call to Amplitude, if that ended in the last minute.",
        ),
        "/metrics": _get(
            "Metrics",
            "Operation",
            "What is counted, as Prometheus reads it",
            {"200": answer("As it is now.", {"text/plain": {"schema": {"type": "string"}}}, cache_control)},
            guarded=True,
            description="All worker processes together, by route rule: no id, no path, no secret.",
        ),
        "/status": _get("Status", "Pages", "How things go: what is wrong now, and the last hour", page, guarded=True),
        "/status.json": _get(
            "StatusData",
            "Operation",
            "What the status page shows",
            {"200": answer("As it is now.", as_json("Status"), cache_control)},
            guarded=True,
            description="Of all worker processes of this machine, as far back as the one that answers has run.",
        ),
        "/": _get("Home", "Pages", "What this is and where to go", page),
        "/docs": _get("Docs", "Pages", "This document, to be tried", page),
        "/playground": _get(
            "Playground", "Pages", "A message on the left, what Braze would send on the right", page, guarded=True
        ),
        "/playground/render": {"post": playground.rendering()},
        "/openapi.json": _get("Openapi", "Pages", "This document", _revalidated("application/json", "The document.")),
        "/static/{name}": _file(),
    }


def _get(name: str, tag: str, summary: str, responses: Schema, *, guarded: bool = False, **more: Any) -> Schema:
    """Return the path of a route that takes GET and HEAD. guarded: it requires credentials."""
    operation = {
        "operationId": f"get{name}",
        "tags": [tag],
        "summary": summary,
        "security": SECURITY if guarded else [],
        "responses": {**responses, **(_GUARDED if guarded else {})},
        **more,
    }
    return {"get": operation, "head": headers_only(operation)}


_GUARDED = shared("Unauthorized", "Forbidden")


def _data(section: Section | None) -> Schema:
    described = {"description": _ABOUT_PROFILE} if section is None else {}
    content = as_json(answer_name(section), examples.answers(section))
    return _data_route(
        (section or "profile").capitalize(),
        {"tags": ["Data"], "summary": _SUMMARIES[section], **described},
        (parameters_of(section), _REQUIRED.get(section, ()), examples.QUESTIONS[section]),
        {
            "200": answer("An answer, `ok: false` included.", content, (*DATA_HEADERS, "ETag")),
            **shared("BadRequest", "TryAgain"),
        },
    )


def _forgetting() -> Schema:
    example = {"records": 1, "waiting": 0}
    return {
        "operationId": "deleteProfile",
        "tags": ["Data"],
        "summary": "Forget a user",
        "description": "Forgets every pair of ids that has this `user_id`, or this `device_id`, be it as asked or as "
        "Amplitude returned it: in every process within a second, in Redis, and in what waits for a call. What is on "
        "its way is not kept when it comes. Amplitude is told nothing, and who asks again fetches again.",
        "security": SECURITY,
        "parameters": [*query_parameters(FORGETTING, (), {"user_id": "user-17"}), ref("RequestId", "parameters")],
        "responses": {
            "200": answer("Forgotten.", as_json("Forgotten", example=example), headers=["Cache-Control"]),
            **shared("BadRequest"),
            **_GUARDED,
            "500": problem(
                500,
                "Not forgotten everywhere",
                "Redis is unavailable, so only this process has forgotten the user; send the request again",
                "Retry-After",
            ),
        },
    }


def _drop_in() -> Schema:
    unknown = {"user": {"summary": "An unknown or blank user", "value": examples.NOT_SEEN_BEFORE}}
    not_seen_before = as_json("NotSeenBefore", unknown)
    either = {"anyOf": [ref("UserProfile"), ref("NotSeenBefore")]}
    known = {"ava": {"summary": "A known user", "value": examples.drop_in_answer()}}
    return _data_route(
        "Userprofile",
        {
            "tags": ["Drop-in"],
            "summary": "Amplitude's own endpoint",
            "description": "Takes Amplitude's parameters and answers Amplitude's JSON: a template written for it works "
            "with another host and secret. `get_recs` needs `rec_id`, `get_propensity` needs `prediction_id`.",
        },
        (DROP_IN, (), examples.DROP_IN_QUESTION),
        {
            "200": answer(
                "As Amplitude answers.",
                {"application/json": {"schema": either, "examples": known}},
                DATA_HEADERS,
                perhaps=["ETag"],
            ),
            "400": answer(
                "An unknown or blank user, as Amplitude says it; or a mistake.",
                not_seen_before | SHARED["BadRequest"]["content"],
                perhaps=DATA_HEADERS,
            ),
            "4XX": answer(
                "An unknown user, with the status that Amplitude was seen to use.", not_seen_before, DATA_HEADERS
            ),
            "500": answer(
                "No answer, as Amplitude is when it is unavailable.",
                as_json("NoAnswer", {"missing": {"value": {"error": "quota_exhausted"}}}),
                ("Cache-Control", "Cache-Status", "X-Amplitude-Calls"),
            ),
        },
    )


def _data_route(
    name: str,
    about: Schema,
    parameters: tuple[Collection[Parameter], Collection[Parameter], Mapping[str, Any]],
    responses: Schema,
) -> Schema:
    """Return the path of a route that takes the same `parameters` as GET, as HEAD and in the body of a POST.

    parameters: all of them, the required ones, and values for an example.
    """
    responses = responses | _GUARDED
    unchanged = {"304": answer("Still what `If-None-Match` names.", headers=(*DATA_HEADERS, "ETag"))}
    refresh, priority, if_none_match, request_id = (
        ref(name, "parameters") for name in ("RequestCacheControl", "RequestPriority", "IfNoneMatch", "RequestId")
    )
    get = {
        **about,
        "operationId": f"get{name}",
        "security": SECURITY,
        "parameters": [*query_parameters(*parameters), refresh, priority, if_none_match, request_id],
        "responses": _sorted(responses | unchanged),
    }
    post = {
        **about,
        "operationId": f"post{name}",
        "summary": f"{about['summary']} (ids kept out of URLs)",
        "security": SECURITY,
        "parameters": [refresh, priority, request_id],
        "requestBody": body(*parameters),
        "responses": _sorted(responses | shared("ContentTooLarge", "UnsupportedMediaType")),
    }
    return {"get": get, "post": post, "head": headers_only(get)}


def _sorted(responses: Schema) -> Schema:
    return dict(sorted(responses.items()))


def _file() -> Schema:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": "site.css"}
    kinds = ("text/css", "text/javascript", "image/svg+xml", "application/json")
    headers = {
        "Vary": {"required": True, "schema": {"type": "string", "const": "Accept-Encoding"}},
        "Content-Encoding": {"schema": {"type": "string", "const": "gzip"}},
    }
    responses = _revalidated("", "The file.") | shared("NotFound")
    responses["200"]["content"] = {kind: {"schema": {"type": "string"}} for kind in kinds}
    responses["200"]["headers"] |= headers
    responses["304"]["headers"] |= headers
    return _get(
        "File", "Pages", "A file that a page loads", responses, parameters=[name, ref("IfNoneMatch", "parameters")]
    )


def _revalidated(kind: str, description: str) -> Schema:
    """Return the answers of a page or file that browsers may keep, and check with its ETag before each use."""
    content = {kind: {"schema": {"type": "object" if kind == "application/json" else "string"}}}
    responses = {
        "200": answer(description, content, ["ETag"]),
        "304": answer("Still what `If-None-Match` names.", headers=["ETag"]),
    }
    for response in responses.values():
        response["headers"]["Cache-Control"] = {"required": True, "schema": {"type": "string"}}
    return responses
