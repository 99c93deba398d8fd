"""Forgetting a user: `DELETE /v1/profile`."""

from __future__ import annotations

from urllib.parse import parse_qsl

from flask import Blueprint, Response, jsonify, request

from proxy.errors import BadRequest
from proxy.query import parse_forgetting
from proxy.shared import Gone
from proxy.web.auth import admit
from proxy.web.context import services
from proxy.web.hooks import problem

blueprint = Blueprint("forget", __name__, url_prefix="/v1")
blueprint.before_request(admit)


@blueprint.delete("/profile", provide_automatic_options=False)
def forget() -> Response:
    """Forget what is kept about a user, in every process, and say how much that was."""
    try:
        given = parse_qsl(request.query_string.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("the URL is not UTF-8 once its percent-encoding is undone: encode it again") from None
    try:
        forgot = services().forgetting.forget(parse_forgetting(given))
    except Gone:
        response = problem(500, "Not forgotten everywhere", "Redis does not answer: forgotten here alone; try again")
        response.headers["Retry-After"] = "1"
        return response
    response = jsonify(records=forgot.records, waiting=forgot.waiting)
    response.headers["Cache-Control"] = "no-store"
    return response
