"""Sends requests to a running service, or to a service in this process."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from getpass import GetPassWarning
from typing import Any, TypeVar

import click
import requests

from proxy.api.caller_keys import entry, generate
from proxy.api.urls import parse_service_url
from proxy.app import create_app
from proxy.cli.formats import printable
from proxy.composition.redis import differing_settings
from proxy.liquid.types import Answer, Ask, Request
from proxy.monitoring.logs import configure_logging
from proxy.profile.values import BadValue
from proxy.settings import Settings, SettingsError
from proxy.storage.redis import RedisUnavailable
from proxy.web.pages.wsgi_client import asker
from proxy.web.services import Services, installed

_Command = TypeVar("_Command", bound=Callable[..., Any])
_VARIABLE = "PROXY_CREDENTIALS"

_SECONDS = 10.0
"""Longer than a data answer may take, because a hosted service may have to start first."""
_UPLOAD_SECONDS = 120.0
"""Time limit for the answer to an upload. The service installs 2,000,000 members in less than a minute."""

Upload = Callable[[Request, Iterable[bytes]], Answer]
"""A function that sends a request with a body in pieces, which need not fit into memory."""


class ServiceUnavailable(click.ClickException):
    """No service can be reached or created. The text names the problem and the fix."""


class ServiceRefused(ServiceUnavailable):
    """The service refuses every request of this command; a retry would not help."""


def service_options(url_help: str, scope: str) -> Callable[[_Command], _Command]:
    """Add the options --url and --credentials of a command that needs a key with `scope` of a running service."""

    def decorate(command: _Command) -> _Command:
        former = f"{command.__name__.upper()}_CREDENTIALS"
        credentials = click.option(
            "--credentials",
            envvar=[_VARIABLE, former],
            metavar="NAME:SECRET",
            help=f"Key for --url, with the scope {scope}. Prompted for if missing. Prefer the variable "
            f"{_VARIABLE}, because other users of the machine can see options.",
        )
        return click.option("--url", metavar="URL", help=url_help)(credentials(command))

    return decorate


def own_settings(environ: Mapping[str, str]) -> tuple[Settings, str]:
    """Return the settings of `environ` with one caller, and the secret of this caller. Raises ServiceUnavailable.

    The settings are for a service that does not listen, so PROXY_API_KEYS and ALLOWED_NETWORKS are replaced.
    """
    secret = generate()
    overrides = {"PROXY_API_KEYS": entry("cli", secret, "admin"), "ALLOWED_NETWORKS": "", "LOG_LEVEL": "ERROR"}
    try:
        return Settings.from_env({**environ, **overrides}), secret
    except SettingsError as error:
        raise ServiceUnavailable(str(error)) from None


def own_service(environ: Mapping[str, str]) -> tuple[Services, Ask]:
    """Create a service in this process from `environ`, and return it with a function that sends requests to it.

    Raises ServiceUnavailable.
    """
    settings, secret = own_settings(environ)
    configure_logging(settings.log_level, settings.log_format)
    app = create_app(settings)
    return installed(app), asker(app, {"X-API-Key": secret}, "127.0.0.1")


def own_service_with_redis(environ: Mapping[str, str]) -> tuple[Services, Ask]:
    """Create a service as `own_service` does, with the shared Redis. Raises ServiceUnavailable without Redis.

    The registration in Redis ends with the command.
    """
    settings, _ = own_settings(environ)
    if settings.redis_url is None:
        raise ServiceUnavailable(
            "REDIS_URL is not set, so the command cannot reach the cache; set REDIS_URL, or add --url=https://your-host"
        )
    services, ask = own_service(environ)
    try:
        if services.redis is not None:
            click.get_current_context().call_on_close(services.redis.stop)
            services.redis.probe()
        differing_names = differing_settings(settings, settings.redis_url)
    except RedisUnavailable as error:
        raise ServiceUnavailable(str(error)) from None
    if "REDIS_KEY_SECRET" in differing_names:
        raise ServiceUnavailable(
            "REDIS_KEY_SECRET differs from that of the running services, so the command would use another cache; "
            "set the secret of the services"
        )
    return services, ask


def require_credentials(url: str | None, credentials: str | None) -> str:
    """Return the credentials for `url`, and prompt for missing credentials. Returns "" without a URL."""
    if credentials or not url:
        return credentials or ""
    with warnings.catch_warnings():
        warnings.simplefilter("error", GetPassWarning)  # getpass would show the credentials
        try:
            return str(click.prompt("name:secret", hide_input=True, err=True))
        except GetPassWarning:
            raise click.UsageError(
                f"--url needs credentials, and there is no terminal for a prompt; set {_VARIABLE}=name:secret"
            ) from None


def running_service(url: str, credentials: str) -> Ask:
    """Return a function that sends requests to the service at `url` only.

    `credentials` is `name:secret`. This function and the returned function raise ServiceUnavailable.
    """
    send = _sender(url, credentials)

    def ask(request: Request) -> Answer:
        if request.cache_only:  # over HTTP, any request may cost a call
            return Answer(204, {}, "", 0.0)
        return send(request, request.body.encode(errors="replace"), _SECONDS)

    return ask


def uploader(url: str, credentials: str) -> Upload:
    """Return a function that uploads to the service at `url` only. Errors are those of `running_service`."""
    send = _sender(url, credentials)
    return lambda request, pieces: send(request, pieces, _UPLOAD_SECONDS)


def _sender(url: str, credentials: str) -> Callable[[Request, bytes | Iterable[bytes], float], Answer]:
    base = _base(url)
    name, _, secret = credentials.partition(":")
    session = requests.Session()
    session.auth = (name, secret)

    def send(request: Request, body: bytes | Iterable[bytes], seconds: float) -> Answer:
        started = time.monotonic()
        headers = dict(request.headers)
        if request.content_type:
            headers["Content-Type"] = request.content_type
        try:
            answer = session.request(
                request.method,
                base + request.target,
                headers=headers,
                data=body,
                timeout=seconds,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise ServiceUnavailable(
                f"{base} does not answer ({type(error).__name__}); check the URL, and that the service is running"
            ) from None
        milliseconds = (time.monotonic() - started) * 1000
        lower = {key.lower(): value for key, value in answer.headers.items()}
        return Answer(answer.status_code, lower, answer.content.decode(errors="replace"), milliseconds)

    return send


def require_access(ask: Ask) -> Ask:
    """Wrap `ask` to raise ServiceRefused for statuses 401, 403, 404 and redirects."""

    def ask_or_raise(request: Request) -> Answer:
        answer = ask(request)
        if answer.status == 401:
            raise ServiceRefused(
                "the service rejects the credentials (401); set the name and the secret of a key, "
                f"{_VARIABLE}=name:secret"
            )
        if answer.status == 403 and json_object(answer).get("code") != "scope":
            raise ServiceRefused(
                "the service rejects the address of this machine (403); add the address to ALLOWED_NETWORKS "
                "(the log of the service contains the address)"
            )
        if answer.status in (403, 404) or 300 <= answer.status < 400:
            raise refusal(answer)
        return answer

    return ask_or_raise


def refusal(answer: Answer) -> ServiceRefused:
    """Return the error for an answer without a profile."""
    detail = str(json_object(answer).get("detail", "the answer is not from this service; check --url"))
    return ServiceRefused(f"the service answered {answer.status}: {printable(detail)}")


def json_object(answer: Answer) -> dict[str, Any]:
    """Return the body as a JSON object; empty if the body is anything else."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _base(url: str) -> str:
    if "://" not in url:
        raise ServiceUnavailable("--url must begin with https:// or http://; write --url=https://your-host")
    try:
        parts = parse_service_url(url.partition("#")[0])
    except BadValue as error:
        raise ServiceUnavailable(f"--url {error}; write --url=https://your-host") from None
    return f"{parts.scheme}://{parts.netloc}"
