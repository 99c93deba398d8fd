"""HTTP client of a running service, or of one inside this process."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from getpass import GetPassWarning
from urllib.parse import urlsplit

import click
import requests
from flask import Flask

from proxy.api.keys import entry, generate
from proxy.api.urls import is_loopback
from proxy.app import create_app
from proxy.liquid.types import Answer, Ask, Request
from proxy.monitoring.logs import configure_logging
from proxy.settings import Settings
from proxy.web.pages.wsgi_client import asker

_CALLER = "preview"

_SECONDS = 10.0
"""Longer than any data answer may take; a service elsewhere may have to start first."""


class NoService(Exception):
    """The service to be asked is not there, or its address is none. Says what to mend."""


class TurnedAway(NoService):
    """What is there takes no question from here; asking it again would not help."""


def own_service(environ: Mapping[str, str]) -> Ask:
    """Return what asks a service in this process, with the settings of `environ` and a key of its own.

    Raises SettingsError. Nothing listens, so no network is asked about, and PROXY_API_KEYS need not be set.
    """
    return own_application(environ)[1]


def own_application(environ: Mapping[str, str]) -> tuple[Flask, Ask]:
    """Return such a service, and what asks it. Raises SettingsError."""
    secret = generate()
    ours = {"PROXY_API_KEYS": entry(_CALLER, secret), "ALLOWED_NETWORKS": "", "LOG_LEVEL": "ERROR"}
    settings = Settings.from_env({**environ, **ours})
    configure_logging(settings.log_level)
    app = create_app(settings)
    return app, asker(app, {"X-API-Key": secret}, "127.0.0.1")


def asked_for(url: str | None, credentials: str | None, variable: str) -> str:
    """Return the credentials for `url`, asked for on the terminal when they were not given. "" without a URL."""
    if credentials or not url:
        return credentials or ""
    with warnings.catch_warnings():
        warnings.simplefilter("error", GetPassWarning)  # it would show them
        try:
            given: str = click.prompt("name:secret", hide_input=True, err=True)
        except GetPassWarning:
            raise click.UsageError(
                f"--url needs --credentials, or {variable}, where there is no terminal to ask for them"
            ) from None
    return given


def running_service(url: str, name: str, secret: str, *, monotonic: Callable[[], float] = time.monotonic) -> Ask:
    """Return what asks the service at `url`, and no other address. Raises NoService."""
    base = _base(url)
    session = requests.Session()
    session.auth = (name, secret)

    def ask(request: Request) -> Answer:
        started = monotonic()
        headers = dict(request.headers)
        if request.content_type:
            headers["Content-Type"] = request.content_type
        try:
            answer = session.request(
                request.method,
                base + request.target,
                headers=headers,
                data=request.body.encode(errors="replace"),
                timeout=_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise NoService(f"{base} gives no answer ({type(error).__name__}): does it run there?") from None
        milliseconds = (monotonic() - started) * 1000
        lower = {key.lower(): value for key, value in answer.headers.items()}
        return Answer(answer.status_code, lower, answer.content.decode(errors="replace"), milliseconds)

    return ask


def let_in(ask: Ask, variable: str) -> Ask:
    """Return `ask`, which raises TurnedAway when we may not ask, or ask another service: nothing is judged by that.

    `variable` may hold the credentials too.
    """

    def asked(request: Request) -> Answer:
        answer = ask(request)
        if answer.status == 401:
            raise TurnedAway(
                "the service refuses these credentials (401): give name and secret of an entry of its keys, "
                f"by --credentials or {variable}"
            )
        if answer.status == 403:
            raise TurnedAway(
                "the service does not let this address ask (403): an operator adds it, which the service's log has, "
                "to ALLOWED_NETWORKS"
            )
        if answer.status == 404 or 300 <= answer.status < 400:
            raise TurnedAway(
                f"the service answered {answer.status}: it is another service, or something in front of it"
            )
        return answer

    return asked


def _base(url: str) -> str:
    if "://" not in url:
        raise NoService("the URL has no https:// or http:// in front: write https://your-host")
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.query or "@" in parts.netloc:
        raise NoService("the URL is that of a service: https://your-host")
    if parts.scheme == "http" and not is_loopback(host):
        raise NoService("the URL must be https: the secret travels in it (http is for a loopback address only)")
    return f"{parts.scheme}://{parts.netloc}"
