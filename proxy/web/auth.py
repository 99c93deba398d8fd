"""Who calls. Basic, Bearer, Api-Key and X-API-Key; `Authorization` wins."""

from __future__ import annotations

import logging

from flask import g, request

from proxy.errors import Unauthorized
from proxy.telemetry import OncePerMinute
from proxy.web.context import services

_log = logging.getLogger(__name__)
_refusals = OncePerMinute()


def require_caller() -> None:
    """Note the caller's name in `g.caller`, or raise Unauthorized. For `before_request` of a blueprint."""
    name, secret = _presented()
    caller = services().keyring.check(secret, name) if secret else None
    if caller is None:
        if times := _refusals.note(request.remote_addr or "?"):
            _log.warning("callers refused", extra={"address": request.remote_addr, "times": times})
        raise Unauthorized(
            "no valid credentials: send Basic (name and secret), Authorization: Bearer or Api-Key, or X-API-Key"
        )
    g.caller = caller


def _presented() -> tuple[str | None, str]:
    if "Authorization" not in request.headers:
        return None, request.headers.get("X-API-Key", "").strip()
    credentials = request.authorization
    if credentials is None:
        return None, ""
    if credentials.type == "basic":
        return credentials.username or "", credentials.password or ""
    if credentials.type in ("bearer", "api-key"):
        return None, credentials.token or ""
    return None, ""
