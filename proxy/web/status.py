"""/metrics: everything that is counted, as Prometheus reads it. It has no id and no secret, and spends no call."""

from __future__ import annotations

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from proxy.web.auth import require_caller, require_network
from proxy.web.context import services

blueprint = Blueprint("status", __name__)
blueprint.before_request(require_network)
blueprint.before_request(require_caller)


@blueprint.get("/metrics", provide_automatic_options=False)
def metrics() -> Response:
    """Answer the metrics of all worker processes."""
    response = Response(services().metrics.text(), content_type=CONTENT_TYPE_LATEST)
    response.headers["Cache-Control"] = "no-store"
    return response
