"""Sends requests to a running service, or to one in this process."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
from getpass import GetPassWarning
from typing import Any, TypeVar

import click
import requests

from proxy.api.caller_keys import entry, generate
from proxy.api.urls import parse_service_url
from proxy.app import create_app
from proxy.liquid.types import Answer, Ask, Request
from proxy.monitoring.logs import configure_logging
from proxy.profile.values import BadValue
from proxy.settings import Settings, SettingsError
from proxy.web.pages.wsgi_client import asker
from proxy.web.services import Services, installed

_Command = TypeVar("_Command", bound=Callable[..., Any])
_VARIABLE = "PROXY_CREDENTIALS"

_SECONDS = 10.0
"""Longer than a data answer may take: a hosted service may have to start first."""


class ServiceUnavailable(click.ClickException):
    """No service answers, its URL is invalid, or it cannot be made from the environment. The text names the fix."""


class ServiceRefused(ServiceUnavailable):
    """The service refuses every request from here; a retry would not help."""


def service_options(url_help: str) -> Callable[[_Command], _Command]:
    """Add the options --url and --credentials of a command that talks to a running service."""

    def decorate(command: _Command) -> _Command:
        former = f"{command.__name__.upper()}_CREDENTIALS"
        credentials = click.option(
            "--credentials",
            envvar=[_VARIABLE, former],
            metavar="NAME:SECRET",
            help=f"The key for --url; asked for when missing.  [env var: {_VARIABLE}]",
        )
        return click.option("--url", metavar="URL", help=url_help)(credentials(command))

    return decorate


def own_settings(environ: Mapping[str, str]) -> tuple[Settings, str]:
    """Return the settings of `environ` with one caller, whose secret is returned too. Raises ServiceUnavailable.

    They are for a service that listens nowhere: PROXY_API_KEYS and ALLOWED_NETWORKS do not matter.
    """
    secret = generate()
    overrides = {"PROXY_API_KEYS": entry("cli", secret), "ALLOWED_NETWORKS": "", "LOG_LEVEL": "ERROR"}
    try:
        return Settings.from_env({**environ, **overrides}), secret
    except SettingsError as error:
        raise ServiceUnavailable(str(error)) from None


def own_service(environ: Mapping[str, str]) -> tuple[Services, Ask]:
    """Return a service in this process, with the settings of `environ`, and a function that sends requests to it.

    Raises ServiceUnavailable.
    """
    settings, secret = own_settings(environ)
    configure_logging(settings.log_level)
    app = create_app(settings)
    return installed(app), asker(app, {"X-API-Key": secret}, "127.0.0.1")


def own_service_with_redis(environ: Mapping[str, str]) -> tuple[Services, Ask]:
    """Return `own_service` with the Redis of the running services. Raises also RedisUnavailable."""
    if not environ.get("REDIS_URL", "").strip():
        raise ServiceUnavailable("no REDIS_URL: a service without Redis keeps what it knows to itself; give its --url")
    services, ask = own_service(environ)
    if services.redis is not None:
        services.redis.hash(b"connected-content-proxy-check")
    return services, ask


def require_credentials(url: str | None, credentials: str | None) -> str:
    """Return the credentials for `url`, prompting on the terminal where they are missing. "" without a URL."""
    if credentials or not url:
        return credentials or ""
    with warnings.catch_warnings():
        warnings.simplefilter("error", GetPassWarning)  # it would show the credentials
        try:
            return str(click.prompt("name:secret", hide_input=True, err=True))
        except GetPassWarning:
            raise click.UsageError(
                f"--url needs --credentials, or {_VARIABLE}, where there is no terminal to ask for them"
            ) from None


def running_service(url: str, credentials: str) -> Ask:
    """Return a function that sends requests to the service at `url`, and to no other address.

    `credentials` is `name:secret`. Both raise ServiceUnavailable.
    """
    base = _base(url)
    name, _, secret = credentials.partition(":")
    session = requests.Session()
    session.auth = (name, secret)

    def ask(request: Request) -> Answer:
        started = time.monotonic()
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
            raise ServiceUnavailable(f"{base} gives no answer ({type(error).__name__}): does it run there?") from None
        milliseconds = (time.monotonic() - started) * 1000
        lower = {key.lower(): value for key, value in answer.headers.items()}
        return Answer(answer.status_code, lower, answer.content.decode(errors="replace"), milliseconds)

    return ask


def require_access(ask: Ask) -> Ask:
    """Return `ask` with ServiceRefused for the statuses of a refusal, a redirect, or another service."""

    def ask_or_raise(request: Request) -> Answer:
        answer = ask(request)
        if answer.status == 401:
            raise ServiceRefused(
                "the service refuses these credentials (401): give name and secret of an entry of its keys, "
                f"by --credentials or {_VARIABLE}"
            )
        if answer.status == 403:
            raise ServiceRefused(
                "the service does not let this address ask (403): an operator adds it, which the service's log has, "
                "to ALLOWED_NETWORKS"
            )
        if answer.status == 404 or 300 <= answer.status < 400:
            raise refusal(answer)
        return answer

    return ask_or_raise


def refusal(answer: Answer) -> ServiceRefused:
    """Return the error of an answer that is none of a profile."""
    detail = json_object(answer).get("detail", "it is another service, or something in front of it")
    return ServiceRefused(f"the service answered {answer.status}: {detail}")


def json_object(answer: Answer) -> dict[str, Any]:
    """Return the body as a JSON object, an empty one when it is something else."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _base(url: str) -> str:
    if "://" not in url:
        raise ServiceUnavailable("the URL has no https:// or http:// in front: write https://your-host")
    try:
        parts = parse_service_url(url.partition("#")[0])
    except BadValue as error:
        raise ServiceUnavailable(f"the URL {error}: write https://your-host") from None
    return f"{parts.scheme}://{parts.netloc}"
