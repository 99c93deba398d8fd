"""Describes the data routes: the sections, the profile with `DELETE`, and the drop-in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from proxy.api.drop_in import DROP_IN
from proxy.api.openapi import examples
from proxy.api.openapi.parameters import query_parameters, request_body, request_schema, security
from proxy.api.openapi.responses import DATA_HEADERS, GUARDED, SHARED, answer, as_json, problem, shared
from proxy.api.openapi.schemas import Schema, answer_name, ref
from proxy.api.parameters import Parameter
from proxy.api.parse import ID_PARAMETERS, INCLUDE, PREDICTION_ID, REC_ID, parameters_of
from proxy.profile.parts import SECTIONS, Section

_ROUTES: tuple[Section | None, ...] = (*SECTIONS, None)
"""The sections with a route of their own, and None for the profile."""
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


class _Request(NamedTuple):
    """The parameters of a route, and an example of their values."""

    known: Collection[Parameter]
    required: Collection[Parameter]
    example: Mapping[str, Any]


def _request(section: Section | None) -> _Request:
    return _Request(parameters_of(section), _REQUIRED.get(section, ()), examples.REQUESTS[section])


_DROP_IN = _Request(DROP_IN, (), examples.DROP_IN_REQUEST)


def paths() -> dict[str, Schema]:
    """Return the paths of the data routes."""
    data = {f"/v1/{section or 'profile'}": _data(section) for section in _ROUTES}
    data["/v1/profile"]["delete"] = _forget()
    return {**data, "/v1/userprofile": _drop_in()}


def schemas() -> dict[str, Schema]:
    """Return the schemas that only these routes refer to: the body of each POST, and the errors of the drop-in."""
    requests = {_name(section): _request(section) for section in _ROUTES} | {"Userprofile": _DROP_IN}
    return {f"{name}Request": request_schema(known, required) for name, (known, required, _) in requests.items()} | {
        # Generated clients read only one media type of a response, so this schema is the schema of both.
        "UserprofileError": {"anyOf": [ref("NotSeenBefore"), ref("Problem")]}
    }


def _name(section: Section | None) -> str:
    return (section or "profile").capitalize()


def _data(section: Section | None) -> Schema:
    description = {"description": _ABOUT_PROFILE} if section is None else {}
    content = as_json(answer_name(section), examples.answers(section))
    return _data_route(
        _name(section),
        {"tags": ["Data"], "summary": _SUMMARIES[section], **description},
        _request(section),
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
            **GUARDED,
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
        _DROP_IN,
        {
            "200": answer(
                "Amplitude's answer.",
                {"application/json": {"schema": profile_or_unknown, "examples": known}},
                DATA_HEADERS,
                optional=["ETag"],
            ),
            "400": answer(
                "Amplitude's error for an unknown or anonymous user, or an error in the request.",
                as_json("UserprofileError", unknown) | SHARED["BadRequest"]["content"],
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


def _data_route(name: str, about: Schema, request: _Request, responses: Schema) -> Schema:
    """Return the path of a route that accepts the same parameters in GET and in the body of a POST."""
    known, required, example = request
    responses = responses | GUARDED
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
        "parameters": [*query_parameters(known, required, example), refresh, priority, if_none_match, request_id],
        "responses": _sorted(responses | unchanged),
    }
    post = {
        **about,
        "operationId": f"post{name}",
        "summary": f"{about['summary']} (parameters in the body)",
        "security": security("read"),
        "parameters": [refresh, priority, request_id],
        "requestBody": request_body(ref(f"{name}Request"), example),
        "responses": _sorted(responses | shared("ContentTooLarge", "UnsupportedMediaType")),
    }
    return {"get": get, "post": post}


def _sorted(responses: Schema) -> Schema:
    return dict(sorted(responses.items()))
