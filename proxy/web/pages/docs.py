"""The landing page, the OpenAPI document and its interactive page."""

from __future__ import annotations

import json
from functools import cache

from flask import Blueprint, Response

from proxy.api.openapi.document import document
from proxy.web.pages.assets import allow_revalidation, host_in_braze, page

blueprint = Blueprint("docs", __name__)


@blueprint.get("/", provide_automatic_options=False)
def home() -> Response:
    """Return the landing page."""
    return page("home.html", host=host_in_braze())


@blueprint.get("/docs", provide_automatic_options=False)
def docs() -> Response:
    """Return the interactive page with all routes."""
    return page("docs.html")


@blueprint.get("/openapi.json", provide_automatic_options=False)
def openapi() -> Response:
    """Return the OpenAPI document."""
    return allow_revalidation(Response(document_json(), content_type="application/json"))


@cache
def document_json() -> bytes:
    """Return the OpenAPI document, which is built on the first request."""
    return json.dumps(document(), ensure_ascii=False).encode() + b"\n"
