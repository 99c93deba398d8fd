"""`DELETE /v1/profile`: forget a user."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from proxy.api.errors import BadRequest
from proxy.api.parse import ID_PARAMETERS, parse_ids
from proxy.api.query_string import pairs_of
from proxy.storage.redis import RedisUnavailable
from proxy.web.errors import problem
from proxy.web.services import services

blueprint = Blueprint("forget", __name__, url_prefix="/v1")


@blueprint.delete("/profile", provide_automatic_options=False)
def forget() -> Response:
    """Delete everything stored about a user, in every process, and return the counts."""
    parameters = pairs_of(request.query_string, "the URL")
    if not {name for name, _ in parameters} & {parameter.name for parameter in ID_PARAMETERS}:
        raise BadRequest("user_id or device_id is required; add user_id=<id>", code="missing_parameter")
    identity = parse_ids(parameters)
    try:
        forgotten = services().forget_service.forget(identity)
    except RedisUnavailable:
        detail = "Redis is unavailable, so only this process has forgotten the user; send the request again"
        response: Response = problem(500, "Not forgotten everywhere", detail, code="internal")
        response.headers["Retry-After"] = "1"
        return response
    response = jsonify(records=forgotten.records, waiting=forgotten.waiting)
    response.headers["Cache-Control"] = "no-store"
    return response
