"""Authentication by Basic, Bearer, Api-Key or X-API-Key, the scopes of the routes, and the allowed networks.

If a request has both headers, `Authorization` takes precedence over `X-API-Key`.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from flask import Flask, g, request
from werkzeug.datastructures import Authorization

from proxy.api.caller_keys import Caller, Scope
from proxy.api.errors import Code, Forbidden, Unauthorized
from proxy.monitoring.clock import Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.web.services import Services, current_request, services

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def refusals(clock: Clock) -> OncePerMinute:
    """Return the log of refused callers."""
    return OncePerMinute(logging.getLogger(__name__), "caller_refused", clock)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_ADDRESS_REFUSED = "this address is not allowed; ask the operator to add the address from the log to ALLOWED_NETWORKS"


class Access(NamedTuple):
    """The requests that a blueprint accepts.

    scope: the scope that the key needs. any_address: ALLOWED_NETWORKS does not apply. any_site: pages of other sites
    may link to the routes. Otherwise, requests for such pages are refused, because browsers add stored credentials.
    """

    scope: Scope
    any_address: bool = False
    any_site: bool = False


DATA_ACCESS = Access("read")
"""The requests that the data routes accept."""
WEBHOOK_ACCESS = Access("push", any_address=True)
"""The requests that Amplitude's webhooks accept. Amplitude sends from many hosts."""
ACCESS: Mapping[str, Access | None] = {
    "v1": DATA_ACCESS,
    "forget": Access("admin"),
    "webhooks": WEBHOOK_ACCESS,
    "currents": Access("push", any_address=True),  # Braze drops the events after a 403
    "snapshots": Access("push"),
    "snapshot_removal": Access("admin"),
    "playground": Access("read", any_site=True),
    "status": Access("read", any_site=True),
    "docs": None,
    "health": None,
    "pages": None,
}
"""The requests that each blueprint accepts; None accepts all. A blueprint without an entry fails every request."""


def install(app: Flask, app_services: Services) -> None:
    """Register the check of each request."""
    app.before_request(partial(_admit, app_services))


def _require_own_page(environ: WSGIEnvironment) -> None:
    """Raise Forbidden if a browser sends the request for a page of another site, or another subdomain."""
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none"):
        raise Forbidden(
            "the request comes from a page of another site; call the data routes from a server", code="cross_site"
        )


def _admit(app_services: Services) -> None:
    """Set `g.caller` on a route that needs a key, or raise Forbidden or Unauthorized."""
    request = current_request()
    if request.url_rule is None:  # a 404 or 405
        return
    # Not `request.blueprint`, which costs a microsecond.
    access = ACCESS[request.url_rule.endpoint.partition(".")[0]]
    if access is None:
        return
    g.caller = authenticate(request.environ, access, app_services)
    require_scope(g.caller, access)


def authenticate(environ: WSGIEnvironment, access: Access, app_services: Services) -> Caller:
    """Return the caller. Raises Forbidden for a page or an address, and Unauthorized without valid credentials."""
    if not access.any_site:
        _require_own_page(environ)
    if app_services.networks and not access.any_address:
        _require_network(environ, app_services)
    caller = _caller(environ, app_services)
    if caller is None:
        raise Unauthorized(
            "credentials are missing or wrong; send Basic (name and secret), Bearer, Api-Key or X-API-Key"
        )
    return caller


def require_scope(caller: Caller, access: Access) -> None:
    """Raise Forbidden if the key of `caller` does not have the scope of the route."""
    if caller.scope not in (access.scope, "admin"):
        raise Forbidden(
            f"the key has the scope {caller.scope}, and this route needs the scope {access.scope}; create a "
            f"key: python -m proxy new-key NAME --scope {access.scope}",
            code="scope",
        )


def _caller(environ: WSGIEnvironment, app_services: Services) -> Caller | None:
    """Return the caller with the credentials of this request; None if the credentials are missing or wrong."""
    credentials = environ.get("HTTP_AUTHORIZATION"), environ.get("HTTP_X_API_KEY")
    caller = app_services.accepted.caller(credentials)
    if caller is None:
        name, secret = _name_and_secret(*credentials)
        caller = app_services.keyring.check(secret, name) if secret else None
        if caller is not None:
            app_services.accepted.remember(credentials, caller)
    return caller


def is_known_caller() -> bool:
    """Return whether a request to a public route has valid credentials. Counts wrong credentials as a refusal."""
    environ = request.environ
    if "HTTP_AUTHORIZATION" not in environ and "HTTP_X_API_KEY" not in environ:
        return False
    known = _caller(environ, services()) is not None
    if not known:
        count_refusal("unauthorized")
    return known


def _require_network(environ: WSGIEnvironment, app_services: Services) -> None:
    """Raise Forbidden if no network of ALLOWED_NETWORKS contains the caller's address.

    The address is the peer's address, or the address that TRUSTED_PROXY_HOPS proxies report. Entries that the caller
    adds to X-Forwarded-For are ignored.
    """
    address = _caller_address(environ, app_services.trusted_proxy_hops)
    if address is None or not any(address in network for network in app_services.networks):
        raise Forbidden(_ADDRESS_REFUSED, code="forbidden_network")


def count_refusal(code: Code) -> None:
    """Count and log a refused caller. The log has one line a minute, so that no caller can flood it."""
    app_services = services()
    why = _WHY.get(code, code)
    app_services.metrics.refused(why)
    address = str(_caller_address(request.environ, app_services.trusted_proxy_hops) or "unreadable")
    key, fields = address, {}
    if why == "scope":
        # By caller and route, because Amplitude pushes from many addresses.
        fields = {
            "caller": g.caller.name,
            "scope": g.caller.scope,
            "method": request.method,
            "route": str(request.url_rule),
        }
        key = " ".join(fields.values())
    app_services.refusals.note(f"{why} {key}", address=address, why=why, code=code, **fields)


_WHY: Mapping[Code, str] = {"unauthorized": "credentials", "forbidden_network": "address"}
"""The label `why` of the metric, if it differs from the code. Alerts depend on the words."""


def _caller_address(environ: WSGIEnvironment, hops: int) -> Address | None:
    """Return the address that called the trusted proxies, or None if X-Forwarded-For has too few entries."""
    if not hops:
        return _address(environ.get("REMOTE_ADDR") or "")
    entries = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
    return _address(entries[-hops].strip()) if len(entries) >= hops else None


def _address(text: str) -> Address | None:
    """Parse an address and ignore its port. Convert an IPv4-mapped IPv6 address to IPv4. Return None if invalid."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _name_and_secret(authorization: str | None, api_key: str | None) -> tuple[str | None, str]:
    if authorization is None:
        return None, (api_key or "").strip()
    try:
        credentials = Authorization.from_header(authorization)
    except ValueError:  # werkzeug decodes Basic credentials, which must be ASCII
        return None, ""
    if credentials is None:
        return None, ""
    if credentials.type == "basic":
        return credentials.username or "", credentials.password or ""
    if credentials.type in ("bearer", "api-key"):
        return None, credentials.token or ""
    return None, ""
