"""Who calls, and from where. Basic, Bearer, Api-Key and X-API-Key; `Authorization` wins."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network

from flask import g, request

from proxy.api.errors import Forbidden, Unauthorized
from proxy.monitoring.logs import OncePerMinute
from proxy.web.services import Services, services


def refusals(monotonic: Callable[[], float]) -> OncePerMinute:
    """Return what logs the callers that were refused."""
    return OncePerMinute(logging.getLogger(__name__), "callers refused", monotonic)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_ELSEWHERE = "this address may not call: the log has it, and an operator adds it to ALLOWED_NETWORKS if it is to"


def admit() -> None:
    """Note the caller's name in `g.caller`, or raise Forbidden or Unauthorized. For `before_request` of a blueprint."""
    here = services()
    if here.networks:
        _require_network(here.networks)
    _admit(here)


def admit_from_anywhere() -> None:
    """Do the same for a blueprint whose callers have no addresses of their own; raises Unauthorized."""
    _admit(services())


def _admit(here: Services) -> None:
    headers = request.environ
    sent = headers.get("HTTP_AUTHORIZATION"), headers.get("HTTP_X_API_KEY")
    caller = here.accepted.caller(sent)
    if caller is None:
        name, secret = _presented()
        caller = here.keyring.check(secret, name) if secret else None
        if caller is None:
            _note("credentials")
            raise Unauthorized(
                "no valid credentials: send Basic (name and secret), Authorization: Bearer or Api-Key, or X-API-Key"
            )
        here.accepted.remember(sent, caller)
    g.caller = caller


def _require_network(networks: Iterable[IPv4Network | IPv6Network]) -> None:
    """Raise Forbidden when the caller's address is in none of `networks`.

    The address is the peer's, or what TRUSTED_PROXY_HOPS proxies in front say; what a caller itself puts into
    X-Forwarded-For is never looked at.
    """
    address = _caller_address()
    if address is None or not any(address in network for network in networks):
        _note("address")
        raise Forbidden(_ELSEWHERE)


def _note(why: str) -> None:
    # By the minute and with a count: with a line each, anybody could fill the log.
    services().metrics.refused(why)
    address = str(_caller_address() or "unreadable")
    services().refusals.note(f"{why} {address}", address=address, why=why)


def _caller_address() -> Address | None:
    """Return the address before the trusted proxies; None when fewer than those have written theirs down."""
    hops = services().trusted_proxy_hops
    if not hops:
        return _address(request.remote_addr or "")
    entries = ",".join(request.headers.getlist("X-Forwarded-For")).split(",")
    return _address(entries[-hops].strip()) if len(entries) >= hops else None


def _address(text: str) -> Address | None:
    """Return the address in `text`, which some proxies send with a port; an IPv4 one in IPv6 clothes as IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _presented() -> tuple[str | None, str]:
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
