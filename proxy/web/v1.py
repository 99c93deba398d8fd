"""The data routes: parse, get, shape, answer. No policy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from proxy.errors import BLANK_ID, UpstreamInvalid
from proxy.parts import EMPTY, SECTIONS, Section
from proxy.profiles import NOTHING, Answer
from proxy.query import Ask, from_json, parse
from proxy.shaping import shape
from proxy.web import caching
from proxy.web.auth import require_caller
from proxy.web.context import services
from proxy.web.hooks import problem

MAX_BODY_BYTES = 16 * 1024
MAX_ANSWER_BYTES = 1_000_000
"""Braze's limit for a Connected Content answer."""

blueprint = Blueprint("v1", __name__, url_prefix="/v1")
blueprint.before_request(require_caller)


def answer(section: Section | None) -> Response:
    """Answer what one route was asked; `section` is None for the profile."""
    ask = parse(section, _given())
    if ask.anonymous:
        return _respond(ask, NOTHING, BLANK_ID)
    found = services().profiles.get(
        ask.identity,
        ask.parts,
        until=g.started + services().wait_seconds,
        wanted_later=ask.on_error == "retry",
    )
    return _respond(ask, found, found.error.word if found.error else None)


for _section in (*SECTIONS, None):
    blueprint.add_url_rule(
        f"/{_section or 'profile'}",
        endpoint=_section or "profile",
        view_func=answer,
        methods=["GET", "POST"],
        defaults={"section": _section},
        provide_automatic_options=False,
    )


def _given() -> Iterator[tuple[str, Any]]:
    yield from request.args.items(multi=True)
    if request.method != "POST":
        return
    body = request.get_data()
    if len(body) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    if not body:
        return
    match request.mimetype:
        case "application/x-www-form-urlencoded":
            yield from request.form.items(multi=True)
        case "application/json":
            yield from from_json(body)
        case _:
            raise UnsupportedMediaType


def _respond(ask: Ask, found: Answer, error: str | None) -> Response:
    body = _encoded(shape(ask, found.record, error=error))
    if len(body) >= MAX_ANSWER_BYTES:
        error = UpstreamInvalid.word
        found = Answer(EMPTY, UpstreamInvalid(), "miss", found.opened, found.calls, None)
        body = _encoded(shape(ask, EMPTY, error=error))
    if error is not None:
        g.error = error
    if error is not None and error != BLANK_ID and ask.on_error == "retry":
        response = _try_again(found, error)
    else:
        response = Response(body, content_type="application/json")
    caching.describe(response.headers, found)
    if error is not None:
        response.headers["Cache-Control"] = "no-store"
    if error == BLANK_ID:
        del response.headers["Cache-Status"]
    return response


def _try_again(found: Answer, error: str) -> Response:
    # 500 and not 502, 503, 504 or 429: those count towards Braze's unhealthy-host detection, which would
    # halt every call to this host. Braze's :retry acts on it.
    response = problem(500, "No answer yet", _WHY[error], ok=False, error=error)
    seconds = found.error.retry_after if found.error else None
    response.headers["Retry-After"] = str(max(1, math.ceil(seconds or 1)))
    return response


_WHY = {
    "quota_exhausted": "the call to Amplitude could not be sent in time within the quota; try again",
    "upstream_timeout": "Amplitude has not answered in time; its answer is still awaited, try again",
    "upstream_unavailable": "Amplitude cannot be reached or fails; try again",
    "upstream_rejected": "Amplitude rejects this service's credentials; its operator must mend AMPLITUDE_SECRET_KEY",
    "upstream_invalid": "Amplitude's answer is not what it documents; try again",
}


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
