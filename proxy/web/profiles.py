"""The data routes: parse, get, shape, answer. No policy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Request, Response, g

from proxy.api.drop_in import parse_drop_in, shape_drop_in
from proxy.api.errors import BLANK_ID
from proxy.api.parse import parse
from proxy.api.response import shape
from proxy.fetch.service import ANONYMOUS, ProfileResult
from proxy.profile.errors import UpstreamError, UpstreamInvalid
from proxy.profile.json import write_json
from proxy.profile.parts import COHORTS, SECTIONS, Part, Section
from proxy.profile.query import ProfileRequest
from proxy.profile.record import EMPTY
from proxy.web import cache_headers
from proxy.web.auth import admit
from proxy.web.errors import problem
from proxy.web.request_body import sent_parameters
from proxy.web.services import Services, asked, services
from proxy.web.written import Written

MAX_ANSWER_BYTES = 1_000_000
"""Braze's limit for a Connected Content answer."""

NOT_SEEN_BEFORE = "User id and device id not seen before"
"""Amplitude's words for an unknown user, which the drop-in repeats."""

blueprint = Blueprint("v1", __name__, url_prefix="/v1")
blueprint.before_request(admit)


def answer(section: Section | None) -> Response:
    """Answer what one route was asked; `section` is None for the profile."""
    here, request = services(), asked()
    ask = parse(section, sent_parameters(request), here.aliases)
    max_age, background = cache_headers.wanted_age(request), cache_headers.in_background(request)
    hit = here.store.fresh(ask.identity, ask.query) if max_age is None and not background else None
    if hit is None:
        found = _found(here, ask, ask.query.parts, max_age, background)
    else:
        found = ProfileResult(hit.record, freshness=hit.freshness)
        if hit.ready:
            return _written(hit.ready.body, found, request, etag=hit.ready.etag)
    error = BLANK_ID if ask.anonymous else found.error.word if found.error else None
    body = shape(ask, found.record, error=error, stale=found.stale) + b"\n"
    if len(body) >= MAX_ANSWER_BYTES:
        error = UpstreamInvalid.word
        found = _too_large(found)
        body = shape(ask, EMPTY, error=error) + b"\n"
    if found.error is not None and ask.query.on_error == "retry":
        return _try_again(found, found.error)
    etag = _etag(body)
    if hit and hit.again and found.error is None:
        here.store.keep_ready(ask.identity, ask.query, found.record, body, etag)
    return _written(body, found, request, etag=etag)


def userprofile() -> Response:
    """Answer as Amplitude's own endpoint does, errors too, from the same cache and within the same quota."""
    here, request = services(), asked()
    ask = parse_drop_in(sent_parameters(request), here.aliases)
    # Whether a user is known is an answer too, and the cohorts are the least to ask for it.
    parts = ask.query.parts or (COHORTS,)
    found = _found(here, ask, parts, cache_headers.wanted_age(request), cache_headers.in_background(request))
    if ask.anonymous or found.record.unknown_at is not None:
        status = found.record.unknown_status
        # Never a redirect, nor one that Braze counts towards halting every call to this host.
        usual = status == 200 or (400 <= status < 500 and status not in (401, 403, 408, 429))
        return _written(_json({"error": NOT_SEEN_BEFORE}), found, request, status if usual else 400)
    body = _json(shape_drop_in(ask, found.record))
    if len(body) >= MAX_ANSWER_BYTES:
        found = _too_large(found)
    if found.error is not None:
        return _written(_json({"error": found.error.word}), found, request, 500)
    return _written(body, found, request, etag=_etag(body))


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


def _found(
    here: Services, ask: ProfileRequest, parts: Sequence[Part], max_age: float | None, background: bool
) -> ProfileResult:
    if ask.anonymous:
        return ANONYMOUS
    return here.profiles.get(
        ask.identity,
        parts,
        until=g.started + here.wait_seconds,
        wanted_later=ask.query.on_error == "retry",
        max_age=max_age,
        background=background,
        query=ask.query,
    )


def _too_large(found: ProfileResult) -> ProfileResult:
    return ProfileResult(EMPTY, UpstreamInvalid(), forwarded="miss", opened=found.opened, calls=found.calls)


def _written(body: bytes, found: ProfileResult, asked: Request, status: int = 200, etag: str | None = None) -> Response:
    _note(found)
    headers = [("Content-Type", "application/json"), *cache_headers.described(found)]
    if etag is None:
        return Written(body, headers, status)
    headers.append(("ETag", f'"{etag}"'))
    known = "HTTP_IF_NONE_MATCH" in asked.environ and asked.if_none_match.contains_weak(etag)
    if known and asked.method in ("GET", "HEAD") and cache_headers.may_be_kept(found):
        return Written(b"", headers, 304)
    return Written(body, headers, status)


def _note(found: ProfileResult) -> None:
    ours = g._get_current_object()
    ours.cache = cache_headers.word(found)
    if found is ANONYMOUS:
        ours.error = BLANK_ID
    elif found.error is not None:
        ours.error = found.error.word


def _etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


def _json(body: dict[str, Any]) -> bytes:
    return write_json(body) + b"\n"


def _try_again(found: ProfileResult, error: UpstreamError) -> Response:
    # 500 and not 502, 503, 504 or 429: those count towards Braze's unhealthy-host detection, which would
    # halt every call to this host. Braze's :retry acts on it.
    _note(found)
    response = problem(500, "No answer yet", _WHY[error.word], ok=False, error=error.word)
    del response.headers["Cache-Control"]  # what describes the answer says it
    response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    response.headers.extend(cache_headers.described(found))
    return response


_WHY = {
    "quota_exhausted": "the call to Amplitude could not be sent in time within the quota; try again",
    "upstream_timeout": "Amplitude has not answered in time; its answer is still awaited, try again",
    "upstream_unavailable": "Amplitude cannot be reached or fails; try again",
    "upstream_rejected": "Amplitude rejects this service's credentials; its operator must mend AMPLITUDE_SECRET_KEY",
    "upstream_invalid": "Amplitude's answer is not what it documents; try again",
}
