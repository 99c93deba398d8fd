"""What developers read: the landing page, the OpenAPI document, and the page to try it on."""

from __future__ import annotations

from flask import Blueprint, Response

from proxy.web.pages import page

blueprint = Blueprint("docs", __name__)


@blueprint.get("/", provide_automatic_options=False)
def home() -> Response:
    """Say what this is and where to go."""
    return page("home.html")
