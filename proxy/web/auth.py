"""Authentication by Basic, Bearer, Api-Key or X-API-Key, and the allowed networks.

If a request has both headers, `Authorization` takes precedence over `X-API-Key`.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from flask import g, request

from proxy.api.errors import Code, Forbidden, Unauthorized
from proxy.monitoring.clock import Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.web.services import services

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def refusals(clock: Clock) -> OncePerMinute:
    """Return the log of refused callers."""
    return OncePerMinute(logging.getLogger(__name__), "caller_refused", clock)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_ADDRESS_REFUSED = "this address is not allowed; ask the operator to add the address from the log to ALLOWED_NETWORKS"


def admit_to_data() -> None:
    """Admit a caller of a data route. Pages of other sites are refused, because browsers add stored credentials."""
    environ = request.environ
    _require_own_page(environ)
    _admit(environ)


def admit() -> None:
    """Set `g.caller`, or raise Forbidden or Unauthorized. Register this function as a blueprint's `before_request`."""
    _admit(request.environ)


def admit_from_anywhere() -> None:
    """Admit a caller of a data route that has no fixed address."""
    environ = request.environ
    _require_own_page(environ)
    _admit(environ, any_address=True)


def _require_own_page(environ: WSGIEnvironment) -> None:
    """Raise Forbidden if a browser sends the request for a page of another site, or another subdomain."""
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none"):
        raise Forbidden(
            "the request comes from a page of another site; call the data routes from a server", code="cross_site"
        )


def _admit(environ: WSGIEnvironment, *, any_address: bool = False) -> None:
    app_services = services()
    if app_services.networks and not any_address:
        _require_network(app_services.networks)
    credentials = environ.get("HTTP_AUTHORIZATION"), environ.get("HTTP_X_API_KEY")
    caller = app_services.accepted.caller(credentials)
    if caller is None:
        name, secret = _name_and_secret()
        caller = app_services.keyring.check(secret, name) if secret else None
        if caller is None:
            raise Unauthorized(
                "credentials are missing or wrong; send Basic (name and secret), Bearer, Api-Key or X-API-Key"
            )
        app_services.accepted.remember(credentials, caller)
    g.caller = caller


def _require_network(networks: Iterable[IPv4Network | IPv6Network]) -> None:
    """Raise Forbidden if none of `networks` contains the caller's address.

    The address is the peer's address, or the address that TRUSTED_PROXY_HOPS proxies report. Entries that the caller
    adds to X-Forwarded-For are ignored.
    """
    address = _caller_address()
    if address is None or not any(address in network for network in networks):
        raise Forbidden(_ADDRESS_REFUSED, code="forbidden_network")


def count_refusal(code: Code) -> None:
    """Count and log a refused caller. The log has one line a minute, so that no caller can flood it."""
    app_services = services()
    why = _WHY.get(code, code)
    app_services.metrics.refused(why)
    address = str(_caller_address() or "unreadable")
    app_services.refusals.note(f"{why} {address}", address=address, why=why, code=code)


_WHY: Mapping[Code, str] = {"unauthorized": "credentials", "forbidden_network": "address"}
"""The label `why` of the metric, where it is not the code. Alerts depend on the words."""


def _caller_address() -> Address | None:
    """Return the address that called the trusted proxies, or None if X-Forwarded-For has too few entries."""
    hops = services().trusted_proxy_hops
    if not hops:
        return _address(request.remote_addr or "")
    entries = ",".join(request.headers.getlist("X-Forwarded-For")).split(",")
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


def _name_and_secret() -> tuple[str | None, str]:
    if "Authorization" not in request.headers:
        return None, request.headers.get("X-API-Key", "").strip()
    try:
        credentials = request.authorization
    except ValueError:  # werkzeug decodes Basic credentials, which must be ASCII
        return None, ""
    if credentials is None:
        return None, ""
    if credentials.type == "basic":
        return credentials.username or "", credentials.password or ""
    if credentials.type in ("bearer", "api-key"):
        return None, credentials.token or ""
    return None, ""
