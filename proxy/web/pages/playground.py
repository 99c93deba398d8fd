"""The playground: renders a Braze message as Braze would send it."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from flask import Blueprint, Response, current_app, g, request

from proxy.api.errors import BadRequest, Forbidden, UnsupportedMediaType
from proxy.liquid.braze_objects import is_value_name
from proxy.liquid.render_process import OTHERS_RENDER, Renderer, refusal_report
from proxy.liquid.types import Ask, AskForTag, User
from proxy.profile.json import read_json
from proxy.storage.weighted_semaphore import Busy, WeightedSemaphore
from proxy.web.pages.assets import PAGE_POLICY, host_in_braze, page, uncached_response
from proxy.web.pages.held_answers import held_asker
from proxy.web.pages.wsgi_client import asker
from proxy.web.request_body import read_body
from proxy.web.services import services

MAX_BODY_BYTES = 512 * 1024
"""Space for an e-mail of 256 KB with test values and stored answers."""
_BODIES = WeightedSemaphore(8 * 1024 * 1024, wait_seconds=1)
"""Limit on bodies that are being read: 16 of the maximum size. Without it, 4,000 slow clients would take 2 GiB."""
RENDERER = Renderer()
"""The renderer for all requests of this process."""
_NEEDS_PROFILE_API = re.compile("recommendations|computations|propensities")
_FRAME_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""Content-Security-Policy of the frame with a message as HTML: no scripts, and nothing from any host."""
_CALLER_HEADERS = ("Authorization", "X-API-Key", "X-Forwarded-For")

blueprint = Blueprint("playground", __name__, url_prefix="/playground")


@blueprint.get("", provide_automatic_options=False)
def show() -> Response:
    """Return the page."""
    profile_api = services().profile_api
    usable = {title: text for title, text in snippets().items() if profile_api or not _NEEDS_PROFILE_API.search(text)}
    demo_users = services().demo_users
    response = page(
        "playground.html",
        snippets=usable,
        host=host_in_braze(),
        profile_api=profile_api,
        demo_users=demo_users,
        busy=OTHERS_RENDER,
        max_bytes=MAX_BODY_BYTES,
    )
    response.headers["Content-Security-Policy"] = f"{PAGE_POLICY}; frame-src 'self'"
    return response


@blueprint.get("/frame", provide_automatic_options=False)
def frame() -> Response:
    """Return the empty document into which the page puts the HTML of a message.

    A frame without a document of its own would have the policy of the page, which forbids the inline styles of e-mails.
    """
    response = uncached_response(b"<!doctype html><title>Message</title>", "text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = _FRAME_POLICY
    return response


@blueprint.post("/render", provide_automatic_options=False)
def render() -> Response:
    """Return the rendered message, the answers to its tags and the findings."""
    _require_same_origin()
    try:
        with _BODIES.hold(min(request.content_length or MAX_BODY_BYTES, MAX_BODY_BYTES)):
            message = _message()
    except Busy:
        return uncached_response(refusal_report(OTHERS_RENDER) + b"\n")
    user = User(message.get("user_id", "").strip(), message.get("device_id", "").strip())
    ask: AskForTag = _service_asker() if message.get("fetch", True) else held_asker(message.get("answers", []))
    aliases = services().aliases.by_kind()
    return uncached_response(RENDERER.render(message["template"], user, ask, message.get("values"), aliases) + b"\n")


def _service_asker() -> Ask:
    caller = {name: ",".join(request.headers.getlist(name)) for name in _CALLER_HEADERS if name in request.headers}
    return asker(current_app.wsgi_app, {**caller, "X-Request-ID": g.request_id}, request.remote_addr or "")


@cache
def snippets() -> dict[str, str]:
    """Return the example messages by title, in the order of their file names."""
    folder = files("proxy.web.pages") / "snippets"
    templates = sorted(folder.iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".liquid").partition("-")[2].replace("-", " ").capitalize(): file.read_text("utf-8")
        for file in templates
    }


def _require_same_origin() -> None:
    # A browser adds stored Basic credentials to requests from every page, also of other sites.
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is None and origin is not None:
        # Not urlsplit, which raises ValueError for an origin such as `http://[`.
        host = origin.partition("://")[2]
        site = "same-origin" if host and host == request.host else "cross-site"
    if site not in (None, "same-origin"):
        raise Forbidden(
            "the request comes from a page of another site; open /playground on this host", code="cross_site"
        )
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("the content type is not supported; send application/json")


def _message() -> dict[str, Any]:
    try:
        message = read_json(read_body(request, MAX_BODY_BYTES))
    except ValueError:
        raise BadRequest("the body is not JSON; send an object with the key template", code="invalid_body") from None
    if not isinstance(message, dict) or not isinstance(message.get("template"), str):
        raise BadRequest(
            "template is required; add template with the message as a string",
            code="missing_parameter",
            parameter="template",
        )
    for name in ("user_id", "device_id"):
        if not isinstance(message.get(name, ""), str):
            raise BadRequest(f"{name} must be a string; put it in quotes", code="invalid_parameter", parameter=name)
    if not isinstance(message.get("fetch", True), bool):
        raise BadRequest("fetch must be true or false", code="invalid_parameter", parameter="fetch")
    _require_value_names(message.get("values", {}))
    return message


def _require_value_names(values: Any) -> None:
    problem = ""
    if not isinstance(values, dict):
        problem = "must be an object"
    elif invalid := [name for name in values if not is_value_name(name)]:
        problem = f"has the invalid name {invalid[0][:80]}"
    if problem:
        raise BadRequest(
            f"values {problem}; write each name as in the message, such as custom_attribute.${{plan}}",
            code="invalid_parameter",
            parameter="values",
        )
