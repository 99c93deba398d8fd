"""Builds the OpenAPI document. Add each new route of the application to `_paths`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from proxy import __version__
from proxy.api.drop_in import DROP_IN
from proxy.api.openapi import examples, playground, snapshots, webhooks
from proxy.api.openapi.parameters import REQUEST_HEADERS, SECURITY_SCHEMES, body, query_parameters, security
from proxy.api.openapi.responses import DATA_HEADERS, HEADERS, SHARED, answer, as_json, headers_only, problem, shared
from proxy.api.openapi.schemas import Schema, answer_name, components, ref
from proxy.api.parameters import Parameter
from proxy.api.parse import ID_PARAMETERS, INCLUDE, PREDICTION_ID, REC_ID, parameters_of
from proxy.profile.parts import SECTIONS, Section


def document() -> Schema:
    """Return the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Connected Content proxy",
            "version": __version__,
            "summary": "Amplitude's user data as cached JSON for Braze Connected Content.",
            "description": _ABOUT,
        },
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": _with_scopes(_paths()),
        "components": {
            "schemas": components() | playground.SCHEMAS | webhooks.SCHEMAS,
            "responses": SHARED,
            "headers": HEADERS,
            "parameters": REQUEST_HEADERS,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


_ABOUT = """\
Every data route accepts `GET`, `POST` and `HEAD`. `HEAD` returns the headers of `GET`. A trailing slash is accepted,
and the service never redirects.

At least one of `user_id` and `device_id` must be present. Values are trimmed. Unknown parameters are ignored.

A list in the URL or in a form is comma-separated (`rec_id=a,b`), or repeated (`rec_id=a&rec_id=b`), or both. In JSON,
a list is an array or comma-separated text. Any other known parameter that occurs twice causes a 400, and so does a
parameter in both the URL and the body.

Every error has the type `application/problem+json`. `code` has the kind of problem, and `parameter` the parameter.

If data is missing, the answer has status 200, `ok: false`, the reason in `error`, and every key with its empty value.
With `on_error=retry`, the status is 500, so that Braze's `:retry` tries again.

A user is anonymous if all ids are blank. The answer then has status 200 and `error: blank_id`, without a call
to Amplitude.

A key has one scope: `read` for the data routes, the playground, the status and the metrics, `push` for the webhooks
and snapshots, or `admin` for every route. Another scope causes a 403 with `code: scope`.

An unknown path causes a 404. A method that the route does not accept causes a 405. A snapshot that is older than the
installed one causes a 409.

On every route, a URL over 8 KiB causes a 414: send the parameters in the body of a POST. More than 100 headers, a
header over 8 KiB, or more than 32 KiB of headers in total causes a 431. Answers with status 414 or 431 have no
`X-Request-ID`.

Each recommendation that is fetched logs an exposure in Amplitude. A cached answer logs none. Requests from this page
log exposures too.\
"""

_TAGS = {
    "Data": "The data of a user in Amplitude, for templates.",
    "Drop-in": "Amplitude's own parameters and JSON, from the same cache and within the same quota.",
    "Webhooks": "Data that Amplitude pushes. The service answers requests for this data without a call to Amplitude.",
    "Snapshots": "The members of cohorts, from a download. The service answers questions about these cohorts without a "
    "call to Amplitude.",
    "Operation": "Routes for platforms and monitors. These requests make no call to Amplitude.",
    "Pages": "Pages for the browser, and their files.",
}

_SUMMARIES: Mapping[Section | None, str] = {
    "recommendations": "The items to show to a user",
    "properties": "A user's properties",
    "cohorts": "A user's cohorts",
    "computations": "A user's computed values",
    "propensities": "Predictions about a user",
    None: "Several sections in one answer",
}
_REQUIRED: Mapping[Section | None, tuple[Parameter, ...]] = {
    "recommendations": (REC_ID,),
    "propensities": (PREDICTION_ID,),
    None: (INCLUDE,),
}
_ABOUT_PROFILE = (
    "The answer has the fields of all sections in `include`. The section `recommendations` requires `rec_id`, and "
    "`propensities` requires `prediction_id`. Parameters of sections that are not in `include` are ignored."
)


def _paths() -> dict[str, Schema]:
    page, cache_control = _revalidated("text/html", "The page."), ["Cache-Control"]
    return {
        **{f"/v1/{section}": _data(section) for section in SECTIONS},
        "/v1/profile": _data(None) | {"delete": _forget()},
        "/v1/userprofile": _drop_in(),
        "/v1/webhooks/amplitude/cohorts": webhooks.cohorts(),
        "/v1/webhooks/amplitude/users": webhooks.users(),
        **snapshots.paths(),
        "/healthz": _get(
            "Healthz",
            "Operation",
            "Liveness",
            {"200": answer("The process is running.", as_json("Health", example={"status": "ok"}))},
            description="With the credentials of a key, the answer also has the version.",
        ),
        "/readyz": _get(
            "Readyz",
            "Operation",
            "Readiness",
            {
                "200": answer(
                    "The service can answer requests. If `status` is `degraded`, it may answer only from the cache.",
                    as_json("Readiness", example={"status": "degraded", "upstream": "failing", "quota": "ok"}),
                ),
                "503": answer(
                    "The service cannot answer any request, or is stopping.",
                    as_json("Unready", example={"status": "unavailable", "upstream": "rejected", "quota": "ok"}),
                ),
            },
            description="The result depends on the last call to Amplitude, if that call ended within the last minute.",
        ),
        "/metrics": _get(
            "Metrics",
            "Operation",
            "Metrics for Prometheus",
            {"200": answer("The current metrics.", {"text/plain": {"schema": {"type": "string"}}}, cache_control)},
            guarded=True,
            description="The sum over all worker processes. The labels contain no ids, paths or secrets.",
        ),
        "/status": _get("Status", "Pages", "The status page: current problems and the last hour", page, guarded=True),
        "/status.json": _get(
            "StatusData",
            "Operation",
            "The data of the status page",
            {"200": answer("The current status.", as_json("Status"), cache_control)},
            guarded=True,
            description="Data of all worker processes on this machine, since the start of the process that handles the "
            "request.",
        ),
        "/": _get("Home", "Pages", "The landing page", page),
        "/docs": _get("Docs", "Pages", "The API reference, with requests to try in the browser", page),
        "/playground": _get(
            "Playground", "Pages", "The playground: a message and its rendered result", page, guarded=True
        ),
        "/playground/render": {"post": playground.rendering()},
        "/openapi.json": _get(
            "Openapi",
            "Pages",
            "The API reference as an OpenAPI document",
            _revalidated("application/json", "The document."),
        ),
        "/static/{name}": _file(),
    }


def _with_scopes(paths: dict[str, Schema]) -> dict[str, Schema]:
    """Add the scope of the key to the description of each operation that needs one."""
    for operation in (operation for operations in paths.values() for operation in operations.values()):
        for scope in {scope for scheme in operation["security"] for scopes in scheme.values() for scope in scopes}:
            sentence = f"Needs a key with the scope `{scope}`" + (" or `admin`." if scope != "admin" else ".")
            operation["description"] = f"{operation.get('description', '')} {sentence}".strip()
    return paths


def _get(name: str, tag: str, summary: str, responses: Schema, *, guarded: bool = False, **more: Any) -> Schema:
    """Return the path of a route that accepts GET and HEAD.

    guarded: the route requires credentials.
    """
    operation = {
        "operationId": f"get{name}",
        "tags": [tag],
        "summary": summary,
        "security": security("read") if guarded else [],
        "responses": {**responses, **(_GUARDED if guarded else {})},
        **more,
    }
    return {"get": operation, "head": headers_only(operation)}


_GUARDED = shared("Unauthorized", "Forbidden")


def _data(section: Section | None) -> Schema:
    description = {"description": _ABOUT_PROFILE} if section is None else {}
    content = as_json(answer_name(section), examples.answers(section))
    return _data_route(
        (section or "profile").capitalize(),
        {"tags": ["Data"], "summary": _SUMMARIES[section], **description},
        (parameters_of(section), _REQUIRED.get(section, ()), examples.REQUESTS[section]),
        {
            "200": answer("The answer, even if data is missing (`ok: false`).", content, (*DATA_HEADERS, "ETag")),
            **shared("BadRequest", "TryAgain"),
        },
    )


def _forget() -> Schema:
    example = {"records": 1, "waiting": 0}
    return {
        "operationId": "deleteProfile",
        "tags": ["Data"],
        "summary": "Forget a user",
        "description": "Deletes every record with this `user_id` or `device_id`, in every process and in Redis, within "
        "a second. The id can be the requested id or the id that Amplitude returned. Also removes the user from the "
        "backlog. The result of a call in flight is not cached. The data in Amplitude stays: the next request for "
        "the user fetches it again.",
        "security": security("admin"),
        "parameters": [*query_parameters(ID_PARAMETERS, (), {"user_id": "user-17"}), ref("RequestId", "parameters")],
        "responses": {
            "200": answer(
                "The user is forgotten.", as_json("ForgetResult", example=example), headers=["Cache-Control"]
            ),
            **shared("BadRequest"),
            **_GUARDED,
            "500": problem(
                500,
                "Not forgotten everywhere",
                "Redis is unavailable, so only this process has forgotten the user; send the request again",
                "Retry-After",
                code="internal",
            ),
        },
    }


def _drop_in() -> Schema:
    unknown = {"user": {"summary": "An unknown or anonymous user", "value": examples.NOT_SEEN_BEFORE}}
    not_seen_before = as_json("NotSeenBefore", unknown)
    profile_or_unknown = {"anyOf": [ref("UserProfile"), ref("NotSeenBefore")]}
    known = {"ava": {"summary": "A known user", "value": examples.drop_in_answer()}}
    return _data_route(
        "Userprofile",
        {
            "tags": ["Drop-in"],
            "summary": "Amplitude's own endpoint",
            "description": "Accepts Amplitude's parameters and returns Amplitude's JSON. In a template for Amplitude's "
            "endpoint, change only the host and the secret. `get_recs` requires `rec_id`, and `get_propensity` "
            "requires `prediction_id`.",
        },
        (DROP_IN, (), examples.DROP_IN_REQUEST),
        {
            "200": answer(
                "Amplitude's answer.",
                {"application/json": {"schema": profile_or_unknown, "examples": known}},
                DATA_HEADERS,
                optional=["ETag"],
            ),
            "400": answer(
                "Amplitude's error for an unknown or anonymous user, or an error in the request.",
                not_seen_before | SHARED["BadRequest"]["content"],
                optional=DATA_HEADERS,
            ),
            "4XX": answer(
                "Amplitude's error for an unknown user, with the status that Amplitude used.",
                not_seen_before,
                DATA_HEADERS,
            ),
            "500": answer(
                "Data is missing. `error` has the error word.",
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
    """Return the path of a route that accepts the same `parameters` in GET and HEAD, and in the body of a POST.

    parameters: all parameters, the required parameters, and the values of an example.
    """
    responses = responses | _GUARDED
    unchanged = {
        "304": answer("Not modified: the `ETag` in `If-None-Match` is still current.", headers=(*DATA_HEADERS, "ETag"))
    }
    refresh, priority, if_none_match, request_id = (
        ref(name, "parameters") for name in ("RequestCacheControl", "RequestPriority", "IfNoneMatch", "RequestId")
    )
    get = {
        **about,
        "operationId": f"get{name}",
        "security": security("read"),
        "parameters": [*query_parameters(*parameters), refresh, priority, if_none_match, request_id],
        "responses": _sorted(responses | unchanged),
    }
    post = {
        **about,
        "operationId": f"post{name}",
        "summary": f"{about['summary']} (parameters in the body)",
        "security": security("read"),
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
        "File", "Pages", "A static file of the pages", responses, parameters=[name, ref("IfNoneMatch", "parameters")]
    )


def _revalidated(kind: str, description: str) -> Schema:
    """Return the responses of a page or file that browsers cache and revalidate with the ETag."""
    content = {kind: {"schema": {"type": "object" if kind == "application/json" else "string"}}}
    responses = {
        "200": answer(description, content, ["ETag"]),
        "304": answer("Not modified: the `ETag` in `If-None-Match` is still current.", headers=["ETag"]),
    }
    for response in responses.values():
        response["headers"]["Cache-Control"] = {"required": True, "schema": {"type": "string"}}
    return responses
