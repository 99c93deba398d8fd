"""The demo and sandbox commands: the emulated Amplitude with or without the real service."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from contextlib import suppress
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import quote

import click
import requests

from proxy.cli.demo_pushes import PUSHED_EXAMPLES, about_pushed, push_users
from proxy.sandbox.faults import FaultKind
from proxy.sandbox.people import named
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from proxy.settings import VARIABLES

_ROOT = Path(__file__).parent.parent.parent
_PORT = click.IntRange(1, 65535)
_DEMO_CALLER = "demo"
_EXAMPLES = (
    ("recommendations", "user_id=ava&rec_id=homepage", "recs"),
    ("properties", "user_id=ava", "props"),
    ("cohorts", "user_id=ava&cohort_id=vip", "cohorts"),
    ("computations", "user_id=ava", "computed"),
    ("propensities", "user_id=ava&prediction_id=pred-buy", "likely"),
    ("profile", "user_id=ava&include=recommendations,properties,cohorts&rec_id=homepage&cohort_id=vip", "profile"),
    ("userprofile", "user_id=ava&get_recs=true&rec_id=homepage&get_cohort_ids=true", "amplitude"),
)


def _switches(command: Any) -> Any:
    """Add an option for each point on which Amplitude's documentation is silent or contradicts itself."""
    hints = get_type_hints(Documented)
    for switch in reversed(fields(Documented)):
        words = get_args(hints[switch.name])
        kind: Any = click.Choice(words) if words and isinstance(words[0], str) else int
        option = click.option(
            f"--{switch.name.replace('_', '-')}", type=kind, default=switch.default, show_default=True
        )
        command = option(command)
    return command


@click.command()
@click.option("--port", type=_PORT, help="Port to listen on.  [default: 8001, or the next free port]")
@click.option("--secret-key", default="sandbox-secret-key", show_default=True)
@click.option("--api-key", default="sandbox-api-key", show_default=True)
@click.option("--requests-per-minute", type=click.IntRange(1), default=600, show_default=True)
@click.option(
    "--latency",
    type=click.FloatRange(0, 60),
    default=0.15,
    show_default=True,
    help="Delay before each answer, in seconds.",
)
@_switches
def sandbox(
    port: int | None, secret_key: str, api_key: str, requests_per_minute: int, latency: float, **switches: Any
) -> None:
    """Run only the emulated Amplitude. Prints the command that starts the service in front of it."""
    try:
        emulated = Sandbox(
            port=port or _free_port(8001),
            secret_key=secret_key,
            api_key=api_key,
            per_minute=requests_per_minute,
            latency=latency,
            documented=replace(Documented(), **switches),
        )
    except OSError as error:
        raise click.ClickException(
            f"port {port} is not available ({error.strerror}); choose another port with --port"
        ) from None
    with emulated:
        secret = secrets.token_urlsafe(24)
        click.secho(f"The emulated Amplitude is running at {emulated.url}.", bold=True)
        click.echo(f"Start the service in front of it (name {_DEMO_CALLER}, secret {secret}):")
        command = f"{shlex.quote(_python())} -m gunicorn wsgi:app --bind 127.0.0.1:{_free_port(8000)}"
        click.echo(f"  {_shell(**_service_settings(emulated, secret))} {command}")
        _print_sandbox(emulated)
        click.echo("Ctrl-C stops the emulated Amplitude.")
        _stop_event().wait()


@click.command()
@click.option(
    "--port",
    type=_PORT,
    default=8000,
    show_default=True,
    help="Port of the service. If in use, the next free port is used.",
)
@click.option("--all-addresses", is_flag=True, help="Listen on all addresses, for example in a container.")
@click.option("--more", is_flag=True, help="Print commands and tags for every route, more users, and faults to try.")
@click.option("--open", "in_browser", is_flag=True, help="Open the playground in your browser.")
@click.option(
    "--no-profile-api",
    is_flag=True,
    help="Run without the User Profile API, as in Amplitude's EU region. Data of the users is pushed at the start.",
)
def demo(port: int, all_addresses: bool, more: bool, in_browser: bool, no_profile_api: bool) -> None:
    """Run the real service in front of an emulated Amplitude. Prints links. Needs no account and no settings."""
    secret = secrets.token_urlsafe(24)
    stop = _stop_event()
    overridden = {*VARIABLES.keys(), *VARIABLES.values(), "GUNICORN_CMD_ARGS"}
    environment = {name: value for name, value in os.environ.items() if name not in overridden}
    with Sandbox(
        port=_free_port(port + 1), secret_key=secrets.token_hex(16), latency=0.15, profile_api=not no_profile_api
    ) as emulated:
        address = f"127.0.0.1:{_free_port(port)}"
        click.echo("The demo is starting. The log of its service goes to this terminal:", err=True)
        bind = address.replace("127.0.0.1", "0.0.0.0") if all_addresses else address  # noqa: S104  # only on request
        service = subprocess.Popen(  # noqa: S603  # this interpreter, fixed arguments
            [sys.executable, "-m", "gunicorn", "wsgi:app", "--bind", bind, "--log-level", "warning"],
            cwd=_ROOT,
            env=environment | _service_settings(emulated, secret) | {"PLAYGROUND_DEMO_USERS": _demo_users()},
            # Ctrl-C then reaches only this process, which stops the service once and in order.
            start_new_session=True,
        )
        try:
            if not _answers(f"http://{address}/healthz", service, stop):
                if stop.is_set():
                    return
                raise click.ClickException("the service did not start; read its errors above")
            if no_profile_api:
                push_users(f"http://{address}", (_DEMO_CALLER, secret))
            _print_demo(address, emulated, secret, more=more)
            if in_browser:
                _open_playground(address, secret)
            while not stop.wait(0.2):
                if service.poll() is not None:
                    raise click.ClickException(
                        f"the service stopped unexpectedly with exit code {service.returncode}; read its log above"
                    )
            click.echo("\nThe demo is stopping.")
        finally:
            service.terminate()
            service.wait()


def _open_playground(address: str, secret: str) -> None:
    """Open the playground in the browser, logged in, through a redirect that works once.

    The browser keeps the credentials of the redirect, but not in its history. The URL that is passed to the browser is
    visible in the list of processes, so it has no credentials.
    """
    path = f"/{secrets.token_urlsafe(24)}"

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != path:
                self.send_error(404)
                return
            self.send_response(302)
            self.send_header("Location", f"http://{_DEMO_CALLER}:{secret}@{address}/playground")
            # Without this header, the browser would store the credentials in its cache.
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            threading.Thread(target=server.shutdown, daemon=True).start()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing, because the path opens the playground."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirect)

    def serve() -> None:
        with server:
            server.serve_forever()

    threading.Thread(target=serve, daemon=True).start()
    if not webbrowser.open(f"http://127.0.0.1:{server.server_port}{path}"):
        click.echo("--open found no browser; open the first link above", err=True)


def _service_settings(emulated: Sandbox, secret: str) -> dict[str, str]:
    return {
        "AMPLITUDE_BASE_URL": emulated.url,
        "AMPLITUDE_SECRET_KEY": emulated.secret_key,
        "PROXY_API_KEYS": f"{_DEMO_CALLER}:{secret}",
        **({} if emulated.profile_api else {"AMPLITUDE_PROFILE_API": "off"}),
    }


def _demo_users() -> str:
    return ",".join(str(person.user_id) for person in named()[:3])


def _cohort_settings(emulated: Sandbox) -> str:
    return _shell(
        AMPLITUDE_COHORTS_URL=emulated.url,
        AMPLITUDE_API_KEY=emulated.api_key,
        AMPLITUDE_SECRET_KEY=emulated.secret_key,
    )


def _shell(**variables: str) -> str:
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())


def _python() -> str:
    python, folder = Path(sys.executable), Path.cwd()
    return str(python.relative_to(folder) if python.is_relative_to(folder) else python)


def _free_port(first: int) -> int:
    for port in (*range(first, min(first + 20, 65536)), 0):
        # create_server sets SO_REUSEADDR, as gunicorn does, so a port in TIME_WAIT from the last demo is free.
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as probe:
            return int(probe.getsockname()[1])
    raise click.ClickException("port: no port is free on 127.0.0.1; stop another program")


def _answers(url: str, service: subprocess.Popen[bytes], stop: threading.Event) -> bool:
    session = requests.Session()
    session.trust_env = False
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and service.poll() is None and not stop.wait(0.1):
        with suppress(requests.RequestException):
            return session.get(url, timeout=1).ok
    return False


def _print_demo(address: str, emulated: Sandbox, secret: str, *, more: bool) -> None:
    service, login = f"http://{address}", f"http://{_DEMO_CALLER}:{secret}@{address}"
    click.secho(
        f"The demo is running, with an emulated Amplitude{'' if emulated.profile_api else ' and no Profile API'}. "
        f"Open a link in a browser (name {_DEMO_CALLER}, secret {secret}):",
        bold=True,
    )
    click.echo(f"  {login}/playground  write a message and see the text that Braze would send")
    click.echo(f"  {login}/docs        call every route; press Authorize first, and enter the name and secret")
    click.echo(f"  {login}/status      see whether the service works\n")
    click.secho("Users to try:", bold=True)
    for person in named()[:3]:
        click.echo(f"  {person.user_id:8}{person.about if emulated.profile_api else about_pushed(person)}")
    click.echo()
    click.secho("Call the service from another terminal:", bold=True)
    examples = _EXAMPLES if emulated.profile_api else PUSHED_EXAMPLES
    for route, query, _ in examples if more else examples[:1]:
        click.echo(f"  curl -s -u {_DEMO_CALLER}:{secret} '{service}/v1/{route}?{query}'")
    click.echo()
    if more:
        _print_more(service, emulated, secret)
    else:
        click.echo("Add --more to print a command and a Braze tag for every route, more users, and faults to try.")
    click.echo("Ctrl-C stops the demo. The log of the service follows, with one line per request:")


def _print_more(service: str, emulated: Sandbox, secret: str) -> None:
    click.secho("The same calls as tags in a Braze message (Braze stores the credentials as us):", bold=True)
    for route, query, variable in _EXAMPLES if emulated.profile_api else PUSHED_EXAMPLES:
        query = query.replace("user_id=ava", "user_id={{${user_id} | url_param_escape}}")
        tag = f"connected_content https://your-host/v1/{route}?{query} :basic_auth us :save {variable}"
        click.echo(f"  {{% {tag} %}}")
    click.echo()
    if emulated.profile_api:
        _print_sandbox(emulated)
    else:
        click.secho("List the snapshots of cohorts, and count the calls to Amplitude:", bold=True)
        click.echo(f"  curl -s -u {_DEMO_CALLER}:{secret} {service}/v1/snapshots")
        click.echo(f"  curl -s {emulated.url}/sandbox/report")
    click.secho("Warm the cache for a cohort:", bold=True)
    click.echo(f"  PROXY_CREDENTIALS={_DEMO_CALLER}:{secret} {_cohort_settings(emulated)} \\")
    click.echo(f"    {_python()} -m proxy warm --cohort vip --url {service}")
    webhook = '{"cohort_id":"c31","in_cohort":true,"computed_time":"\'$(date +%s)\'","users":[{"user_id":"ava"}]}'
    click.secho("Push a cohort to the service:", bold=True)
    click.echo(f"  curl -s -u {_DEMO_CALLER}:{secret} -H 'Content-Type: application/json' \\")
    click.echo(f"    -d '{webhook}' {service}/v1/webhooks/amplitude/cohorts\n")


def _print_sandbox(emulated: Sandbox) -> None:
    click.secho(f"Users and cohorts of the emulated Amplitude at {emulated.url}:", bold=True)
    for person in named():
        name, value = ("user_id", person.user_id) if person.user_id else ("device_id", person.device_id)
        click.echo(f"  {name + '=' + quote(value or ''):40}{person.about}")
    click.echo(f"  {'user_id=user-1 ... user-999999999':40}numbered users for load tests; 2 % of them are unknown")
    click.echo(f"  {'cohorts vip, c31, crowd-1000 ...':40}for warm --cohort, with {_cohort_settings(emulated)}")
    click.secho("Count the calls to Amplitude, set a fault for later calls, and clear the fault:", bold=True)
    click.echo(f"  curl -s {emulated.url}/sandbox/report")
    click.echo(f"  curl -s -X POST '{emulated.url}/sandbox/fault?kind=slow&seconds=2'")
    click.echo(f"  curl -s -X DELETE {emulated.url}/sandbox/fault")
    click.echo(f"  Kinds: {', '.join(get_args(FaultKind))}.")
    click.echo("  After the fault quota (status 429), the service sends no call for a minute.")
    click.echo("  drip-headers, drip-body and bad-header apply only to known users, e.g. user_id=user-9.")
    click.echo("  bad-header has no visible effect, because the service ignores the header.\n")


def _stop_event() -> threading.Event:
    """Return an event that is set by Ctrl-C, SIGTERM, or the end of the terminal."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop
