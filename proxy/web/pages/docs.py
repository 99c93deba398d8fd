"""What developers read: the landing page, the OpenAPI document, and the page on which to try it."""

from __future__ import annotations

import json
from functools import cache

from flask import Blueprint, Response

from proxy.api.openapi.document import document
from proxy.web.pages.assets import host_in_braze, page, revalidated

blueprint = Blueprint("docs", __name__)


@blueprint.get("/", provide_automatic_options=False)
def home() -> Response:
    """Say what this is and where to go."""
    return page("home.html", host=host_in_braze())


@blueprint.get("/docs", provide_automatic_options=False)
def docs() -> Response:
    """Show every route, to be tried."""
    return page("docs.html")


@blueprint.get("/openapi.json", provide_automatic_options=False)
def openapi() -> Response:
    """Answer the OpenAPI document."""
    return revalidated(Response(_document(), content_type="application/json"))


@cache
def _document() -> bytes:
    # Not at the start: a process that nobody asks for it need not build it.
    return json.dumps(document(), ensure_ascii=False).encode() + b"\n"
