"""The data routes: parse, get, shape, answer. No policy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from flask import Blueprint, Response, g, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType

from proxy import strictjson
from proxy.errors import BLANK_ID, BadRequest, NoAnswer, UpstreamInvalid
from proxy.parts import COHORTS, EMPTY, SECTIONS, Part, Section
from proxy.profiles import NOTHING, Answer
from proxy.query import Ask, from_json, parse, parse_drop_in
from proxy.shaping import drop_in, shape
from proxy.web import caching
from proxy.web.auth import admit
from proxy.web.context import services
from proxy.web.hooks import problem

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_BODY_BYTES = 16 * 1024
MAX_ANSWER_BYTES = 1_000_000
"""Braze's limit for a Connected Content answer."""

NOT_SEEN_BEFORE = "User id and device id not seen before"
"""Amplitude's words for an unknown user, which the drop-in repeats."""

blueprint = Blueprint("v1", __name__, url_prefix="/v1")
blueprint.before_request(admit)


def answer(section: Section | None) -> Response:
    """Answer what one route was asked; `section` is None for the profile."""
    here = services()
    ask = parse(section, _given(), here.aliases)
    max_age = caching.wanted_age(request)
    store = here.store
    usual = max_age is None and not caching.in_background(request)
    if usual and (again := store.ready(ask.identity, ask.wish)):
        ready, freshness = again
        return _tagged(_written(ready.body, Answer(EMPTY, freshness=freshness)), ready.etag)
    found = _found(ask, ask.wish.parts, max_age)
    error = BLANK_ID if ask.anonymous else found.error.word if found.error else None
    body = shape(ask, found.record, error=error, stale=found.stale) + b"\n"
    if len(body) >= MAX_ANSWER_BYTES:
        error = UpstreamInvalid.word
        found = _too_large(found)
        body = shape(ask, EMPTY, error=error) + b"\n"
    if found.error is not None and ask.wish.on_error == "retry":
        return _described(_try_again(found.error), found)
    response = _written(body, found)
    if error == BLANK_ID:
        g.error = error
        response.headers["Cache-Control"] = "no-store"
        del response.headers["Cache-Status"]
    etag = _etag(body)
    if found.forwarded is None and found.freshness and found.freshness.left > 0:
        store.keep_ready(ask.identity, ask.wish, found.record, body, etag)
    return _tagged(response, etag)


def userprofile() -> Response:
    """Answer as Amplitude's own endpoint does, errors too, from the same cache and within the same quota."""
    ask = parse_drop_in(_given(), services().aliases)
    # Whether a user is known is an answer too, and the cohorts are the least to ask for it.
    found = _found(ask, ask.wish.parts or (COHORTS,), caching.wanted_age(request))
    if ask.anonymous or found.record.unknown_at is not None:
        status = found.record.unknown_status
        # Never a redirect, nor one that Braze counts towards halting every call to this host.
        usual = status == 200 or (400 <= status < 500 and status not in (401, 403, 408, 429))
        response = _json({"error": NOT_SEEN_BEFORE}, status if usual else 400)
        if ask.anonymous:
            response.headers["Cache-Control"] = "no-store"
            response.headers["X-Amplitude-Calls"] = "0"
            return response
        return _described(response, found)
    response = _json(drop_in(ask, found.record), 200)
    if len(response.data) >= MAX_ANSWER_BYTES:
        found = _too_large(found)
    if found.error is not None:
        return _described(_json({"error": found.error.word}, 500), found)
    return _tagged(_described(response, found), _etag(response.data))


for _section in (*SECTIONS, None):
    blueprint.add_url_rule(
        f"/{_section or 'profile'}",
        endpoint=_section or "profile",
        view_func=answer,
        methods=["GET", "POST"],
        defaults={"section": _section},
        provide_automatic_options=False,
    )
blueprint.add_url_rule("/userprofile", view_func=userprofile, methods=["GET", "POST"], provide_automatic_options=False)


def _found(ask: Ask, parts: Sequence[Part], max_age: float | None) -> Answer:
    if ask.anonymous:
        return NOTHING
    here = services()
    return here.profiles.get(
        ask.identity,
        parts,
        until=g.started + here.wait_seconds,
        wanted_later=ask.wish.on_error == "retry",
        max_age=max_age,
        background=caching.in_background(request),
        wish=ask.wish,
    )


def _too_large(found: Answer) -> Answer:
    return Answer(EMPTY, UpstreamInvalid(), forwarded="miss", opened=found.opened, calls=found.calls)


def _given() -> Iterator[tuple[str, Any]]:
    yield from _pairs(request.query_string, "the URL")
    if request.method != "POST":
        return
    try:
        body = request.get_data()
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001  # each server has its own for a broken transfer coding
        raise BadRequest("the body could not be read: is its transfer coding broken?") from None
    if len(body) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    if not body:
        return
    match request.mimetype:
        case "application/x-www-form-urlencoded":
            yield from _pairs(body, "the body")
        case "application/json":
            yield from from_json(body)
        case _:
            raise UnsupportedMediaType


def _pairs(encoded: bytes, where: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(encoded.decode("utf-8"), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest(f"{where} is not UTF-8 once its percent-encoding is undone: encode it again") from None


def _described(response: Response, found: Answer) -> Response:
    if found.error is not None:
        g.error = found.error.word
    g.cache = caching.word(found)
    response.headers.extend(caching.described(found))
    return response


def _written(body: bytes, found: Answer) -> Response:
    return _described(_Whole(body, content_type="application/json"), found)


def _etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


def _tagged(response: Response, etag: str) -> Response:
    response.headers.add("ETag", f'"{etag}"')
    known = "HTTP_IF_NONE_MATCH" in request.environ and request.if_none_match.contains_weak(etag)
    if known and request.method in ("GET", "HEAD") and "no-store" not in response.headers["Cache-Control"]:
        response.status_code = 304
        response.set_data(b"")
    return response


class _Whole(Response):
    """An answer whose headers are complete: werkzeug would copy and search them once more."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """Return the headers, without those of a body where there is none."""
        return self.headers if self.status_code == 200 else super().get_wsgi_headers(environ)


def _json(body: dict[str, Any], status: int) -> Response:
    return _Whole(strictjson.write(body) + b"\n", status, content_type="application/json")


def _try_again(error: NoAnswer) -> Response:
    # 500 and not 502, 503, 504 or 429: those count towards Braze's unhealthy-host detection, which would
    # halt every call to this host. Braze's :retry acts on it.
    response = problem(500, "No answer yet", _WHY[error.word], ok=False, error=error.word)
    del response.headers["Cache-Control"]  # what describes the answer says it
    response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    return response


_WHY = {
    "quota_exhausted": "the call to Amplitude could not be sent in time within the quota; try again",
    "upstream_timeout": "Amplitude has not answered in time; its answer is still awaited, try again",
    "upstream_unavailable": "Amplitude cannot be reached or fails; try again",
    "upstream_rejected": "Amplitude rejects this service's credentials; its operator must mend AMPLITUDE_SECRET_KEY",
    "upstream_invalid": "Amplitude's answer is not what it documents; try again",
}
