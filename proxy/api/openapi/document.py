"""The document: every route in one table. Who adds a route to the application adds it to `_paths`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proxy import __version__
from proxy.api.drop_in import DROP_IN
from proxy.api.openapi import examples, playground, status, webhooks
from proxy.api.openapi.parameters import REQUEST_HEADERS, SECURITY, SECURITY_SCHEMES, body, query_parameters
from proxy.api.openapi.responses import DATA_HEADERS, HEADERS, SHARED, answer, as_json, headers_only, problem
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
            "schemas": components() | playground.SCHEMAS | status.SCHEMAS | webhooks.SCHEMAS,
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
            "Judged by the last call to Amplitude, if that ended in the last minute.",
        ),
        "/metrics": _get(
            "Metrics",
            "Operation",
            "What is counted, as Prometheus reads it",
            _guarded("text/plain", {"type": "string"}),
            "All worker processes together, by route rule: no id, no path, no secret.",
            security=SECURITY,
        ),
        "/status": _get(
            "Status",
            "Pages",
            "How things go: what is wrong now, and the last hour",
            {
                **_kept("text/html", "The page."),
                "401": ref("Unauthorized", "responses"),
                "403": ref("Forbidden", "responses"),
            },
            security=SECURITY,
        ),
        "/status.json": _get(
            "StatusData",
            "Operation",
            "What the status page shows",
            _guarded("application/json", ref("Status")),
            "Of all worker processes of this machine, as far back as the one that answers has run.",
            security=SECURITY,
        ),
        "/": _get("Home", "Pages", "What this is and where to go", _kept("text/html", "The page.")),
        "/docs": _get("Docs", "Pages", "This document, to be tried", _kept("text/html", "The page.")),
        "/playground": _get(
            "Playground",
            "Pages",
            "A message on the left, what Braze would send on the right",
            {
                **_kept("text/html", "The page."),
                "401": ref("Unauthorized", "responses"),
                "403": ref("Forbidden", "responses"),
            },
            security=SECURITY,
        ),
        "/playground/render": {"post": playground.rendering()},
        "/openapi.json": _get("Openapi", "Pages", "This document", _kept("application/json", "The document.")),
        "/static/{name}": _file(),
    }


def _guarded(kind: str, schema: Schema) -> Schema:
    """Return the answers of what only callers see, and nobody keeps."""
    told = answer("As it is now.", {kind: {"schema": schema}}, ["Cache-Control"])
    return {"200": told, "401": ref("Unauthorized", "responses"), "403": ref("Forbidden", "responses")}


def _get(name: str, tag: str, summary: str, responses: Schema, description: str = "", **more: Any) -> Schema:
    """Return the path of a public route that takes GET and HEAD."""
    told = {"description": description} if description else {}
    operation = {"operationId": f"get{name}", "tags": [tag], "summary": summary, **told, "security": [], **more}
    operation["responses"] = responses
    return {"get": operation, "head": headers_only(operation)}


def _data(section: Section | None) -> Schema:
    known, required, question = parameters_of(section), _REQUIRED.get(section, ()), examples.QUESTIONS[section]
    described = {"description": _ABOUT_PROFILE} if section is None else {}
    return _asked(
        {"tags": ["Data"], "summary": _SUMMARIES[section], **described},
        (section or "profile").capitalize(),
        (known, required, question),
        {
            "200": answer(
                "An answer, `ok: false` included.",
                as_json(answer_name(section), examples.answers(section)),
                (*DATA_HEADERS, "ETag"),
            ),
            "400": ref("BadRequest", "responses"),
            "500": ref("TryAgain", "responses"),
        },
    )


def _forgetting() -> Schema:
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
            "200": answer(
                "Forgotten.", as_json("Forgotten", example={"records": 1, "waiting": 0}), headers=["Cache-Control"]
            ),
            "400": ref("BadRequest", "responses"),
            "401": ref("Unauthorized", "responses"),
            "403": ref("Forbidden", "responses"),
            "500": problem(
                500,
                "Not forgotten everywhere",
                "Redis does not answer: forgotten here alone; try again",
                "Retry-After",
            ),
        },
    }


def _drop_in() -> Schema:
    unknown = {"user": {"summary": "An unknown or blank user", "value": examples.NOT_SEEN_BEFORE}}
    refused = as_json("NotSeenBefore", unknown)
    mistaken = SHARED["BadRequest"]["content"]
    found = {"schema": {"anyOf": [ref("UserProfile"), ref("NotSeenBefore")]}}
    known = {"ava": {"summary": "A known user", "value": examples.drop_in_answer()}}
    return _asked(
        {
            "tags": ["Drop-in"],
            "summary": "Amplitude's own endpoint",
            "description": "Takes Amplitude's parameters and answers Amplitude's JSON: a template written for it works "
            "with another host and secret. `get_recs` needs `rec_id`, `get_propensity` needs `prediction_id`.",
        },
        "Userprofile",
        (DROP_IN, (), examples.DROP_IN_QUESTION),
        {
            "200": answer(
                "As Amplitude answers.",
                {"application/json": {**found, "examples": known}},
                DATA_HEADERS,
                perhaps=["ETag"],
            ),
            "400": answer(
                "An unknown or blank user, as Amplitude says it; or a mistake.",
                {**refused, **mistaken},
                perhaps=DATA_HEADERS,
            ),
            "4XX": answer("An unknown user, with the status that Amplitude was seen to use.", refused, DATA_HEADERS),
            "500": answer(
                "No answer, as Amplitude is when it is unavailable.",
                as_json("NoAnswer", {"missing": {"value": {"error": "quota_exhausted"}}}),
                ("Cache-Control", "Cache-Status", "X-Amplitude-Calls"),
            ),
        },
    )


def _asked(
    about: Schema,
    name: str,
    asking: tuple[Iterable[Parameter], Iterable[Parameter], Mapping[str, Any]],
    responses: Schema,
) -> Schema:
    """Return the path of a data route, which takes the same as GET, as HEAD and in the body of a POST."""
    guarded = {
        **responses,
        "401": ref("Unauthorized", "responses"),
        "403": ref("Forbidden", "responses"),
    }
    of_body = {"413": ref("ContentTooLarge", "responses"), "415": ref("UnsupportedMediaType", "responses")}
    unchanged = {"304": answer("Still what `If-None-Match` names.", headers=(*DATA_HEADERS, "ETag"))}
    fresh, later, conditional, traced = (
        ref(each, "parameters") for each in ("RequestCacheControl", "RequestPriority", "IfNoneMatch", "RequestId")
    )
    get = {
        **about,
        "operationId": f"get{name}",
        "security": SECURITY,
        "parameters": [*query_parameters(*asking), fresh, later, conditional, traced],
        "responses": _sorted({**guarded, **unchanged}),
    }
    post = {
        **about,
        "operationId": f"post{name}",
        "summary": f"{about['summary']} (ids kept out of URLs)",
        "security": SECURITY,
        "parameters": [fresh, later, traced],
        "requestBody": body(*asking),
        "responses": _sorted({**guarded, **of_body}),
    }
    return {"get": get, "post": post, "head": headers_only(get)}


def _file() -> Schema:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": "site.css"}
    some = {
        kind: {"schema": {"type": "string"}}
        for kind in ("text/css", "text/javascript", "image/svg+xml", "application/json")
    }
    kept = _kept("", "The file.", some)
    for response in kept.values():
        response["headers"] |= {
            "Vary": {"required": True, "schema": {"type": "string", "const": "Accept-Encoding"}},
            "Content-Encoding": {"schema": {"type": "string", "const": "gzip"}},
        }
    responses = {**kept, "404": ref("NotFound", "responses")}
    return _get(
        "File", "Pages", "A file that a page loads", responses, parameters=[name, ref("IfNoneMatch", "parameters")]
    )


def _kept(kind: str, description: str, content: Mapping[str, Schema] | None = None) -> Schema:
    """Return the answers of what may be kept, and asked for again."""
    shown = content or {kind: {"schema": {"type": "object" if kind == "application/json" else "string"}}}
    responses = {
        "200": answer(description, shown, ["ETag"]),
        "304": answer("Still what `If-None-Match` names.", headers=["ETag"]),
    }
    for response in responses.values():
        response["headers"]["Cache-Control"] = {"required": True, "schema": {"type": "string"}}
    return responses


def _sorted(responses: Mapping[str, Schema]) -> Schema:
    return dict(sorted(responses.items()))
