"""Authentication by Basic, Bearer, Api-Key or X-API-Key (`Authorization` wins), and the allowed networks."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from flask import g, request

from proxy.api.errors import Forbidden, Unauthorized
from proxy.monitoring.clock import Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.web.services import Services, services


def refusals(clock: Clock) -> OncePerMinute:
    """Return the log of refused callers."""
    return OncePerMinute(logging.getLogger(__name__), "callers refused", clock)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_ELSEWHERE = "this address may not call: the log has it, and an operator adds it to ALLOWED_NETWORKS if it is to"


def admit() -> None:
    """Set `g.caller`, or raise Forbidden or Unauthorized. For `before_request` of a blueprint."""
    app_services = services()
    if app_services.networks:
        _require_network(app_services.networks)
    _admit(app_services)


def admit_from_anywhere() -> None:
    """Set `g.caller`, or raise Unauthorized. For a blueprint whose callers have no fixed addresses."""
    _admit(services())


def _admit(app_services: Services) -> None:
    headers = request.environ
    credentials = headers.get("HTTP_AUTHORIZATION"), headers.get("HTTP_X_API_KEY")
    caller = app_services.accepted.caller(credentials)
    if caller is None:
        name, secret = _name_and_secret()
        caller = app_services.keyring.check(secret, name) if secret else None
        if caller is None:
            _count_refusal("credentials")
            raise Unauthorized(
                "no valid credentials: send Basic (name and secret), Authorization: Bearer or Api-Key, or X-API-Key"
            )
        app_services.accepted.remember(credentials, caller)
    g.caller = caller


def _require_network(networks: Iterable[IPv4Network | IPv6Network]) -> None:
    """Raise Forbidden when the caller's address is in none of `networks`.

    The address is the peer's, or the one that TRUSTED_PROXY_HOPS proxies report. Entries that the caller itself puts
    into X-Forwarded-For are ignored.
    """
    address = _caller_address()
    if address is None or not any(address in network for network in networks):
        _count_refusal("address")
        raise Forbidden(_ELSEWHERE)


def _count_refusal(why: str) -> None:
    # Logged once a minute with a count: otherwise anybody could flood the log.
    app_services = services()
    app_services.metrics.refused(why)
    address = str(_caller_address() or "unreadable")
    app_services.refusals.note(f"{why} {address}", address=address, why=why)


def _caller_address() -> Address | None:
    """Return the address in front of the trusted proxies; None when the header has fewer entries than those."""
    hops = services().trusted_proxy_hops
    if not hops:
        return _address(request.remote_addr or "")
    entries = ",".join(request.headers.getlist("X-Forwarded-For")).split(",")
    return _address(entries[-hops].strip()) if len(entries) >= hops else None


def _address(text: str) -> Address | None:
    """Return the address in `text`, without a port. An IPv4-mapped IPv6 address is returned as IPv4."""
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
