"""Forgetting a user: `DELETE /v1/profile`."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from proxy.api.errors import BadRequest
from proxy.api.parse import FORGETTING, parse_forgetting
from proxy.api.query_string import pairs_of
from proxy.storage.redis import RedisUnavailable
from proxy.web.auth import admit
from proxy.web.errors import problem
from proxy.web.services import services

blueprint = Blueprint("forget", __name__, url_prefix="/v1")
blueprint.before_request(admit)


@blueprint.delete("/profile", provide_automatic_options=False)
def forget() -> Response:
    """Forget what is kept about a user, in every process, and say how much that was."""
    given = pairs_of(request.query_string, "the URL")
    if not {name for name, _ in given} & {parameter.name for parameter in FORGETTING}:
        raise BadRequest("no user: send user_id or device_id, e.g. user_id=12345")
    meant = parse_forgetting(given)
    try:
        forgot = services().forget_service.forget(meant)
    except RedisUnavailable:
        response = problem(500, "Not forgotten everywhere", "Redis does not answer: forgotten here alone; try again")
        response.headers["Retry-After"] = "1"
        return response
    response = jsonify(records=forgot.records, waiting=forgot.waiting)
    response.headers["Cache-Control"] = "no-store"
    return response
